"""As tabelas que registrar_experimentos.py preenche: de que resultado vêm e que linhas têm.

Para acrescentar uma: escreva a função que transforma o resultado em linhas, declare-a em `TABLES`,
no fim do arquivo, e ponha as duas marcas onde a tabela deve aparecer.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

LESSONS = "python semana06-fine-tuning/exemplos"
PROJECT = "python semana06-fine-tuning/mini-projeto/mini_projeto_fine_tuning_especializado"
DAY3 = f"{LESSONS}/exemplo_01_fine_tuning_basico.py"
DAY4 = f"{LESSONS}/exemplo_02_lora_peft.py"
STUDY = f"{DAY4} --study full"
DAY5 = f"{LESSONS}/exemplo_03_quantizacao.py"
DAY6 = f"{LESSONS}/exemplo_04_dataset_preparation.py"
DAY7 = f"{PROJECT}/evaluate.py"
FORMS = f"{DAY7} --forms todas"
MISSING = "–"
MIB = 2**20


@dataclass
class Result:
    """Um JSON de resultados; `absent` junta as chaves pedidas que ele não tem."""

    name: str
    data: dict
    absent: list[str] = field(default_factory=list)

    def get(self, *keys: str):
        """O valor no fim do caminho; se não há, None, e o caminho vai para `absent`."""
        value = self.data
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            self.absent.append(".".join(keys))
        return value

    def origin(self) -> str:
        """Comando, data, máquina e versões, numa frase."""
        machine = self.data.get("maquina", {})
        versions = self.data.get("versoes", {})
        gpu = machine.get("gpu", "")
        when = self.data.get("quando")
        parts = [
            f"`{self.data.get('comando', '?')}`",
            datetime.fromisoformat(when).strftime("%d/%m/%Y") if when else "sem data",
            machine.get("processador", "máquina desconhecida"),
            f"{machine['threads']} threads" if "threads" in machine else "",
            "sem GPU" if gpu == "nenhuma" else gpu,
            *(f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions),
            f"código `{self.data['commit']}`" if self.data.get("commit") else "",
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Part:
    """Linhas que vêm de um resultado: o primeiro de `names` que existir; `command` o produz."""

    names: tuple[str, ...]
    command: str
    rows: Callable[[Result], list[list[str]]]


@dataclass(frozen=True)
class Table:
    header: list[str]
    parts: tuple[Part, ...]


# --- números em texto -----------------------------------------------------------------------------


def number(value: float | None, decimals: int = 0, unit: str = "") -> str:
    """`1.234,5`, ou um traço para o que falta."""
    if value is None:
        return MISSING
    return f"{value:,.{decimals}f}".translate(str.maketrans(",.", ".,")) + unit


def signed(value: float | None, decimals: int, unit: str = "") -> str:
    if value is None:
        return MISSING
    sign = "+" if value > 0 else "−" if value < 0 else ""
    return sign + number(abs(value), decimals, unit)


def score(measured: dict | None, decimals: int = 2, scale: float = 1) -> str:
    """`8,31 [7,90; 8,77]`: valor e intervalo de 95%."""
    if measured is None:
        return MISSING
    low, high = measured["ic95"]
    text = number(scale * measured["valor"], decimals)
    return f"{text} [{number(scale * low, decimals)}; {number(scale * high, decimals)}]"


def quotient(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def change(before: dict | None, after: dict | None) -> float | None:
    """Mudança relativa, em porcentagem."""
    ratio = quotient(after and after["valor"], before and before["valor"])
    return None if ratio is None else 100 * (ratio - 1)


def difference(before: dict | None, after: dict | None, scale: float = 1) -> float | None:
    return scale * (after["valor"] - before["valor"]) if before and after else None


def separated(before: dict | None, after: dict | None) -> str:
    """Diz se os dois intervalos de 95% ficam sem nada em comum."""
    if not before or not after:
        return MISSING
    apart = before["ic95"][1] < after["ic95"][0] or after["ic95"][1] < before["ic95"][0]
    return "sim" if apart else "não"


APART = {"sim": "intervalos separados", "não": "intervalos se tocam"}

# --- dia 3: fine-tuning completo ------------------------------------------------------------------

SCORES = {
    "perplexidade_token": ("perplexidade por token", 2, 1),
    "perplexidade_byte": ("perplexidade por byte", 3, 1),
    "acuracia_proximo_token": ("próximo token certo (%)", 1, 100),
    "bleu": ("BLEU", 1, 1),
    "fora_portugues": ("fora do domínio, português (perplexidade por byte)", 3, 1),
    "fora_ingles": ("fora do domínio, inglês (perplexidade por byte)", 3, 1),
}


def day3_scores(result: Result) -> list[list[str]]:
    rows = []
    for key, (label, decimals, scale) in SCORES.items():
        before = result.get("metricas", "antes", key)
        after = result.get("metricas", "depois", key)
        if key in ("acuracia_proximo_token", "bleu"):
            gain = signed(difference(before, after, scale), decimals, " pontos")
        else:
            gain = signed(change(before, after), 1, "%")
        rows.append([label, score(before, decimals, scale), score(after, decimals, scale), gain,
                     separated(before, after)])  # fmt: skip
    return rows


def day3_memory(result: Result) -> list[list[str]]:
    rows, sums = [], [0.0, 0.0]
    for part in ("pesos", "gradientes", "otimizador", "ativações"):
        sizes = [result.get("memoria_mib", which, part) for which in ("previsto", "medido")]
        sums = [total + (size or 0) for total, size in zip(sums, sizes, strict=True)]
        rows.append([part, *(number(x) for x in sizes), number(quotient(sizes[1], sizes[0]), 2)])
    total = ["**soma**", *(number(x) for x in sums), number(quotient(sums[1], sums[0]), 2)]
    return [*rows, total]


def day3_training(result: Result) -> list[list[str]]:
    curve = result.get("curva") or []
    losses = [(log["eval_loss"], log["step"]) for log in curve if "eval_loss" in log]
    best = min(losses, default=(None, None))
    return [[
        str(result.get("modelo") or MISSING).split("/")[-1],
        number(result.get("parametros")),
        number(result.get("configuracao", "epochs"), 0),
        number(result.get("configuracao", "batch_size")),
        str(result.get("configuracao", "learning_rate") or MISSING).replace(".", ","),
        number(result.get("minutos_de_treino"), 1),
        number(best[0], 3), number(best[1]),
    ]]  # fmt: skip


# --- dia 4: LoRA ----------------------------------------------------------------------------------


def day4_checks(result: Result) -> list[list[str]]:
    checks = result.get("conferencias") or {}
    return [[text, "certo" if passed else "**ERRADO**"] for text, passed in checks.items()]


def day4_memory(result: Result) -> list[list[str]]:
    """Prevista e medida de cada método, e a fração da medida do completo que o LoRA ocupa."""
    columns = [(method, key) for method in ("full", "lora")
               for key in ("memoria_prevista_mib", "memoria_mib")]  # fmt: skip
    sizes = {part: [result.get("corridas", method, key, part) for method, key in columns]
             for part in ("pesos", "gradientes", "otimizador", "ativações")}  # fmt: skip
    sizes["**soma das quatro**"] = [
        None if None in column else sum(column) for column in zip(*sizes.values(), strict=True)
    ]
    peaks = [result.get("corridas", method, "memoria_mib", "pico_do_processo")
             for method in ("full", "lora")]  # fmt: skip
    sizes["pico do processo inteiro"] = [None, peaks[0], None, peaks[1]]
    rows = []
    for part, values in sizes.items():
        cells = ["" if v is None and part.startswith("pico") else number(v) for v in values]
        rows.append([part, *cells, number(quotient(values[3], values[1]), 3)])
    return rows


def day4_methods(result: Result) -> list[list[str]]:
    def pair(*keys: str) -> list:
        return [result.get("corridas", method, *keys) for method in ("full", "lora")]

    def plain(label: str, values: list, decimals: int = 0) -> list[str]:
        share = number(quotient(values[1], values[0]), 3)
        return [label, *(number(x, decimals) for x in values), share]

    minutes = [s / 60 if s is not None else None for s in pair("treino", "segundos")]
    rows = [
        plain("parâmetros treináveis", pair("parametros", "treinaveis")),
        plain("treino (min)", minutes, 1),
        plain("tokens por segundo", pair("treino", "tokens_por_segundo")),
        plain("salvo em disco (MiB)", pair("disco_mib"), 1),
    ]
    for key in ("perplexidade_token", "acuracia_proximo_token", "bleu"):
        label, decimals, scale = SCORES[key]
        values = pair("metricas", f"teste_{key}")
        rows.append([f"{label}, teste", *(score(v, decimals, scale) for v in values),
                     APART.get(separated(*values), MISSING)])  # fmt: skip
    return rows


def _described(row: dict) -> str:
    """O que muda em relação ao ponto base: `r = 42, alpha = 84`."""
    changed = row.get("mudanca") or {}
    return ", ".join(f"{key} = {_plain(value)}" for key, value in changed.items()) or "ponto base"


def _plain(value) -> str:
    if isinstance(value, list):
        return " + ".join(map(str, value))
    return str(value).replace(".", ",") if isinstance(value, float) else str(value)


def _spread(row: dict) -> str:
    margin = row.get("desvio")
    return number(row["perplexidade"], 2) + (f" ± {number(margin, 2)}" if margin else "")


def day4_study(result: Result) -> list[list[str]]:
    chosen = result.get("escolhida")
    return [
        [row["fator"], ("→ " if row == chosen else "") + _described(row), _spread(row),
         number(row.get("teste"), 2), number(row.get("treinaveis")), number(row.get("minutos"), 1)]
        for row in result.get("linhas") or []
    ]  # fmt: skip


def day4_best(result: Result) -> list[list[str]]:
    """O melhor de cada fator ao lado do ponto base, e a configuração que a regra escolhe."""
    base, *others = result.get("linhas") or [None]
    if base is None:
        return []
    rows = []
    for factor in dict.fromkeys(row["fator"] for row in others):
        tried = [row for row in others if row["fator"] == factor]
        best = min([base, *tried], key=lambda row: row["perplexidade"])
        names = "; ".join(_plain(row["mudanca"][factor]) for row in tried)
        rows.append([factor, names, _described(best), _spread(best), _spread(base)])
    chosen = result.get("escolhida")
    if chosen:
        rows.append(["**escolhida pela regra**", "", f"**{_described(chosen)}**", _spread(chosen),
                     _spread(base)])  # fmt: skip
    return rows


def day4_variants(result: Result) -> list[list[str]]:
    rows = result.get("linhas") or []
    shown = [row for row in rows if row["fator"] in ("base", "method")]
    return [
        [row["mudanca"].get("method", "lora (ponto base)"), _spread(row), number(row["treinaveis"]),
         number(row["minutos"], 1), number(row["pico_mib"])]
        for row in shown
    ]  # fmt: skip


# --- dia 5: quantização ---------------------------------------------------------------------------


def day5_techniques(result: Result) -> list[list[str]]:
    """Aceleração (decodificação, lote 1), memória em uso e qualidade, em relação ao fp32."""
    rows = []
    for name in result.get("tecnicas") or {}:

        def pair(*keys: str, technique: str = name) -> tuple:
            return tuple(result.get("tecnicas", n, *keys) for n in (technique, "fp32"))

        memory, perplexity = pair("bytes_na_memoria"), pair("metricas", "perplexidade_token")
        share = quotient(*memory)
        quality = quotient(*(p and p["valor"] for p in reversed(perplexity)))
        rows.append([
            name, number(quotient(pair("bytes_em_disco")[0], MIB)),
            number(quotient(memory[0], MIB)), number(pair("pico_mib")[0]),
            number(quotient(*pair("velocidade", "lote_1", "decode")), 2, "x"),
            number(None if share is None else 100 * share, 0, "%"),
            number(None if quality is None else 100 * quality, 0, "%"),
            score(perplexity[0]), score(pair("metricas", "kl_fp32")[0], 3),
        ])  # fmt: skip
    for name, why in (result.get("ausentes") or {}).items():
        rows.append([name, f"ausente: {why}", *[""] * 7])
    return rows


def day5_costs(result: Result) -> list[list[str]]:
    rows = []
    for name in result.get("tecnicas") or {}:

        def of(*keys: str, technique: str = name):
            return result.get("tecnicas", technique, *keys)

        rows.append([
            name, number(quotient(of("previsto_bytes"), MIB)),
            number(quotient(of("bytes_em_disco"), MIB)), number(of("segundos_para_quantizar"), 1),
            number(of("velocidade", "lote_1", "prefill")),
            number(of("velocidade", "lote_1", "decode"), 1),
            number(of("velocidade", "lote_8", "decode"), 1),
        ])  # fmt: skip
    return rows


def day5_trap(result: Result) -> list[list[str]]:
    rows = []
    for label, key in (("modelo base", "base"), ("depois do treino do dia 3", "treinado")):
        cells = [score(result.get("armadilha", key, "perplexidade", "sem arredondar"))]
        for grid in ("q4_1", "nf4"):
            error = result.get("armadilha", key, grid)
            cells.append(score(result.get("armadilha", key, "perplexidade", grid)))
            cells.append(number(None if error is None else 100 * error, 2, "%"))
        rows.append([label, *cells])
    return rows


def day5_kept(result: Result) -> list[list[str]]:
    shares = [result.get("armadilha", "sobra_do_treino", grid) for grid in ("q4_1", "nf4")]
    return [[number(result.get("armadilha", "deslocamento_em_passos"), 4),
             *(number(None if x is None else 100 * x, 0, "%") for x in shares)]]  # fmt: skip


def day5_qlora(result: Result) -> list[list[str]]:
    if not result.data.get("qlora"):
        return []

    def pair(*keys: str) -> list:
        return [result.get("qlora", name, *keys) for name in ("LoRA sobre bf16", "QLoRA sobre NF4")]

    rows = []
    for label, keys in (("pesos na memória (MiB)", ("memoria_mib", "pesos")),
                        ("pico do processo (MiB)", ("memoria_mib", "pico_do_processo")),
                        ("treino (s)", ("treino", "segundos")),
                        ("tokens por segundo", ("treino", "tokens_por_segundo"))):  # fmt: skip
        lora, qlora = pair(*keys)
        rows.append([label, number(lora), number(qlora), number(quotient(qlora, lora), 2)])
    for key in ("perplexidade_token", "acuracia_proximo_token", "bleu"):
        label, decimals, scale = SCORES[key]
        values = pair("metricas", f"teste_{key}")
        rows.append([f"{label}, teste", *(score(v, decimals, scale) for v in values),
                     APART.get(separated(*values), MISSING)])  # fmt: skip
    return rows


def day5_guide(result: Result) -> list[list[str]]:
    return [[line.strip()] for line in result.get("guia") or []]


def day5_gptq(result: Result) -> list[list[str]]:
    pairs = result.get("gptq_contra_arredondar") or {}
    return [[f"4 bits, {group}", score(gain, 3), _sign(gain)] for group, gain in pairs.items()]


def _sign(gain: dict) -> str:
    low, high = gain["ic95"]
    return "GPTQ melhor" if low > 0 else "arredondar melhor" if high < 0 else "sem diferença clara"


# --- dia 6: dados ---------------------------------------------------------------------------------

# Os nomes dos defeitos; as chaves são as de exemplos/ficha.py.
DEFECTS = {
    "unreadable": "linha que não se lê", "mojibake": "acentos estragados",
    "lost_characters": "letras perdidas", "html": "HTML", "invisible": "caracteres invisíveis",
    "emoji": "emojis", "boilerplate": "rodapés repetidos", "pii_cpf": "CPF", "pii_cnpj": "CNPJ",
    "pii_email": "e-mail", "pii_phone": "telefone", "pii_cep": "CEP", "pii_card": "cartão",
    "date_format": "data noutro formato", "date_unreadable": "data que não se entende",
    "empty": "mensagem ou resposta vazia", "truncated": "texto cortado",
    "length_outlier": "comprimento fora do razoável", "language": "outra língua",
    "label_misspelt": "rótulo mal escrito", "label_unknown": "rótulo que não diz nada",
    "duplicate_exact": "repetida igual", "duplicate_near": "quase igual a outra",
    "conflict": "mesmo texto, dois rótulos", "test_leak": "pergunta do teste oficial",
}  # fmt: skip


DAY6_SCORES = {
    "perplexidade_token": ("perplexidade por token", 2, 1),
    "bleu": ("BLEU", 1, 1), "chrf": ("chrF", 1, 1), "rougeL": ("ROUGE-L (%)", 1, 100),
}  # fmt: skip


def day6_defects(result: Result) -> list[list[str]]:
    refused = result.get("fora") or {}
    return [[DEFECTS.get(kind, kind), number(count), number(refused.get(kind, 0))]
            for kind, count in (result.get("sujeira") or {}).items()]  # fmt: skip


def day6_splits(result: Result) -> list[list[str]]:
    return [[name, *(number(result.get("formatos", name, split))
                     for split in ("train", "validation", "test"))]
            for name in result.get("formatos") or {}]  # fmt: skip


def day6_summary(result: Result) -> list[list[str]]:
    covered = result.get("cobertura_do_vocabulario")
    leaks, held = (result.get("vazamentos_sem_grupos", key) for key in ("vazamentos", "reservadas"))
    rows = [
        ["linhas lidas", number(result.get("lidas"))],
        ["linhas aceitas", number(result.get("aceitas"))],
        ["reservadas que um sorteio simples deixaria no treino", f"{number(leaks)} de "
                                                                 f"{number(held)}"],
        ["palavras do teste que o treino já mostrou",
         number(None if covered is None else 100 * covered, 1, "%")],
    ]  # fmt: skip
    for split, name in (("train", "treino"), ("test", "teste")):
        sizes = [number(result.get("tokens", split, key)) for key in ("mediana", "p95", "maximo")]
        rows.append([f"tokens por conversa, {name} (mediana, 95%, máximo)", ", ".join(sizes)])
    return rows


def day6_checks(result: Result) -> list[list[str]]:
    return [[name, *(number(pair.get(key), 4) for key in ("nossa", "biblioteca"))]
            for name, pair in (result.get("conferencias") or {}).items()]  # fmt: skip


def day6_formats(result: Result) -> list[list[str]]:
    """As notas dos formatos de texto, antes e depois do ajuste curto."""
    rows = []
    for name, found in (result.get("formatos") or {}).items():
        if name == "classification":
            continue
        for key, (label, decimals, scale) in DAY6_SCORES.items():
            before, after = (found[when].get(key) for when in ("antes", "depois"))
            rows.append([name, label, score(before, decimals, scale),
                         score(after, decimals, scale), separated(before, after)])  # fmt: skip
    return rows


def day6_classifiers(result: Result) -> list[list[str]]:
    found = result.get("formatos", "classification", "classificadores") or {}
    return [
        [name, score(entry["acuracia"], 1, 100), score(entry["macro_f1"], 1, 100),
         number(entry["segundos_de_treino"], 1), number(entry["segundos_de_resposta"], 1),
         number(entry["treinaveis"]), number(entry["p_contra_tfidf"], 3)]
        for name, entry in found.items()
    ]  # fmt: skip


# --- dia 7: mini-projeto --------------------------------------------------------------------------


def day1_approaches(result: Result) -> list[list[str]]:
    """O sem treino (com o esquema; com exemplos, fixos ou buscados, se medidos) e os treinados."""
    return [_day7_row(result, name) for name, part in (result.get("variantes") or {}).items()
            if part["grupo"] in ("base", "exemplos", "treinado", "outros")]  # fmt: skip


def day7_scores(result: Result) -> list[list[str]]:
    return [_day7_row(result, name) for name in result.get("variantes") or {}]


def _day7_row(result: Result, name: str) -> list[str]:
    def of(key: str):
        return result.get("variantes", name, key)

    measured = result.data["variantes"][name]
    if measured.get("perplexidade_do_gabarito", "") is None:
        loss = "o motor não informa"
    else:
        loss = score(of("perplexidade_do_gabarito"), 3)
    return [
        name, score(of("acuracia_execucao"), 1, 100), score(of("sql_valido"), 1, 100),
        score(of("correspondencia_exata"), 1, 100), loss,
        score(of("bleu"), 1), number(of("tokens_no_prompt")),
    ]  # fmt: skip


def day7_forms(result: Result) -> list[list[str]]:
    """Cada variante como se usa: tamanho, latência e o que mudou em relação ao treinado."""
    rows = []
    pairs = result.data.get("mcnemar_treinado_forma", {})
    for name in result.get("variantes") or {}:

        def of(*keys: str, variant: str = name):
            return result.get("variantes", variant, *keys)

        test = pairs.get(name)
        against = "" if test is None else (
            f"perde {test['so_primeira']}, ganha {test['so_segunda']}; "
            f"p = {test['p_valor']:.2g}".replace(".", ",")
        )  # fmt: skip
        rows.append([
            name, of("motor") or MISSING, number(quotient(of("bytes_dos_pesos"), MIB)),
            number(quotient(of("memoria_bytes"), MIB)),
            number(of("uma_a_uma", "p50_s"), 2), number(of("uma_a_uma", "p95_s"), 2),
            number(of("uma_a_uma", "tokens_por_segundo"), 1),
            score(of("acuracia_execucao"), 1, 100), against,
        ])  # fmt: skip
    return rows


def day7_causes(result: Result) -> list[list[str]]:
    causes = result.get("variantes", "treinado", "causas_dos_erros") or {}
    total = sum(causes.values())
    return [[cause, number(count), number(100 * count / total, 0, "%")]
            for cause, count in causes.items()]  # fmt: skip


def day7_groups(result: Result) -> list[list[str]]:
    variants = result.get("variantes") or {}
    rows = []
    for title, key in (("dificuldade", "por_dificuldade"), ("tipo", "por_tipo")):
        groups = sorted({g for v in variants.values() for g in v.get(key, {})},
                        key=("fácil", "média", "difícil").index if title == "dificuldade" else None)
        for group in groups:
            parts = {name: v.get(key, {}).get(group) for name, v in variants.items()}
            total = next((p["total"] for p in parts.values() if p), None)
            rows.append([f"{title}: {group}", number(total),
                         *(score(parts.get(name), 1, 100) for name in DAY7_COLUMNS)])  # fmt: skip
    return rows


def day7_training(result: Result) -> list[list[str]]:
    """Um treino por linha: o desta pasta e os que foram medidos ao lado dele."""
    names = [name for name, part in (result.get("variantes") or {}).items()
             if part["grupo"] in ("treinado", "outros")]  # fmt: skip
    rows = []
    for name in names:

        def of(key: str, variant: str = name):
            return result.get("variantes", variant, "treino", key)

        rows.append([
            name, of("metodo") or MISSING, number(of("exemplos")), number(of("minutos"), 1),
            number(of("tokens_por_segundo")), number(of("parametros_treinaveis")),
            number(quotient(of("memoria_bytes"), MIB)), number(of("melhor_perda_de_validacao"), 4),
            number(of("melhor_passo")),
        ])  # fmt: skip
    return rows


# --- resumo da semana -----------------------------------------------------------------------------


def summary_day3(result: Result) -> list[list[str]]:
    scores = [result.get("metricas", when, "perplexidade_token") for when in ("antes", "depois")]
    return [["3", "fine-tuning completo", "perplexidade por token, teste", *map(score, scores),
             result.origin().split(", ")[0]]]  # fmt: skip


def summary_day4(result: Result) -> list[list[str]]:
    scores = [result.get("corridas", method, "metricas", "teste_perplexidade_token")
              for method in ("full", "lora")]  # fmt: skip
    return [["4", "LoRA no lugar do completo", "perplexidade por token, teste",
             *map(score, scores), result.origin().split(", ")[0]]]  # fmt: skip


def summary_study(result: Result) -> list[list[str]]:
    rows, chosen = result.get("linhas"), result.get("escolhida")
    if not rows or not chosen:
        return [["4", "estudo de hiperparâmetros", MISSING, MISSING, MISSING, MISSING]]
    return [["4", f"estudo: {_described(chosen)} no lugar do ponto base",
             "perplexidade por token, validação", _spread(rows[0]), _spread(chosen),
             result.origin().split(", ")[0]]]  # fmt: skip


def summary_day5(result: Result) -> list[list[str]]:
    rows = []
    for name in ("bnb-int8", "bnb-nf4-dupla", "gptq-4bit-g64"):
        if name in (result.get("tecnicas") or {}):
            scores = [result.get("tecnicas", n, "metricas", "perplexidade_token")
                      for n in ("fp32", name)]  # fmt: skip
            rows.append(["5", f"{name} no lugar de fp32", "perplexidade por token",
                         *map(score, scores), result.origin().split(", ")[0]])  # fmt: skip
    return rows


def summary_day6(result: Result) -> list[list[str]]:
    return [["6", "dados brutos → dados prontos", "linhas", number(result.get("lidas")),
             number(result.get("aceitas")), result.origin().split(", ")[0]]]  # fmt: skip


def summary_day7(result: Result) -> list[list[str]]:
    scores = [result.get("variantes", name, "acuracia_execucao") for name in DAY7_COLUMNS]
    return [["7", "mini-projeto: perguntas → SQL", "acurácia de execução (%)",
             *(score(s, 1, 100) for s in scores), result.origin().split(", ")[0]]]  # fmt: skip


# --- o que há em cada tabela ----------------------------------------------------------------------

DAY7_COLUMNS = ("base com esquema", "treinado")
DAY3_NAMES = ("dia3_full", "dia3_full_quick")
DAY4_NAMES = ("dia4_lora", "dia4_lora_quick")
STUDY_NAMES = ("dia4_estudo_full", "dia4_estudo_quick")
DAY5_NAMES = ("dia5_quantizacao", "dia5_quantizacao_quick")
DAY6_NAMES = ("dia6_dados", "dia6_dados_quick")
METRICS_NAMES = ("dia6_metricas", "dia6_metricas_quick")
DAY6_TRAIN_NAMES = ("dia6_treino", "dia6_treino_quick")
DAY7_NAMES = ("mini_projeto_lora_teste", "mini_projeto_rapido_teste")
# Estas mostram o caminho com poucos dados; não são referência de nada.
SHORT_RUNS = {"dia3_full_quick", "dia4_lora_quick", "dia5_quantizacao_quick", "dia6_dados_quick",
              "dia6_metricas_quick", "dia6_treino_quick", "mini_projeto_rapido_teste"}  # fmt: skip


def _table(header: str, names: tuple[str, ...], command: str, rows: Callable) -> Table:
    return Table(header.split(" | "), (Part(names, command, rows),))


TABLES = {
    "dia1_abordagens": _table(
        "abordagem | acurácia de execução (%) | SQL que executa (%) | igual à referência (%) | "
        "perplexidade da referência | BLEU | tokens no prompt",
        DAY7_NAMES, f"{DAY7} --few-shot 4", day1_approaches),
    "dia2_conferencias": _table("conferência | resultado", DAY4_NAMES, DAY4, day4_checks),
    "dia3_notas": _table(
        "medida | antes | depois | mudança | intervalos separados?",
        DAY3_NAMES, DAY3, day3_scores),
    "dia3_memoria": _table(
        "parcela | prevista (MiB) | medida (MiB) | medida / prevista",
        DAY3_NAMES, DAY3, day3_memory),
    "dia3_treino": _table(
        "modelo | parâmetros | passadas | lote | learning_rate | treino (min) | "
        "menor perda de validação | no passo", DAY3_NAMES, DAY3, day3_training),
    "dia4_memoria": _table(
        "parcela (MiB) | completo, prevista | completo, medida | LoRA, prevista | LoRA, medida | "
        "LoRA / completo", DAY4_NAMES, DAY4, day4_memory),
    "dia4_metodos": _table(
        "medida | completo | LoRA | LoRA / completo", DAY4_NAMES, DAY4, day4_methods),
    "dia4_estudo": _table(
        "fator | configuração | perplexidade, validação | perplexidade, teste | treináveis | "
        "treino (min)", STUDY_NAMES, STUDY, day4_study),
    "dia4_melhor": _table(
        "fator | valores tentados | o melhor | perplexidade | ponto base",
        STUDY_NAMES, STUDY, day4_best),
    "dia4_variantes": _table(
        "variante | perplexidade, validação | treináveis | treino (min) | pico (MiB)",
        STUDY_NAMES, STUDY, day4_variants),
    "dia5_tecnicas": _table(
        "técnica | arquivo (MiB) | memória em uso (MiB) | pico (MiB) | aceleração | memória | "
        "qualidade | perplexidade por token | KL em relação ao fp32",
        DAY5_NAMES, DAY5, day5_techniques),
    "dia5_custos": _table(
        "técnica | arquivo previsto (MiB) | medido (MiB) | para quantizar (s) | "
        "prefill, lote 1 (tokens/s) | decodificação, lote 1 | decodificação, lote 8",
        DAY5_NAMES, DAY5, day5_costs),
    "dia5_armadilha": _table(
        "pesos | perplexidade sem arredondar | na grade Q4_1 | erro dos pesos | na grade NF4 | "
        "erro dos pesos", DAY5_NAMES, DAY5, day5_trap),
    "dia5_sobra": _table(
        "quanto o treino moveu cada peso (passos da grade) | sobra do treino na Q4_1 | no NF4",
        DAY5_NAMES, DAY5, day5_kept),
    "dia5_qlora": _table(
        "medida | LoRA sobre bf16 | QLoRA sobre NF4 | QLoRA / LoRA",
        DAY5_NAMES, DAY5, day5_qlora),
    "dia5_guia": _table("o guia, calculado destes números", DAY5_NAMES, DAY5, day5_guide),
    "dia5_gptq": _table(
        "grade | nats por token que arredondar perde a mais | conclusão",
        DAY5_NAMES, DAY5, day5_gptq),
    "dia6_preparo": _table("medida | valor", DAY6_NAMES, DAY6, day6_summary),
    "dia6_defeitos": _table(
        "defeito | linhas com ele | recusadas por ele", DAY6_NAMES, DAY6, day6_defects),
    "dia6_conjunto": _table(
        "formato | treino | validação | teste", DAY6_NAMES, DAY6, day6_splits),
    "dia6_medidas": _table(
        "exemplo de lápis e papel | à mão | pela biblioteca", METRICS_NAMES, DAY6, day6_checks),
    "dia6_formatos": _table(
        "formato | medida | antes | depois | intervalos separados?",
        DAY6_TRAIN_NAMES, DAY6, day6_formats),
    "dia6_classificadores": _table(
        "jeito de classificar | acurácia (%) | macro-F1 (%) | treino (s) | resposta (s) | "
        "treináveis | p contra o TF-IDF", DAY6_TRAIN_NAMES, DAY6, day6_classifiers),
    "dia7_resultados": _table(
        "variante | acurácia de execução (%) | SQL que executa (%) | igual à referência (%) | "
        "perplexidade da referência | BLEU | tokens no prompt", DAY7_NAMES, DAY7, day7_scores),
    "dia7_formas": _table(
        "variante | motor | pesos (MiB) | memória (MiB) | latência p50 (s) | p95 (s) | "
        "tokens por segundo | acurácia de execução (%) | em relação ao treinado",
        DAY7_NAMES, FORMS, day7_forms),
    "dia7_causas": _table("causa do erro | erros | parte", DAY7_NAMES, DAY7, day7_causes),
    "dia7_grupos": _table(
        "perguntas | quantas | base com esquema (%) | treinado (%)",
        DAY7_NAMES, DAY7, day7_groups),
    "dia7_treino": _table(
        "treino | método | exemplos | minutos | tokens por segundo | treináveis | memória (MiB) | "
        "menor perda de validação | no passo",
        DAY7_NAMES, f"{PROJECT}/train.py` e, depois, `{DAY7}", day7_training),
    "resumo_semana": Table(
        ["dia", "o que mudou", "medida", "antes", "depois", "comando"],
        (
            Part(DAY3_NAMES, DAY3, summary_day3),
            Part(DAY4_NAMES, DAY4, summary_day4),
            Part(STUDY_NAMES, STUDY, summary_study),
            Part(DAY5_NAMES, DAY5, summary_day5),
            Part(DAY6_NAMES, DAY6, summary_day6),
            Part(DAY7_NAMES, DAY7, summary_day7),
        )),
}  # fmt: skip

"""O painel: os resultados medidos, numa página só, que se lê sem rede, no telefone e no papel.

    python dashboard.py --config configs/rapido.yaml     # grava resultados/painel_rapido.html

Lê o que evaluate.py e train.py gravaram; o que ainda não foi medido aparece com o comando que o
mede. A aba Métricas de app.py mostra o mesmo.
"""

import json
import sys
from html import escape
from pathlib import Path

from loja_sql.config import (
    RESULTS_DIR,
    Config,
    add_config_arguments,
    argument_parser,
    config_from_args,
    run_main,
    write_atomic,
)
from loja_sql.page.charts import CHART_CSS, bars, lines, number, scatter
from loja_sql.sql.causes import CAUSES

SAMPLES = 8
SAMPLES_PER_CAUSE = 3
LONGEST_ANSWER = 400  # caracteres que se mostram de uma resposta
DASHBOARD_CSS = """
.painel { line-height:1.45; }
.painel .grade { display:grid; gap:0 2rem;
  grid-template-columns:repeat(auto-fit,minmax(18rem,1fr)); }
.painel section { break-inside:avoid; min-width:0; margin-bottom:1.2rem; }
.painel h2 { font-size:1.15rem; margin:.8rem 0 .4rem; }
.painel .larga { overflow-x:auto; }
.painel { max-width:100%; }
.painel td, .painel th { min-width:4.5em; }
.painel table { border-collapse:collapse; font-size:.9em; font-variant-numeric:tabular-nums; }
.painel th, .painel td { padding:.25em .6em; border-bottom:1px solid #8886; text-align:left;
  vertical-align:top; }
.painel code { overflow-wrap:anywhere; white-space:pre-wrap; font-size:.92em; }
.painel .nota { opacity:.8; font-size:.9em; }
.painel details { margin:.4em 0; }
@media print { .painel .larga { overflow:visible; } .painel table { font-size:.75em; } }
"""
PAGE_CSS = """
:root { color-scheme:light dark; }
body { font-family:system-ui,sans-serif; max-width:64rem; margin:0 auto; padding:0 1rem 2rem; }
@media (prefers-color-scheme:dark) { body { background:#14171a; color:#e6e6e6; }
  .grafico { --g1:#6ea8fe; --g2:#fb923c; --g3:#4ade80; --g4:#c4b5fd; } }
@media print { body { background:#fff; color:#000; max-width:none; } }
"""


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser(description="Grava o painel dos resultados numa página HTML só.")
    add_config_arguments(parser)
    parser.add_argument("--output", type=Path, metavar="HTML", help="onde gravar")
    args = parser.parse_intermixed_args(argv)
    config = config_from_args(args)
    output = args.output or RESULTS_DIR / f"painel_{config.output_dir.name}.html"
    write_atomic(output, page(config))
    print(f"Painel em {output}")
    return 0


def page(config: Config) -> str:
    """O painel como página inteira, com o estilo dentro."""
    title = f"Painel: {escape(config.output_dir.name)}"
    return (
        f'<!doctype html><html lang="pt-BR"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<style>{CHART_CSS}{DASHBOARD_CSS}{PAGE_CSS}</style></head>"
        f"<body><h1>{title}</h1>{dashboard(config)}</body></html>"
    )


def dashboard(config: Config) -> str:
    """O painel como trecho de HTML, para a aba da página."""
    adapter = config.output_dir
    summary = _read_json(RESULTS_DIR / f"mini_projeto_{adapter.name}_teste.json")
    details = _read_lines(RESULTS_DIR / f"mini_projeto_{adapter.name}_teste.jsonl")
    parts = [_origin(summary)]
    if summary:
        variants = summary["variantes"]
        parts += [_accuracy(variants), _table(variants), _trade(variants)]
    parts.append(_losses(_read_lines(adapter / "metrics.jsonl")))
    if summary:
        parts += [_by(variants, "por_tipo", "Por tipo de consulta"),
                  _by(variants, "por_dificuldade", "Por dificuldade"),
                  _learning_curve(variants), _causes(variants), _failures(variants, details),
                  _samples(details, list(variants))]  # fmt: skip
    return f'<div class="painel">{"".join(parts)}</div>'


def _read_json(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _read_lines(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _section(title: str, body: str, wide: bool = False) -> str:
    inside = f'<div class="larga">{body}</div>' if wide else body
    return f"<section><h2>{escape(title)}</h2>{inside}</section>"


def _origin(summary: dict | None) -> str:
    if summary is None:
        return (
            '<p class="nota">Ainda não há notas deste modelo. Meça-as com '
            "<code>python evaluate.py --forms todas</code> e os mesmos argumentos.</p>"
        )
    total = next(iter(summary["variantes"].values()))["acuracia_execucao"]["total"]
    machine = summary["maquina"]["processador"]
    return (
        f'<p class="nota">{total} perguntas ({escape(summary["perguntas"])}), medidas em '
        f"{escape(summary['quando'][:10])}, {escape(machine)}, versão "
        f"{escape(summary['commit'] or 'sem git')}. Intervalos de 95%.</p>"
    )


def _percent(part: dict) -> str:
    low, high = (100 * x for x in part["ic95"])
    return f"{100 * part['valor']:.1f}% [{low:.0f};\u00a0{high:.0f}]".replace(".", ",")


def _score_bars(parts: dict[str, dict]) -> str:
    return bars([(name, p["valor"], tuple(p["ic95"]), _percent(p)) for name, p in parts.items()], 1)


def _accuracy(variants: dict) -> str:
    scores = {name: v["acuracia_execucao"] for name, v in variants.items()}
    return _section("Acurácia de execução por variante", _score_bars(scores))


def _rows(header: list[str], rows: list[list[str]]) -> str:
    """Uma tabela; as células já vêm em HTML."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _table(variants: dict) -> str:
    header = ["variante", "acurácia", "SQL válido", "igual à referência", "perplexidade", "BLEU",
              "tokens no prompt", "p50", "p95", "tokens/s", "pesos", "memória",
              "treino"]  # fmt: skip
    rows = []
    for name, part in variants.items():
        loss, alone, training = (part["perplexidade_do_gabarito"], part["uma_a_uma"],
                                 part["treino"])  # fmt: skip
        rows.append([
            escape(name), _percent(part["acuracia_execucao"]), _percent(part["sql_valido"]),
            _percent(part["correspondencia_exata"]), number(loss["valor"], 3) if loss else "–",
            number(part["bleu"]["valor"], 1),
            number(round(part["tokens_no_prompt"])), f"{number(alone['p50_s'])}\u00a0s",
            f"{number(alone['p95_s'])}\u00a0s", number(alone["tokens_por_segundo"], 1),
            _megabytes(part["bytes_dos_pesos"]), _megabytes(part["memoria_bytes"]),
            f"{number(training['minutos'], 1)}\u00a0min" if training else "–",
        ])  # fmt: skip
    note = (
        '<p class="nota">p50 e p95: segundos de uma pergunta feita sozinha, do envio ao fim da '
        "consulta. Memória: a que o modelo aberto acrescenta ao processo enquanto responde uma a "
        "uma. Cada variante, num processo só dela.</p>"
    )
    return _section("Todas as medidas", _rows(header, rows) + note, wide=True)


def _megabytes(size: int | None) -> str:
    return f"{number(round(size / 1e6))}\u00a0MB" if size else "–"


def _trade(variants: dict) -> str:
    # Outra redação da pergunta não é outro modelo: o tamanho e o tempo são os mesmos.
    variants = {n: v for n, v in variants.items() if v["grupo"] != "redacoes"}
    sized = {n: v["bytes_dos_pesos"] for n, v in variants.items() if v["bytes_dos_pesos"]}
    by_size = {n: (round(size / 1e6), 100 * variants[n]["acuracia_execucao"]["valor"])
               for n, size in sized.items()}  # fmt: skip
    by_time = {n: (v["uma_a_uma"]["p50_s"], 100 * v["acuracia_execucao"]["valor"])
               for n, v in variants.items()}  # fmt: skip
    left = _section("Tamanho × acurácia", scatter(by_size, "MB em disco", "acurácia, %"))
    right = _section("Latência × acurácia", scatter(by_time, "segundos (p50)", "acurácia, %"))
    return f'<div class="grade">{left}{right}</div>'


def _losses(records: list[dict]) -> str:
    series = {
        label: [(r["passo"], r[key]) for r in records if key in r]
        for key, label in (("loss", "treino"), ("eval_loss", "validação"))
    }
    series = {label: points for label, points in series.items() if points}
    if not series:
        return ""
    return _section("Perda", lines(series, "passo", "nats por token da resposta"))


def _main_variant(variants: dict) -> str:
    """O treinado; se ele não foi medido, a primeira variante."""
    return next((n for n, v in variants.items() if v["grupo"] == "treinado"), next(iter(variants)))


def _by(variants: dict, key: str, title: str) -> str:
    name = _main_variant(variants)
    part = variants[name]
    order = {"fácil": 0, "média": 1, "difícil": 2}
    parts = sorted(part[key].items(), key=lambda item: order.get(item[0], 0))
    scores = {f"{label} ({p['total']})": p for label, p in parts}
    return _section(f"{title}: {name}", _score_bars(scores))


def _learning_curve(variants: dict) -> str:
    """Um ponto por treino medido nestas perguntas: o desta pasta e os de `--also`, se do método."""
    trained = {name: part for name, part in variants.items()
               if part["grupo"] in ("treinado", "outros") and part["treino"]}  # fmt: skip
    methods = [part["treino"]["metodo"] for part in trained.values()]
    rows = sorted((part["treino"]["exemplos"], name, part["acuracia_execucao"])
                  for name, part in trained.items()
                  if part["treino"]["metodo"] == methods[0])  # fmt: skip
    body = _score_bars({f"{number(n)} exemplos: {name}": p for n, name, p in rows})
    note = "" if len(rows) > 1 else (
        '<p class="nota">Um treino só. Treine com outro número de exemplos, noutra pasta, e '
        "junte-o: <code>python train.py data.curated_in_training=1000 "
        "training.output_dir=models/mil</code>, <code>python evaluate.py --add --only outros "
        "--also models/mil</code>.</p>"
    )  # fmt: skip
    return _section("Acurácia por número de exemplos de treino", body + note)


def _causes(variants: dict) -> str:
    counts = {name: v["causas_dos_erros"] for name, v in variants.items()}
    seen = [label for label in CAUSES if any(label in part for part in counts.values())]
    rows = [[escape(name), *(str(part.get(label, 0)) for label in seen)]
            for name, part in counts.items()]  # fmt: skip
    return _section("Por que errou", _rows(["variante", *seen], rows), wide=True)


def _failures(variants: dict, details: list[dict]) -> str:
    """Alguns erros do treinado, separados pela causa."""
    name = _main_variant(variants)
    blocks = []
    for label in CAUSES:
        wrong = [x for x in details if x["variant"] == name and x["cause"] == label]
        rows = [[escape(x["question"]), f"<code>{escape(x['gold'])}</code>",
                 f"<code>{escape(x['predicted'][:LONGEST_ANSWER])}</code>"]
                for x in wrong[:SAMPLES_PER_CAUSE]]  # fmt: skip
        if rows:
            table = _rows(["pergunta", "referência", "resposta"], rows)
            blocks.append(
                f"<details><summary>{escape(label)} ({len(wrong)})</summary>"
                f'<div class="larga">{table}</div></details>'
            )
    return _section(f"Erros, por causa: {name}", "".join(blocks)) if blocks else ""


def _samples(details: list[dict], order: list[str]) -> str:
    by_id: dict[str, list[dict]] = {}
    for line in sorted(details, key=lambda x: order.index(x["variant"])):
        by_id.setdefault(line["id"], []).append(line)
    groups = list(by_id.values())
    step = max(1, len(groups) // SAMPLES)
    blocks = []
    for group in groups[::step][:SAMPLES]:
        rows = [["referência", f"<code>{escape(group[0]['gold'])}</code>", ""]]
        # As variantes que deram a mesma resposta dividem uma linha.
        same: dict[tuple, list[str]] = {}
        for x in group:
            mark = "✓" if x["correct"] else f"✗ {x['cause']}"
            same.setdefault((x["predicted"][:LONGEST_ANSWER], mark), []).append(x["variant"])
        rows += [[escape(" · ".join(names)), f"<code>{escape(sql)}</code>", escape(mark)]
                 for (sql, mark), names in same.items()]  # fmt: skip
        blocks.append(
            f"<details open><summary>{escape(group[0]['question'])}</summary>"
            f'<div class="larga">{_rows(["", "SQL", ""], rows)}</div></details>'
        )
    return _section("Respostas lado a lado", "".join(blocks))


if __name__ == "__main__":
    sys.exit(run_main(main))

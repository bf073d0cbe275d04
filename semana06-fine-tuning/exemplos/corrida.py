"""Uma corrida de treino, sozinha no seu processo: assim o pico de memória é só dela.

    python corrida.py CONFIGURACAO.json RESULTADO.json

Quem chama é o exemplo 2 (completo x LoRA) e o seu estudo de hiperparâmetros. O laço é escrito por
extenso, e não com o Trainer, porque cada variante mexe nele num ponto: o LoRA+ dá a B um
learning_rate maior, o AdaLoRA redistribui o posto a cada passo.
"""

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path

import medidas
import plano_memoria
import torch
import utils  # antes do torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from peft.optimizers import create_loraplus_optimizer
from torch import nn
from tqdm import tqdm
from transformers import BitsAndBytesConfig, DataCollatorForSeq2Seq, get_cosine_schedule_with_warmup

LORA_PLUS_RATIO = 16  # learning_rate de B sobre o de A (Hayou et al., 2024, seção 5)
VARIANTS = ("lora", "rslora", "dora", "lora_plus", "adalora")


@dataclass
class Run:
    """A configuração de uma corrida; `method` é full ou uma das `VARIANTS`."""

    model: str
    method: str = "lora"
    learning_rate: float = 5e-4
    epochs: float = 2.0
    batch_size: int = 8
    seed: int = 6
    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"
    load_in_4bit: bool = False
    train_examples: int | None = None
    test_examples: int | None = None
    new_tokens: int = 90
    answers: bool = True  # gera as respostas e mede o BLEU
    prompts: list[str] = field(default_factory=list)
    output: str | None = None  # onde salvar o que foi treinado

    def __post_init__(self) -> None:
        if self.method != "full" and self.method not in VARIANTS:
            known = ", ".join(("full", *VARIANTS))
            raise utils.UserError(f"método desconhecido: {self.method}. Use um destes: {known}.")


def main() -> None:
    parser = utils.Parser(__doc__)
    parser.add_argument("settings", type=Path)
    parser.add_argument("result", type=Path)
    args = parser.parse_args()
    settings = json.loads(args.settings.read_text(encoding="utf-8"))
    utils.write_json(args.result, execute(Run(**settings)))


def execute(run: Run) -> dict:
    """Carrega, treina, mede e devolve tudo num dicionário."""
    medidas.fix_seeds(run.seed)
    idle = peak_memory_mib()
    tokenizer = utils.load_tokenizer(run.model)
    data = {
        name: utils.read_conversations(utils.DATA_DIR / f"atendimento_{name}.jsonl", limit)
        for name, limit in (("treino", run.train_examples), ("validacao", run.test_examples),
                            ("teste", run.test_examples))
    }  # fmt: skip
    rows = [medidas.encode(tokenizer, messages) for messages in data["treino"]]
    steps = math.ceil(len(rows) / run.batch_size * run.epochs)
    model = prepare(run, steps)
    collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=medidas.IGNORED)
    memory = memory_of(model, collator, rows, run)
    losses, seconds, tokens = train(model, collator, rows, steps, run)
    peak = peak_memory_mib()
    scores = {
        f"{part}_{name}": value
        for part in ("validacao", "teste")
        for name, value in medidas.answer_scores(model, tokenizer, data[part]).items()
    }
    answers = medidas.answers_to(model, tokenizer, run.prompts, run.new_tokens)
    if run.answers:
        texts = medidas.greedy_answers(model, tokenizer, data["teste"], run.new_tokens)
        scores["teste_bleu"] = medidas.bleu(texts, [m[-1]["content"] for m in data["teste"]])
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "configuracao": asdict(run),
        "metricas": scores,
        "parametros": {"total": sum(p.numel() for p in model.parameters()),
                       "treinaveis": trainable},
        "memoria_mib": memory["medido"] | {"pico_do_processo": peak, "processo_vazio": idle},
        "memoria_prevista_mib": memory["previsto"],
        "treino": {"passos": steps, "segundos": seconds, "tokens_por_segundo": tokens / seconds,
                   "perdas": losses},
        "disco_mib": save(model, tokenizer, run.output),
        "respostas": answers,
    }  # fmt: skip


def prepare(run: Run, steps: int) -> nn.Module:
    """O modelo pronto para treinar: inteiro, ou congelado com o adaptador da variante."""
    options: dict = {}
    if run.load_in_4bit:
        compute = torch.bfloat16 if utils.gains_from_bf16() else torch.float32
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )  # fmt: skip
    elif run.method != "full" and utils.gains_from_bf16():
        options["dtype"] = torch.bfloat16  # pesos congelados não recebem passos miúdos
    model = utils.load_model(run.model, **options)
    return model if run.method == "full" else get_peft_model(model, adapter(run, steps))


def adapter(run: Run, steps: int) -> LoraConfig:
    """A configuração peft de cada variante, com o mesmo posto final `r`."""
    common = {"lora_alpha": run.alpha, "lora_dropout": run.dropout,
              "target_modules": run.target_modules, "task_type": "CAUSAL_LM"}  # fmt: skip
    if run.method == "adalora":
        # Começa com posto maior e corta até a média r (Zhang et al., 2023): os cortes vão do
        # primeiro décimo à metade do treino.
        return AdaLoraConfig(
            init_r=math.ceil(1.5 * run.r), target_r=run.r, total_step=steps,
            tinit=steps // 10, tfinal=steps // 2, deltaT=max(1, steps // 50), **common,
        )  # fmt: skip
    return LoraConfig(
        r=run.r, use_rslora=run.method == "rslora", use_dora=run.method == "dora", **common
    )


def build_optimizer(model: nn.Module, run: Run) -> torch.optim.Optimizer:
    if run.method == "lora_plus":
        return create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=run.learning_rate, loraplus_lr_ratio=LORA_PLUS_RATIO
        )
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(parameters, lr=run.learning_rate, weight_decay=0.0)


def train(
    model: nn.Module, collator, rows: list[dict], steps: int, run: Run
) -> tuple[list[float], float, int]:
    """O laço de treino. Devolve (perda de cada passo, segundos, tokens reais vistos)."""
    optimizer = build_optimizer(model, run)
    scheduler = get_cosine_schedule_with_warmup(optimizer, max(1, steps // 20), steps)
    adaptive = model.base_model if run.method == "adalora" else None
    loss_of = loss_function(run)
    batches = endless(medidas.SimilarLengths(rows, run.batch_size, run.seed))
    losses, tokens = [], 0
    started = time.perf_counter()
    model.train()
    for step in tqdm(range(steps), desc=f"Treinando ({run.method})", unit="passo", file=sys.stdout):
        batch = collator([rows[i] for i in next(batches)]).to(utils.device())
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if adaptive is not None:
            adaptive.update_and_allocate(step)
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % utils.RELEASE_EVERY == 0:
            utils.release_memory()
        tokens += int(batch["attention_mask"].sum())
    return losses, time.perf_counter() - started, tokens


def endless(batches: Iterable[list[int]]) -> Iterator[list[int]]:
    """Uma passada depois da outra; cada uma sorteia os lotes de novo."""
    while True:
        yield from batches


def loss_function(run: Run) -> Callable[[nn.Module, dict], torch.Tensor]:
    """A perda da corrida: contas em bf16 onde isso rende, pesos que treinam sempre em float32."""
    mixed = utils.gains_from_bf16()

    def adapter_loss(model: nn.Module, batch: dict) -> torch.Tensor:
        # O peft copia a entrada de cada camada para o float32 do adaptador, e a volta guarda as
        # cópias; o autocast já põe os dois lados na mesma precisão.
        with disable_input_dtype_casting(model, active=mixed):
            return medidas.answer_loss(model, batch, mixed)

    def adalora_loss(model: nn.Module, batch: dict) -> torch.Tensor:
        # O AdaLoRA soma à perda, no forward do peft, a penalidade que mantém A e B ortogonais.
        with torch.autocast(utils.device().type, torch.bfloat16, enabled=mixed):
            return model(**batch).loss

    if run.method == "full":
        return partial(medidas.answer_loss, mixed=mixed)
    return adalora_loss if run.method == "adalora" else adapter_loss


def memory_of(model: nn.Module, collator, rows: list[dict], run: Run) -> dict:
    """As quatro parcelas num lote, o primeiro do arquivo: medidas e, onde há fórmula, previstas."""
    batch = dict(collator(rows[: run.batch_size]).to(utils.device()))
    tokens, answers = batch["input_ids"].numel(), int((batch["labels"] != medidas.IGNORED).sum())
    measured = plano_memoria.measure(model, batch, loss_function(run))
    known = run.method in ("full", "lora") and not run.load_in_4bit
    predicted = None
    if known and run.target_modules == "all-linear":
        mode = f"{'completo' if run.method == 'full' else 'lora'} "
        mode += "bf16" if utils.gains_from_bf16() else "float32"
        predicted = plano_memoria.predict(model.config, mode, tokens, answers, run.r)
    return {"medido": measured | {"tokens": tokens}, "previsto": predicted}


def peak_memory_mib() -> float:
    """O pico de memória deste processo (RSS) ou, com CUDA, o da GPU, em MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / plano_memoria.MIB
    status = Path("/proc/self/status")
    if status.is_file():
        # ru_maxrss herdaria o pico do processo pai; VmHWM é só deste.
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / plano_memoria.MIB
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / plano_memoria.MIB


def save(model: nn.Module, tokenizer, output: str | None) -> float | None:
    """Salva o que foi treinado (o modelo ou só o adaptador); devolve o tamanho em MiB."""
    if output is None:
        return None
    folder = Path(output)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    if not isinstance(model, PeftModel):
        tokenizer.save_pretrained(folder)
    return sum(f.stat().st_size for f in folder.glob("*.safetensors")) / plano_memoria.MIB


def known_settings() -> set[str]:
    """Os nomes que uma configuração pode ter."""
    return {item.name for item in fields(Run)}


if __name__ == "__main__":
    utils.run_main(main)

"""Dia 4: LoRA, primeiro à mão e depois com as bibliotecas PEFT e TRL, ao lado de todos os pesos.

Você vai escrever o LoRA em vinte linhas, provar que ele faz o que a fórmula diz, treinar o mesmo
modelo dos dois jeitos (cada um no seu processo, com o learning_rate que lhe serve) e planejar a
memória de um modelo de 7 bilhões de parâmetros sem tê-lo.

    python semana06-fine-tuning/exemplos/exemplo_02_lora_peft.py --quick   # o caminho inteiro
    python semana06-fine-tuning/exemplos/exemplo_02_lora_peft.py           # 10 minutos
    python …/exemplo_02_lora_peft.py --only-lora --rank 4 --name posto4    # outra tentativa
    python …/exemplo_02_lora_peft.py --model meta-llama/Llama-2-7b-hf --load-in-4bit --only-lora
        # numa GPU (veja gpu.md), com a licença do Llama aceita no hub e o bitsandbytes

O que olhar: as quatro conferências do passo 2; treináveis, memória e qualidade lado a lado no passo
4. Depois: `dia4/estudo.py`, que varia um hiperparâmetro por vez. Saídas: `modelos/dia4/` (com
--quick, `dia4-curto/`; com --name X, `dia4-X/`), `resultados/dia4_lora.json` e a figura.
"""

import argparse
import math
import random
import sys
import tempfile
from pathlib import Path

from comum.paths import DEFAULT_MODEL
from comum.terminal import (
    Parser,
    above_zero,
    banner,
    conclude,
    from_zero,
    run_main,
    seed,
    simple_name,
)
from comum.tracking import TRACKERS, require

import utils

PLANNED = "meta-llama/Llama-2-7b-hf"
TOLERANCE = 1e-4  # diferença relativa aceita entre dois caminhos que fazem a mesma conta
MARK = "tokenizer_config.json"  # diz que uma pasta tem um modelo, ou um adaptador
VARIANTS = ("lora", "rslora", "dora", "lora_plus", "adalora")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", default=str(DEFAULT_MODEL), metavar="PASTA_OU_NOME", help="pasta ou nome no hub")
    add("--output", type=Path, metavar="PASTA", help="onde salvar modelo e adaptador")
    add("--name", type=simple_name, metavar="NOME", help="guarda à parte o que esta vez produzir")
    add("--quick", action="store_true", help="o caminho inteiro, com poucos dados")
    add("--only-lora", action="store_true", help="sem o treino de todos os pesos")
    add("--variant", choices=VARIANTS, default="lora", help="do LoRA (padrão: lora)")
    add("--rank", dest="r", type=above_zero(int), default=16, help="posto de A e B (padrão: 16)")
    add("--alpha", type=above_zero(float), default=32, help="a escala é alpha/r (padrão: 32)")
    add("--dropout", type=from_zero(float, 1), default=0.0, help="do adaptador (padrão: 0)")
    add("--target-modules", default="all-linear", metavar="A,B", help="(padrão: todas as lineares)")
    # O LoRA pede um learning_rate umas vinte vezes maior que o do treino de todos os pesos: são
    # poucos números, partindo do zero, para mover o mesmo modelo. Um modelo grande pede menos.
    rates = "do LoRA (padrão: 4e-3; 5e-4 de 1 bilhão de parâmetros em diante, 2e-4 de 5 em diante)"
    add("--learning-rate", type=above_zero(float), help=rates)
    add("--full-learning-rate", type=above_zero(float), default=2e-4, help="(padrão: 2e-4)")
    add("--epochs", type=above_zero(float, 1000), default=1.0, help="passadas (padrão: 1)")
    add("--batch-size", type=above_zero(int), default=8, help="conversas por lote (padrão: 8)")
    add("--load-in-4bit", action="store_true", help="LoRA sobre a base em NF4")
    add("--seed", type=seed, default=6, help="(padrão: 6)")
    add("--train-examples", type=above_zero(int), metavar="N", help="só as N primeiras conversas")
    add("--no-answers", action="store_true", help="não gera respostas, nem mede o BLEU")
    add("--tracking", choices=TRACKERS, default="none", help="onde acompanhar o treino")
    args = parser.parse_args(argv)
    if args.target_modules != "all-linear":
        args.target_modules = args.target_modules.split(",")
    args.output = utils.model_folder(4, args.quick, args.output, args.name)
    return args


if __name__ == "__main__":
    ARGS = arguments()  # antes dos imports pesados: --help responde na hora

from comum import conversations, files, memory, memory_plan, models, sft
from comum.numbers import MIB, decimal, general
from comum.process import alone
from comum.results import Day4, TrainingRun
from comum.training import lora_rates, pad, recomputes_activations, similar_lengths

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, get_peft_model
from torch import nn
from trl import SFTConfig, SFTTrainer

from dia4 import runs


def main(args: argparse.Namespace) -> None:
    require(args.tracking)
    methods = [args.variant] if args.only_lora else ["full", args.variant]
    for method in methods:
        files.check_output(args.output / method, MARK)
    models.fix_seeds(args.seed)
    models.load_tokenizer(args.model)  # um modelo que não existe é dito aqui, numa frase

    banner(1, "LoRA à mão, numa camada")
    # Uma camada do modelo basta: carregar as 32 de um modelo grande só para isto não caberia. Na
    # CPU, também onde há GPU, que fica inteira para os treinos.
    model = models.load_model(args.model, num_hidden_layers=1, place=torch.device("cpu"))
    name, layer = next(iter(models.linears_of(model).items()))
    linear = as_linear(layer)
    print(
        f"camada {name}: W₀ é {list(linear.weight.shape)}; com r={args.r}, "
        f"A é {[args.r, linear.in_features]} e B é {[linear.out_features, args.r]}"
    )

    banner(2, "Quatro conferências")
    config = memory_plan.config_of(args.model)
    shape = memory_plan.shape_of(config)
    sizes = shape.linears  # (entrada, saída) de cada camada, sem os pesos
    models.check_targets(sizes, args.target_modules)
    checks = conclude(check_by_hand(model, layer, config, args))
    del model, layer, linear

    banner(3, "LoRA" if args.only_lora else "Todos os pesos e LoRA, cada um no seu processo")
    low, high = (general(rate) for rate in lora_rates(shape.total))
    args.learning_rate = args.learning_rate or lora_rates(shape.total)[1]
    print(
        f"learning_rate do LoRA: {general(args.learning_rate)} (com {decimal(shape.total)} "
        f"parâmetros, costuma ir de {low} a {high})"
    )
    print(f"contas em {models.PRECISIONS[models.compute_dtype()]}")
    found = {}
    for method in methods:
        rate = args.full_learning_rate if method == "full" else args.learning_rate
        # O pico de memória de um treino só é dele se ninguém treinou antes no mesmo processo.
        found[method] = alone(train_one, settings_of(args, method, rate))

    banner(4, "Lado a lado")
    side_by_side(found)

    banner(5, f"Um modelo maior, sem tê-lo: {PLANNED}")
    memory_plan.show_plan(PLANNED, args.r)

    name = utils.result_name("dia4_lora", args.quick, args.name)
    print(f"\nFigura: {utils.save_figure(runs.draw(found), name)}")
    print("Sua vez: python semana06-fine-tuning/exercicios/conferir.py dia4")
    print(
        "A seguir: mude um hiperparâmetro, com --name, e compare; `dia4/estudo.py` o faz por você."
    )
    Day4(model=args.model, seed=args.seed, checks=checks, runs=found).announce(name)


def side_by_side(found: dict[str, TrainingRun]) -> None:
    """As respostas às mesmas perguntas, as medidas e o que se pode dizer delas."""
    for number, prompt in enumerate(conversations.PROMPTS):
        said = {runs.METHODS[m]: run.answers[number] for m, run in found.items() if run.answers}
        if said:  # com --no-answers, uma pergunta sem resposta não diria nada
            lines = (f"{name}: {' '.join(text.split())}" for name, text in said.items())
            print(f"\n> {prompt}", *lines, sep="\n  ")
    sft.show_runs({runs.METHODS[method]: run for method, run in found.items()})
    if len(found) == 2:
        runs.show_verdict(*found.values())


# --- à mão --------------------------------------------------------------------------------------
class HandLora(nn.Module):
    """h = W₀x + (α/r)·B·A·x, com W₀ congelado (Hu et al., 2021, eq. 3).

    W₀ é [saída, entrada]; A é [r, entrada], sorteada; B é [saída, r], zero: no começo nada muda.
    """

    def __init__(self, linear: nn.Linear, r: int, alpha: float) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.A = nn.Parameter(torch.empty(r, linear.in_features))
        # Com B zero, B·A é zero e o modelo começa onde estava. Com A também zero, nada sairia do
        # lugar: o gradiente de B passa por A, e o de A por B.
        self.B = nn.Parameter(torch.zeros(linear.out_features, r))
        # Dividir por r deixa o tamanho do ajuste parecido quando se troca o posto.
        self.scale = alpha / r
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # o sorteio do nn.Linear, e o do peft

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # A antes de B: o caminho passa por só r números; B·A por extenso teria o tamanho de W₀.
        return self.linear(x) + self.scale * (x @ self.A.T) @ self.B.T

    def merged(self) -> torch.Tensor:
        """Um peso só, W₀ + (α/r)·BA: depois do treino o LoRA não custa nada."""
        return self.linear.weight + self.scale * self.B @ self.A


def as_linear(layer: nn.Module) -> nn.Linear:
    """A camada como nn.Linear; a do GPT-2 guarda o peso transposto."""
    if isinstance(layer, nn.Linear):
        return layer
    linear = nn.Linear(*layer.weight.shape)
    linear.weight, linear.bias = nn.Parameter(layer.weight.T), layer.bias
    return linear


def check_by_hand(model, original: nn.Module, config, args) -> dict[str, bool]:
    """As propriedades do LoRA, conferidas numa camada, e a conta dos parâmetros, no modelo todo."""
    linear = as_linear(original)
    x = torch.randn(4, 7, linear.in_features)
    ours = HandLora(linear, args.r, args.alpha)
    untouched = torch.equal(ours(x), linear(x))
    with torch.no_grad():
        ours.B.normal_(std=0.02)  # como se já tivesse treinado
    merged = close(nn.functional.linear(x, ours.merged(), linear.bias), ours(x))

    # Uma configuração por modelo: o peft escreve nela os nomes das camadas que encontrou.
    first, second = (
        LoraConfig(
            r=args.r, lora_alpha=args.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        for _ in range(2)
    )
    wrapped = get_peft_model(model, first)
    layer = next(m for m in wrapped.modules() if getattr(m, "base_layer", None) is original)
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(ours.A)
        layer.lora_B["default"].weight.copy_(ours.B)
    same = close(layer(x), ours(x))
    # O modelo inteiro, em "meta": todos os tamanhos, nenhum peso na memória.
    whole = get_peft_model(memory_plan.meta_model(config), second)
    counted = sum(p.numel() for p in whole.parameters() if p.requires_grad)
    predicted = memory_plan.shape_of(config).adapter(args.r)
    return {
        "com B = 0 a saída é exatamente a da camada original": untouched,
        "W₀ + (α/r)·BA num peso só dá a mesma saída que os dois caminhos": merged,
        "a camada do peft, com os nossos A e B, dá a mesma saída": same,
        f"soma de r·(entrada + saída) nas camadas: {decimal(predicted)} treináveis, como se "
        "contou": predicted == counted,
    }


def close(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Igualdade a menos do arredondamento: diferença relativa até `TOLERANCE`."""
    return bool((left - right).norm() <= TOLERANCE * right.norm())


# --- com as bibliotecas -------------------------------------------------------------------------
def settings_of(args: argparse.Namespace, method: str, rate: float) -> argparse.Namespace:
    """As opções de um dos treinos; `method` é full, lora ou uma variante."""
    settings = argparse.Namespace(**vars(args))
    settings.method, settings.learning_rate = method, rate
    settings.load_in_4bit = args.load_in_4bit and method != "full"
    settings.output = str(args.output / method)
    settings.test_examples, settings.new_tokens = (8, 16) if args.quick else (None, 90)
    if args.quick:
        settings.train_examples = min(args.train_examples or 16, 16)
    return settings


def train_one(run: argparse.Namespace) -> TrainingRun:
    """Treina, mede e salva; é chamada num processo novo."""
    idle = memory.peak_mib()
    tokenizer = models.load_tokenizer(run.model)
    limits = {"treino": run.train_examples, "validacao": run.test_examples}
    limits["teste"] = run.test_examples
    train, validation, test = (
        conversations.read_conversations(
            conversations.DATA_DIR / f"atendimento_{part}.jsonl", limit
        )
        for part, limit in limits.items()
    )
    trainer = build_trainer(run, tokenizer, train)
    rows = [conversations.encode(tokenizer, messages) for messages in train[: run.batch_size]]
    batch = pad(rows, tokenizer.pad_token_id)
    found = sft.training_run(
        trainer,
        batch,
        texts={"validation": validation, "test": test},
        new_tokens=0 if run.no_answers else run.new_tokens,
        settings=vars(run),
        idle_mib=idle,
        asked=conversations.fixed_prompts(tokenizer),
    )
    with files.building(Path(run.output), MARK) as folder:
        trainer.model.save_pretrained(folder)  # com LoRA, só o adaptador
        tokenizer.save_pretrained(folder)
    found.disk_mib = files.weights_bytes(Path(run.output)) / MIB
    return found


def build_trainer(
    run: argparse.Namespace, tokenizer, texts: list[conversations.Messages]
) -> SFTTrainer:
    """O SFTTrainer como se encontra por aí, com o que os padrões dele não adivinham."""
    disable_progress_bars()
    dataset = Dataset.from_list([prompt_completion(m) for m in in_similar_batches(texts, run)])
    steps = math.ceil(len(dataset) / run.batch_size)
    # Pesos congelados podem ter 16 bits: não recebem os passos miúdos que metade dos bits perderia.
    # Os que treinam ficam em float32, no treino de todos e no adaptador.
    half = models.compute_dtype()
    dtype = torch.float32 if run.method == "full" else half
    model = models.load_model(run.model, dtype, run.load_in_4bit)
    if recomputed := recomputes_activations(model, run.load_in_4bit):
        print("modelo grande em 4 bits: as ativações são recalculadas na volta")
        model.gradient_checkpointing_enable()  # o Trainer só o faria depois de medida a memória
    config = SFTConfig(
        output_dir=tempfile.gettempdir(),  # obrigatório, mesmo sem nada a salvar
        num_train_epochs=1,  # as passadas já estão em `dataset`
        per_device_train_batch_size=run.batch_size,
        learning_rate=run.learning_rate,
        lr_scheduler_type="cosine",  # desce devagar: os últimos passos só acertam o detalhe
        warmup_steps=steps // 20,  # e sobe aos poucos, do zero: os primeiros gradientes são brutos
        completion_only_loss=True,  # a máscara do dia 3, agora por conta da biblioteca
        max_length=None,  # o padrão corta em 1.024 tokens, e o que se perde é o fim: a resposta
        train_sampling_strategy="sequential",  # a ordem já foi sorteada, em lotes parecidos
        gradient_checkpointing=recomputed,  # o padrão, True, troca tempo por memória
        bf16=half == torch.bfloat16,  # o padrão, True, é lento onde o processador não tem bf16
        fp16=half == torch.float16,  # nas GPUs sem bf16; o Trainer escala a perda
        use_cpu=models.device().type == "cpu",
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,  # a perda de cada passo, para a figura
        logging_nan_inf_filter=False,  # um nan aparece na hora, e `sft.Bar` para o treino
        disable_tqdm=True,  # a barra é a de `sft.Bar`
        report_to="none",  # e o painel de fora também
        save_strategy="no",  # um treino de minutos: grava-se no fim
        seed=run.seed,  # o TRL a aplica antes de sortear A
    )
    lora = LoraConfig(
        r=run.r,
        lora_alpha=run.alpha,  # o ajuste entra multiplicado por alpha/r
        lora_dropout=run.dropout,  # só na entrada do adaptador; a base congelada não o vê
        target_modules=run.target_modules,  # "all-linear" deixa a camada de saída de fora
        task_type="CAUSAL_LM",  # como o peft embrulha o modelo: prever o próximo token
    )
    label, panel = f"Treinando ({runs.METHODS[run.method]})", f"dia4-{run.method}-{run.seed}"
    trainer = runs.TRAINERS.get(run.method, SFTTrainer)(
        model=model,
        args=config,
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=None if run.method == "full" else runs.variant_of(lora, run.method, steps),
        callbacks=[sft.Bar(label, tracking=run.tracking, name=panel)],
    )
    models.train_in_float32(trainer.model)
    return trainer


def prompt_completion(messages: conversations.Messages) -> dict[str, conversations.Messages]:
    """A conversa na forma em que o TRL sabe o que é pergunta e o que é resposta."""
    turns = conversations.with_system(messages)
    return {"prompt": turns[:-1], "completion": turns[-1:]}


def in_similar_batches(
    texts: list[conversations.Messages], run: argparse.Namespace
) -> list[conversations.Messages]:
    """As conversas das passadas pedidas, em lotes de comprimento parecido: menos preenchimento."""
    lengths = [sum(len(message["content"]) for message in messages) for messages in texts]
    rng, order = random.Random(run.seed), []
    for _ in range(math.ceil(run.epochs)):
        batches = similar_lengths(lengths, run.batch_size, rng, short_last=True)
        order += [texts[index] for batch in batches for index in batch]
    return order[: max(1, round(run.epochs * len(texts)))]


if __name__ == "__main__":
    sys.exit(run_main(main, ARGS))

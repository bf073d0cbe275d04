"""Dia 4: LoRA, primeiro à mão e depois com a biblioteca PEFT, ao lado do treino completo.

Você vai escrever o LoRA em vinte linhas, provar que ele faz o que a fórmula diz, treinar o mesmo
modelo dos dois jeitos (cada um no seu processo, com o learning_rate que lhe serve) e planejar a
memória de um modelo de 7 bilhões de parâmetros sem tê-lo.

    python semana06-fine-tuning/exemplos/exemplo_02_lora_peft.py --quick   # o caminho inteiro
    python semana06-fine-tuning/exemplos/exemplo_02_lora_peft.py           # a comparação: 9 minutos
    python …/exemplo_02_lora_peft.py --study quick    # o estudo de hiperparâmetros; ou full
    python …/exemplo_02_lora_peft.py --plan pasta/do/modelo                # só o plano de memória
    python …/exemplo_02_lora_peft.py --model meta-llama/Llama-2-7b-hf --load-in-4bit --only-lora

O último pede uma GPU de 12 GB ou mais, a licença do Llama aceita no hub, a biblioteca bitsandbytes
e um `--learning-rate` menor (2e-4). O que olhar: as quatro conferências do passo 2; treináveis,
memória e qualidade lado a lado no passo 4. Saídas: `modelos/dia4/` (com --quick, `dia4-curto/`),
`resultados/dia4_lora.json` e a figura.
"""

import json
import math
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import estudo_lora
import medidas
import plano_memoria
import relatorio_lora
import torch
import utils  # antes do torch
from corrida import Run
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

SEED = 6
RANK, ALPHA = 16, 32
EPOCHS = 1.0
BATCH = 8
FULL_LEARNING_RATE = 2e-4
LORA_LEARNING_RATE = 4e-3  # o escolhido por --study quick; o LoRA pede mais que o completo
TOLERANCE = 1e-4  # diferença relativa aceita entre dois caminhos que fazem a mesma conta
QUICK = {"train_examples": 16, "test_examples": 8, "new_tokens": 16, "epochs": 1.0}
PLANNED = "meta-llama/Llama-2-7b-hf"
MODELS = utils.WEEK_DIR / "modelos"


class HandLora(nn.Module):
    """h = W₀x + (α/r)·B·A·x, com W₀ congelado (Hu et al., 2021, eq. 3).

    W₀ é [saída, entrada]; A é [r, entrada], sorteada; B é [saída, r], zero: no começo nada muda.
    """

    def __init__(self, linear: nn.Linear, r: int, alpha: int) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.A = nn.Parameter(torch.empty(r, linear.in_features))
        self.B = nn.Parameter(torch.zeros(linear.out_features, r))
        self.scale = alpha / r
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.scale * (x @ self.A.T) @ self.B.T

    def merged(self) -> torch.Tensor:
        """Um peso só, W₀ + (α/r)·BA: depois do treino o LoRA não custa nada."""
        return self.linear.weight + self.scale * self.B @ self.A


def main() -> None:
    args = arguments()
    if args.plan:
        print(plano_memoria.plan_table(args.plan, RANK, batch=1, length=1024))
        return
    if args.study:
        report_study(args.model, args.study)
        return
    medidas.fix_seeds(SEED)

    utils.banner(1, "LoRA à mão, numa camada")
    model = utils.load_model(args.model)
    name, layer = first_linear(model)
    linear = as_linear(layer)
    print(f"camada {name}: W₀ é {list(linear.weight.shape)}; com r={RANK}, "
          f"A é {[RANK, linear.in_features]} e B é {[linear.out_features, RANK]}")  # fmt: skip

    utils.banner(2, "Quatro conferências")
    checks = check_by_hand(model, layer)
    for text, passed in checks.items():
        print(f"[{'certo' if passed else 'ERRADO'}] {text}")
    if not all(checks.values()):
        raise utils.UserError("uma conferência do LoRA falhou; veja a linha com ERRADO.")
    del model, layer, linear

    utils.banner(3, "Completo e LoRA, cada um no seu processo")
    methods = {"lora": args.learning_rate}
    if not args.only_lora:
        methods = {"full": FULL_LEARNING_RATE, **methods}
    runs = {}
    for method, rate in methods.items():
        settings = Run(
            model=args.model, method=method, learning_rate=rate, epochs=EPOCHS, batch_size=BATCH,
            seed=SEED, r=RANK, alpha=ALPHA, prompts=medidas.PROMPTS,
            output=str(args.output / method),
            load_in_4bit=args.load_in_4bit and method == "lora",
        )  # fmt: skip
        runs[method] = run_alone(asdict(settings) | (QUICK if args.quick else {}))

    utils.banner(4, "Lado a lado")
    for number, prompt in enumerate(medidas.PROMPTS):
        print(f"\n> {prompt}")
        for method, result in runs.items():
            print(f"  {method:<5} {' '.join(result['respostas'][number].split())}")
    print(relatorio_lora.table(runs))
    if len(runs) == 2:
        print(relatorio_lora.verdict(runs["full"], runs["lora"]))

    utils.banner(5, f"Um modelo maior, sem tê-lo: {PLANNED}")
    print(plano_memoria.plan_table(PLANNED, RANK, batch=1, length=1024))

    name = "dia4_lora" + ("_quick" if args.quick else "")
    path = utils.save_result(
        name,
        {"modelo": args.model, "semente": SEED, "conferencias": checks, "corridas": runs},
    )
    print(f"\nResultados: {path}\nFigura: {relatorio_lora.plot(name, runs)}")


def arguments():
    parser = utils.Parser(__doc__)
    parser.add_argument("--model", default=str(utils.DEFAULT_MODEL), metavar="PASTA_OU_NOME",
                        help="pasta ou nome no hub (padrão: o SmolLM2 preparado)")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="PASTA",
                        help="onde salvar modelo e adaptador")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="o caminho inteiro, com poucos dados")
    parser.add_argument("--plan", metavar="NOME", help="só o plano de memória deste modelo")
    parser.add_argument("--study", choices=estudo_lora.LEVELS,
                        help="só o estudo de hiperparâmetros (continua de onde parou)")  # fmt: skip
    parser.add_argument("--only-lora", action="store_true", help="sem o treino completo")
    parser.add_argument("--load-in-4bit", action="store_true", help="LoRA sobre a base em NF4")
    parser.add_argument("--learning-rate", type=float, default=LORA_LEARNING_RATE,
                        help="o do LoRA (padrão: 4e-3; modelos grandes pedem menos)")  # fmt: skip
    args = parser.parse_args()
    args.output = args.output or MODELS / ("dia4-curto" if args.quick else "dia4")
    return args


def first_linear(model: nn.Module) -> tuple[str, nn.Module]:
    """A primeira camada linear do modelo (a projeção q da primeira atenção, num Llama)."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            return name, module
    raise utils.UserError("este modelo não tem camada linear onde pôr um LoRA.")


def as_linear(layer: nn.Module) -> nn.Linear:
    """A camada como nn.Linear; a do GPT-2 guarda o peso transposto."""
    if isinstance(layer, nn.Linear):
        return layer
    linear = nn.Linear(*layer.weight.shape, device=layer.weight.device)
    linear.weight, linear.bias = nn.Parameter(layer.weight.T), layer.bias
    return linear


def check_by_hand(model: nn.Module, original: nn.Module) -> dict[str, bool]:
    """As propriedades do LoRA, conferidas numa camada, e a conta dos parâmetros, no modelo todo."""
    linear = as_linear(original)
    x = torch.randn(4, 7, linear.in_features, device=linear.weight.device)
    ours = HandLora(linear, RANK, ALPHA).to(x.device)
    untouched = torch.equal(ours(x), linear(x))
    with torch.no_grad():
        ours.B.normal_(std=0.02)
    merged = close(nn.functional.linear(x, ours.merged(), linear.bias), ours(x))

    shape = plano_memoria.shape_of(model.config)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear",
                        task_type="CAUSAL_LM")  # fmt: skip
    wrapped = get_peft_model(model, config)
    layer = next(m for m in wrapped.modules() if getattr(m, "base_layer", None) is original)
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(ours.A)
        layer.lora_B["default"].weight.copy_(ours.B)
    same = close(layer(x), ours(x))
    counted = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    predicted = shape.adapter(RANK)
    numbers = utils.thousands(predicted)
    return {
        "com B = 0 a saída é exatamente a da camada original": untouched,
        "W₀ + (α/r)·BA num peso só dá a mesma saída que os dois caminhos": merged,
        "a camada do peft, com os nossos A e B, dá a mesma saída": same,
        f"soma de r·(entrada + saída) nas camadas: {numbers} treináveis, como se contou":
            predicted == counted,
    }  # fmt: skip


def close(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Igualdade a menos do arredondamento: diferença relativa até `TOLERANCE`."""
    return bool((left - right).norm() <= TOLERANCE * right.norm())


def run_alone(settings: dict) -> dict:
    """Uma corrida num processo só dela; a memória medida não é a de mais ninguém."""
    with tempfile.TemporaryDirectory() as folder:
        configuration, result = Path(folder) / "corrida.json", Path(folder) / "resultado.json"
        configuration.write_text(json.dumps(settings), encoding="utf-8")
        script = Path(__file__).with_name("corrida.py")
        done = subprocess.run([sys.executable, str(script), str(configuration), str(result)])
        if done.returncode or not result.is_file():
            raise utils.UserError(f"a corrida `{settings['method']}` não terminou; veja acima.")
        return json.loads(result.read_text(encoding="utf-8"))


def report_study(model: str, level: str) -> None:
    """O estudo de hiperparâmetros: roda o que falta, mostra a tabela e grava o resultado."""
    result = estudo_lora.study(model, level, run_alone)
    print(estudo_lora.table(result))
    path = utils.save_result(f"dia4_estudo_{level}", {"modelo": model} | result)
    print(f"Resultados: {path}\nFigura: {estudo_lora.plot(result)}")


if __name__ == "__main__":
    utils.run_main(main)

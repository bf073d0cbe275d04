"""Exporta o modelo treinado: funde o adaptador e grava as formas de implantação.

    python export.py                                  # tudo o que der: bf16, NF4, GPTQ, GGUF
    python export.py --config configs/rapido.yaml --forms bf16,q8_0
    python export.py --force                          # refaz o que já está pronto

O adaptador é fundido à base em float32, também quando foi treinado sobre uma base em 4 bits: fundir
em pesos quantizados arredondaria a soma outra vez. Antes de gravar, confere-se que os logits do
modelo fundido são os do adaptador. Cada forma sai de uma cópia temporária em float32, e não de
outra forma já arredondada. Saídas em `<training.output_dir>/exportado/`: uma pasta ou um arquivo
por forma, `exportado.json` (o que há, tamanhos, o que faltou e como obter), o `Modelfile` do Ollama
e a ficha do modelo (`README.md`). Uma forma que falta não impede as outras.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import comum  # noqa: F401  (antes do torch)

import torch
from data_prep import load_split
from loja_sql.config import (
    WEEK_DIR,
    Config,
    UserError,
    add_config_arguments,
    argument_parser,
    as_trained,
    config_from_args,
    load_effective,
    run_main,
    trained_kind,
    write_atomic,
)
from loja_sql.model import gptq
from loja_sql.model.card import model_card
from loja_sql.model.drafts import SLOTS_PER_NGRAM, write_drafts
from loja_sql.model.engines import (
    EXPORT_FOLDER,
    FORMS,
    GGUF_FORMS,
    MANIFEST,
    adapter_digest,
    form_list,
)
from loja_sql.model.loading import load_model, load_tokenizer
from loja_sql.prompt import encode_pair, render
from peft import PeftModel
from train import read_schema, training_rows
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

GGUF_TOOL = WEEK_DIR / "ferramentas" / "escrever_gguf.py"
DEFAULT_FORMS = ("bf16", "nf4", "gptq", "q8_0", "q4_k_m")
LOGITS_TOLERANCE = 1e-3  # em float32, numa escala em que os logits passam de 10
CHECKED_PROMPTS = 8
CALIBRATION_EXAMPLES = 128


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser(
        description="Funde o adaptador e grava as formas de implantação do modelo.",
        epilog=f"Formas: {', '.join(FORMS)}. Sem --forms: {', '.join(DEFAULT_FORMS)}.",
    )
    add_config_arguments(parser)
    parser.add_argument("--forms", type=form_list, default=list(DEFAULT_FORMS), metavar="LISTA",
                        help="o que gravar, com vírgulas entre as formas")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="refaz o que já está pronto")
    args = parser.parse_intermixed_args(argv)
    export(config_from_args(args), args.forms, args.force)
    return 0


def export(config: Config, forms: list[str], force: bool = False) -> dict:
    """Grava as formas pedidas e devolve o conteúdo de `exportado.json`."""
    adapter = config.output_dir
    config = trained_config(config)
    folder = adapter / EXPORT_FOLDER
    manifest = _manifest(config, adapter, force)
    missing = [form for form in forms if "caminho" not in manifest["formas"].get(form, {})]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        merged = folder / ".fundido"
        try:
            manifest["fusao"] = merge(config, adapter, merged)
            for form in missing:
                manifest["formas"][form] = _write_form(config, form, merged, folder)
                _save_manifest(folder, manifest)
        finally:
            shutil.rmtree(merged, ignore_errors=True)
        if any(form in GGUF_FORMS for form in missing):
            write_drafts(folder, answer_tokens(config))
    _save_manifest(folder, manifest)
    write_modelfile(config, folder, manifest)
    write_cards(adapter, manifest)
    print(report(manifest))
    print(f"Tudo em {folder}")
    return manifest


def answer_tokens(config: Config) -> list[list[int]]:
    """Os tokens de cada resposta do treino, com o fim do prompt à frente: o começo se adivinha."""
    tokenizer, schema = load_tokenizer(config), read_schema(config)
    sequences = []
    for row in training_rows(config):
        prompt, answer = encode_pair(tokenizer, config, row["question"], row["sql"], schema)
        sequences.append(prompt[-SLOTS_PER_NGRAM:] + answer)
    return sequences


def trained_config(config: Config) -> Config:
    """A configuração atual com o prompt e o modelo do treino, e a base em precisão cheia."""
    if trained_kind(config.output_dir) is None:
        raise UserError(
            f"não há modelo treinado em {config.output_dir}. Treine antes: python train.py"
        )
    config = as_trained(config, config.output_dir)
    config.training.precision, config.model.load_in_4bit = "fp32", False
    return config


def _manifest(config: Config, adapter: Path, force: bool) -> dict:
    """O que já foi exportado deste adaptador; vazio se ele mudou ou com `force`."""
    digest = adapter_digest(adapter)
    path = adapter / EXPORT_FOLDER / MANIFEST
    if path.is_file() and not force:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["adaptador_sha256"] == digest:
                return content
        except (ValueError, KeyError):
            print(f"{path} estava estragado; tudo será refeito.")
    return {"adaptador_sha256": digest, "base": config.model.name, "fusao": None, "formas": {}}


def _save_manifest(folder: Path, manifest: dict) -> None:
    write_atomic(folder / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=2))


def merge(config: Config, adapter: Path, output: Path) -> dict | None:
    """Funde o adaptador à base em float32, confere os logits e grava em `output`.

    De um treino completo não há o que fundir: o modelo só é gravado em float32.

    Returns:
        `maior_diferenca` entre os logits com o adaptador e os do modelo fundido, `tolerancia`,
        `perguntas` e `mesmos_tokens` (fração das posições com o mesmo token mais provável);
        None depois de um treino completo.

    Raises:
        UserError: a base é quantizada, ou os logits mudaram mais que a tolerância.
    """
    tokenizer = load_tokenizer(config)
    if trained_kind(adapter) == "full":
        load_model(config, adapter).save_pretrained(output)
        tokenizer.save_pretrained(output)
        return None
    base = load_model(config)
    if getattr(base, "quantization_method", None) is not None or base.dtype != torch.float32:
        raise UserError(
            f"a base {config.model.name} é quantizada, e fundir nela perderia qualidade; indique a "
            "de precisão cheia com --model."
        )
    prompts = _prompts(config, tokenizer)
    tuned = PeftModel.from_pretrained(base, adapter).eval()
    before = _logits(tuned, tokenizer, prompts)
    merged = tuned.merge_and_unload()
    after = _logits(merged, tokenizer, prompts)
    pairs = list(zip(before, after, strict=True))
    worst = max((a - b).abs().max().item() for a, b in pairs)
    agreed = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in pairs]).float().mean().item()
    if not worst <= LOGITS_TOLERANCE:
        raise UserError(
            f"a fusão mudou os logits em até {worst:.2g}, mais que a tolerância de "
            f"{LOGITS_TOLERANCE:g}; nada foi gravado."
        )
    shown = f"{worst:.1e}".replace(".", ",")
    print(f"Adaptador fundido em float32: os logits mudam no máximo {shown}.")
    merged.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return {"maior_diferenca": worst, "tolerancia": LOGITS_TOLERANCE, "perguntas": len(prompts),
            "mesmos_tokens": agreed}  # fmt: skip


def _prompts(config: Config, tokenizer) -> list[str]:
    schema = read_schema(config)
    rows = load_split(config, "validacao")[:CHECKED_PROMPTS]
    return [render(tokenizer, config, row["question"], schema) for row in rows]


@torch.inference_mode()
def _logits(model, tokenizer, prompts: list[str]) -> list[torch.Tensor]:
    encoded = [tokenizer(p, add_special_tokens=False, return_tensors="pt") for p in prompts]
    return [model(input_ids=e.input_ids.to(model.device)).logits[0] for e in encoded]


def _write_form(config: Config, form: str, merged: Path, folder: Path) -> dict:
    """Grava uma forma por inteiro ou não grava; devolve a linha dela em `exportado.json`."""
    print(f"Exportando {form}…")
    name = f"modelo-{form}.gguf" if form in GGUF_FORMS else form
    temporary, target = folder / f".{os.getpid()}-{name}", folder / name
    started = time.perf_counter()
    try:
        if form in GGUF_FORMS:
            _write_gguf(merged, form, temporary)
        else:
            WRITERS[form](config, merged, temporary)
            load_tokenizer(config).save_pretrained(temporary)
        _remove(target)
        os.replace(temporary, target)
    except UserError as error:
        print(f"  {form} ficou de fora: {error}")
        return {"falta": str(error)}
    finally:
        _remove(temporary)
    return {"caminho": name, "bytes": _size(target), "segundos": time.perf_counter() - started}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    """Bytes dos pesos: do arquivo GGUF, ou dos safetensors da pasta."""
    files = [path] if path.is_file() else path.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def _write_bf16(config: Config, merged: Path, output: Path) -> None:
    _load(merged, dtype=torch.bfloat16).save_pretrained(output)


def _write_nf4(config: Config, merged: Path, output: Path) -> None:
    options = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    model = _load(merged, dtype=torch.bfloat16, quantization_config=options)
    model.save_pretrained(output)


def _write_gptq(config: Config, merged: Path, output: Path) -> None:
    tokenizer, schema = load_tokenizer(config), read_schema(config)
    sequences = [
        sum(encode_pair(tokenizer, config, row["question"], row["sql"], schema), [])
        for row in training_rows(config)[:CALIBRATION_EXAMPLES]
    ]
    model = _load(merged, dtype=torch.float32)
    gptq.save(model, gptq.quantize(model, sequences), output)


def _load(folder: Path, **options) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


WRITERS: dict[str, Callable[[Config, Path, Path], None]] = {
    "bf16": _write_bf16,
    "nf4": _write_nf4,
    "gptq": _write_gptq,
}


def _write_gguf(merged: Path, form: str, output: Path) -> None:
    """Chama a ferramenta que escreve GGUF, num processo à parte."""
    command = [sys.executable, str(GGUF_TOOL), "--model", str(merged), "--output", str(output),
               "--type", form]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not output.is_file():
        lines = (done.stderr or done.stdout).strip().splitlines()
        reason = lines[-1].removeprefix("Erro: ") if lines else "a ferramenta não disse por quê"
        raise UserError(reason)


def write_modelfile(config: Config, folder: Path, manifest: dict) -> None:
    """O `Modelfile` do Ollama, com o mesmo prompt do treino, para o primeiro GGUF que houver."""
    ready = [manifest["formas"][f]["caminho"] for f in GGUF_FORMS
             if "caminho" in manifest["formas"].get(f, {})]  # fmt: skip
    if not ready:
        return
    tokenizer = load_tokenizer(config)
    template = render(tokenizer, config, "{{ .Prompt }}", read_schema(config))
    text = (
        "# ollama create loja-sql -f Modelfile && ollama run loja-sql \"quantos clientes temos?\"\n"
        f"FROM ./{ready[0]}\n"
        f'TEMPLATE """{template}"""\n'
        f'PARAMETER stop "{tokenizer.eos_token}"\n'
        "PARAMETER temperature 0\n"
        f"PARAMETER num_predict {config.generation.max_new_tokens}\n"
    )
    write_atomic(folder / "Modelfile", text)


def write_cards(adapter: Path, manifest: dict) -> None:
    """A ficha do modelo, no formato do hub, na pasta da exportação e na de cada forma."""
    text = model_card(load_effective(adapter), adapter, manifest)
    folder = adapter / EXPORT_FOLDER
    write_atomic(folder / "README.md", text)
    for form in manifest["formas"].values():
        if "caminho" in form and (folder / form["caminho"]).is_dir():
            write_atomic(folder / form["caminho"] / "README.md", text)


def report(manifest: dict) -> str:
    """Uma linha por forma: tamanho e tempo, ou o que falta."""
    lines = []
    for name, form in manifest["formas"].items():
        if "falta" in form:
            lines.append(f"{name:8} falta: {form['falta']}")
        else:
            size = f"{form['bytes'] / 1e6:.0f} MB"
            lines.append(f"{name:8} {size:>8}  {form['segundos']:5.0f} s  {form['caminho']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_main(main))

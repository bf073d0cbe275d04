"""Da pasta de um treino às formas de implantação: fundir, conferir, gravar cada uma."""

import contextlib
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

from comum import gguf, gptq
from comum.files import read_json, write_json, write_text
from comum.models import nf4
from comum.numbers import general
from comum.terminal import UserError

import torch
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from loja_sql.config import (
    EFFECTIVE_NAME,
    SHIPPED,
    Config,
    as_trained,
    load_effective,
    trained_kind,
)
from loja_sql.model import exports, run_folder
from loja_sql.model.card import base_name, model_card
from loja_sql.model.exports import ADAPTER, GGUF_FORMS, Form, Manifest, Merge
from loja_sql.model.loading import load_model, with_adapter
from loja_sql.model.tokens import load_tokenizer
from loja_sql.prompt import encode_pair, render
from loja_sql.questions import linking
from loja_sql.questions.splits import training_rows

LOGITS_TOLERANCE = 1e-3  # do maior logit: o float32 arredonda mil vezes menos, um erro muda tudo
# Com elas se confere a fusão; noutro banco também servem: os pesos são os mesmos para todas.
CHECKED = (
    "quantos clientes temos em Minas Gerais?",
    "quais os 3 produtos mais caros?",
    "faturamento por forma de pagamento em 2024",
    "quem comprou mais de cinco vezes?",
    "nota média dos produtos de livros",
    "quais clientes nunca fizeram um pedido?",
    "pedidos cancelados por mês",
    "vale a pena abrir uma filial?",
)
UNPUBLISHED = {"training_args.bin", "README.md"}  # um pickle com as pastas de quem treinou; a ficha
CALIBRATION_EXAMPLES = 128


class Exporter:
    """As formas de implantação do modelo em `training.output_dir`; UserError se não há um."""

    def __init__(self, config: Config) -> None:
        self.adapter = config.output_dir
        if trained_kind(self.adapter) is None:
            raise UserError(f"não há treino em {self.adapter}. Treine antes: python train.py")
        self.folder = self.adapter / exports.EXPORT_FOLDER
        self.config = as_trained(config, self.adapter)
        self.config.training.precision, self.config.model.load_in_4bit = "fp32", False
        self.tokenizer = load_tokenizer(self.config, self.adapter)
        self.tokenizer.padding_side = "left"  # quem gerar em lotes com a exportação precisa disto
        self.context = linking.context(self.config)
        self.prompts = [render(self.tokenizer, self.config, q, self.context) for q in CHECKED]

    def export(self, forms: list[str], force: bool = False) -> Manifest:
        """Grava as formas que faltam, com uma só fusão para todas, e o que vai ao lado delas.

        Uma forma que falta não impede as outras: o manifesto diz por que e como obtê-la.

        Raises:
            UserError: outra exportação desta pasta está em curso, ou a fusão mudaria o modelo.
        """
        with run_folder.locked(self.folder):
            for left in self.folder.glob(".*"):  # de uma exportação que morreu no meio
                if left.name != run_folder.LOCK:
                    _remove(left)
            return self._export(forms, force)

    def _export(self, forms: list[str], force: bool) -> Manifest:
        manifest = self._manifest(force)
        missing = [form for form in forms if form not in manifest.ready(self.folder)]
        merged = self.folder / ".fundido"
        try:
            if set(missing) - {ADAPTER}:
                manifest.merge = self.merge(merged)
            for form in missing:
                manifest.forms[form] = self._write(form, merged)
                manifest.save(self.folder)
        finally:
            shutil.rmtree(merged, ignore_errors=True)
        ready = manifest.ready(self.folder)
        self._write_modelfile([ready[form].name for form in GGUF_FORMS if form in ready])
        made = load_effective(self.adapter)
        # A ficha do modelo que vem pronto é do repositório, e não do que se exportou dele.
        trained = () if self.adapter == SHIPPED else (self.adapter,)
        for folder in (*trained, self.folder, *filter(Path.is_dir, ready.values())):
            text = model_card(made, self.adapter, manifest, folder)
            write_text(folder / "README.md", text)
        return manifest

    def _manifest(self, force: bool) -> Manifest:
        """O que já se exportou deste treino; nada, se ele mudou ou se o registro se estragou."""
        with contextlib.suppress(UserError):
            if not force and (found := exports.read_manifest(self.adapter)):
                return found
        digest = exports.adapter_digest(self.adapter)
        return Manifest(adapter_sha256=digest, base=self.config.model.name)

    def merge(self, output: Path) -> Merge | None:
        """Funde o adaptador à base em float32, confere os logits e grava em `output`.

        De um treino de todos os pesos não há o que fundir (None): o modelo só é gravado. Uma base
        quantizada, ou logits que mudam mais que a tolerância, são um UserError.
        """
        whole = trained_kind(self.adapter) == "full"
        model, checked = (load_model(self.config, self.adapter), None) if whole else self._merged()
        model.save_pretrained(output)
        self.tokenizer.save_pretrained(output)
        return checked

    def _merged(self) -> tuple[PreTrainedModel, Merge]:
        base = load_model(self.config)
        if getattr(base, "quantization_method", None) is not None or base.dtype != torch.float32:
            raise UserError(
                f"a base {self.config.model.name} é quantizada, e fundir nela perderia qualidade. "
                f"Indique a de precisão cheia em model.name de {self.adapter / EFFECTIVE_NAME}."
            )
        tuned = with_adapter(self.config, base, self.adapter).eval()
        before = self._logits(tuned)
        merged = tuned.merge_and_unload()
        pairs = list(zip(before, self._logits(merged), strict=True))
        worst = max((a - b).abs().max().item() for a, b in pairs)
        most = LOGITS_TOLERANCE * max(logits.abs().max().item() for logits, _ in pairs)
        if not worst <= most:
            raise UserError(
                f"a fusão mudou os logits em até {general(worst)}, mais que a tolerância de "
                f"{general(most)}: o adaptador ou a base está estragado. Nada foi gravado."
            )
        same = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in pairs]).float().mean().item()
        found = Merge(largest_difference=worst, questions=len(pairs), same_tokens=same)
        print(f"Adaptador fundido em float32: os logits mudam no máximo {found.shown}.")
        return merged, found

    @torch.inference_mode()
    def _logits(self, model) -> list[torch.Tensor]:
        encoded = self.tokenizer(self.prompts, add_special_tokens=False).input_ids
        return [model(input_ids=torch.tensor([e], device=model.device)).logits[0] for e in encoded]

    def _write(self, form: str, merged: Path) -> Form:
        """Grava uma forma por inteiro ou não grava; devolve a linha dela no manifesto."""
        print(f"Exportando {form}…", flush=True)
        name = f"modelo-{form}.gguf" if form in GGUF_FORMS else form
        temporary, target = self.folder / f".{name}", self.folder / name
        started = time.perf_counter()
        try:
            if form in GGUF_FORMS:
                gguf.write(merged, temporary, form)
            elif form == ADAPTER:
                self._write_adapter(temporary)
            else:
                self._write_folder(form, merged, temporary)
            _remove(target)
            os.replace(temporary, target)
        except UserError as error:
            print(f"  {form} ficou de fora: {error}")
            return Form(missing=str(error))
        finally:
            _remove(temporary)
        seconds = time.perf_counter() - started
        return Form(path=name, bytes=exports.size_of(target), seconds=seconds)

    def _write_adapter(self, output: Path) -> None:
        """O LoRA em bf16, com o tokenizador e o registro do treino."""
        weights = self.adapter / SAFETENSORS_WEIGHTS_NAME
        if not weights.is_file():
            raise UserError("o treino foi de todos os pesos, e não há adaptador")
        if (run := run_folder.read_run(self.adapter)) is None:
            raise UserError("falta o run.json do treino, ou ele é de outra versão")
        output.mkdir(parents=True)
        for name in run.files.keys() - UNPUBLISHED:
            shutil.copy2(self.adapter / name, output / name)
        settings = read_json(output / CONFIG_NAME)
        settings["base_model_name_or_path"] = base_name(self.config)
        write_json(output / CONFIG_NAME, settings)
        tensors = {name: tensor.bfloat16() for name, tensor in load_file(weights).items()}
        save_file(tensors, output / weights.name, {"format": "pt"})
        run_folder.sign(output, run)

    def _write_folder(self, form: str, merged: Path, output: Path) -> None:
        """As formas que o transformers abre; cada uma sai da cópia em float32, e não de outra."""
        options = {"quantization_config": nf4(torch.bfloat16)} if form == "nf4" else {}
        dtype = torch.float32 if form == "gptq" else torch.bfloat16
        model = AutoModelForCausalLM.from_pretrained(merged, dtype=dtype, **options).eval()
        if form == "gptq":
            scales = gptq.quantize(model, self._calibration())
            gptq.save(model, scales, gptq.BITS, gptq.GROUP, output)
        else:
            model.save_pretrained(output)
        self.tokenizer.save_pretrained(output)

    def _calibration(self) -> list[list[int]]:
        """Os tokens de alguns exemplos do treino, prompt e resposta, que calibram o GPTQ."""
        pairs = (
            encode_pair(self.tokenizer, self.config, row["question"], row["sql"], self.context)
            for row in training_rows(self.config)[:CALIBRATION_EXAMPLES]
        )
        return [prompt + answer for prompt, answer in pairs]

    def _write_modelfile(self, names: list[str]) -> None:
        """O `Modelfile` do Ollama, com o prompt do treino, para o primeiro GGUF que houver."""
        if not names:
            return
        hints = self.config.prompt.value_hints
        question = (
            "$(python inference.py --hints 'quantos clientes?')" if hints else "quantos clientes?"
        )
        # As dicas dependem da pergunta: quem a faz é que as põe.
        bare = replace(self.context, links=lambda question: ())
        template = render(self.tokenizer, self.config, "{{ .Prompt }}", bare)
        text = (
            f'# ollama create loja-sql -f Modelfile && ollama run loja-sql "{question}"\n'
            f"FROM ./{names[0]}\n"
            f'TEMPLATE """{template}"""\n'
            f'PARAMETER stop "{self.tokenizer.eos_token}"\n'
            "PARAMETER temperature 0\n"
            f"PARAMETER num_predict {self.config.generation.max_new_tokens}\n"
        )
        write_text(self.folder / "Modelfile", text)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

"""O modelo da configuração: a base, sozinha ou com o que train.py deixou numa pasta."""

from pathlib import Path

from comum import models
from comum.decoding import GROUPED_ATTENTION
from comum.terminal import UserError

import torch
from peft import PeftConfig, PeftModel, PeftModelForCausalLM
from transformers import PreTrainedModel

from loja_sql.config import EFFECTIVE_NAME, Config, trained_kind
from loja_sql.model import tokens

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def precision(config: Config) -> torch.dtype:
    """A das contas e dos pesos congelados: `training.precision` ou, em auto, a que rende aqui.

    Raises:
        UserError: pediu-se fp16 sem GPU; o accelerate só o conhece nelas.
    """
    wanted = config.training.precision
    if wanted == "fp16" and models.device().type == "cpu":
        raise UserError("training.precision=fp16 pede uma GPU; use auto, bf16 ou fp32.")
    return DTYPES.get(wanted) or models.compute_dtype()


def load_model(
    config: Config, adapter: Path | None = None, dtype: torch.dtype | None = None
) -> PreTrainedModel | PeftModel:
    """Modelo base em modo de avaliação; com `adapter`, o que train.py deixou naquela pasta.

    Numa base em precisão cheia o adaptador é fundido aos pesos (W + s·BA): as respostas são as
    mesmas e a geração faz metade das multiplicações. Numa base em 4 bits, não: fundir perderia
    qualidade. Se a pasta tem um modelo inteiro (`training.method: full`), é ele que se carrega.

    Args:
        dtype: o dos pesos; None é o de `training.precision`.

    Raises:
        UserError: a base não se lê, ou `adapter` não tem um modelo treinado.
    """
    kind = None if adapter is None else trained_kind(adapter)
    if adapter is not None and kind is None:
        raise UserError(f"{adapter} não tem um modelo treinado. Treine antes: python train.py")
    name = str(adapter) if kind == "full" else config.model_path
    model = models.load_model(name, dtype or precision(config), config.model.load_in_4bit)
    if models.device().type == "cpu" and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(GROUPED_ATTENTION)
    if kind == "lora":
        model = with_adapter(config, model, adapter)
        if not config.model.load_in_4bit:
            model = model.merge_and_unload()
    return model.eval()


def with_adapter(config: Config, model: PreTrainedModel, adapter: Path) -> PeftModel:
    """O adaptador sobre a base, que ganha antes as linhas dos tokens fundidos no treino dele.

    Raises:
        UserError: o adaptador não se lê, ou não é desta base: sobra ou falta nele alguma camada.
    """
    if config.model.merged_tokens:
        tokens.fit(model, tokens.load_tokenizer(config, adapter))
    try:
        settings = PeftConfig.from_pretrained(adapter)
        settings.inference_mode = True
        tuned = PeftModelForCausalLM(model, settings)
        found = tuned.load_adapter(adapter, "default")
        # O peft deixaria de lado o que sobra, e por treinar o que falta, sem erro nenhum.
        if found.unexpected_keys or found.missing_keys:
            raise ValueError("as camadas do adaptador não são as da base")
    except Exception as error:  # do peft, do torch ou do safetensors, conforme o que está errado
        raise UserError(
            f"o adaptador de {adapter} não serve em {config.model_path}: é de outro modelo, ou "
            "está estragado. Ponha o modelo de que ele saiu em model.name de "
            f"{adapter / EFFECTIVE_NAME}, ou treine de novo."
        ) from error
    return tuned

"""O motor de sempre: o transformers, em CPU ou GPU."""

from pathlib import Path

from comum import decoding

from loja_sql.config import Config
from loja_sql.model.engines import Engine
from loja_sql.model.loading import load_model
from loja_sql.model.tokens import load_tokenizer


class TransformersEngine(Engine):
    """Veja `engines.with_transformers`, que o abre."""

    def __init__(self, config: Config, adapter: Path | None = None, label: str = "") -> None:
        self.tokenizer = load_tokenizer(config, adapter)
        self.model = load_model(config, adapter)
        self.name = f"transformers {label or str(self.model.dtype).removeprefix('torch.')}"

    def generate(self, prompts, max_new_tokens, batch_size):
        return decoding.generate(self.model, self.tokenizer, prompts, max_new_tokens, batch_size)

    def stream(self, prompt, max_new_tokens):
        return decoding.stream(self.model, self.tokenizer, prompt, max_new_tokens)

    def losses(self, pairs, batch_size):
        return decoding.answer_losses(self.model, self.tokenizer, pairs, batch_size)

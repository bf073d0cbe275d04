"""As perguntas viram tokens com máscara, e uma auditoria recusa o que ensinaria errado."""

from comum.terminal import UserError
from comum.training import IGNORED, masked

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from loja_sql.config import Config
from loja_sql.prompt import encode_pair


def tokenized(
    config: Config, tokenizer: PreTrainedTokenizerBase, rows: list[dict], schema: str
) -> Dataset:
    """Tokeniza e mascara: `labels` vale -100 no prompt e repete os tokens na resposta.

    O SFTTrainer faria isto a partir das mensagens, mas ensinaria também a quebra de linha que o
    template põe depois do fim da resposta, e que o modelo nunca chega a escrever.
    """
    pairs = (encode_pair(tokenizer, config, row["question"], row["sql"], schema) for row in rows)
    return Dataset.from_list([masked(*pair) for pair in pairs])


def audit(
    tokenizer: PreTrainedTokenizerBase, dataset: Dataset, max_length: int, shown: int = 0
) -> None:
    """Mostra `shown` exemplos com a máscara e recusa dados que ensinariam errado.

    Raises:
        UserError: exemplo sem token supervisionado, sem fim de resposta ou longo demais.
    """
    for number, row in enumerate(dataset):
        ids, labels = row["input_ids"], row["labels"]
        learned = [label for label in labels if label != IGNORED]
        problem = None
        if not learned:
            problem = "não tem nenhum token na perda (resposta vazia ou toda mascarada)"
        elif learned[-1] != tokenizer.eos_token_id:
            problem = "não ensina a parar: o último token da perda não é o fim da resposta"
        elif len(ids) > max_length:
            problem = (
                f"tem {len(ids)} tokens e seria cortado em {max_length}; aumente "
                "training.max_length"
            )
        if problem:
            raise UserError(f"o exemplo {number} {problem}:\n{tokenizer.decode(ids)}")
        if number < shown:
            hidden = [token for token, label in zip(ids, labels, strict=True) if label == IGNORED]
            print(f"Exemplo {number}, fora da perda: {tokenizer.decode(hidden)!r}")
            print(f"Exemplo {number}, na perda:      {tokenizer.decode(learned)!r}")

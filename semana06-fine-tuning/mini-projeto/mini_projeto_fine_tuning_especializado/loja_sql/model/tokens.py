"""Tokens fundidos: pedaços de SQL que se repetem no treino viram, cada um, um token só.

`SELECT nome| FROM clientes| WHERE uf = '|SP|'`: o modelo lê e escreve um terço dos tokens. Os
pedaços se escolhem como no BPE (Sennrich et al., 2016, arXiv:1508.07909), pelo par mais frequente,
mas partindo dos tokens do modelo, só nas respostas e sem atravessar o começo de uma cláusula.
"""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from comum import models

import torch
from tokenizers import decoders
from transformers import AddedToken, PreTrainedTokenizerBase

from loja_sql.config import Config

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # importá-lo leva segundos

CANDIDATES = 4  # fusões por token que fica: os degraus até um pedaço comprido não ficam
COMMON = 0.01  # um texto entre aspas é parte de um token se está nesta fração das consultas
_CLAUSE = re.compile(
    r" (?:FROM|JOIN|WHERE|AND|OR|GROUP|HAVING|ORDER|LIMIT|UNION|EXCEPT|THEN|ELSE|END)\b"
)
_COPIED = re.compile(
    r"\d+(?!\d*\.0\b)(?<!\.0)|[^\x00-\x7f]"
)  # 100.0 é da fórmula, e não da pergunta
_LITERAL = re.compile(r"'((?:[^']|'')*)'")

Run = tuple[str, ...]  # tokens do modelo, em texto, que se podem fundir


def load_tokenizer(config: Config, adapter: Path | None = None) -> PreTrainedTokenizerBase:
    """O tokenizador da base; com `adapter`, o daquele treino: tokens fundidos, o template dele."""
    plain = adapter is None and config.prompt.template == "plain"
    return models.load_tokenizer(str(adapter or config.model_path), plain)


def learn_tokens(queries: list[str], tokenizer: PreTrainedTokenizerBase, count: int) -> list[str]:
    """Os `count` pedaços de SQL (menos, se não há tantos) que mais encurtam `queries`.

    Nomes, datas e números ficam de fora: o modelo os copia da pergunta, nos tokens dela.
    """
    runs = _runs(queries, tokenizer)
    chosen = _candidates(runs, count * CANDIDATES)
    while len(chosen) > count:
        saved = _saved(runs, set(chosen))
        kept = max(count, len(chosen) * 4 // 5)  # aos poucos: o que sai muda o que os outros poupam
        chosen = sorted(chosen, key=lambda piece: (-saved[piece], piece))[:kept]
    return ["".join(piece) for piece in chosen]


def _runs(queries: list[str], tokenizer: PreTrainedTokenizerBase) -> Counter[Run]:
    """As sequências de tokens que se podem fundir, e quantas vezes há cada uma."""
    literals = Counter(text for query in queries for text in set(_LITERAL.findall(query)))
    common = {text for text, times in literals.items() if times >= COMMON * len(queries)}
    found: Counter[Run] = Counter()
    encoded = tokenizer(queries, add_special_tokens=False, return_offsets_mapping=True)
    for query, offsets in zip(queries, encoded.offset_mapping, strict=True):
        rare = [m.span(1) for m in _LITERAL.finditer(query) if m[1] not in common]
        barred = {place for span in rare for place in range(*span)}
        barred |= {place for m in _COPIED.finditer(query) for place in range(*m.span())}
        run: list[str] = []
        for start, end in offsets:
            if _CLAUSE.match(query, start):
                found[tuple(run)] += 1
                run = []
            if barred.isdisjoint(range(start, end)):
                run.append(query[start:end])
            else:
                found[tuple(run)] += 1
                run = []
        found[tuple(run)] += 1
    return found


def _candidates(runs: Counter[Run], merges: int) -> list[Run]:
    """Os pedaços que resultam de `merges` fusões do par mais frequente."""
    rows = [([(token,) for token in run], times) for run, times in runs.items()]
    found: dict[Run, None] = {}
    for _ in range(merges):
        pairs: Counter[tuple[Run, Run]] = Counter()
        for row, times in rows:
            for pair in pairwise(row):
                pairs[pair] += times
        best = max(pairs, key=lambda pair: (pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        found[best[0] + best[1]] = None
        rows = [(_fused(row, best), times) for row, times in rows]
    return list(found)


def _fused(row: list[Run], pair: tuple[Run, Run]) -> list[Run]:
    joined: list[Run] = []
    for piece in row:
        if joined and (joined[-1], piece) == pair:
            joined[-1] = joined[-1] + piece
        else:
            joined.append(piece)
    return joined


def _saved(runs: Counter[Run], pieces: set[Run]) -> Counter[Run]:
    """Quantos tokens cada pedaço poupa, lendo da esquerda e tomando sempre o mais comprido."""
    longest = max(map(len, pieces))
    saved: Counter[Run] = Counter()
    for run, times in runs.items():
        place = 0
        while place < len(run):
            sizes = range(min(longest, len(run) - place), 1, -1)
            size = next((n for n in sizes if run[place : place + n] in pieces), 1)
            saved[run[place : place + size]] += times * (size - 1)
            place += size
    return saved


def add_tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> None:
    """Acrescenta os pedaços ao tokenizador, no fim do vocabulário, tais como são."""
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in texts])
    backend = tokenizer.backend_tokenizer
    if "ByteLevel" in str(backend.decoder):
        # O decodificador que vem do GGUF junta os tokens antes de ler os bytes, e um espaço, que só
        # os fundidos têm, o faria deixar todos os outros sem ler.
        backend.decoder = decoders.ByteLevel()


def fit(model: "PreTrainedModel", tokenizer: PreTrainedTokenizerBase) -> None:
    """Dá à tabela do modelo uma linha por token: as dos fundidos são as últimas."""
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)


@torch.no_grad()
def start(model: "PreTrainedModel", tokenizer: PreTrainedTokenizerBase, new: range) -> None:
    """Põe a linha de cada token fundido na média das linhas das suas partes."""
    parts = [_parts(tokenizer, text) for text in tokenizer.convert_ids_to_tokens(list(new))]
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    for weight in {id(end.weight): end.weight for end in ends}.values():  # uma só, se é a mesma
        for index, ids in zip(new, parts, strict=True):
            weight[index] = weight[ids].float().mean(0).to(weight.dtype)


def _parts(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Os tokens que havia para um texto, antes de ele ser um token só."""
    backend = tokenizer.backend_tokenizer
    if backend.normalizer:
        text = backend.normalizer.normalize_str(text)
    words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    return [token.id for word in words for token in backend.model.tokenize(word)]

"""Variações de uma pergunta escrita à mão: a mesma frase com outros valores e comparações.

Ver a mesma pergunta com outra cidade, outro ano e outro número, às vezes por extenso, ensina o que
copiar dela para o SQL; ver "no mínimo" virar "menos de", o que cada comparação quer dizer.
Um valor só é trocado se aparece uma única vez na pergunta e está no SQL; na dúvida, fica.
"""

import random
import re
from collections.abc import Iterable
from functools import cache, lru_cache, partial

from comum.text import fold

from sqlglot import exp

from loja_sql.questions.numerals import ways
from loja_sql.questions.slots import MONTHS, NUMBERS, STATUSES, UFS, YEARS, choices, inflections
from loja_sql.sql.features import parse

Values = dict[tuple[str, str], list[str]]  # (tabela, coluna) -> os textos dela
STRING = re.compile(r"'([^']*)'")
YEAR = re.compile(r"(?<!\d)20\d\d(?!\d)")
FIRST_MARK = 0xE000  # uso privado do Unicode: não ocorre em pergunta nenhuma
ARTICLES = {"o", "a", "os", "as", "ao", "à", "pelo", "pela"}
PREPOSITIONS = {"de": 1, "do": 1, "da": 1, "em": 2, "no": 2, "na": 2}  # posição em UFS[uf]
GENDERED = {*ARTICLES, "do", "da", "no", "na", "dos", "das", "nos", "nas"}
FEMININE_CATEGORIES = {"roupas", "beleza"}
# As comparações que se trocam entre si sem mexer na frase em volta, e o operador de cada uma.
COMPARISONS = (
    {
        **{"mais de": ">", "menos de": "<", "até": "<="},
        **{"no mínimo": ">=", "pelo menos": ">=", "no máximo": "<="},
    },
    {"acima de": ">", "abaixo de": "<", "até": "<=", "a partir de": ">="},
)
NEGATIONS = {"não", "nao", "nem", "n"}
COMPARISON_CHANCE = 0.5
NUMERAL_CHANCE = 0.4  # de um número trocado não sair em algarismos corridos
BEFORE_DOZENS = {"de", "até", "com", "mínimo", "máximo", "menos", "em"}


class _Draft:
    """Pergunta e SQL com marcas no lugar dos valores já trocados, que ninguém mais altera."""

    def __init__(self, question: str, sql: str) -> None:
        self.question, self.sql = question, sql
        self.plain, self.loud = question.islower() and question.isascii(), question.isupper()
        self.texts: dict[int, str] = {}
        self.values: dict[int, str] = {}

    def put(self, start: int, end: int, text: str, pattern: str, literal: str) -> None:
        """Troca o trecho da pergunta por `text` e o que casa com `pattern` no SQL por `literal`."""
        sample = self.question[start:end]
        if sample.islower():
            text = text.lower()
        elif self.loud or (sample.isupper() and len(sample) > 2):
            text = text.upper()
        text = fold(text) if self.plain else text
        mark = FIRST_MARK + len(self.values)
        self.texts[mark], self.values[mark] = text, literal
        self.question = self.question[:start] + chr(mark) + self.question[end:]
        self.sql = re.sub(pattern, chr(mark), self.sql)

    def done(self) -> tuple[str, str]:
        return self.question.translate(self.texts), self.sql.translate(self.values)

    def find(self, form: str) -> re.Match | None:
        """A única ocorrência de `form` na pergunta, sem olhar caixa nem acentos."""
        form, question = aligned_fold(form), aligned_fold(self.question)
        if form not in question:  # quase sempre; compilar o padrão demora mais que olhar
            return None
        found = list(_whole(form).finditer(question))
        return found[0] if len(found) == 1 else None

    def literals(self) -> list[str]:
        return list(dict.fromkeys(STRING.findall(self.sql)))

    def used(self) -> set[str]:
        return {*self.literals(), *(literal.strip("'") for literal in self.values.values())}

    def unused(self, names: Iterable[str], rng: random.Random) -> str | None:
        """Um dos nomes que a consulta ainda não usa; None se já usa todos."""
        used = self.used()
        others = [name for name in names if name not in used]
        return rng.choice(others) if others else None

    def word_before(self, start: int) -> str:
        words = self.question[:start].split()
        return words[-1].lower() if words else ""

    def word_after(self, end: int) -> str:
        found = re.match(r" ([^\W\d_]+)", self.question[end:])
        return found[1].lower() if found else ""


def vary(
    question: str, sql: str, rng: random.Random, values: Values | None = None
) -> tuple[str, str]:
    """A pergunta e o SQL com outros valores, os que se puder trocar.

    Args:
        values: os de cada coluna de texto de um banco alheio; sem eles, trocam-se os da loja.
    """
    draft = _Draft(question, sql)
    swaps = SWAPS if values is None else (partial(_swap_literals, values), *NUMERIC)
    for swap in swaps:
        swap(draft, rng)
    return draft.done()


@cache
def _whole(form: str) -> re.Pattern:
    """A forma como palavra inteira."""
    return re.compile(rf"(?<!\w){re.escape(form)}(?!\w)")


@lru_cache(1024)  # cada troca procura as suas formas na mesma pergunta
def aligned_fold(text: str) -> str:
    """`fold` com o mesmo comprimento de `text`: as posições de um valem no outro."""
    return "".join(map(_folded, text))


@cache
def _folded(char: str) -> str:
    return fold(char)[:1] or char


def _swap_literals(values: Values, draft: _Draft, rng: random.Random) -> None:
    """Troca um texto comparado com uma coluna por outro que o banco tem nela."""
    for comparison in list(parse(draft.sql).find_all(exp.EQ, exp.NEQ)):
        column, literal = comparison.this, comparison.expression
        if not (isinstance(column, exp.Column) and literal.is_string):
            continue
        name, old = column.name.lower(), literal.name
        if "'" in old:  # no SQL ele é dobrado, e a troca mudaria só a pergunta
            continue
        others = (v for (_, known), v in values.items() if known.lower() == name and old in v)
        found, used = draft.find(old), draft.used()
        new = [v for v in next(others, []) if v not in used and v.isprintable() and "'" not in v]
        # Atrás de um artigo, ou do que o contém ("da Bahia"), o gênero do nome novo importa.
        before = draft.word_before(found.start()) if found else ""
        if found and new and before not in GENDERED:
            chosen = rng.choice(new)
            draft.put(*found.span(), chosen, f"'{re.escape(old)}'", f"'{chosen}'")


@cache
def _name_groups() -> list[list[str]]:
    """Os conjuntos de nomes que se trocam entre si sem mexer na frase em volta."""
    masculine = [c for c in choices()["categoria"] if c not in FEMININE_CATEGORIES]
    kept = [names for key, names in choices().items() if key not in ("categoria", "status")]
    return [*kept, masculine]


def _swap_names(draft: _Draft, rng: random.Random) -> None:
    for literal in draft.literals():
        group = next((g for g in _name_groups() if literal in g), None)
        found = draft.find(literal)
        if group is None or found is None or draft.word_before(found.start()) in ARTICLES:
            continue
        if new := draft.unused(group, rng):  # a pergunta pode citar já os três pagamentos
            draft.put(*found.span(), new, f"'{re.escape(literal)}'", f"'{new}'")


def _swap_ufs(draft: _Draft, rng: random.Random) -> None:
    for literal in draft.literals():
        if literal not in UFS:
            continue
        if (uf := draft.unused(UFS, rng)) is None:
            continue
        span, text = _uf_in_question(draft, literal, uf)
        if span:
            draft.put(*span, text, f"'{literal}'", f"'{uf}'")


def _uf_in_question(draft: _Draft, old: str, new: str) -> tuple[tuple[int, int] | None, str]:
    """Onde a UF `old` está na pergunta, e `new` escrita do mesmo jeito (sigla, gentílico, nome)."""
    people = zip(inflections(UFS[old][3]), inflections(UFS[new][3]), strict=False)
    for form, other in dict(people).items():
        if found := draft.find(form):
            return found.span(), other
    if found := draft.find(UFS[old][0]):
        start, end = found.span()
        before = draft.word_before(start)
        if before in ARTICLES or draft.question[end:].startswith(" do "):
            return None, ""
        if before in PREPOSITIONS:
            return (start - len(before) - 1, end), f"{UFS[new][PREPOSITIONS[before]]} {UFS[new][0]}"
        return (start, end), UFS[new][0]
    found = draft.find(old)
    if found and draft.question[slice(*found.span())] == old:
        return found.span(), new
    return None, ""


def _swap_statuses(draft: _Draft, rng: random.Random) -> None:
    for literal in draft.literals():
        pattern = rf"(?<=status = )'{literal}'"
        if literal not in STATUSES or not re.search(pattern, draft.sql):
            continue
        if (new := draft.unused(STATUSES, rng)) is None:
            continue
        for form, other in zip(_endings(literal), _endings(new), strict=True):
            if found := draft.find(form):
                draft.put(*found.span(), other, pattern, f"'{new}'")
                break


def _endings(status: str) -> list[str]:
    feminine = status[:-1] + "a" if status.endswith("o") else status
    return [status, status + "s", feminine, feminine + "s"]


def _shift_years(draft: _Draft, rng: random.Random) -> None:
    """Anda todos os anos juntos: a ordem entre eles e os períodos continuam certos."""
    asked, written = set(YEAR.findall(draft.question)), set(YEAR.findall(draft.sql))
    years = sorted(map(int, asked))
    # O fim de fevereiro muda de dia nos anos bissextos.
    if not written or asked != written or not set(years) <= set(YEARS) or "-02-2" in draft.sql:
        return
    shift = rng.randint(YEARS[0] - years[0], YEARS[-1] - years[-1])
    draft.question = YEAR.sub(lambda m: str(int(m[0]) + shift), draft.question)
    draft.sql = YEAR.sub(lambda m: str(int(m[0]) + shift), draft.sql)


def _swap_month(draft: _Draft, rng: random.Random) -> None:
    """Troca o mês quando ele é um só na pergunta e vira um só `AAAA-MM%` (ou '%m') no SQL."""
    named = {n: found for n, name in enumerate(MONTHS, 1) if (found := draft.find(name))}
    if len(named) != 1:
        return
    number, found = named.popitem()
    pattern = rf"(?<=LIKE '\d{{4}}-){number:02}(?=%')|(?<== '){number:02}(?=')"
    if len(re.findall(pattern, draft.sql)) == 1:
        new = rng.choice([month for month in range(1, 13) if month != number])
        draft.put(*found.span(), MONTHS[new - 1], pattern, f"{new:02}")


def _swap_comparison(draft: _Draft, rng: random.Random) -> None:
    """Troca "mais de 50" por "no máximo 50", e o operador com a frase."""
    for sign, number in re.findall(r"(<=|>=|<|>) (\d+)(?![\w.])", draft.sql):
        pattern = rf"(?<!\S){sign}(?= {number}\b)"
        if len(re.findall(pattern, draft.sql)) != 1 or rng.random() > COMPARISON_CHANCE:
            continue
        for phrases in COMPARISONS:
            said = (phrase for phrase, meaning in phrases.items() if meaning == sign)
            spots = ((p, draft.find(f"{p} {money}{number}")) for p in said for money in ("", "R$ "))
            phrase, found = next(((p, spot) for p, spot in spots if spot), ("", None))
            if found and draft.word_before(found.start()) not in NEGATIONS:
                new = rng.choice([other for other in phrases if phrases[other] != sign])
                end = found.start() + len(phrase)
                draft.put(found.start(), end, new, pattern, phrases[new])
                break


def _swap_numbers(draft: _Draft, rng: random.Random) -> None:
    """Troca quantidades e valores em reais; um só fator conserva a ordem entre os maiores."""
    if "SUM(a.nota" in draft.sql or "SUM(nota" in draft.sql:
        return  # "notas ruins, 1 ou 2": o outro número da frase não está no SQL
    factor = rng.choice([0.5, 0.6, 0.8, 1.2, 1.5, 2.0])
    outside = STRING.sub(lambda m: "'" + "." * len(m[1]) + "'", draft.sql)
    numbers = re.findall(r"(?<![\w.])\d+(?![\w.])", outside)
    for text in dict.fromkeys(numbers):
        value = int(text)
        divisor = re.search(rf"/ {text}\b", outside)
        if value < 2 or numbers.count(text) != 1 or YEAR.fullmatch(text) or divisor:
            continue
        dotted = f"{value:,}".replace(",", "[.]")
        digits = rf"(?<![\w/.,-])(?:{text}|{dotted})(?![\w/%ºª-]|[.,]\d)"
        found = list(re.finditer(digits, draft.question))
        spelled = draft.find(NUMBERS[value]) if 3 <= value < 11 else None
        if spelled and not found:
            new = rng.choice([n for n in _small(draft.sql, text, 3) if n != value] or [value])
            span, shown = spelled.span(), NUMBERS[new]
        elif len(found) == 1 and not spelled:
            if value <= 12:
                new = rng.choice([n for n in _small(draft.sql, text, 2) if n != value])
            else:
                step = 10 ** min(2, len(text) - len(text.rstrip("0")))
                new = max(step, round(value * factor / step) * step)
            span = found[0].span()
            shown = _written(draft, new, *span, rng)
        else:
            continue
        if str(new) not in numbers:
            draft.put(*span, shown, rf"(?<![\w.'-]){text}(?![\w.'-])", str(new))


def _small(sql: str, text: str, low: int) -> range:
    """Os valores possíveis de um número pequeno: notas vão até 5."""
    compared = rf"nota\s*(?:[<>=\uE000-\uF8FF]+|BETWEEN)\s*{text}\b"
    return range(low, 6 if re.search(rf"{compared}|AVG\(\S*nota\)", sql) else 11)


def _written(draft: _Draft, number: int, start: int, end: int, rng: random.Random) -> str:
    """O número em algarismos ou, às vezes, de outro jeito que caiba no mesmo lugar da frase."""
    in_reais = draft.question[:start].rstrip().endswith("$")
    if in_reais or rng.random() > NUMERAL_CHANCE:
        return str(number)
    counted = draft.word_before(start) in BEFORE_DOZENS
    return rng.choice(ways(number, draft.word_after(end), counted) or [str(number)])


NUMERIC = (_swap_comparison, _swap_numbers)
SWAPS = (_swap_names, _swap_ufs, _swap_statuses, _shift_years, _swap_month, *NUMERIC)

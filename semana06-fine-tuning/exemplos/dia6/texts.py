"""O que se decide diante de um texto: consertá-lo, mascará-lo, julgá-lo, compará-lo.

São funções pequenas, cada uma com um exemplo que se confere. A ordem dos consertos importa: um
emoji sob acentos estragados só aparece depois que os acentos voltam.
"""

import bisect
import hashlib
import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

from comum.files import lines
from comum.terminal import UserError
from comum.text import fold

import ftfy
import yaml
from ftfy.fixes import remove_terminal_escapes
from rapidfuzz import fuzz, process

# As palavras e os trechos de cada negócio se acrescentam lá, sem mexer no código.
KNOWN = yaml.safe_load((Path(__file__).parent / "palavras.yaml").read_text(encoding="utf-8"))

# --- consertar ----------------------------------------------------------------------------------

# O que parece estragado e não é: IRMÃ” são aspas, não um Ô; U+0085 sozinho é um fim de linha.
PROTECTED = re.compile("((?<=[A-ZÀ-Ú])Ã[“”‘’–—]|(?<=[\0-\x7f])\x85)")

HIDDEN = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
# Só marcas que existem, sozinhas ou com atributos: "a < b e c > d" e "preço <100" não são HTML.
ATTRIBUTES = r"(?:\s[^<>]*=[^<>]*|\s*/?)>"
BREAK = re.compile(r"</?(?:br|p|div|li|tr|h[1-6])" + ATTRIBUTES, re.IGNORECASE)
TAG = re.compile(
    r"<\|\w+\|>|"  # as dos moldes de chat também: `<|im_end|>`
    r"</?(?:a|b|i|u|s|em|strong|small|span|font|center|blockquote|ul|ol|table|tbody|td|th|img|hr"
    r"|sup|sub|code|pre|html|head|body|title|meta|link)" + ATTRIBUTES,
    re.IGNORECASE,
)
ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|[A-Za-z]{2,31});")

SKIN = "\U0001f3fb-\U0001f3ff"
PICTURE = "\u2600-\u27bf\u2b05-\u2b55\u231a-\u23ff\U0001f000-\U0001faff"
EMOJI = re.compile(
    f"(?:[0-9#*]\ufe0f?\u20e3|[\U0001f1e6-\U0001f1ff]{{2}}|[{PICTURE}][\ufe0f{SKIN}]*"
    f"[\U000e0020-\U000e007f]*(?:\u200d[{PICTURE}][\ufe0f{SKIN}]*)*)+"
)
SPACES = re.compile("[\r\u000b\u000c\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
# U+200D dentro de um emoji une as partes dele; fora, é lixo.
INVISIBLE = re.compile(
    "[\u0000-\u0008\u000e-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
    f"|(?<![{PICTURE}{SKIN}\ufe0f])\u200d|\u200d(?![{PICTURE}])"
)
BEFORE_DOT = re.compile(r"[ \t]+([,.;:!?](?:\s|$))")
DATE_FORMATS = "%d/%m/%Y|%d/%m/%y|%d-%m-%Y|%d.%m.%Y|%Y/%m/%d|%d/%m/%Y %H:%M|%d/%m/%Y %H:%M:%S"


def fix_encoding(text: str) -> str:
    """Devolve os acentos que viraram `Ã£`: bytes UTF-8 lidos como cp1252 ou latin-1.

    >>> fix_encoding("nÃ£o, entÃƒÂ£o não")
    'não, então não'
    """
    parts = PROTECTED.split(text)
    parts[::2] = (ftfy.fix_encoding(part) for part in parts[::2])
    return "".join(parts)


def strip_html(text: str) -> str:
    """Tira as marcas (parágrafos e quebras viram fim de linha) e traduz as entidades.

    Uma entidade codificada duas vezes (`&amp;atilde;`) é traduzida duas vezes.
    """
    text = TAG.sub("", BREAK.sub("\n", HIDDEN.sub("", text))) if "<" in text else text
    for _ in range(2):
        text = ENTITY.sub(lambda match: html.unescape(match[0]), text)
    return text


def strip_invisible(text: str) -> str:
    """Tira o que não tem tinta e troca espaços exóticos e quebras antigas por um espaço comum."""
    if text.isascii() and text.isprintable():
        return text
    text = remove_terminal_escapes(text) if "\x1b" in text else text
    return INVISIBLE.sub("", SPACES.sub(" ", text))


def tidy(text: str) -> str:
    """Um espaço entre palavras, um fim de linha entre parágrafos, nada nas pontas."""
    return re.sub(r" ?\n[ \n]*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()


def boilerplate(extra: Path | None = None) -> re.Pattern:
    """Os rodapés conhecidos e mais os de um arquivo com uma expressão regular por linha.

    Raises:
        UserError: o arquivo não existe ou uma linha não é uma expressão regular.
    """
    try:
        added = [line.rstrip("\r") for line in lines(extra) if line.strip()] if extra else []
        for pattern in added:
            re.compile(pattern)
    except (UserError, re.error) as error:
        raise UserError(f"o arquivo de rodapés {extra} não serve ({error}).") from error
    joined = "|".join(f"(?:{pattern})" for pattern in (*KNOWN["boilerplate"], *added))
    return re.compile(joined, re.IGNORECASE | re.DOTALL)


def repair(
    text: str, footers: re.Pattern, own_domains: Sequence[str] = (), keep_emoji: bool = False
) -> tuple[str, list[str]]:
    """O texto consertado e os tipos de sujeira achados, na ordem dos consertos.

    >>> repair("nÃ£o&nbsp;recebi, meu cpf é 529.982.247-25", boilerplate())
    ('não recebi, meu cpf é [CPF]', ['mojibake', 'html', 'pii_cpf'])
    """
    text, kinds = text.replace("\r\n", "\n"), []

    def apply(kind: str, change: Callable[[str], str]) -> None:
        nonlocal text
        before, text = text, change(text)
        kinds.extend([kind] if before != text else [])

    if not text.isascii():
        apply("mojibake", fix_encoding)
    apply("invisible", strip_invisible)
    if "<" in text or "&" in text:
        # Uma entidade pode ser ela mesma um invisível (&nbsp;): é HTML, não outro defeito.
        apply("html", lambda text: strip_invisible(strip_html(text)))
    text = unicodedata.normalize("NFC", text)
    if not text.isascii() and EMOJI.search(text):
        kinds.append("emoji")
        text = text if keep_emoji else BEFORE_DOT.sub(r"\1", EMOJI.sub("", text))
    apply("boilerplate", lambda text: footers.sub("", text))
    text, found = mask(text, own_domains)
    return tidy(text), kinds + list(dict.fromkeys(f"pii_{kind}" for kind, _ in found))


def read_date(text: str) -> date | None:
    """A data, em qualquer forma usada no Brasil (dia antes do mês); None se não se entende."""
    for form in (None, *DATE_FORMATS.split("|")):
        with suppress(ValueError):
            when = datetime.strptime(text.strip(), form) if form else None
            return (when or datetime.fromisoformat(text.strip())).date()
    return None


def date_faults(text: str) -> list[str]:
    """O que há com uma data: noutro formato, não se entende, ou nada (também se falta)."""
    when = read_date(text)
    if not text.strip() or (when and text == when.isoformat()):
        return []
    return ["date_format" if when else "date_unreadable"]


# --- mascarar dados pessoais --------------------------------------------------------------------

# Onze dígitos podem ser um CPF, um celular com DDD ou um protocolo. Três pistas decidem: o dígito
# verificador, a forma (pontos, parênteses) e a palavra que vem antes.
AREA_CODES = KNOWN["area_codes"].split()
NOT_PERSONAL = re.compile(  # um número logo depois destas palavras é de pedido, não de gente
    r"\b(protocolo|pedidos?|rastreio|rastreamento|c[oó]digo|nota|nf-?e?|boleto|os|sku|lote|n[º°]\.?"
    r"|no\.|s[eé]rie|chamado|ticket)\b\W*(?:de \w+\W*|n[ºo°.]\W*)?$",
    re.IGNORECASE,
)
CEP_WORD = re.compile(r"\bcep\b[^\d\n]{0,20}$", re.IGNORECASE)
EDGE, END = r"(?<![\w,.\-/])", r"(?![\w\-/]|[.,]\d)"
PERSONAL = {  # a ordem importa: o mais específico vem antes e já sai do texto
    "email": ("[EMAIL]", r"(?<![\w.+-])[\w.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b"),
    "card": ("[CARTAO]", EDGE + r"\d(?:[ .-]?\d){12,18}" + END),
    "cnpj": (
        "[CNPJ]",
        EDGE + r"[0-9A-Z]{2}\.?[0-9A-Z]{3}\.?[0-9A-Z]{3}[/ ]?[0-9A-Z]{4}[- ]?\d{2}" + END,
    ),
    "cpf": ("[CPF]", EDGE + r"\d{3}[. ]?\d{3}[. ]?\d{3}[- ]?\d{2}" + END),
    "phone": (
        "[TELEFONE]",
        r"(?<![\w,.\-/(])(?:\+?55[ .-]?)?(?:\(0?(\d{2})\)|0?(\d{2}))[ .-]?"
        r"((?:9[ .]?\d{4}|[2-5]\d{3})[ .-]?\d{4})" + END,
    ),
    "cep": ("[CEP]", EDGE + r"\d{2}\.?\d{3}[- ]?\d{3}" + END),
}
PATTERNS = {kind: re.compile(pattern) for kind, (_, pattern) in PERSONAL.items()}


def mask(text: str, own_domains: Sequence[str] = ()) -> tuple[str, list[tuple[str, str]]]:
    """Troca cada dado pessoal pelo seu marcador; devolve também os achados, (tipo, trecho).

    Args:
        own_domains: domínios da própria empresa; os endereços deles são públicos e ficam.

    >>> mask("meu cpf é 529.982.247-25, pedido 30977")
    ('meu cpf é [CPF], pedido 30977', [('cpf', '529.982.247-25')])
    """
    found: list[tuple[str, str]] = []
    if "@" not in text and not any(map(str.isdigit, text)):
        return text, found
    for kind, pattern in PATTERNS.items():

        def replace(match: re.Match, kind: str = kind) -> str:
            if not is_personal(kind, match, own_domains):
                return match[0]
            found.append((kind, match[0]))
            return PERSONAL[kind][0]

        text = pattern.sub(replace, text)
    return text, found


def is_personal(kind: str, match: re.Match, own_domains: Sequence[str]) -> bool:
    """Decide se o trecho que tem a forma de `kind` é mesmo um dado pessoal."""
    value, digits = match[0], re.sub(r"\D", "", match[0])
    before = match.string[max(0, match.start() - 30) : match.start()]
    ordered = NOT_PERSONAL.search(before) is not None
    if kind == "email":
        return value.rsplit("@", 1)[1].lower() not in own_domains
    if kind == "cpf":
        # Um em cada cem números de onze dígitos passa no verificador: sem pontos, olha a palavra.
        dotted = re.fullmatch(r"\d{3}\.\d{3}\.\d{3}-\d{2}", value)
        return valid_mod11(value, 11, 10) and bool(dotted or not ordered)
    if kind == "cnpj":
        return valid_mod11(value, 14, 8) and (not value.isalnum() or not ordered)
    if ordered:
        return False
    if kind == "card":
        return digits[0] in "23456" and valid_luhn(digits)
    if kind == "phone":
        return (match[1] or match[2]) in AREA_CODES
    formatted = not value.isalnum() and "." not in value
    return formatted or CEP_WORD.search(before) is not None


def valid_mod11(value: str, length: int, cycle: int) -> bool:
    """Confere os dois dígitos verificadores de um CPF (11, ciclo 10) ou de um CNPJ (14, ciclo 8).

    Da direita para a esquerda, os pesos são 2, 3, 4 … e recomeçam no fim do ciclo. Com o CPF
    529.982.247: 7x2 + 4x3 + 2x4 + 2x5 + 8x6 + 9x7 + 9x8 + 2x9 + 5x10 = 295; o que falta para um
    múltiplo de 11 são 2: o primeiro verificador é 2. Letras, que o CNPJ tem desde julho de 2026
    (Instrução Normativa RFB 2.229/2024), valem o código ASCII menos 48.
    """
    digits = [ord(c) - 48 for c in value if c.isalnum()]
    sums = (
        sum(d * (2 + place % cycle) for place, d in enumerate(reversed(digits[:size])))
        for size in (length - 2, length - 1)
    )
    right = len(digits) == length and len(set(digits)) > 1
    return right and [-total % 11 % 10 for total in sums] == digits[-2:]


def valid_luhn(digits: str) -> bool:
    """Confere o dígito do cartão: de trás para a frente, dobra um sim, um não (Luhn, 1960)."""
    doubled = [int(d) * (1 + place % 2) for place, d in enumerate(reversed(digits))]
    return sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0 and len(set(digits)) > 1


# --- julgar -------------------------------------------------------------------------------------

WORD = re.compile(r"[^\W\d_]+")
NOTHING = frozenset(KNOWN["nothing"]) | {""}
LIMIT = 200_000  # palavras e rótulos diferentes guardados: a memória não cresce com o arquivo
LANGUAGES = {code: frozenset(words.split()) for code, words in KNOWN["function_words"].items()}
ENDING = re.compile(r"[.!?…:)\]\"'”»]\s*$")
DANGLING = frozenset(KNOWN["dangling"].split())


def is_empty(text: str) -> bool:
    """Nada escrito, só traços ou uma das palavras com que os sistemas dizem "nada"."""
    return text.strip(" -–—_.\n\t").casefold() in NOTHING


def fault(said: Sequence[str], expected: str, max_words: int) -> str:
    """Por que estes textos não servem; vazio se servem."""
    if any("\ufffd" in text for text in said):
        return "lost_characters"  # nenhum conserto devolve uma letra que já se perdeu
    if any(is_empty(text) for text in said):
        return "empty"
    if any(len(text) < 2 or len(text.split()) > max_words for text in said):
        return "length_outlier"
    return "language" if language(" ".join(said), expected) != expected else ""


def language(text: str, expected: str = "pt") -> str:
    """A língua do texto: a esperada, a não ser que outra apareça ao menos o dobro de vezes.

    Na dúvida fica a esperada: uma mensagem de três palavras não diz em que língua está.
    """
    words = Counter(WORD.findall(text.lower()))
    hits = {code: sum(words[w] for w in known & words.keys()) for code, known in LANGUAGES.items()}
    best = max(hits, key=hits.__getitem__)
    return best if hits[best] >= 3 and hits[best] >= 2 * hits[expected] else expected


def plain(label: str) -> str:
    """Minúsculas, sem acentos e sem pontuação nas pontas: "Reclamação " vira "reclamacao"."""
    return fold(label).strip(" .,;:-_!?\"'")


def match_label(label: str, known: Sequence[str]) -> str | None:
    """O rótulo conhecido que `label` quis dizer, ou None se não se sabe.

    Aceita acento, maiúscula, plural, uma letra trocada (semelhança de 80% ou mais) e abreviaturas:
    as letras, na ordem, começando pelas mesmas duas ("pagto", "cancelam.").
    """
    wanted, forms = plain(label), {plain(name): name for name in known}
    if wanted in forms or len(wanted) < 4:
        return forms.get(wanted)

    def shortens(form: str) -> bool:
        letters = iter(form)
        return wanted[:2] == form[:2] and all(letter in letters for letter in wanted)

    short = [name for form, name in forms.items() if shortens(form)]
    if len(short) == 1:
        return short[0]
    close = process.extractOne(wanted, list(forms), scorer=fuzz.ratio, score_cutoff=80)
    return forms[close[0]] if close else None


@dataclass
class Corpus:
    """O que só se sabe diante do conjunto: rótulos, palavras e como terminam as respostas."""

    labels: Counter = field(default_factory=Counter)
    words: Counter = field(default_factory=Counter)
    replies: int = 0
    closed: int = 0
    ordered: list[str] = field(default_factory=list)

    def count(self, message: str, reply: str, label: str) -> None:
        """Soma uma linha já consertada."""
        self.labels[label] += 1
        self.words.update(WORD.findall(f"{message} {reply}".lower()))
        self.replies += bool(reply)
        self.closed += bool(reply and ENDING.search(reply))
        for counter in (self.labels, self.words):
            if len(counter) > LIMIT:
                # As raras saem primeiro; as frequentes, que decidem, ficam.
                for name in [name for name, times in counter.items() if times <= 1]:
                    del counter[name]

    def known_labels(self) -> list[str]:
        """As formas frequentes (1% das linhas ou mais), cada uma na sua grafia mais comum."""
        forms: dict[str, Counter] = {}
        for label, times in self.labels.items():
            forms.setdefault(plain(label), Counter())[label] += times
        least = max(2, 0.01 * self.labels.total())
        return sorted(
            max(spelt, key=lambda name: (spelt[name], name))
            for form, spelt in forms.items()
            if not is_empty(form) and spelt.total() >= least
        )

    def freeze(self) -> None:
        """Acabou a contagem: ordena as palavras, para que `truncated` as procure depressa."""
        self.ordered = sorted(self.words)

    def truncated(self, text: str, is_reply: bool) -> bool:
        """O texto foi cortado no meio?

        Uma resposta sem ponto final, num conjunto em que nove de dez o têm. Numa mensagem, onde
        muita gente dispensa o ponto, é preciso mais: quem começa com maiúscula e não grita, sem
        pontuação no fim, e cuja última palavra pede continuação ou é rara e começo de outra.
        """
        if not text or ENDING.search(text):
            return False
        if is_reply:
            return self.closed >= 0.9 * self.replies
        words = WORD.findall(text)
        if not words or not text.endswith(words[-1]) or not text[0].isupper() or text.isupper():
            return False
        last = words[-1].lower()
        longer = bisect.bisect_right(self.ordered, last)
        begins = longer < len(self.ordered) and self.ordered[longer].startswith(last)
        return last in DANGLING or (self.words[last] <= 2 and begins)


# --- comparar -----------------------------------------------------------------------------------

LETTERS = 5  # com 3, duas mensagens quaisquer já teriam muitas sequências em comum
SHORT_FORMS = dict(form.split("=") for form in KNOWN["short_forms"].split()) | {"pro": "para o"}
GREETING = re.compile(r"^(?:(?:oi|ola|bom dia|boa tarde|boa noite|prezados|pessoal|gente)\b ?)+")


def normal(text: str) -> str:
    """A mensagem sem o que não muda o pedido: acentos, pontuação, abreviaturas, saudação.

    >>> normal("Oi, vcs entregam domingo??") == normal("vocês entregam domingo?")
    True
    """
    words = " ".join(SHORT_FORMS.get(word, word) for word in re.findall(r"[^\W_]+", fold(text)))
    return GREETING.sub("", words) or words


def shingles(text: str) -> set[str]:
    """As sequências de `LETTERS` letras de um texto já normalizado, com um espaço em cada ponta."""
    padded = f" {text} "
    return {padded[i : i + LETTERS] for i in range(max(1, len(padded) - LETTERS + 1))}


def number_of(text: str) -> int:
    """Um número de 62 bits que depende só do texto."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2

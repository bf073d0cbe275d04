"""Consertar o texto de uma linha: codificação, HTML, invisíveis, emojis, rodapés e dados pessoais.

Cada conserto é uma função pequena que devolve o texto arrumado; o que mudou é o que ela achou. A
ordem importa: um emoji sob acentos estragados só aparece depois que os acentos voltam.
"""

import html
import re
import unicodedata
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

import dados_pessoais
import utils

# --- acentos estragados: bytes UTF-8 lidos como cp1252 ou latin-1 ---------------------------------


def _character(byte: int) -> str:
    """O caractere que um leitor de cp1252 mostra; nos cinco bytes que faltam nele, o de latin-1."""
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)


BYTE_OF = {_character(b): b for b in range(0x80, 0x100)} | {chr(b): b for b in range(0x80, 0x100)}
FOLLOWING = "[" + re.escape("".join(c for c, b in BYTE_OF.items() if b < 0xC0)) + "]"
# Uma letra de 2, 3 ou 4 bytes em UTF-8, como aparece depois de lida byte a byte.
BROKEN = re.compile(f"[Â-ß]{FOLLOWING}|[à-ï]{FOLLOWING}{{2}}|[ð-ô]{FOLLOWING}{{3}}")
QUOTES = "“”‘’–—…"
EXPECTED = ((0x80, 0x24F), (0x2000, 0x2BFF), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0x1F000, 0x1FAFF))


def fix_encoding(text: str) -> str:
    """Devolve os acentos, também os estragados mais de uma vez ou só num trecho.

    Exemplo:
        >>> fix_encoding("nÃ£o, entÃƒÂ£o não")
        'não, então não'
    """

    def decode(match: re.Match) -> str:
        piece = match[0]
        before = match.string[match.start() - 1 : match.start()]
        if len(piece) == 2 and piece[1] in QUOTES and before.isupper():
            return piece  # IRMÃ” são aspas depois de maiúscula, não um Ô
        try:
            found = bytes(BYTE_OF[c] for c in piece).decode("utf-8")
        except UnicodeDecodeError:
            return piece
        return found if any(low <= ord(found) <= high for low, high in EXPECTED) else piece

    for _ in range(3):
        fixed = BROKEN.sub(decode, text)
        if fixed == text:
            break
        text = fixed
    return text


# --- HTML -----------------------------------------------------------------------------------------

HIDDEN = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
# Só marcas que existem, sozinhas ou com atributos: "a < b e c > d" e "preço <100" não são HTML.
ATTRIBUTES = r"(?:\s[^<>]*=[^<>]*|\s*/?)>"
BREAK = re.compile(r"</?(?:br|p|div|li|tr|h[1-6])" + ATTRIBUTES, re.IGNORECASE)
TAG = re.compile(
    r"</?(?:a|b|i|u|s|em|strong|small|span|font|center|blockquote|ul|ol|table|tbody|td|th|img|hr"
    r"|sup|sub|code|pre|html|head|body|title|meta|link)" + ATTRIBUTES, re.IGNORECASE,
)  # fmt: skip
ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|[A-Za-z]{2,31});")


def strip_html(text: str) -> str:
    """Tira as marcas (parágrafos e quebras viram fim de linha) e traduz as entidades.

    Uma entidade codificada duas vezes (`&amp;atilde;`) é traduzida duas vezes.
    """
    if "<" in text:
        text = BREAK.sub("\n", HIDDEN.sub("", text))
        text = TAG.sub("", text)
    for _ in range(2):
        if "&" not in text:
            break
        text = ENTITY.sub(lambda match: html.unescape(match[0]), text)
    return text


# --- invisíveis e emojis --------------------------------------------------------------------------

SKIN = "\U0001f3fb-\U0001f3ff"
PICTURE = "\u2600-\u27bf\u2b05-\u2b55\u231a-\u23ff\U0001f000-\U0001faff"
EMOJI = re.compile(
    f"(?:[0-9#*]\ufe0f?\u20e3|[\U0001f1e6-\U0001f1ff]{{2}}|[{PICTURE}][\ufe0f{SKIN}]*"
    f"[\U000e0020-\U000e007f]*(?:\u200d[{PICTURE}][\ufe0f{SKIN}]*)*)+"
)
SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
# U+200D dentro de um emoji une as partes dele; fora, é lixo.
INVISIBLE = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e"
    "\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
    f"|(?<![{PICTURE}{SKIN}\ufe0f])\u200d|\u200d(?![{PICTURE}])"
)


def strip_invisible(text: str) -> str:
    """Tira os caracteres sem tinta e troca os espaços exóticos por um comum."""
    return SPACES.sub(" ", INVISIBLE.sub("", text))


def strip_emoji(text: str) -> str:
    """Tira os emojis, inteiros: pele, bandeira e os unidos por U+200D."""
    return EMOJI.sub("", text)


# --- rodapés repetidos ----------------------------------------------------------------------------

BOILERPLATE = (
    r"(?:-- ?\n)?\bEnviado d[oe] meu (?:celular|iPhone|Android|Samsung|Galaxy|tablet)\b[^\n]*",
    r"\bAtenciosamente,\s*Equipe\b.*",
    r"(?:\*+ ?)?\bEste é um e-mail automático\b[^\n]*",
    r"\bAVISO LEGAL\b.*",
    r"\bEsta mensagem pode conter informaç(?:ão|ões)\b.*",
    r"\bEm \w{3}\.?, \d{1,2} de \w+\.? de \d{4},? às [^\n]{1,120}\bescreveu:.*",
    r"\[?\bProtocolo gerado pelo sistema:[^\n]*",
    r"(?:^|(?<=[.!?\n]))[^.!?\n]*\bavalie este atendimento de \d a \d\b[^\n]*",
)


def boilerplate_pattern(extra: Path | None = None) -> re.Pattern:
    """Os rodapés conhecidos, mais os de um arquivo com uma expressão regular por linha.

    Raises:
        utils.UserError: o arquivo não existe ou uma linha não é uma expressão regular.
    """
    patterns = list(BOILERPLATE)
    if extra is not None:
        if not extra.is_file():
            raise utils.UserError(f"o arquivo de rodapés {extra} não existe.")
        for number, line in enumerate(extra.read_text(encoding="utf-8").splitlines(), 1):
            try:
                re.compile(line)
            except re.error as error:
                raise utils.UserError(
                    f"{extra}, linha {number}: não é uma expressão regular ({error})."
                ) from error
            patterns += [line] if line.strip() else []
    return re.compile("|".join(f"(?:{p})" for p in patterns), re.IGNORECASE | re.DOTALL)


# --- datas ----------------------------------------------------------------------------------------

DATE_FORMATS = ("%d/%m/%Y", "%d/%m/%y", "%d-%m-%Y", "%d.%m.%Y", "%Y/%m/%d", "%d/%m/%Y %H:%M",
                "%d/%m/%Y %H:%M:%S")  # fmt: skip


def read_date(text: str) -> date | None:
    """A data, em qualquer forma usada no Brasil (dia antes do mês); None se não se entende."""
    text = text.strip()
    try:
        return datetime.fromisoformat(text).date()
    except ValueError:
        pass
    for pattern in DATE_FORMATS:
        try:
            return datetime.strptime(text, pattern).date()
        except ValueError:
            continue
    return None


# --- a linha inteira ------------------------------------------------------------------------------

BLANKS = re.compile(r"[^\S\n]+")
LINES = re.compile(r" ?\n[ \n]*")
EDGES = re.compile(r"[ \t]+([,.;:!?](?:\s|$))")


def tidy(text: str) -> str:
    """Um espaço entre palavras, um fim de linha entre parágrafos, nada nas pontas."""
    return LINES.sub("\n", BLANKS.sub(" ", text)).strip()


@dataclass
class Cleaner:
    """Conserta os textos de uma linha; guarda o que se pode escolher."""

    boilerplate: re.Pattern = field(default_factory=boilerplate_pattern)
    own_domains: tuple[str, ...] = ()
    keep_emoji: bool = False

    def repair(self, text: str) -> tuple[str, list[str]]:
        """O texto consertado e os tipos de sujeira achados, na ordem dos consertos.

        Exemplo:
            >>> Cleaner().repair("nÃ£o&nbsp;recebi, meu cpf é 529.982.247-25")
            ('não recebi, meu cpf é [CPF]', ['mojibake', 'html', 'pii_cpf'])
        """
        kinds = []

        def note(kind: str, repaired: str) -> str:
            if repaired != text:
                kinds.append(kind)
            return repaired

        if not text.isascii():
            text = note("mojibake", fix_encoding(text))
            text = note("invisible", strip_invisible(text))
        if "<" in text or "&" in text:
            # Uma entidade pode ser ela mesma um invisível (&nbsp;): é HTML, não outro defeito.
            text = note("html", strip_invisible(strip_html(text)))
        if not text.isascii():
            text = unicodedata.normalize("NFC", text)
            if EMOJI.search(text):
                kinds.append("emoji")
                if not self.keep_emoji:
                    text = EDGES.sub(r"\1", strip_emoji(text))
        text = note("boilerplate", self.boilerplate.sub("", text))
        text, found = dados_pessoais.mask(text, self.own_domains)
        kinds += dict.fromkeys(f"pii_{kind}" for kind, _ in found)
        return tidy(text), kinds

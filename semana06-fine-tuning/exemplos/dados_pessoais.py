"""Achar e mascarar dados pessoais brasileiros: CPF, CNPJ, cartão, telefone, CEP e e-mail.

Onze dígitos podem ser um CPF, um celular com DDD ou o protocolo de um atendimento. Três pistas
decidem: o dígito verificador, a forma (pontos, parênteses) e a palavra que vem antes.
"""

import re

# Os 67 DDDs em uso (Anatel, Resolução 749/2022, anexo).
AREA_CODES_TEXT = (
    "11 12 13 14 15 16 17 18 19 21 22 24 27 28 31 32 33 34 35 37 38 41 42 43 44 45 46 47 "
    "48 49 51 53 54 55 61 62 63 64 65 66 67 68 69 71 73 74 75 77 79 81 82 83 84 85 86 87 "
    "88 89 91 92 93 94 95 96 97 98 99"
)
AREA_CODES = frozenset(AREA_CODES_TEXT.split())
# Um número logo depois destas palavras é de pedido, não de gente.
NOT_PERSONAL = re.compile(
    r"\b(protocolo|pedidos?|rastreio|rastreamento|c[oó]digo|nota|nf-?e?|boleto|os|sku|lote|n[º°]\.?|no\."
    r"|s[eé]rie|chamado|ticket)\b\W*(?:de \w+\W*|n[ºo°.]\W*)?$",
    re.IGNORECASE,
)
CEP_WORD = re.compile(r"\bcep\b[^\d\n]{0,20}$", re.IGNORECASE)
POSSIBLE = re.compile(r"[\d@]")
EDGE, END = r"(?<![\w,.\-/])", r"(?![\w\-/]|[.,]\d)"

# A ordem importa: o que é mais específico vem antes e já sai do texto.
PATTERNS = {
    "email": re.compile(r"(?<![\w.+-])[\w.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b"),
    "card": re.compile(EDGE + r"\d(?:[ .-]?\d){12,18}" + END),
    "cnpj": re.compile(EDGE + r"[0-9A-Z]{2}\.?[0-9A-Z]{3}\.?[0-9A-Z]{3}[/ ]?[0-9A-Z]{4}[- ]?\d{2}"
                       + END),
    "cpf": re.compile(EDGE + r"\d{3}[. ]?\d{3}[. ]?\d{3}[- ]?\d{2}" + END),
    "phone": re.compile(r"(?<![\w,.\-/(])(?:\+?55[ .-]?)?(?:\(0?(\d{2})\)|0?(\d{2}))[ .-]?"
                        r"((?:9[ .]?\d{4}|[2-5]\d{3})[ .-]?\d{4})" + END),
    "cep": re.compile(EDGE + r"\d{2}\.?\d{3}[- ]?\d{3}" + END),
}  # fmt: skip
PLACEHOLDERS = {"email": "[EMAIL]", "card": "[CARTAO]", "cnpj": "[CNPJ]", "cpf": "[CPF]",
                "phone": "[TELEFONE]", "cep": "[CEP]"}  # fmt: skip


def mask(text: str, own_domains: tuple[str, ...] = ()) -> tuple[str, list[tuple[str, str]]]:
    """Troca cada dado pessoal pelo seu marcador.

    Args:
        own_domains: domínios da própria empresa; os endereços deles são públicos e ficam.

    Returns:
        O texto mascarado e os achados, `(tipo, trecho)`, na ordem em que foram procurados.

    Exemplo:
        >>> mask("meu cpf é 529.982.247-25, pedido 30977")
        ('meu cpf é [CPF], pedido 30977', [('cpf', '529.982.247-25')])
    """
    found: list[tuple[str, str]] = []
    if not POSSIBLE.search(text):
        return text, found
    for kind, pattern in PATTERNS.items():

        def replace(match: re.Match, kind: str = kind) -> str:
            before = match.string[max(0, match.start() - 30) : match.start()]
            if not is_personal(kind, match, before, own_domains):
                return match[0]
            found.append((kind, match[0]))
            return PLACEHOLDERS[kind]

        text = pattern.sub(replace, text)
    return text, found


def is_personal(kind: str, match: re.Match, before: str, own_domains: tuple[str, ...]) -> bool:
    """Decide se o trecho que tem a forma de `kind` é mesmo um dado pessoal."""
    value = match[0]
    if kind == "email":
        return value.rsplit("@", 1)[1].lower() not in own_domains
    formatted = not value.isalnum()
    if kind == "cpf":
        # Um em cada cem números de onze dígitos passa no verificador: sem pontos, olha a palavra.
        return valid_cpf(value) and (_is_cpf_shape(value) or not NOT_PERSONAL.search(before))
    if kind == "cnpj":
        return valid_cnpj(value) and (formatted or not NOT_PERSONAL.search(before))
    if NOT_PERSONAL.search(before):
        return False
    if kind == "card":
        digits = re.sub(r"\D", "", value)
        return digits[0] in "23456" and valid_luhn(digits)
    if kind == "phone":
        return (match[1] or match[2]) in AREA_CODES
    return bool(formatted and "." not in value) or bool(CEP_WORD.search(before))


def _is_cpf_shape(value: str) -> bool:
    return re.fullmatch(r"\d{3}\.\d{3}\.\d{3}-\d{2}", value) is not None


def valid_cpf(value: str) -> bool:
    """Confere os dois dígitos verificadores (módulo 11, pesos de 10 e 11 para baixo).

    Exemplo, com 529.982.247: 5x10 + 2x9 + 9x8 + 9x7 + 8x6 + 2x5 + 2x4 + 4x3 + 7x2 = 295;
    295 x 10 = 2950, que dividido por 11 deixa 2: o primeiro verificador é 2.
    """
    digits = [int(c) for c in value if c.isdigit()]
    if len(digits) != 11 or len(set(digits)) == 1:
        return False
    for size in (9, 10):
        total = sum(d * w for d, w in zip(digits, range(size + 1, 1, -1), strict=False))
        if total * 10 % 11 % 10 != digits[size]:
            return False
    return True


def valid_cnpj(value: str) -> bool:
    """Confere os verificadores do CNPJ, também os com letras (valor = código ASCII - 48).

    O CNPJ alfanumérico vale desde julho de 2026 (Instrução Normativa RFB 2.229/2024).
    """
    digits = [ord(c) - 48 for c in value if c.isalnum()]
    if len(digits) != 14 or len(set(digits)) == 1:
        return False
    for size in (12, 13):
        weights = [(size - 1 - i) % 8 + 2 for i in range(size)]
        rest = sum(d * w for d, w in zip(digits, weights, strict=False)) % 11
        if (0 if rest < 2 else 11 - rest) != digits[size]:
            return False
    return True


def valid_luhn(digits: str) -> bool:
    """Confere o dígito do cartão: de trás para a frente, dobra um sim, um não (Luhn, 1960)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0 and len(set(digits)) > 1

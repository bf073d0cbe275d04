"""Julgar o que não se conserta: linha vazia, comprida, cortada, noutra língua, mal rotulada.

Parte do juízo só existe diante do conjunto: que rótulos são os certos, que palavras existem, se
aqui se costuma terminar com ponto. Por isso `Corpus` conta, na primeira leitura, o que a segunda
precisa saber.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from difflib import SequenceMatcher

WORD = re.compile(r"[^\W\d_]+")
NOTHING = frozenset({"", "null", "none", "nan", "n/a", "na", "nil", "undefined", "sem texto"})
LIMIT = 200_000  # palavras e rótulos diferentes guardados: a memória não cresce com o arquivo


def is_empty(text: str) -> bool:
    """Nada escrito, só traços ou uma das palavras com que os sistemas dizem "nada"."""
    return text.strip(" -–—_.\n\t").casefold() in NOTHING


def wrong_length(text: str, min_characters: int, max_words: int) -> bool:
    """Curto demais para querer dizer algo ou comprido demais para um atendimento."""
    return len(text) < min_characters or len(text.split()) > max_words


# --- língua ---------------------------------------------------------------------------------------

# Palavras curtas e frequentes que só uma destas línguas usa.
FUNCTION_WORDS = {
    "pt": "não nao você vocês vc vcs é uma um com meu minha pra pro ao aos dos das em ou já são "
          "até seu sua tem foi isso quando pelo pela mas também muito eu os nos fica gente",
    "es": "el los las y con una muy pero hay cómo cuándo cuánto días envío puedo puedes tiene "
          "después hasta son sin hola gracias buenas lo del más qué está mi su la quiero llegó",
    "en": "the and you is are my to of for it not have with your this was can please when hi hello "
          "if or be but on at",
    "it": "il lo gli di che per non è con una della nella sul quando vorrei sono buongiorno grazie "
          "le la del ho mio",
    "fr": "le les des une et je vous est pas pour dans mon ma avec bonjour merci sur votre nous "
          "que du la au",
}  # fmt: skip
LANGUAGES = {code: frozenset(words.split()) for code, words in FUNCTION_WORDS.items()}


def language(text: str, expected: str = "pt") -> str:
    """A língua do texto: a esperada, a não ser que outra apareça ao menos o dobro de vezes.

    Na dúvida fica a esperada: uma mensagem de três palavras não diz em que língua está.
    """
    words = Counter(WORD.findall(text.lower()))
    hits = {code: sum(words[w] for w in known & words.keys()) for code, known in LANGUAGES.items()}
    best = max(hits, key=hits.__getitem__)
    return best if hits[best] >= 3 and hits[best] >= 2 * hits[expected] else expected


# --- rótulos --------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Minúsculas, sem acentos e sem pontuação nas pontas: "Reclamação " vira "reclamacao"."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c)).strip(" .,;:-_!?\"'")


def match_label(label: str, known: list[str]) -> str | None:
    """O rótulo conhecido que `label` quis dizer, ou None se não se sabe.

    Aceita acento, maiúscula, plural, uma letra trocada (Ratcliff e Obershelp, 1988: 0,8 ou mais) e
    abreviaturas: as letras, na ordem, começando pelas mesmas duas ("pagto", "cancelam.").
    """
    wanted = plain(label)
    forms = {plain(name): name for name in known}
    if wanted in forms:
        return forms[wanted]
    if len(wanted) < 4:
        return None
    short = [name for form, name in forms.items() if _abbreviates(wanted, form)]
    if len(short) == 1:
        return short[0]
    scores = {name: SequenceMatcher(None, wanted, form).ratio() for form, name in forms.items()}
    best = max(scores, key=scores.__getitem__, default=None)
    return best if best is not None and scores[best] >= 0.8 else None


def _abbreviates(short: str, full: str) -> bool:
    letters = iter(full)
    return short[:2] == full[:2] and all(letter in letters for letter in short)


# --- o conjunto -----------------------------------------------------------------------------------

ENDING = re.compile(r"[.!?…:)\]\"'”»]\s*$")
LAST_WORD = re.compile(r"([^\W\d_]+)$")
# Palavras que pedem continuação: ninguém termina uma frase nelas.
DANGLING_WORDS = "de do da dos das com para em que e ou mas no na nos nas os as um uma ao"
DANGLING = frozenset(DANGLING_WORDS.split())


@dataclass
class Corpus:
    """O que se conta na primeira leitura: rótulos, palavras e como terminam as respostas."""

    labels: Counter = field(default_factory=Counter)
    words: Counter = field(default_factory=Counter)
    replies: int = 0
    closed: int = 0

    def count(self, message: str, reply: str, label: str) -> None:
        """Soma uma linha já consertada."""
        self.labels[label] += 1
        self.words.update(WORD.findall(f"{message} {reply}".lower()))
        if reply:
            self.replies += 1
            self.closed += bool(ENDING.search(reply))
        for counter in (self.labels, self.words):
            if len(counter) > LIMIT:
                # As raras saem primeiro; as frequentes, que decidem, ficam.
                for name in [n for n, times in counter.items() if times <= 1]:
                    del counter[name]

    def known_labels(self) -> list[str]:
        """As formas frequentes (1% das linhas ou mais), cada uma na sua grafia mais comum."""
        total = sum(self.labels.values())
        forms: dict[str, Counter] = {}
        for label, times in self.labels.items():
            forms.setdefault(plain(label), Counter())[label] += times
        frequent = [max(spelt, key=lambda s: (spelt[s], s)) for form, spelt in forms.items()
                    if form and sum(spelt.values()) >= max(2, 0.01 * total)]  # fmt: skip
        return sorted(frequent)

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
        last = LAST_WORD.search(text)
        if not last or not text[0].isupper() or text.isupper():
            return False
        word = last[1].lower()
        return word in DANGLING or self._stump(word)

    def _stump(self, word: str) -> bool:
        rare = self.words[word] <= 2
        return rare and any(w.startswith(word) and w != word for w in self.words)

"""Text as the words that carry its meaning: numbers, identifiers, names, stems. Shared by what checks, quotes and rewrites sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache


def listed(text: str) -> frozenset[str]:
    """The words of a list that is written as prose, without quotes and commas."""
    return frozenset(text.split())


FUNCTION = listed(
    """a about above also although am an and another any are as at be because been being below beneath both but by came come could did
    do does doing done down during each either else etc for from further get gets getting given gives go goes had has have having he
    hence her here hers him his how however i if in indeed into is it its itself just let like made make makes many may me might
    mine much must my nor of off on one ones onto or other others our ours out over own per quite rather really she should since so
    some such take taken takes that the their theirs them themselves then there therefore these they this those though through
    thus to too under up upon us use used uses using very via was we were what when where whereas whether which while who whom whose
    why will with within would yet you your yours s t d ll m re ve don doesn didn isn aren wasn weren won wouldn shouldn couldn hasn
    haven hadn mustn needn ain ca can shall wo"""
)
"""English words that carry grammar rather than facts. Words that turn a fact round are not here: not, only, all, before, more."""

NEGATIONS = listed("not no never none nothing nobody nowhere neither cannot without nor")
NUMERALS = {"zero": "0", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}
"""Without "one", which is most often no number."""

TOKEN = re.compile(
    r"""
    \d++(?:[.,:]\d++)*+%?(?![^\W\d_])   # 3.11, 10,000, 12:30, 95%
    | --?[a-z][\w-]+                     # --dry-run
    | \w+(?:[.:/\\-]+\w+)*               # os.path.join, utf-8, E-1042
    """,
    re.VERBOSE | re.IGNORECASE,
)
WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]+")
CONTRACTED = re.compile(r"\b(can|won|\w+?)n['’]t\b", re.IGNORECASE)
PLAIN = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")


@dataclass(frozen=True)
class Word:
    """One word of a text. `stem` is what is compared; an `exact` word (a number, an identifier, a name) has no synonyms."""

    text: str
    stem: str
    exact: bool
    negation: bool = False
    opens: bool = False
    """Whether punctuation stands before it: a clause begins."""

    @property
    def content(self) -> bool:
        """Whether it says something: neither grammar nor a negation."""
        return not self.negation and (self.exact or self.text.lower() not in FUNCTION)


def words(text: str) -> list[Word]:
    """Every word of the text in order. Writing without spaces yields pairs of characters.

    >>> [word.stem for word in words("The pumps aren't stopped at 12 bar.")]
    ['the', 'pump', 'are', 'not', 'stop', 'at', '12', 'bar']
    >>> [word.text for word in words("Use os.path.join or --dry-run") if word.exact]
    ['os.path.join', '--dry-run']
    """
    text = WIDE.sub(r" \g<0> ", text)
    text = CONTRACTED.sub(lambda match: ("ca" if match[1].lower() == "ca" else match[1]) + " not", text.replace("cannot", "can not"))
    found: list[Word] = []
    begins = True
    last = 0
    for match in TOKEN.finditer(text):
        between = text[last : match.start()]
        begins = begins or bool(re.search(r"[.!?:;\n\"“(>*#|-]", between))
        first, *rest = _word(match[0], begins, _quoted(text, match))
        found += [replace(first, opens=bool(re.search(r"[,.;:!?()，。；：！？、—]", between))), *rest]
        begins, last = False, match.end()
    return found


def content(text: str) -> list[Word]:
    """The words that say something."""
    return [word for word in words(text) if word.content]


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """The word without its commonest English endings, lower case: for comparing, not for showing.

    >>> [stem(word) for word in ("executed", "executing", "Executes", "bodies", "stopped", "class", "used", "using")]
    ['execut', 'execut', 'execut', 'body', 'stop', 'class', 'us', 'us']
    """
    word = word.lower()
    if len(word) < 4:
        return word.removesuffix("e") if word == "use" else word
    for ending, instead in ENDINGS:
        rest = word.removesuffix(ending)
        if len(rest) < len(word) and len(rest) >= (4 if ending == "ly" else 2) and re.search("[aeiouy]", rest):
            return _bare(rest + instead)
    return _bare(word)


ENDINGS = (
    *(("ational", "at"), ("ations", "at"), ("ation", "at"), ("nesses", ""), ("ness", ""), ("ments", "ment"), ("ically", "ic")),
    *(("ings", ""), ("ing", ""), ("ied", "y"), ("ies", "y"), ("edly", ""), ("ed", ""), ("sses", "ss"), ("xes", "x"), ("ches", "ch")),
    *(("shes", "sh"), ("ss", "ss"), ("us", "us"), ("is", "is"), ("ions", ""), ("ion", ""), ("es", ""), ("s", "")),
    *(("ally", "al"), ("ly", "")),
)
"""What is cut off, and what is put there; the first that fits is taken."""


def _bare(rest: str) -> str:
    """A stem without a doubled last consonant or a silent e."""
    if len(rest) > 3 and rest[-1] == rest[-2] and rest[-1] not in "aeiouls":
        return rest[:-1]
    return rest[:-1] if len(rest) > 3 and rest.endswith("e") else rest


def _word(token: str, begins: bool, quoted: bool) -> Iterator[Word]:
    if WIDE.match(token):
        yield from _wide(token)
        return
    lower = token.lower()
    if token == "None":  # Python's, which denies nothing
        yield Word(token, lower, exact=True)
    elif lower in NEGATIONS:
        yield Word(token, lower, exact=False, negation=True)
    elif lower in NUMERALS:
        yield Word(token, NUMERALS[lower], exact=True)
    elif token[0].isdigit():
        yield Word(token, number(token), exact=True)
    elif PLAIN.fullmatch(token) and not _marked(token, begins, quoted):
        for part in token.split("-"):
            yield Word(part, stem(part), exact=False, negation=part.lower() in NEGATIONS)
    else:
        yield Word(token, lower if not PLAIN.fullmatch(token) else stem(lower), exact=lower not in FUNCTION)


def number(token: str) -> str:
    """A number without thousands separators and trailing zeros of its fraction.

    >>> number("10,000"), number("3.50"), number("3.11")
    ('10000', '3.5', '3.11')
    """
    token = re.sub(r",(?=\d{3}(?!\d))", "", token).lower()
    return re.sub(r"(\.\d*?)0+(?=%?$)", r"\1", token).replace(".%", "%").rstrip(".") if re.fullmatch(r"\d+\.\d+%?", token) else token


def _marked(token: str, begins: bool, quoted: bool) -> bool:
    """Whether the writing itself says that this is a name: capitals inside, in code marks, or a capital where no sentence begins."""
    if quoted or any(letter.isupper() for letter in token[1:]):
        return True
    return token[0].isupper() and not begins and len(token) > 1


def _quoted(text: str, match: re.Match[str]) -> bool:
    return text[match.start() - 1 : match.start()] == "`" and text[match.end() : match.end() + 1] in "`("


def _wide(run: str) -> Iterator[Word]:
    """Pairs of characters of a run; a single one is itself. Chinese negations stand for themselves."""
    for part in re.split(r"([不没無无未非勿])", run):
        if part and part in "不没無无未非勿":
            yield Word(part, part, exact=False, negation=True)
        else:
            yield from (Word(pair, pair, exact=False) for pair in ([part[i : i + 2] for i in range(len(part) - 1)] or [part]) if pair)


"""Whether a sentence says only what a passage says. Judged by words, without a model: milliseconds, and the same verdict every time.

A sentence holds when one spot of the passage (two sentences in a row, with the passage's headings) has all its numbers, identifiers
and names and most of its other words, denies what it denies, and puts no opposite in their place. It errs on refusal: what is
refused is answered by quotation instead.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations, takewhile

from ragstone.sentences import Unit, sentences
from ragstone.words import Word, listed, stem, words

UNSAID = 8
"""One ordinary word in so many may be missing from the passage (a synonym, a word that joins)."""
ELSEWHERE = 5
"""One in so many may come from the headings or a neighbouring sentence."""
CODE_SHARE = 0.85
"""Of the distinct names in a code block."""
FEW = 3
"""A sentence or list item with fewer facts is held against its question or lead-in too: `None` alone stands in every passage."""
SCOPE = 3
"""How many content words after a negation it may deny."""
TALK = listed(
    """according answer answers based document documents evidence example following information mention mentioned mentions passage
    passages please provided question sources state stated states sure text yes"""
)
"""Words about the answer itself; they claim nothing about the world."""
OPPOSITES = listed(
    """accept/reject accepted/refused add/remove add/delete allow/forbid allow/prevent allow/prohibit always/sometimes anonymous/named
    ascending/descending asynchronous/synchronous before/after begin/end client/server close/open closed/opened connect/disconnect
    create/delete create/remove decode/encode decrease/increase deny/grant disable/enable exclude/include explicit/implicit
    fail/succeed false/true fast/slow first/last faster/slower high/low higher/lower highest/lowest horizontal/vertical input/output
    large/small larger/smaller largest/smallest left/right light/heavy load/save long/short longer/shorter lower/raise lower/upper
    lowercase/uppercase max/min maximum/minimum maximize/minimize more/less more/fewer most/least mutable/immutable
    negative/positive new/old odd/even optional/required optional/mandatory public/private read/write rise/fall same/different
    start/stop start/end static/dynamic strong/weak top/bottom valid/invalid wide/narrow win/lose"""
)
"""Common pairs; words with a denying prefix (immutable, unsigned) need not be here."""
AGAINST = {(stem(a), stem(b)) for pair in OPPOSITES for a, b in permutations(pair.split("/"))}
PREFIXES = ("un", "in", "im", "ir", "il", "non", "dis", "de", "anti")
PIVOTS = frozenset(map(stem, listed("than before after instead until")))
LIMITS = frozenset(map(stem, listed("all always every exactly least most only")))
"""Words that widen or narrow a claim: never taken for a synonym of what the passage lacks."""
MARK = re.compile(r"\s*\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")
BULLET = re.compile(r"^[ \t]*(?:[-*+•>]\s+|\d{1,3}[.)]\s+|#{1,6}\s+)")
NAME = re.compile(r"[^\W\d]\w*|\d+(?:\.\d+)*")
REFUSAL = re.compile(
    r"\b(?:(?:passages?|documents?|evidence|context|texts?|sources?)\b.{0,40}\b(?:do(?:es)?|did) ?n[o'’]?t\b"
    r"|no (?:information|passage|mention)\b|not (?:mentioned|stated|specified|provided) in\b"
    r"|I (?:do not|don['’]t|can(?:no|['’])t) (?:know|find|answer))",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Support:
    """How far a passage carries a sentence: `share` of its ordinary words; `reason` says why it does not hold, else it is empty."""

    share: float
    reason: str = ""

    @property
    def holds(self) -> bool:
        return not self.reason


@dataclass(frozen=True)
class Spot:
    """A sentence of a passage as stems: its content words in order, and what else a statement may draw on there."""

    order: tuple[str, ...]
    own: frozenset[str]
    """What it says itself or is headed with."""
    near: frozenset[str]
    """What stands near it: that and its neighbours."""
    plain: frozenset[str]
    """Those that no negation stands right before."""
    scopes: tuple[tuple[str, ...], ...]
    """What each of its negations denies."""


class Passage:
    """An evidence text, prepared to be checked against. `heading` holds its title and headings, which every sentence may lean on."""

    def __init__(self, text: str, heading: str = "") -> None:
        self.text = text
        self.units = sentences(text)
        self._names = frozenset(NAME.findall(f"{heading}\n{text}"))
        self._verbatim = frozenset(_plain(bare(unit.text, text)) for unit in self.units)
        self._heading = words(heading)
        self._spots: list[Spot] | None = None

    def supports(self, unit: Unit, about: frozenset[str] = frozenset()) -> Support:
        """The best support that any spot gives the unit; one of few words must stand near half of what it is `about`, in stems."""
        if unit.kind == "code":
            return self._supports_code(unit.text)
        said = words(bare(unit.text, self.text))
        few = sum(map(_fact, said)) < FEW
        if not (few and about) and _plain(bare(unit.text, self.text)) in self._verbatim:
            return Support(1.0)
        found = [_support(said, spot) for spot in self.spots if not few or 2 * len(about & spot.near) >= len(about)]
        best = max(found, key=lambda support: (support.holds, support.share, -len(support.reason)), default=None)
        return best or Support(0.0, "the passage has nothing like it")

    @property
    def spots(self) -> list[Spot]:
        """One for each unit; made on first use."""
        if self._spots is None:
            said = [words(bare(unit.text, self.text)) for unit in self.units]
            self._spots = [_spot(one, self._heading, said[max(0, i - 1) : i + 2]) for i, one in enumerate(said)]
        return self._spots

    def _supports_code(self, text: str) -> Support:
        lines = [line for line in text.split("\n") if not line.lstrip().startswith("```")]
        names = set(NAME.findall("\n".join(lines)))
        missing = names - self._names
        share = 1 - len(missing) / max(1, len(names))
        unsaid = sorted(name for name in missing if name[0].isdigit())
        if unsaid:
            return Support(share, f"the passage has no {unsaid[0]}")
        return Support(share, "" if names and share >= CODE_SHARE else f"the passage has no {', '.join(sorted(missing)[:3]) or 'code'}")


def bare(text: str, literals: str = "") -> str:
    """The sentence without citation marks, list bullet and emphasis.

    >>> bare("- **Pumps** stop at 6 bar [1][2].")
    'Pumps stop at 6 bar.'
    """
    return unmarked(BULLET.sub("", text), literals).replace("**", "")


def unmarked(text: str, literals: str = "") -> str:
    """The text without citation marks. `argv[1]` keeps its index in code marks and where `literals`, the evidence, has it too.

    >>> unmarked("Lists are mutable[1], as is `argv[1]` [2]."), unmarked("See argv[1].", literals="argv[1] is a name")
    ('Lists are mutable, as is `argv[1]`.', 'See argv[1].')
    """
    return MARK.sub(lambda match: match[0] if _is_index(match, literals) else "", text)


def marks(text: str, literals: str = "") -> list[int]:
    """The numbers cited, in order.

    >>> marks("It stops [2][1, 3].")
    [2, 1, 3]
    """
    return [int(number) for match in MARK.finditer(text) if not _is_index(match, literals) for number in match[1].split(",")]


def _is_index(match: re.Match[str], literals: str) -> bool:
    before = match.string[: match.start()]
    name = re.search(r"\w+$", before)
    return before.count("`") % 2 == 1 or (match[0][0] == "[" and bool(name) and f"{name[0] if name else ''}{match[0]}" in literals)


def claims(unit: Unit) -> bool:
    """Whether the unit says something that could be wrong: not a question, not a table's rule, not "Sure, here is the answer:"."""
    if unit.kind == "code":
        return True
    text = bare(unit.text)
    return not text.rstrip("\"'”’)*").endswith(("?", "？")) and any(map(_fact, words(text)))


def declines(text: str) -> bool:
    """Whether the sentence says that the passages hold no answer."""
    return bool(REFUSAL.search(text))


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _fact(word: Word) -> bool:
    return word.content and word.text.lower() not in TALK


def _support(said: Sequence[Word], spot: Spot) -> Support:
    facts = [word for word in said if _fact(word)]
    ordinary = {word.stem for word in facts if not word.exact}
    share = 1 - len(ordinary - spot.own) / len(ordinary) if ordinary else 1.0
    return Support(share, _fault(said, facts, ordinary, spot))


def _fault(said: Sequence[Word], facts: Sequence[Word], ordinary: set[str], spot: Spot) -> str:
    """Why the spot does not carry what is said, or nothing."""
    for word in facts:
        if word.stem not in spot.near and (word.exact or word.stem in LIMITS):
            return f"the passage has no {word.text}"
    order = [word.stem for word in facts]
    unsaid, far = ordinary - spot.near, ordinary - spot.own
    if opposite := _opposite(order, unsaid, spot):
        return opposite
    if not facts or len(unsaid) > len(ordinary) // UNSAID or len(far) > len(ordinary) // ELSEWHERE:
        return f"the passage has no {', '.join(sorted(unsaid or far)[:3]) or 'such fact'}"
    return _denial(said, order, spot) or _turned(order, spot)


def _opposite(order: Sequence[str], unsaid: set[str], spot: Spot) -> str:
    """A word the passage lacks must not be the opposite of one it has; nor may an opposite stand where the passage has the other."""
    for lacking in unsaid:
        if other := next((other for other in spot.order if _opposed(lacking, other)), None):
            return f"the passage says {other}, not {lacking}"
    pairs = set(pairwise(spot.order))
    for before, after in set(pairwise(order)) - pairs:
        for known_before, known_after in pairs:
            if (before == known_before and _opposed(after, known_after)) or (after == known_after and _opposed(before, known_before)):
                return f"the passage says {known_before} {known_after}, not {before} {after}"
    return ""


def _denial(said: Sequence[Word], order: Sequence[str], spot: Spot) -> str:
    """The sentence must deny what the passage denies, and nothing else."""
    denied: set[str] = set()
    for scope in _scopes(said):
        if not scope or not any(scope[0] in known for known in spot.scopes):
            return "the passage does not deny this"
        denied.update(scope)
    for first, *rest in spot.scopes:
        if first not in order or first in denied:
            continue
        asserted = {other for other in rest if _reaches(order, first, other) and not _reaches(spot.order, first, other, rest)}
        if first not in spot.plain or asserted:
            return f"the passage denies {' '.join((first, *sorted(asserted)))}"
    return ""


def _reaches(order: Sequence[str], first: str, other: str, denied: Sequence[str] = ()) -> bool:
    """Whether `other` follows `first` closely, in a place other than the one where they are denied together."""
    for i, said in enumerate(order):
        following = order[i + 1 : i + 1 + SCOPE]
        if said == first and other in following and not (denied and list(following[: len(denied)]) == list(denied)):
            return True
    return False


def _turned(order: Sequence[str], spot: Spot) -> str:
    """`a before b` does not say `b before a`: which words stand before the pivot must agree with the passage."""
    for pivot in PIVOTS.intersection(order):
        if pivot not in spot.order:
            return f"the passage has no {pivot}"
        left, right = _sides(order, pivot)
        spot_left, spot_right = _sides(spot.order, pivot)
        if len(left & spot_right) + len(right & spot_left) > len(left & spot_left) + len(right & spot_right):
            return f"the passage has it the other way round of {pivot}"
    for pair in set(pairwise(order)) - set(pairwise(spot.order)):
        if _opposed(*pair) and pair[::-1] in set(pairwise(spot.order)):
            return f"the passage says {pair[1]} to {pair[0]}"
    return ""


def _sides(order: Sequence[str], pivot: str) -> tuple[set[str], set[str]]:
    """The stems before and after the pivot, without those on both sides, within reach of a clause."""
    at = order.index(pivot)
    left, right = set(order[max(0, at - 6) : at]), set(order[at + 1 : at + 7])
    return left - right, right - left


def _scopes(said: Sequence[Word]) -> Iterator[list[str]]:
    """For each negation, the stems of the content words after it, to the end of its clause."""
    for i, word in enumerate(said):
        if word.negation:
            clause = takewhile(lambda other: not other.opens, said[i + 1 :])
            yield [other.stem for other in clause if other.content][:SCOPE]


def _spot(said: Sequence[Word], heading: Sequence[Word], near: Sequence[Sequence[Word]]) -> Spot:
    order = [word.stem for word in said if word.content]
    scopes = tuple(tuple(scope) for scope in _scopes(said) if scope)
    plain = set(order) - {first for first, count in Counter(scope[0] for scope in scopes).items() if count >= order.count(first)}
    own = frozenset(part for word in (*heading, *said) for part in _parts(word))
    return Spot(tuple(order), own, own.union(*(_parts(word) for one in near for word in one)), frozenset(plain), scopes)


def _parts(word: Word) -> Iterable[str]:
    """The stem, and the names that a dotted one is made of, so that `append` is found in `list.append`."""
    yield word.stem
    if word.exact:
        yield from (part for part in re.split(r"[./:\\]", word.stem) if part and not part[0].isdigit())


def _opposed(a: str, b: str) -> bool:
    if (a, b) in AGAINST:
        return True
    return any(a == prefix + b or b == prefix + a for prefix in PREFIXES)

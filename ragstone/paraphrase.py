"""Whether two questions ask the same in other words. Judged by words, without a model: the same verdict every time.

All words count, in their order, unless a list here says that they don't: an equal question may differ in how it begins ("how do I",
"what is the way to"), in articles, in plural and `-ing`, in a listed synonym. So a number, a name, a negation, a unit, a tense or a
direction that is another makes another question. It errs on "no", which costs what an answer costs anyway.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile

from ragstone.words import Word, listed, stem, words

KNOW = r"(?:i wonder|do you know|i(?: would|'d) like to know|i (?:want|need) to know)"
ASIDE = rf"(?:please|kindly|hi|hello|hey|thanks|thank you|by the way|{KNOW})"
MEANS = r"(?:way|method|procedure|process)"
ANYONE = r"(?:i|you|we|one|someone)"
TELL = r"(?:(?:can|could|would|will) you )?(?:please )?(?:tell|show|explain(?: to)?) me"
PLACE = r"(?:in|on|for|with|at|under|during|after|before|when using)"
NOUNS = {"heavy": "weight", "wide": "width", "deep": "depth"}
FRAMES = tuple(
    (re.compile(pattern, re.IGNORECASE), instead)
    for pattern, instead in (
        (r"[’]", "'"),
        (r"\b(what|who|where|when|why|how|which|that|there|it)'s\b", r"\1 is"),
        (rf"^(?:{ASIDE}[ ,.!:]+)+", ""),
        (rf"[ ,]+{ASIDE}(?=[ .!?]*$)", ""),
        (rf"^{TELL} (?=who|what|when|where|why|how|which)", ""),
        (r"^explain (?=what|how|why|when|where)", ""),
        (rf"^({PLACE} [^,?]+), ([^,?]+)", r"\2 \1"),
        (rf"\bwhat (?:is|would be) (?:the|a) {MEANS} (?:to|for|of)\b", "how to"),
        (r"\bwhat are the steps (?:to|for)\b", "how to"),
        (r"\bin (?:what|which) way\b", "how"),
        (r"\bfor how long\b", "how long"),
        (rf"\bhow (?:do|does|can|could|should|would|may|must) {ANYONE}\b", "how to"),
        (rf"\bhow (?:am|are|is) {ANYONE} (?:supposed|meant) to\b", "how to"),
        (r"\bhow (?:is|are) ([^,.?]+) ([a-z]{2,}ed)(?=[ .?!]*$)", r"how to \2 \1"),
        (r"\b(?:what is the reason (?:that|why)|for (?:what|which) reason|how come|what is the reason for)\b", "why"),
        (r"\bwhat (?:do|does) ([^,.?]+) mean\b", r"what is the meaning of \1"),
        (r"^what ([^,.?]+) means?(?=[ .?!]*$)", r"what is the meaning of \1"),
        (r"\bwhat ([a-z]+(?: [a-z]+)?) (?:do|does) ([^,.?]+) have(?=[ .?!]*$)", r"what is the \1 of \2"),
        (r"\b(where (?:is|are) [^,.?]+) (?:located|situated)\b", r"\1"),
        (r"\bwhat is the location of\b", "where is"),
        (r"\bthe number of\b", "how many"),
        (r"\bwhat is how many\b", "how many"),
        (r"\bhow (heavy|wide|deep) (?:is|are)\b", lambda found: f"what is the {NOUNS[found[1].lower()]} of"),
        (r"^(?:give me|list|name|state) the\b", "what is the"),
    )
)
"""How questions are put, and one way for all of them; each is applied in turn."""
SILENT = listed("a an the that am are be been being is do does has have there")
"""Words that change no question where they stand; as its first word, `ASKED` keeps what they ask."""
ASKED = {"am": "is", "are": "is", "is": "is", "do": "do", "does": "do", "has": "have", "have": "have"}
ALIKE = {
    **dict.fromkeys(listed("what which"), "what"),
    **dict.fromkeys(listed("who whom"), "who"),
    **dict.fromkeys(listed("i you we one someone"), "one"),
    **dict.fromkeys(map(stem, listed("begin start commence")), "start"),
    **dict.fromkeys(map(stem, listed("big large")), "large"),
    **dict.fromkeys(map(stem, listed("biggest largest")), "largest"),
    **dict.fromkeys(map(stem, listed("fast quick rapid")), "fast"),
    **dict.fromkeys(map(stem, listed("repair fix mend")), "repair"),
    **dict.fromkeys(map(stem, listed("require need")), "need"),
    **dict.fromkeys(map(stem, listed("allow permit")), "allow"),
    **dict.fromkeys(map(stem, listed("forbid prohibit")), "forbid"),
    **dict.fromkeys(map(stem, listed("happen occur")), "happen"),
    **dict.fromkeys(map(stem, listed("buy purchase")), "buy"),
    **dict.fromkeys(map(stem, listed("display show")), "show"),
    **dict.fromkeys(map(stem, listed("maximum max")), "maximum"),
    **dict.fromkeys(map(stem, listed("minimum min")), "minimum"),
}
"""Words that ask the same. Wrong ones here are wrong answers: none whose choice a manual could mean something by."""
EQUAL = frozenset({*ALIKE.values(), *ASKED.values()})
ENDINGS = frozenset(
    frozenset(ends.replace("0", "").split("/"))
    for ends in listed("0/s 0/es 0/ed 0/d 0/ing e/ing e/ed s/ing s/ed d/s d/ing es/ing ed/ing y/ies y/ied y/ying ies/ying ied/ying ies/ied")
)
"""What two forms of one word may end in behind what they share, `0` for nothing."""
ARTICLES = listed("a an the")
SIGNS = re.compile(r"[^\w\s.,;:?!'\"“”‘’()`\-]|(?<!\w)-(?=\d)|(?<!\d)\.(?=\d)")
"""Signs that can make a difference: C++ and C, -5 and 5, $ and €."""


@dataclass(frozen=True)
class Form:
    """A question as its words: `said` is what must be equal, `spelled` what those words were."""

    said: tuple[str, ...]
    spelled: tuple[str, ...]


def form(question: str) -> Form:
    """The words that a question asks by.

    >>> form("What's the way to prime the feed pumps?").said == form("How do I prime a feed pump?").said
    True
    >>> form("Is E-1042 a fault?").said == form("Is E-1043 a fault?").said
    False
    """
    text = question.strip()
    for pattern, instead in FRAMES:
        text = pattern.sub(instead, text).strip()
    found = words(text)
    kept = [(_said(word, found[at - 1].text if at else ""), word.text.lower()) for at, word in enumerate(found) if _counts(word, at)]
    signs = "".join(SIGNS.findall(text))
    return Form((*(said for said, _ in kept), signs), tuple(spelled for _, spelled in kept))


def same(one: Form, other: Form) -> bool:
    """Whether both ask the same.

    >>> same(form("What is the plan of the bridge?"), form("What is the plane of the bridge?"))
    False
    """
    return one.said == other.said and all(map(_forms_of_one, one.said, one.spelled, other.spelled))


def _counts(word: Word, at: int) -> bool:
    return word.text.lower() not in SILENT or (at == 0 and word.text.lower() in ASKED)


def _said(word: Word, before: str) -> str:
    """What is compared of a word: `when is one paid` is not `when does one pay`, nor is the seal the sealing."""
    lower = word.text.lower()
    if lower in ASKED and lower in SILENT:
        return ASKED[lower]
    if any(letter.isupper() for letter in word.text[1:]) or (len(word.text) < 3 and lower not in ALIKE and word.content):
        return word.text  # mW is not MW
    if lower.endswith("eed"):
        return lower  # feed, whose stem takes it for a past
    return ALIKE.get(lower) or ALIKE.get(word.stem, word.stem) + _ending(lower, before.lower())


def _ending(word: str, before: str) -> str:
    """The ending, where it changes what is asked."""
    if word.endswith("ed") and before != "to":
        return " -ed"
    return " -ing" if word.endswith("ing") and before in ARTICLES else ""


def _forms_of_one(said: str, one: str, other: str) -> bool:
    """Whether two words of one stem are forms of one word, or listed as alike: `plan` and `plane` have one stem."""
    if one == other or said.isdigit() or said.partition(" ")[0] in EQUAL:
        return True
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    short, long = sorted((one[shared:], other[shared:]), key=len)
    doubled = not short and long[:1] == one[shared - 1 : shared]
    return frozenset((short, long[1:] if doubled else long)) in ENDINGS

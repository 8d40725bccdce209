"""Questions and the passages that answer them, mined from the corpus itself: no label is needed. It knows nothing of models or indexes.

Documents are split first: a document that a training pair comes from never gives a held-out question. Every held-out question is a
heading or a sentence whose own words are then cut out of the passages it is judged against, so that finding them again takes more
than matching a string.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from ragstone.corpus import Chunk
from ragstone.corpus.views import views

HELD_OUT = 0.2
"""The share of the chunks that is kept for judging, at most."""
UNITS = 10
QUESTIONS = 60
PAIRS = 64
"""Below any of these a corpus is too small: no interval could tell a gain from chance (60 questions: about ±0.05 nDCG)."""
TAUGHT = 60
"""Ranks of a teacher that are learned from."""
AT_RANDOM = 0.1
"""What the fused score of a passage drawn at random is, on average: 0.05 to 0.13 over five collections."""
MIX = {"heading": 7, "sentence": 7, "definition": 2, "keyword": 2, "crop": 2}
"""How often each kind of question is drawn for training: mixed kinds beat any single one (arXiv 2505.19274)."""

DEPTH = 200
"""How far down a search for hard negatives the passage itself is looked for."""

Search = Callable[[str, int], Sequence[tuple[str, float]]]
"""`search(question, limit)` gives chunk ids, best first, each with the base model's cosine to the question, or a teacher's score."""


@dataclass(frozen=True)
class Pair:
    """A question, the chunk that answers it as the model will read it (`positive`), and passages that look like it but do not."""

    question: str
    chunk: str
    document: str
    positive: str
    negatives: tuple[str, ...] = ()
    kind: str = ""
    answers: tuple[str, ...] = ()
    """Other passages that are known to answer it: never taken for a negative."""
    scores: tuple[float, ...] = ()
    """A teacher's scores of the positive and of each negative: they are learned then, not that one is right and the others are wrong."""


@dataclass(frozen=True)
class Question:
    """A held-out question; finding a chunk of `relevant` answers it."""

    text: str
    document: str
    relevant: tuple[str, ...]
    kind: str = ""
    grades: tuple[float, ...] = ()
    """How good an answer each of `relevant` is; all alike when empty."""
    targets: tuple[str, ...] = ()
    """What each of `relevant` stands for: of a document that was labelled as a whole, one chunk is enough. Empty: each for itself."""


@dataclass(frozen=True)
class Mined:
    """What a corpus offers for training and judging. `unsuitable` says why it can't be trained on, and is empty when it can."""

    pairs: tuple[Pair, ...]
    questions: tuple[Question, ...]
    judged: tuple[Chunk, ...]
    """Every chunk of the corpus, those of held-out questions with the question's own words cut out."""
    unsuitable: str = ""


def mine(chunks: Sequence[Chunk], *, limit: int = 2_400, questions: int = 600, seed: int = 17) -> Mined:
    """Training pairs (at most `limit`) and held-out questions from different documents. Equal arguments, equal result."""
    unit = unit_of(chunks)
    units = {unit(chunk) for chunk in chunks}
    if len(units) < UNITS:
        return Mined((), (), tuple(chunks), f"the corpus has {len(units)} documents or sections; {UNITS} are needed to keep some out")
    kept = _held_out([unit(chunk) for chunk in chunks])
    rare = _rarity(chunks)
    once = _said_once(chunks)
    train = _draw([chunk for chunk in chunks if unit(chunk) not in kept], rare, once, limit, seed)
    asked, judged = _ask(chunks, {chunk.id for chunk in chunks if unit(chunk) in kept}, once, questions, seed)
    return Mined(train, asked, judged, _unsuitable(train, asked))


def harden(pairs: Sequence[Pair], chunks: Sequence[Chunk], search: Search, *, count: int = 1, seed: int = 17) -> tuple[Pair, ...]:
    """The pairs with `count` hard negatives each: ranks 4-40 of `search`, clearly farther from the question than the positive.

    Those that a pair comes with are taken first. Never a passage of the same section of the same document, and never one whose cosine
    reaches 0.95 of the positive's: such a passage often answers the question too.
    """
    by_id = {chunk.id: chunk for chunk in chunks}
    draw = random.Random(f"negatives {seed}")
    return tuple(replace(pair, negatives=_negatives(pair, by_id, search(pair.question, DEPTH), count, draw)) for pair in pairs)


def distil(pairs: Sequence[Pair], chunks: Sequence[Chunk], rank: Search, *, count: int = 2, seed: int = 17) -> tuple[Pair, ...]:
    """The pairs as a teacher sees them: a window of the passage and of `count` of the teacher's 60 best others, with its scores.

    A pair whose passage the teacher does not find among them is left out.
    """
    by_id = {chunk.id: chunk for chunk in chunks}
    draw = random.Random(f"distil {seed}")
    taught = (_taught(pair, by_id, dict(rank(pair.question, TAUGHT)), count, draw) for pair in pairs)
    return tuple(pair for pair in taught if pair)


def _taught(pair: Pair, by_id: Mapping[str, Chunk], scores: Mapping[str, float], count: int, draw: random.Random) -> Pair | None:
    if pair.chunk not in scores:
        return None
    others = [id for id in scores if id != pair.chunk]
    own, *rest = ids = [pair.chunk, *draw.sample(others, min(count, len(others)))]
    shown = {id: draw.choice(views(by_id[id])[1:] or views(by_id[id])) for id in ids}
    return replace(pair, positive=shown[own], negatives=tuple(shown[id] for id in rest), scores=tuple(scores[id] for id in ids))


def digest(pairs: Sequence[Pair]) -> str:
    """SHA-256 of the pairs in their order, in hex: part of a model's lineage, and what a checkpoint is good for."""
    return hashlib.sha256(json.dumps([asdict(pair) for pair in pairs], ensure_ascii=False).encode()).hexdigest()


WIDE = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
WORD = re.compile(rf"[{WIDE}]|[^\W{WIDE}]+")


def words(text: str) -> list[str]:
    """Lower-case words; a Chinese, Japanese or Korean character is a word of its own.

    >>> words("Wing-body drag 阻力")
    ['wing', 'body', 'drag', '阻', '力']
    """
    return WORD.findall(text.lower())


def sentences(text: str) -> list[tuple[int, int]]:
    """Where each sentence lies in the text, as character offsets; those that read as prose of 6 to 40 words.

    >>> [text[a:b] for text in ["Short. The flow separates from the upper surface of the wing."] for a, b in sentences(text)]
    ['The flow separates from the upper surface of the wing.']
    """
    spans = []
    for match in re.finditer(r"\S.*?(?:[.!?](?=\s|$)|[。！？]|\n\s*\n|$)", text, re.DOTALL):
        if 6 <= len(words(match.group())) <= 40 and _is_prose(match.group()):
            spans.append((match.start(), match.end()))
    return spans


def _is_prose(text: str) -> bool:
    """Whether most of it is letters: tables, code and lists of numbers are no questions."""
    letters = sum(character.isalpha() or character in " \n,.'?" for character in text)
    return letters >= 0.9 * len(text) and "  " not in text.replace("\n", " ").strip()


def unit_of(chunks: Sequence[Chunk]) -> Callable[[Chunk], str]:
    """What the split keeps whole: a document, or in a corpus of few documents a section of one."""
    if len({chunk.document for chunk in chunks}) >= UNITS:
        return lambda chunk: chunk.document
    return lambda chunk: "\0".join((chunk.document, *chunk.path[:2]))


def _held_out(units: Sequence[str]) -> frozenset[str]:
    """Units in the order of their digest, until their chunks reach the share. A digest keeps the choice when the corpus grows."""
    sizes = Counter(units)
    room = HELD_OUT * len(units)
    kept = set()
    for unit in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if sizes[unit] <= room:
            kept.add(unit)
            room -= sizes[unit]
    return frozenset(kept)


def _rarity(chunks: Sequence[Chunk]) -> Callable[[str], float]:
    """A word's inverse document frequency over the chunks."""
    counts = Counter(word for chunk in chunks for word in set(words(chunk.text)))
    return lambda word: math.log((len(chunks) + 1) / (counts[word] + 0.5))


def _said_once(chunks: Sequence[Chunk]) -> Callable[[str], bool]:
    """Whether a sentence occurs once in the corpus: boilerplate has no right answer."""
    counts = Counter(_key(chunk.text[a:b]) for chunk in chunks for a, b in sentences(chunk.text))
    return lambda sentence: counts[_key(sentence)] == 1


def _key(text: str) -> str:
    return " ".join(words(text))


def _draw(chunks: Sequence[Chunk], rare: Callable[[str], float], once: Callable[[str], bool], limit: int, seed: int) -> tuple[Pair, ...]:
    """Pairs of every kind in the proportions of `MIX`, no question twice; a kind that runs dry leaves its place to the others."""
    draw = random.Random(f"pairs {seed}")
    order = draw.sample(list(chunks), len(chunks))
    sources = {
        "heading": _headings(order, draw),
        "sentence": _sentences(order, once, draw),
        "definition": _definitions(order),
        "keyword": _keywords(order, rare, draw),
        "crop": _crops(order, draw),
    }
    drawn: dict[str, Pair] = {}
    while sources and len(drawn) < limit:
        (kind,) = draw.choices(list(sources), [MIX[kind] for kind in sources])
        pair = next(sources[kind], None)
        if pair is None:
            del sources[kind]
        elif len(words(pair.positive)) >= 8:
            drawn.setdefault(_key(pair.question), pair)
    return tuple(drawn.values())


def _headings(chunks: Sequence[Chunk], draw: random.Random) -> Iterator[Pair]:
    """The innermost heading asks for its passage, which is read without it."""
    seen = Counter[Section]()
    for chunk in chunks:
        heading = _heading(chunk)
        seen[_section(chunk)] += 1
        if heading and seen[_section(chunk)] <= 3:
            yield _pair(chunk, _asked(chunk, heading, draw.random() < 0.3), _without(chunk, heading), "heading")


def _sentences(chunks: Sequence[Chunk], once: Callable[[str], bool], draw: random.Random) -> Iterator[Pair]:
    """A sentence asks for the passage that it is cut out of."""
    for _ in range(2):
        for chunk in chunks:
            spans = [span for span in sentences(chunk.text) if once(chunk.text[slice(*span)])]
            if spans:
                start, end = draw.choice(spans)
                yield _pair(chunk, _line(chunk.text[start:end]), _cut(chunk, start, end), "sentence")


DEFINED = re.compile(
    r"(?:^|[.!?]\s+)(?:An?\s+|The\s+)?([A-Za-z][\w-]*(?: [\w-]+){0,3}?) (?:is|are|means|refers to|denotes) (?:an?|the|any|one|used)\b"
)
SIGNATURE = re.compile(r"^\s*(?:def |class |function )?([A-Za-z_][\w.]{2,40})\(", re.MULTILINE)


def _definitions(chunks: Sequence[Chunk]) -> Iterator[Pair]:
    """'What is X?' for a term that the passage defines, 'How is X used?' for one whose signature it shows."""
    forms = {"What is {}?": DEFINED, "How is {} used?": SIGNATURE}
    for chunk in chunks:
        found = ((form, match.group(1)) for form, pattern in forms.items() for match in pattern.finditer(chunk.text))
        terms = [(form, term) for form, term in found if words(term)[0] not in VAGUE and term != "following"]
        for form, term in terms[:2]:
            yield _pair(chunk, form.format(term), chunk, "definition")


VAGUE = frozenset(["it", "this", "that", "these", "those", "there", "he", "she", "they", "we", "you", "which", "what", "who", "here"])


def _keywords(chunks: Sequence[Chunk], rare: Callable[[str], float], draw: random.Random) -> Iterator[Pair]:
    """The two to five words that set a passage apart, as one types them into a search box."""
    for chunk in chunks:
        known = Counter(word for word in words(chunk.text) if word.isalpha() and (len(word) > 2 or not word.isascii()))
        best = sorted(known, key=lambda word: (-rare(word) * math.sqrt(known[word]), word))[: draw.randint(2, 5)]
        if len(best) >= 2:
            yield _pair(chunk, " ".join(draw.sample(best, len(best))), chunk, "keyword")


def _crops(chunks: Sequence[Chunk], draw: random.Random) -> Iterator[Pair]:
    """Six to sixteen words in a row, still in the passage: what a pasted phrase looks like."""
    for chunk in chunks:
        spoken = chunk.text.split()
        if len(spoken) >= 30:
            length = draw.randint(6, 16)
            start = draw.randrange(len(spoken) - length)
            yield _pair(chunk, " ".join(spoken[start : start + length]), chunk, "crop")


def _pair(chunk: Chunk, question: str, shown: Chunk, kind: str) -> Pair:
    return Pair(question, chunk.id, chunk.document, shown.context, kind=kind)


def _heading(chunk: Chunk) -> str:
    """The words that name a passage: its innermost heading, else its title; empty when that is a bare name or number."""
    heading = chunk.path[-1] if chunk.path else chunk.title
    return heading if len([word for word in words(heading) if not word.isdigit()]) >= 2 or len(chunk.path) > 1 else ""


def _asked(chunk: Chunk, heading: str, with_title: bool) -> str:
    """The heading as a question: with what stands above it where it says little by itself."""
    above = [name for name in dict.fromkeys((chunk.title, *chunk.path)) if name != heading]
    return f"{above[-1]} {heading}" if above and (with_title or len(words(heading)) < 3) else heading


def _without(chunk: Chunk, heading: str) -> Chunk:
    """The chunk as read without that heading, nor its line where the text opens with it."""
    text = re.sub(rf"^[#\s]*{re.escape(heading)}[\s:=~#-]*", "", chunk.text)
    path = tuple(name for name in chunk.path if name != heading)
    return replace(chunk, title="" if chunk.title == heading else chunk.title, path=path, text=text)


def _cut(chunk: Chunk, start: int, end: int) -> Chunk:
    return replace(chunk, text=f"{chunk.text[:start].rstrip()} {chunk.text[end:].lstrip()}".strip())


def _line(text: str) -> str:
    return " ".join(text.split())


def _ask(
    chunks: Sequence[Chunk], kept: set[str], once: Callable[[str], bool], limit: int, seed: int
) -> tuple[tuple[Question, ...], tuple[Chunk, ...]]:
    """Held-out questions, half of them headings where there are that many, and the whole corpus with their words cut out."""
    draw = random.Random(f"questions {seed}")
    order = draw.sample([chunk for chunk in chunks if chunk.id in kept], len(kept))
    shown = {chunk.id: chunk for chunk in chunks}
    headings = list(_heading_questions(order, _names(chunks), limit // 2))
    for question, heading in headings:
        shown |= {id: _without(shown[id], heading) for id in question.relevant}
    asked = {_key(question.text): question for question, _ in headings}
    for chunk in order * 3:  # a small corpus is asked up to three sentences a passage
        sentence, rest = _sentence_question(shown[chunk.id], once, draw)
        if sentence and len(asked) < limit:
            asked.setdefault(_key(sentence.text), sentence)
            shown[chunk.id] = rest
    return tuple(asked.values()), tuple(shown.values())


def _heading_questions(chunks: Sequence[Chunk], names: Counter[str], limit: int) -> Iterator[tuple[Question, str]]:
    """One question a section, answered by any passage of it; a heading that names several sections has no right answer."""
    sections: Mapping[Section, list[Chunk]] = defaultdict(list)
    for chunk in chunks:
        sections[_section(chunk)].append(chunk)
    for members in sections.values():
        heading = _heading(members[0])
        text = _asked(members[0], heading, False)
        if heading and names[_key(heading)] == 1 and limit > 0:
            limit -= 1
            yield Question(text, members[0].document, tuple(chunk.id for chunk in members), "heading"), heading


def _names(chunks: Sequence[Chunk]) -> Counter[str]:
    """How many sections of the corpus each innermost heading names."""
    return Counter(_key(section[-1]) for section in {_section(chunk) for chunk in chunks})


Section = tuple[str, ...]


def _section(chunk: Chunk) -> Section:
    return (chunk.document, chunk.title, *chunk.path)


def _sentence_question(chunk: Chunk, once: Callable[[str], bool], draw: random.Random) -> tuple[Question | None, Chunk]:
    """A sentence of the chunk and the chunk without it; None where too little would be left."""
    spans = [span for span in sentences(chunk.text) if once(chunk.text[slice(*span)])]
    if not spans:
        return None, chunk
    start, end = draw.choice(spans)
    rest = _cut(chunk, start, end)
    if len(words(rest.text)) < 30 or _key(chunk.text[start:end]) in _key(rest.text):
        return None, chunk
    return Question(_line(chunk.text[start:end]), chunk.document, (chunk.id,), "sentence"), rest


def _negatives(
    pair: Pair, by_id: Mapping[str, Chunk], found: Sequence[tuple[str, float]], count: int, draw: random.Random
) -> tuple[str, ...]:
    own = by_id.get(pair.chunk)
    cosine = dict(found).get(pair.chunk, math.inf)
    far = [
        by_id[id].context
        for id, score in found[3:40]
        if score < 0.95 * cosine and not (own and _alike(by_id[id], own)) and by_id[id].context not in (pair.positive, *pair.answers)
    ]
    known = draw.sample(pair.negatives, min(count, len(pair.negatives)))
    return (*known, *draw.sample(far, min(count - len(known), len(far))))


def _alike(one: Chunk, other: Chunk) -> bool:
    """Whether they are of one section, or copies."""
    return (one.document, one.path) == (other.document, other.path) or one.text == other.text


def _unsuitable(pairs: Sequence[Pair], questions: Sequence[Question]) -> str:
    if len(questions) < QUESTIONS:
        return f"the corpus gives {len(questions)} held-out questions; {QUESTIONS} are needed to tell a gain from chance"
    if len(pairs) < PAIRS:
        return f"the corpus gives {len(pairs)} training pairs; {PAIRS} are needed"
    return ""

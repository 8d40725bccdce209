"""`local`: retrieve, prompt, generate. A sentence goes out once the evidence carries it; where one does not, the evidence is quoted."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace

from ragstone import ground, shares, telemetry
from ragstone.access import Principal
from ragstone.errors import GeneratorError, RequestError
from ragstone.followup import Question, resolve
from ragstone.ground import Passage
from ragstone.quote import quotes
from ragstone.rag import Answer, Basis, Citation, Grounds, Options
from ragstone.release import Release, canonical
from ragstone.retrieve import Hit, Search
from ragstone.sentences import Reader, Unit, sentences
from ragstone.serve import Generator, Message, Sampling, Usage
from ragstone.words import WIDE, content, words

PROMPT = """\
Answer the question with facts from the numbered passages only, in one to three short sentences that keep the wording of the passages.
End each sentence with the number of its passage in brackets, like [1]. If the passages do not answer the question, say that they do not.
---
{evidence}

Question: {question}
Answer:"""
"""The system message, a line of dashes, and the user message. Part of a release, so a change of wording is a change of release."""

TURNS = 4
"""Earlier messages shown to the generator, only for a question that leans on them."""
TURN = 600
"""Characters of each of them."""
OVERHEAD = 160
"""Tokens kept free for the instructions and the chat template."""
RUNAWAY = 1500
"""Characters without the end of a sentence: the generator has lost itself."""
SAME = 0.9
"""Of all words of two sentences, the share in both that makes one a repetition of the other, or one passage of another."""
DECLINES = "the generator says that the evidence has no answer"
YES_OR_NO = re.compile(r"(?:is|are|was|were|do|does|did|can|could|may|must|should|will|would|has|have|had)\b", re.IGNORECASE)
TERMINATED = re.compile(r"(?:[.!?。！？:：][\"'”’)*`]*|\]|```)$")
UNVERIFIED = "Quoted from the documents, because no generated answer could be verified against them:"
UNVERIFIED_REST = "The rest could not be verified against the documents. In their words:"
DECLINED = "The generator found no answer in the documents. The passages that come closest:"
INTRODUCTIONS = (UNVERIFIED, UNVERIFIED_REST, DECLINED)
"""What stands before quotations: words of ours, that claim nothing of the documents."""


def connect(release: Release, retriever: Search, generators: Mapping[str, Generator], room: int = 4096) -> LocalRag:
    """The orchestrator of a release. `generators` holds each service version that it names, started; `room` is their context in tokens."""
    return LocalRag(release, retriever, generators, room)


class LocalRag:
    """One release's answers. It holds no state of a question: `Grounds` carry that."""

    def __init__(self, release: Release, retriever: Search, generators: Mapping[str, Generator], room: int) -> None:
        self.id = release.id
        self.release = release
        self.retriever = retriever
        self.generators = generators
        self.room = room

    def prepare(self, conversation: Sequence[Message], principal: Principal, options: Options) -> Grounds:
        _check(conversation, self.room)
        top_k = options.top_k or int(self.release.retrieval["top_k"])
        threshold = self.release.retrieval["similarity_threshold"] if options.similarity_threshold is None else options.similarity_threshold

        def search(question: str) -> list[Hit]:
            return self.retriever.found(question, principal.groups, top_k, threshold, options.filter)

        with telemetry.stage("retrieve", release=self.id):
            question, hits = _search(resolve(conversation), conversation[-1].content, search, threshold)
        evidence = tuple(hit for hit in hits if hit.score >= threshold)[:top_k]
        service = shares.pick(self.release.generator, next((one.content for one in conversation if one.role == "user"), question.text))
        messages = _messages(self.release.prompt, conversation, question, evidence, self.room - options.sampling.max_tokens)
        grounds = Grounds(
            release=self.id,
            question=question.text,
            rewritten=question.rewritten,
            evidence=evidence,
            best=max((hit.score for hit in hits), default=0.0),
            threshold=threshold,
            messages=messages,
            etag="",
            service=service,
            filter=dict(options.filter),
        )
        return replace(grounds, etag=_etag(grounds, self.generators[service].version, options.sampling))

    async def answer(self, grounds: Grounds, options: Options) -> AsyncGenerator[str | Answer, None]:
        if not grounds.evidence:
            text = abstention(grounds)
            yield text
            yield _finished(text, set(), "abstained", "stop", Usage(), grounds)
            return
        draft = Draft(grounds)
        run = Run()
        async with aclosing(self._generate(grounds, options.sampling, draft, run)) as sentences:
            async for text in sentences:
                yield text
        if run.fault or not draft.text:
            quoted, numbers = await asyncio.to_thread(self._quote, grounds, draft, run.fault)
            yield quoted
            yield _finished(draft.text + quoted, draft.numbers | numbers, "quoted", "stop", run.usage, grounds)
            return
        ended = run.finish or "stop"  # stopped here, for it began to repeat itself: what was said before is whole
        yield _finished(draft.text, draft.numbers, "generated", ended, run.usage, grounds)

    async def _generate(self, grounds: Grounds, sampling: Sampling, draft: Draft, run: Run) -> AsyncGenerator[str, None]:
        """The sentences that hold, until one does not or the generator ends. Raises `GeneratorError`."""
        reader = Reader()
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, self.room // 2))
        async with aclosing(self.generators[grounds.service].stream(grounds.messages, sampling)) as pieces:
            async for piece in pieces:
                run.count(piece.text, grounds)
                units = reader.feed(piece.text)
                if piece.finish:
                    run.finish, run.usage = piece.finish, piece.usage or run.usage
                    units += _complete(reader.end(), piece.finish)
                for unit in units:
                    text, run.fault = draft.take(unit, reader.text)
                    if text:
                        yield text
                    if run.fault or draft.repeats:
                        return
                if reader.open > RUNAWAY and not reader.text[-reader.open :].lstrip().startswith("```"):
                    run.fault = "a sentence does not end"
                    return
        if not run.finish:
            raise GeneratorError("the generator ended without saying why")

    def _quote(self, grounds: Grounds, draft: Draft, fault: str) -> tuple[str, set[int]]:
        """The evidence's own words, said to be such, behind what the draft has; and the numbers that they cite."""
        question = grounds.question
        asked = self.retriever.embedder.queries([question])[0]

        def similar(_: str, texts: Sequence[str]) -> list[float]:
            return [float(value) for value in self.retriever.embedder.documents(texts) @ asked]

        found = quotes(question, [hit.chunk.text for hit in grounds.evidence], similar)
        introduction = UNVERIFIED_REST if draft.text else DECLINED if fault == DECLINES else UNVERIFIED
        said = [_quotation(grounds.evidence[quote.passage].chunk.text[quote.start : quote.end], quote.passage + 1) for quote in found]
        return ("\n\n" if draft.text else "") + "\n\n".join((introduction, *said)), {quote.passage + 1 for quote in found}


@dataclass
class Run:
    """How one generation goes: why it was stopped, if it was, and what it used, estimated until the generator says it."""

    finish: str = ""
    fault: str = ""
    usage: Usage = field(default_factory=Usage)

    def count(self, text: str, grounds: Grounds) -> None:
        """One more piece is about one more token."""
        prompt = self.usage.prompt_tokens or sum(tokens(message.content) for message in grounds.messages)
        self.usage = Usage(prompt, self.usage.completion_tokens + bool(text))


class Draft:
    """An answer while it is written: only what the evidence carries, each claim with its citation."""

    def __init__(self, grounds: Grounds) -> None:
        self.text = ""
        self.numbers: set[int] = set()
        self.repeats = False
        self._grounds = grounds
        self._passages = [Passage(hit.chunk.text, " > ".join((hit.chunk.title, *hit.chunk.path))) for hit in grounds.evidence]
        self._asked = frozenset(word.stem for word in content(grounds.question))
        self._about = self._asked
        self._yes_or_no = bool(YES_OR_NO.match(grounds.question))
        self._said: list[frozenset[str]] = []
        self._held = ""
        self._literals = "\n".join(passage.text for passage in self._passages)

    def take(self, unit: Unit, whole: str) -> tuple[str, str]:
        """The text to release now, and the fault for which the answer must stop. `whole` is the text that the unit is cut from."""
        if self._repeated(unit):
            self.repeats = True
            return "", ""
        if ground.declines(unit.text):
            return "", DECLINES
        gap = _gap(whole, unit) if self.text or self._held else ""
        if not ground.claims(unit) or unit.kind == "heading":
            self._hold(gap, unit)
            return "", ""
        if self._echoes(unit):
            return "", "it only repeats the question"
        numbers, fault = self._carried(unit)
        if fault:
            return "", fault
        text = unit.text if unit.kind == "code" else ground.unmarked(unit.text, self._literals).rstrip()
        cited = ("\n" if unit.kind == "code" else " ") + "".join(f"[{number}]" for number in numbers)
        released = self._held + gap + text + cited
        self.text += released
        self.numbers.update(numbers)
        self._held = ""
        return released, ""

    def _repeated(self, unit: Unit) -> bool:
        """Whether nearly the same words were said before: the generator turns in a circle."""
        said = frozenset(word.stem for word in words(ground.bare(unit.text)) if word.content or word.negation)
        before = any(len(said & other) >= SAME * len(said | other) for other in self._said) if said else False
        self._said.append(said)
        return before

    def _echoes(self, unit: Unit) -> bool:
        """Whether the sentence says nothing that was not asked; to yes or no, that is an answer."""
        said = {word.stem for word in content(ground.bare(unit.text))} - ground.TALK
        return unit.kind == "prose" and not self._yes_or_no and said <= self._asked

    def _hold(self, gap: str, unit: Unit) -> None:
        """A heading or a phrase without a claim waits for a sentence that holds. A question or an unfounded heading is left out."""
        claims = ground.claims(unit)
        if unit.kind == "heading" and claims:
            claims = not any(passage.supports(unit).holds for passage in self._passages)
        if unit.text.endswith((":", "：")):
            self._about = frozenset(word.stem for word in content(unit.text)) - ground.TALK or self._asked
        if not claims and not unit.text.endswith(("?", "？")):
            self._held += gap + ground.unmarked(unit.text, self._literals)

    def _carried(self, unit: Unit) -> tuple[list[int], str]:
        """The numbers of the passages to cite: those that the generator named and that carry the unit, else the one that does so best."""
        found = {number: passage.supports(unit, self._about) for number, passage in enumerate(self._passages, 1)}
        holding = [number for number, support in found.items() if support.holds]
        if not holding:
            return [], max(found.values(), key=lambda support: support.share).reason
        named = [number for number in dict.fromkeys(ground.marks(unit.text, self._literals)) if number in holding]
        return named or [max(holding, key=lambda number: (found[number].share, -number))], ""


def abstention(grounds: Grounds) -> str:
    """The refusal, with its reason: what was searched for, what came closest, and what would have been enough."""
    where = "".join(f", {name} = {value}" for name, value in sorted(grounds.filter.items()))
    if not grounds.best:
        return f"The documents hold nothing on this. Searched for: “{grounds.question}”{where}."
    return (
        f"The documents do not answer this: the best passage found is relevant with a probability of {grounds.best:.2f}, "
        f"and {grounds.threshold:.2f} is needed. Searched for: “{grounds.question}”{where}."
    )


def tokens(text: str) -> int:
    """About how many tokens a text has, rather too many: a third of its characters, one for each of a writing without spaces.

    >>> tokens("three words here"), tokens("超时")
    (6, 2)
    """
    wide = sum(len(run) for run in WIDE.findall(text))
    return wide + -(-(len(text) - wide) // 3)


def _check(conversation: Sequence[Message], room: int) -> None:
    if not conversation or conversation[-1].role != "user":
        raise RequestError("the last message must be the user's", "messages")
    question = conversation[-1].content
    if not question.strip():
        raise RequestError("the last message is empty", "messages")
    if tokens(question) > room // 2:
        raise RequestError(
            f"the question has about {tokens(question)} tokens; {room // 2} is the most", "messages", code="context_length_exceeded"
        )


def _search(question: Question, original: str, search: Callable[[str], list[Hit]], threshold: float) -> tuple[Question, list[Hit]]:
    """The hits, and the question that found them: the original one where its rewriting finds nothing at the threshold and it does."""
    hits = search(question.text)
    if question.rewritten and not any(hit.score >= threshold for hit in hits):
        plain = search(original)
        if any(hit.score >= threshold for hit in plain):
            return Question(original), plain
    return question, hits


def _messages(
    template: str, conversation: Sequence[Message], question: Question, evidence: Sequence[Hit], room: int
) -> tuple[Message, ...]:
    """The prompt: instructions with the caller's own below them, earlier turns when the question leans on them, evidence, question."""
    system, _, user = (template or PROMPT).partition("\n---\n")
    wishes = "\n\n".join(message.content for message in conversation if message.role == "system")
    if wishes:
        system += f"\n\nThe caller asks, within these rules: {_cut(wishes, room // 6)}"
    turns = [message for message in conversation[:-1] if message.role != "system"][-TURNS:] if question.rewritten else []
    earlier = [Message(turn.role, ground.unmarked(turn.content)[:TURN]) for turn in turns]
    used = OVERHEAD + sum(tokens(text) for text in (system, user, question.text, *(turn.content for turn in earlier)))
    values = {"evidence": _numbered(evidence, room - used), "question": question.text}
    filled = re.sub(r"\{(evidence|question)\}", lambda match: values[match[1]], user)
    return Message("system", system), *earlier, Message("user", filled)


def _numbered(evidence: Sequence[Hit], room: int) -> str:
    """The passages under their numbers, as many as there is room for, without those that say what a better one says.

    The best comes last: a small model heeds most what it read last.
    """
    shown: list[str] = []
    said: set[str] = set()
    for number, hit in enumerate(evidence, 1):
        new = {" ".join(unit.text.split()) for unit in sentences(hit.chunk.text)}
        if len(new & said) >= SAME * len(new):
            continue
        said |= new
        heading = " > ".join(dict.fromkeys((hit.chunk.title, *hit.chunk.path)))
        text = _cut(f"[{number}] {heading}\n{hit.chunk.text}", room)
        room -= tokens(text)
        if text:
            shown.insert(0, text)
    return "\n\n".join(shown)


def _cut(text: str, room: int) -> str:
    """The text, or as much of its beginning as fits, up to a line's or sentence's end; nothing when that is little."""
    if tokens(text) <= room:
        return text
    kept = text[: max(0, room)] if WIDE.search(text) else text[: max(0, room * 3)]
    end = max(kept.rfind(mark) for mark in (". ", "\n", "。"))
    return kept[: end + 1].rstrip() if end > 40 else ""


def _etag(grounds: Grounds, version: str, sampling: Sampling) -> str:
    """The validator. An abstention rests on its reason, for there is no evidence."""
    rests = [hit.chunk.id for hit in grounds.evidence] or [abstention(grounds)]
    prompt = [[message.role, message.content] for message in grounds.messages]
    return f'"{hashlib.sha256(canonical([rests, version, prompt, asdict(sampling), grounds.question])).hexdigest()[:32]}"'


def _complete(units: list[Unit], finish: str) -> list[Unit]:
    """The last units, without a sentence that was cut off: half of it may say the opposite of the whole."""
    if finish == "length" and units and not TERMINATED.search(units[-1].text):
        return units[:-1]
    return units


def _gap(whole: str, unit: Unit) -> str:
    """What stands between the unit and what came before it: a space, or the line breaks that make a list or a paragraph."""
    before = whole[: unit.start]
    space = before[len(before.rstrip()) :]
    return "\n" * min(2, space.count("\n")) or " "


def _quotation(text: str, number: int) -> str:
    """A quotation, word for word, with its citation."""
    return f"{text}\n[{number}]" if "```" in text else f"“{text}” [{number}]"


def _finished(text: str, numbers: set[int], basis: Basis, finish: str, usage: Usage, grounds: Grounds) -> Answer:
    telemetry.answers.labels(basis).inc()
    citations = tuple(_citation(number, grounds.evidence[number - 1]) for number in sorted(numbers))
    return Answer(text, citations, basis, finish, usage, grounds)


def _citation(number: int, hit: Hit) -> Citation:
    chunk = hit.chunk
    return Citation(number, chunk.id, chunk.document, chunk.title, chunk.path, chunk.start, chunk.end, hit.score, chunk.text, hit.fused)

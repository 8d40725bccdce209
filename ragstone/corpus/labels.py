"""Labels: which passages answer a question, read from the files that people keep such knowledge in.

Pairs and triples (JSONL, CSV, TSV), click and feedback logs (JSONL) and folders in BEIR's layout become one value. It knows nothing of
the corpus: `labelled` finds what the labels point at. What can't be used is kept with its line and reason.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ragstone.corpus import PUBLIC
from ragstone.errors import TrainError

QUESTION = ("question", "query", "anchor", "sentence1")
PASSAGE = ("positive", "positives", "pos", "positive_passages", "positive_ctxs", "chunk", "passage", "document", "context")
LOOSE = ("sentence2", "answer")
"""The first of these names that a record has is its passage. A loose one may be short: beside a context, an answer is no passage."""
NAME = ("chunk_id", "passage_id", "positive_id", "document_id", "doc_id", "docid", "corpus_id", "path")
NEGATIVE = re.compile(r"(hard_)?neg(ative)?s?(_passages|_ctxs|_ids?)?(_\d+)?")
CLICKS = ("clicked", "click")
STARS = ("rating", "stars")
VOTES = (*CLICKS, "thumb", "thumbs", "vote", "feedback", "helpful", "relevant", "relevance", "grade", "label", "score", *STARS)
UP = frozenset(["up", "true", "yes", "positive", "like", "liked", "good", "relevant", "helpful", "👍"])
RELEASE, HITS, VERDICT = "release", "hits", "verdict"
"""What a record of feedback has: the release that answered, the chunks that the answer cites, and what was said of it."""
DOUBT = -0.5
"""The vote of a verdict against an answer: its passages may be right, and what was made of them wrong."""
DOWN = frozenset(["down", "false", "no", "negative", "dislike", "disliked", "bad", "irrelevant", "unhelpful", "👎"])

Row = Mapping[str, object]


@dataclass(frozen=True)
class Target:
    """What a label points at: a chunk or document by its name, a passage by its words, or both."""

    name: str = ""
    text: str = ""
    title: str = ""
    grade: float = 1.0
    """Above 0 it answers the question, the higher the better; 0 says that it does not."""
    groups: tuple[str, ...] = ()
    """Those of the person who asked, so what could be seen; empty where the label does not say."""
    where: str = field(default="", compare=False)
    """The file and line that said so first."""


@dataclass(frozen=True)
class Label:
    """A question, and what is known to answer it or not to."""

    question: str
    targets: tuple[Target, ...]
    held_out: bool = False
    """From a `dev` split: for judging, not for training."""


@dataclass(frozen=True)
class Unusable:
    """A record that teaches nothing, and why, in words for its owner."""

    where: str
    reason: str


@dataclass(frozen=True)
class Labels:
    """All labels of some files, each question once."""

    labels: tuple[Label, ...] = ()
    unusable: tuple[Unusable, ...] = ()
    withheld: int = 0
    """Records whose user did not consent to training."""
    undecided: int = 0
    """Middling ratings, passages that as many called right as wrong, and those of answers that were only disliked."""
    confined: int = 0
    """Feedback of people who may read more than everybody may: a model is everybody's, so it learns none of their questions."""

    @property
    def digest(self) -> str:
        """SHA-256 of what the labels say, in hex; where their files are does not count."""
        said = [
            [label.question, label.held_out, [[one.name, one.text, one.title, one.grade, one.groups] for one in label.targets]]
            for label in self.labels
        ]
        return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()

    def __str__(self) -> str:
        targets = [target for label in self.labels for target in label.targets]
        right = sum(target.grade > 0 for target in targets)
        left_out = f"{self.withheld} records without consent, {self.undecided} undecided"
        left_out += f", {self.confined} of groups that are not public" if self.confined else ""
        return f"{len(self.labels)} questions with {right} answers and {len(targets) - right} known negatives; {left_out}"


def read(paths: Sequence[Path], feedback: Iterable[tuple[str, Row]] = ()) -> Labels:
    """The labels of files and folders, and of feedback. Raises `TrainError` when one of them is nothing that labels are kept in."""
    gathered = _Gathered()
    for where, row in feedback:
        gathered.add(where, plain(row), held_out=False)
    for path in paths:
        for where, row, held_out in _beir(path, gathered) if path.is_dir() else _records(path, gathered):
            gathered.add(where, row, held_out)
    return gathered.labels()


class _Gathered:
    """Records on their way to labels: every vote on a question's passages, and what was left out."""

    def __init__(self) -> None:
        self.questions: dict[tuple[str, bool], str] = {}
        self.votes: defaultdict[tuple[str, bool], dict[Target, list[float]]] = defaultdict(dict)
        self.unusable: list[Unusable] = []
        self.withheld = 0
        self.undecided = 0
        self.confined = 0

    def add(self, where: str, row: Row, held_out: bool) -> None:
        """One record: its question, its passages, and what it says of them."""
        if not _agrees(row.get("consent", not _is_feedback(row))):
            self.withheld += 1
            return
        if _is_feedback(row) and set(_groups(row.get("groups"))) != {PUBLIC}:
            self.confined += 1
            return
        if _is_feedback(row) and HITS not in row:  # an abstention cites nothing
            self.undecided += 1
            return
        try:
            question, votes = question_of(row), list(said(row))
        except ValueError as error:
            self.refuse(where, str(error))
            return
        key = " ".join(question.lower().split()), held_out
        self.questions.setdefault(key, question)
        self.undecided += not votes
        for target, vote in votes:
            self.votes[key].setdefault(replace(target, where=where), []).append(vote)

    def refuse(self, where: str, reason: str) -> None:
        """Leave a record out."""
        self.unusable.append(Unusable(where, reason))

    def labels(self) -> Labels:
        """One label a question."""
        found = []
        for key, votes in self.votes.items():
            agreed = {target: _agreed(said) for target, said in votes.items()}
            targets = tuple(replace(target, grade=grade) for target, grade in agreed.items() if grade is not None)
            self.undecided += len(votes) - len(targets)
            if targets:
                found.append(Label(self.questions[key], targets, held_out=key[1]))
        return Labels(tuple(found), tuple(self.unusable), self.withheld, self.undecided, self.confined)


def _agreed(votes: Sequence[float]) -> float | None:
    """What the votes on one passage come to: the best grade if more are for it, 0 if more are against it, None in a draw.

    A passage that was shown and not clicked (a vote of 0) takes nothing from one that was clicked; doubts alone make none wrong.
    """
    balance = sum((vote > 0) - (vote < 0) for vote in votes)
    if balance > 0:
        return max(votes)
    if balance < 0 and min(votes) == DOUBT:
        return None
    return None if balance == 0 and any(votes) else 0.0


def _records(path: Path, gathered: _Gathered) -> Iterator[tuple[str, Row, bool]]:
    """The rows of a file of pairs or of a log, under lower-case names."""
    rows = [(f"{path.name}:{line}", plain(row)) for line, row in _rows(path, gathered)]
    if rows and not any(name in row for _, row in rows for name in QUESTION):
        seen = ", ".join(sorted({name for _, row in rows[:100] for name in row}))
        raise TrainError(f"{path} has no column for the question; it has {seen}", f"name one of them {' or '.join(QUESTION[:3])}")
    starred = any(_number(row.get(name)) > 1 for _, row in rows for name in STARS)
    for where, row in rows:
        yield where, _of_five(row) if starred else row, False


def _rows(path: Path, gathered: _Gathered) -> Iterator[tuple[int, Row]]:
    ending = path.suffix.lower()
    if ending in (".jsonl", ".ndjson"):
        return _json_lines(path, gathered)
    if ending in (".csv", ".tsv"):
        return _table(path, "\t" if ending == ".tsv" else ",")
    raise TrainError(f"{path} is no file of labels: it ends in {ending or 'nothing'}", "give a .jsonl, .csv or .tsv file, or a BEIR folder")


def _json_lines(path: Path, gathered: _Gathered) -> Iterator[tuple[int, Row]]:
    """The objects of a file, by line; a list is a question, what answers it, and what does not."""
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            gathered.refuse(f"{path.name}:{number}", f"is not JSON: {error}")
            continue
        if isinstance(row, dict):
            yield number, row
        elif isinstance(row, list) and len(row) > 1:
            yield number, {"question": row[0], "positive": row[1], "negatives": row[2:]}
        else:
            gathered.refuse(f"{path.name}:{number}", "is not a JSON object")


def _table(path: Path, delimiter: str) -> Iterator[tuple[int, Row]]:
    """The rows of a table, whose first line names the columns."""
    reader = csv.DictReader(_text(path).splitlines(keepends=True), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            yield reader.line_num, {name: value for name, value in row.items() if name is not None}
    except csv.Error as error:
        hint = "put fields that hold a quote or a line break in quotes, and double the quotes inside"
        raise TrainError(f"{path} can't be read after line {reader.line_num}: {error}", hint) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainError(f"{path} can't be read as labels: {error}", "ragstone train --pairs labels.jsonl") from error


def _beir(folder: Path, gathered: _Gathered) -> Iterator[tuple[str, Row, bool]]:
    """The judgements of a BEIR folder's `train` and `dev` splits, with the words of its documents; `test` is not even opened."""
    splits = {split: folder / "qrels" / f"{split}.tsv" for split in ("train", "dev")}
    if not splits["train"].is_file():
        hint = "a folder of labels holds queries.jsonl and qrels/train.tsv; the test split is never read"
        raise TrainError(f"{folder} has no qrels/train.tsv", hint)
    judged = [(split, *line) for split, path in splits.items() if path.is_file() for line in _judgements(path, gathered)]
    questions = _named(folder / "queries.jsonl", {question for _, _, question, _, _ in judged}, gathered)
    documents = _named(folder / "corpus.jsonl", {document for _, _, _, document, _ in judged}, gathered)
    for split, where, question, document, grade in judged:
        if question not in questions:
            gathered.refuse(where, f"queries.jsonl has no {question!r}")
            continue
        words = documents.get(document, {})
        passage = {"_id": document, "text": words.get("text"), "title": words.get("title")}
        yield where, {"question": questions[question].get("text"), "passage": passage, "relevance": grade}, split == "dev"


def _judgements(path: Path, gathered: _Gathered) -> Iterator[tuple[str, str, str, float]]:
    """Where each judgement stands, its question, document and grade. Below 0 is no judgement: collections mark odd cases so."""
    for number, line in enumerate(_text(path).splitlines()[1:], 2):
        where = f"{path.parent.name}/{path.name}:{number}"
        try:
            question, document, grade = line.split("\t")
            if float(grade) >= 0:
                yield where, question, document, float(grade)
        except ValueError:
            gathered.refuse(where, "is not a question's id, a document's id and a grade, with tabs between them")


def _named(path: Path, wanted: set[str], gathered: _Gathered) -> dict[str, Row]:
    """The wanted objects of a file, by `_id`; none when there is no such file."""
    rows = _json_lines(path, gathered) if path.is_file() else iter(())
    return {str(row["_id"]): row for _, row in rows if str(row.get("_id")) in wanted}


def plain(row: Row) -> dict[str, object]:
    """The row under lower-case names, without what it leaves empty."""
    named = {re.sub(r"[\s-]+", "_", name.strip().lower()): value for name, value in row.items()}
    return {name: value for name, value in named.items() if name == "consent" or value not in (None, "", [])}


def question_of(row: Row) -> str:
    """The record's question on one line. Raises `ValueError` when it has none."""
    found = _first(row, QUESTION)
    if not isinstance(found, str) or not re.search(r"\w", found):
        raise ValueError("has no question")
    return " ".join(found.split())


def said(row: Row) -> Iterator[tuple[Target, float]]:
    """The record's passages with a vote on each; none when it says neither yes nor no. Raises `ValueError` when it has no passage."""
    vote, groups = _vote(row), _groups(row.get("groups"))
    answers = [Target(name=str(id)) for id in _listed(row[HITS])] if _is_feedback(row) else _answers(row)
    others = [target for name, value in row.items() if NEGATIVE.fullmatch(name) for target in _targets(value)]
    if not answers and not others:
        raise ValueError("names no chunk, document or passage")
    if vote is not None:
        yield from ((replace(target, groups=groups), vote) for target in answers)
    yield from ((replace(target, groups=groups), -1.0) for target in others)


def _answers(row: Row) -> list[Target]:
    """What the record offers as an answer; a name beside a single passage is that passage's."""
    passages = list(_targets(_first(row, (*PASSAGE, *LOOSE))))
    name = _first(row, NAME)
    if name is None or len(passages) > 1:
        return passages
    return [replace(passages[0] if passages else Target(), name=str(name))]


def _targets(value: object) -> Iterator[Target]:
    """The passages in a value: text, a number that is a name, an object with a name, text or both, or a list of these."""
    if isinstance(value, str):
        yield Target(text=value.strip())
    elif isinstance(value, int):
        yield Target(name=str(value))
    elif isinstance(value, dict):
        name, text = _first(value, (*NAME, "_id", "id")), _first(value, ("text", "content", *PASSAGE, *LOOSE))
        if name is not None or text:
            yield Target("" if name is None else str(name), str(text or "").strip(), str(value.get("title") or ""))
    elif isinstance(value, list):
        for one in value:
            yield from _targets(one)


def _vote(row: Row) -> float | None:
    """How good the record says its answer is: a grade, -1 for wrong, 0 for not clicked, None for neither."""
    if _is_feedback(row):
        return _verdict(row[VERDICT])
    name = next((name for name in VOTES if name in row), None)
    if name is None:
        return 1.0
    value = row[name]
    if value is None:
        return None
    number = _number(value)
    if math.isnan(number):
        raise ValueError(f"{name} = {value!r} says neither yes nor no")
    if name in CLICKS:
        return float(number > 0)
    return number if number >= 0.5 else -1.0


def _is_feedback(row: Row) -> bool:
    return RELEASE in row and VERDICT in row


def _verdict(value: object) -> float:
    """The vote of a verdict on an answer."""
    number = _number(value)
    if math.isnan(number):
        raise ValueError(f"{VERDICT} = {value!r} says neither up nor down")
    return 1.0 if number > 0 else DOUBT


def _number(value: object) -> float:
    """The value as a number, words of approval as 1 and of refusal as 0; NaN for anything else."""
    word = str(value).strip().lower()
    if word in UP or word in DOWN:
        return float(word in UP)
    try:
        return float(word)
    except ValueError:
        return float("nan")


def _of_five(row: Row) -> Row:
    """The row with its stars as a vote: four and five are for it, one and two against, three is neither."""
    name = next((name for name in STARS if name in row), None)
    if name is None:
        return row
    stars = _number(row[name])
    return row if math.isnan(stars) else {**row, name: stars - 3 if abs(stars - 3) >= 1 else None}


def _groups(value: object) -> tuple[str, ...]:
    names = value if isinstance(value, list) else str(value or "").split(",")
    return tuple(sorted({str(name).strip() for name in names} - {""}))


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _agrees(value: object) -> bool:
    return _number(value) > 0


def _first(row: Row, names: Sequence[str]) -> object:
    """The value under the first of these names that the row has."""
    return next((row[name] for name in names if name in row), None)

"""Exams: what a release is worth on questions of the user's own, and what is said when two are compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ragstone import config, exam, project
from ragstone.corpus import questions as asked
from ragstone.corpus.questions import Posed
from ragstone.errors import ExamError, GeneratorError, ReleaseError
from ragstone.exam import Mark, Paper, Report, groundedness
from ragstone.rag import Citation
from ragstone.show import Advance, Silence
from tests.origins import Site, site
from tests.speaker import Speaker
from tests.test_cli import ragstone

PRIMED = "How long is the feed pump primed?"
TRUE = "Prime the feed pump for ninety seconds before it is started."
SEAL = "With what is the mechanical seal flushed?"
FOREIGN = "Who won the football world cup?"
VAULT = "With which code does the vault open?"
LINES: list[dict[str, Any]] = [
    {"question": PRIMED, "document": "pump.md"},
    {"question": SEAL, "passage": "The mechanical seal of the feed pump is flushed with water at 6 bar."},
    {"question": FOREIGN, "answerable": False},
]


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """A file of these lines, each a record or the line itself."""

    def write(*lines: object, name: str = "questions.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), encoding="utf-8")
        return path

    return write


# ---- reading questions

FAULTS = [
    ('{"question": ', "questions.jsonl:2 is not JSON", '{"question":'),
    ('["a", "b"]', "questions.jsonl:2 is", "not an object"),
    ({"prompt": "why?"}, "questions.jsonl:2 has no question", "'prompt'"),
    ({"question": 7}, "questions.jsonl:2 has no question", "'question'"),
    ({"question": "why?", "answerable": "perhaps"}, "answerable = 'perhaps'", "write true or false"),
    ({"question": "why?", "answerable": False, "document": "a.md"}, "names what answers it", "leave out one"),
    ({"question": "why?", "groups": "staff"}, "groups = 'staff'", '["public"]'),
    ({"question": "why?", "negative": "Not this."}, "names only what does not answer it", "'document'"),
    ({"question": "why?", "document": "a.md", "relevance": 0}, "names only what does not answer it", "'document'"),
    ({"question": "why?", "document": {"page": 3}}, "names no chunk, document or passage", ""),
]


@pytest.mark.parametrize(("line", "named", "told"), FAULTS, ids=lambda value: str(value)[:40])
def test_a_bad_line_is_named_with_what_was_seen_and_what_to_write(file: Callable[..., Path], line: object, named: str, told: str) -> None:
    with pytest.raises(ExamError) as refused:
        asked.read(file(LINES[0], line))
    assert named in refused.value.message
    assert told in refused.value.message
    assert '{"question": ' in refused.value.hint


def test_all_bad_lines_are_counted_and_the_first_are_named(file: Callable[..., Path]) -> None:
    with pytest.raises(ExamError, match=r"^7 of the questions can't be asked: questions\.jsonl:1 .*questions\.jsonl:5 [^;]*; …"):
        asked.read(file(*[{"q": "why?"}] * 7))


@pytest.mark.parametrize("name", ["questions.txt", "questions"])
def test_another_kind_of_file_is_refused_by_its_ending(file: Callable[..., Path], name: str) -> None:
    with pytest.raises(ExamError, match="no file of questions"):
        asked.read(file(*LINES, name=name))


def test_a_file_that_is_empty_or_not_there_is_named(file: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ExamError, match="holds no question"):
        asked.read(file(""))
    with pytest.raises(ExamError, match="nowhere"):
        asked.read(tmp_path / "nowhere.jsonl")


def test_lines_that_ask_the_same_are_one_question_with_all_that_they_name(file: Callable[..., Path]) -> None:
    (one,) = asked.read(file({"question": "Why?", "document": "a.md"}, "", {"query": "why?", "document": "b.md", "relevance": 2}))
    assert [(target.name or target.text, target.grade) for target in one.targets] == [("a.md", 1.0), ("b.md", 2.0)]
    assert (one.text, one.where) == ("Why?", "questions.jsonl:1")


def test_the_same_question_of_other_groups_is_another(file: Callable[..., Path]) -> None:
    found = asked.read(file({"question": "Why?"}, {"question": "Why?", "groups": ["staff", "public"]}), ("guests",))
    assert [one.groups for one in found] == [("guests",), ("public", "staff")]


def test_two_lines_that_contradict_each_other_are_refused(file: Callable[..., Path]) -> None:
    with pytest.raises(ExamError, match=r"questions\.jsonl:2 asks what questions\.jsonl:1 asks"):
        asked.read(file({"question": "Why?"}, {"question": "why?", "answerable": False}))


# ---- groundedness

PASSAGES = (
    Citation(1, "a", "pump.md", "Feed pump", (), 0, 1, 0.9, TRUE),
    Citation(2, "b", "valve.md", "Valve", (), 0, 1, 0.9, "Graphite packing is replaced every four years."),
)
SAID = [
    (f"{TRUE} [1]", 1.0),
    (f"{TRUE} [2]", 0.0),
    (f"{TRUE} [1] The boiler holds 40 tons. [1]", 0.5),
    (f"{TRUE}", 0.0),
    ("Prime the feed pump for nine seconds before it is started. [1]", 0.0),
    (f"Quoted from the documents, because no generated answer could be verified against them:\n\n“{TRUE}” [1]", 1.0),
    ("Does it run? [1]", None),
]


@pytest.mark.parametrize(("text", "share"), SAID, ids=[text[:40] for text, _ in SAID])
def test_a_claim_counts_when_the_passage_that_it_cites_carries_it(text: str, share: float | None) -> None:
    assert groundedness(text, PASSAGES) == share


# ---- comparing


def report(before: list[Mark], after: list[Mark]) -> Report:
    posed = [Posed(f"question {n}?") for n in range(len(before))]
    return exam.report(posed, [Paper("r-1", tuple(before)), Paper("r-2", tuple(after))])


def test_a_release_that_finds_more_in_every_document_is_better_and_one_that_finds_less_is_worse() -> None:
    bad, good = ([Mark(recall=value, document=f"d{n}") for n in range(20)] for value in (0.0, 1.0))
    assert [figure.verdict for figure in report(bad, good).figures] == ["better"]
    assert [figure.verdict for figure in report(good, bad).figures] == ["worse"]
    assert [figure.verdict for figure in report(good, good).figures] == ["no difference shown"]


def test_many_questions_of_one_document_prove_nothing() -> None:
    before = [Mark(recall=0.0, document=f"d{n}") for n in range(10)] + [Mark(recall=0.0, document="d0")] * 40
    after = [replace(mark, recall=1.0 if mark.document == "d0" else 0.0) for mark in before]
    assert report(before, after).figures[0].verdict == "no difference shown"


def test_a_few_documents_are_too_few_to_tell() -> None:
    bad, good = ([Mark(recall=value, document=f"d{n % 9}") for n in range(90)] for value in (0.0, 1.0))
    assert report(bad, good).figures[0].verdict == "too few documents to tell"


def test_a_document_that_one_release_lacks_counts_as_not_found_there() -> None:
    (figure,) = report([Mark()], [Mark(recall=1.0, document="new.md")]).figures
    assert (figure.metric, figure.means, figure.questions) == ("recall@10", (0.0, 1.0), 1)


def test_an_answer_counts_in_a_comparison_only_when_both_gave_one() -> None:
    (figure,) = report([Mark(groundedness=1.0), Mark()], [Mark(groundedness=0.5), Mark(groundedness=0.0)]).figures
    assert (figure.means, figure.questions) == ((1.0, 0.5), 1)


# ---- a release


@pytest.fixture(scope="module")
def house(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return site(tmp_path_factory.mktemp("exam"), speaker.url)


def examine(house: Site, path: Path, *names: str, answers: bool = True) -> Report:
    return project.examine(house.settings, house.store, asked.read(path), names, Silence(), answers=answers)


def figures(report: Report) -> dict[str, tuple[float, ...]]:
    return {figure.metric: figure.means for figure in report.figures}


def test_a_release_is_judged_by_what_it_finds_and_by_what_it_says(house: Site, speaker: Speaker, file: Callable[..., Path]) -> None:
    speaker.reset()
    speaker.reply = lambda prompt: TRUE if PRIMED in prompt else "It is flushed with beer."
    found = figures(examine(house, file(*LINES)))
    assert found["recall@10"] == found["refused"] == found["answered"] == found["groundedness"] == (1.0,)
    assert found["in its own words"] == (0.5,)
    assert 0 < found["nDCG@10"][0] <= 1
    assert 0 < found["citation precision"][0] <= 1


def test_without_answers_no_generator_is_asked(house: Site, speaker: Speaker, file: Callable[..., Path]) -> None:
    speaker.reset()
    speaker.asked.clear()
    assert set(figures(examine(house, file(*LINES), answers=False))) == {"recall@10", "nDCG@10", "answered", "refused"}
    assert speaker.asked == []


class Bars(Silence):
    """How far each bar came, of how much."""

    def __init__(self) -> None:
        self.reached: dict[str, tuple[int, int | None]] = {}

    @contextmanager
    def bar(self, label: str, total: int | None = None) -> Iterator[Advance]:
        def advance(
            done: int, total: int | None = total, note: str = "", left: float | None = None, figures: Mapping[str, float] | None = None
        ) -> None:
            self.reached[label] = done, total

        yield advance


def test_progress_is_told_for_searches_then_for_the_answers_that_are_needed(
    house: Site, speaker: Speaker, file: Callable[..., Path]
) -> None:
    speaker.reset(TRUE)
    bars = Bars()
    project.examine(house.settings, house.store, asked.read(file(*LINES)), (), bars)
    assert bars.reached == {"search": (3, 3), "answer": (2, 2)}


def test_an_exam_goes_on_where_the_generator_died(house: Site, speaker: Speaker, file: Callable[..., Path]) -> None:
    speaker.reset()
    path = file({"question": PRIMED}, {"question": SEAL})
    speaker.reply = lambda prompt: TRUE if PRIMED in prompt else None
    with pytest.raises(GeneratorError):
        examine(house, path)
    speaker.reset(TRUE)
    speaker.asked.clear()
    examine(house, path, answers=False)  # forgets nothing that another exam still needs
    examine(house, path)
    assert [SEAL in str(one) for one in speaker.asked] == [True]
    speaker.asked.clear()
    examine(house, path)
    assert len(speaker.asked) == 2, "a finished exam is taken anew"


def test_a_question_sees_only_what_its_groups_may_read(house: Site, file: Callable[..., Path]) -> None:
    path = file({"question": VAULT, "document": "vault.md"}, {"question": VAULT, "document": "vault.md", "groups": ["managers"]})
    found = examine(house, path, answers=False)
    assert [mark.recall for mark in found.papers[0].marks] == [None, 1.0]
    assert [(one.where, "public" in one.reason) for one in found.unusable] == [("questions.jsonl:1", True)]


def test_a_passage_that_no_release_has_is_named_and_not_judged(house: Site, file: Callable[..., Path]) -> None:
    gone = {"question": PRIMED, "passage": "A passage of nine words that stands in no document whatsoever."}
    found = examine(house, file(gone, {"question": SEAL, "document": "nowhere.md"}), answers=False)
    assert {one.where for one in found.unusable} == {"questions.jsonl:1", "questions.jsonl:2"}
    assert "recall@10" not in figures(found)


def test_two_releases_are_compared_question_by_question(house: Site, speaker: Speaker, file: Callable[..., Path]) -> None:
    before = house.build().id
    (house.docs / "fan.md").write_text("# Fan\n\nGrease the bearing of the induced draught fan with two strokes of the gun each week.\n")
    after = house.build().id
    speaker.reset(TRUE)
    found = examine(house, file(*LINES, {"question": "How is the fan's bearing greased?", "document": "fan.md"}), before, after)
    assert list(figures(found)["recall@10"]) == pytest.approx([2 / 3, 1.0])
    told = found.json()
    assert told["releases"] == [before, after]
    assert [len(one["marks"]) for one in told["questions"]] == [2] * 4
    assert found.unusable == ()
    assert before in str(found)
    assert "too few documents to tell" in str(found)


def test_one_release_is_not_compared_with_itself(house: Site, file: Callable[..., Path]) -> None:
    with pytest.raises(ExamError, match="not two releases"):
        examine(house, file(*LINES), "production", "production")
    with pytest.raises(ReleaseError, match="nowhere"):
        examine(house, file(*LINES), "production", "nowhere")


def test_the_command_prints_a_line_for_each_metric_or_all_as_json(house: Site, file: Callable[..., Path]) -> None:
    path, folder = file(*LINES, {"question": SEAL, "document": "nowhere.md", "groups": ["managers"]}), house.settings.folder
    told = ragstone(folder, "eval", "--questions", str(path), "--no-answers", "--json")
    assert [figure["metric"] for figure in json.loads(told.stdout)["figures"]] == ["recall@10", "nDCG@10", "answered", "refused"]
    assert "not judged by passages: questions.jsonl:4" in told.stderr
    refused = ragstone(folder, "eval", "--questions", str(file({"q": "why?"})), status=1)
    assert "questions.jsonl:1 has no question" in refused.stderr


def test_other_sampling_is_asked_anew(house: Site, speaker: Speaker, file: Callable[..., Path]) -> None:
    speaker.reset()
    path = file({"question": PRIMED}, {"question": SEAL})
    speaker.reply = lambda prompt: TRUE if PRIMED in prompt else None
    with pytest.raises(GeneratorError):
        examine(house, path)
    speaker.reset(TRUE)
    speaker.asked.clear()
    examine(replace(house, settings=config.override(house.settings, "serve", max_tokens=64)), path)
    assert len(speaker.asked) == 2

"""Questions written by a generator: against an OpenAI-compatible server on loopback, and by the real local one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ragstone.author import IN_A_ROW, Author
from ragstone.config import Serve, Settings, Train
from ragstone.corpus import Chunk
from ragstone.corpus.written import PROMPT
from ragstone.errors import ConfigError, TrainError
from ragstone.kept import Kept
from tests.conftest import MANUALS
from tests.speaker import Speaker, speaking

PASSAGES = [Chunk(str(at), f"{at}.md", "Manual", (), 0, 0, f"Passage {at} of the manual with braces {{}}.") for at in range(10)]
KEY = "sk-very-secret"


@pytest.fixture
def speaker() -> Iterator[Speaker]:
    with speaking() as speaker:
        speaker.reply = numbered
        yield speaker


def numbered(asked: str) -> str:
    return f"What does number {asked.split('Passage ')[1].split()[0]} say?"


def author(speaker: Speaker, key: str = "") -> Author:
    return Author(Settings(train=Train(questions=speaker.url, questions_key=key), serve=Serve(api_key="sk-of-serving")), print)


def test_each_passage_is_shown_and_gets_what_was_said_of_it(speaker: Speaker, tmp_path: Path) -> None:
    seen: list[int] = []
    said = author(speaker).write(PASSAGES, Kept(tmp_path / "questions.jsonl"), seen.append)
    assert said == {chunk.id: f"What does number {chunk.id} say?" for chunk in PASSAGES}
    assert seen == list(range(1, 11))
    assert {asked["messages"][-1]["content"] for asked in speaker.asked} == {PROMPT.format(passage=chunk.context) for chunk in PASSAGES}


def test_a_killed_run_does_not_ask_again(speaker: Speaker, tmp_path: Path) -> None:
    author(speaker).write(PASSAGES[:6], Kept(tmp_path / "questions.jsonl"), lambda done: None)
    said = author(speaker).write(PASSAGES, Kept(tmp_path / "questions.jsonl"), lambda done: None)
    assert len(said) == len(speaker.asked) == len(PASSAGES)


def test_a_passage_that_is_refused_or_answered_with_nothing_is_left_out(speaker: Speaker, tmp_path: Path) -> None:
    speaker.reply = lambda asked: {"3": None, "4": ""}.get(asked.split("Passage ")[1].split()[0], numbered(asked))
    said = author(speaker).write(PASSAGES, Kept(tmp_path / "questions.jsonl"), lambda done: None)
    assert set(said) == {chunk.id for chunk in PASSAGES} - {"3"}
    assert said["4"] == ""


def test_an_answer_that_breaks_off_is_left_out_and_asked_for_again_next_time(speaker: Speaker, tmp_path: Path) -> None:
    speaker.dies_after = 10
    assert author(speaker).write(PASSAGES[: IN_A_ROW - 1], Kept(tmp_path / "questions.jsonl"), lambda done: None) == {}
    speaker.dies_after = None
    assert len(author(speaker).write(PASSAGES[:3], Kept(tmp_path / "questions.jsonl"), lambda done: None)) == 3


def test_a_generator_that_dies_on_the_way_is_an_error_and_what_it_wrote_is_kept(speaker: Speaker, tmp_path: Path) -> None:
    speaker.reply = lambda asked: numbered(asked) if int(asked.split("Passage ")[1].split()[0]) < 4 else None
    with pytest.raises(TrainError, match=r"no questions are written: .* answered 400 for 'speaker': as the test asked"):
        author(speaker).write(PASSAGES, Kept(tmp_path / "questions.jsonl"), lambda done: None)
    speaker.reply, speaker.asked = numbered, []
    assert len(author(speaker).write(PASSAGES, Kept(tmp_path / "questions.jsonl"), lambda done: None)) == 10
    assert len(speaker.asked) == 6


def test_a_dead_endpoint_is_named_before_a_passage_is_sent(tmp_path: Path) -> None:
    with speaking() as speaker:
        url = speaker.url
    gone = Author(Settings(train=Train(questions=url)), print)
    with pytest.raises(TrainError, match=r"no questions are written: http://127\.0\.0\.1:\d+/v1 can't be reached"):
        gone.write(PASSAGES, Kept(tmp_path / "questions.jsonl"), lambda done: None)


def test_the_endpoint_gets_its_own_key_and_never_that_of_serving(speaker: Speaker, tmp_path: Path) -> None:
    author(speaker).write(PASSAGES[:1], Kept(tmp_path / "a.jsonl"), lambda done: None)
    author(speaker, KEY).write(PASSAGES[:1], Kept(tmp_path / "b.jsonl"), lambda done: None)
    assert speaker.keys == [None, f"Bearer {KEY}"]
    assert KEY not in repr(Train(questions_key=KEY))


def test_a_refused_key_names_the_variable_and_is_not_quoted(speaker: Speaker, tmp_path: Path) -> None:
    speaker.status = 401
    with pytest.raises(TrainError, match="RAGSTONE_TRAIN_QUESTIONS_KEY") as caught:
        author(speaker, KEY).write(PASSAGES, Kept(tmp_path / "questions.jsonl"), lambda done: None)
    assert KEY not in str(caught.value)
    assert "RAGSTONE_SERVE" not in str(caught.value)


def test_who_writes_and_how_much_is_the_identity(speaker: Speaker) -> None:
    def identity(url: str, most: int) -> str:
        return Author(Settings(train=Train(questions=url, questions_most=most)), print).identity

    assert identity(speaker.url, 10) == identity(speaker.url, 10)
    assert len({identity(speaker.url, 10), identity(speaker.url, 20), identity(f"{speaker.url}2", 10)}) == 3


def test_a_generator_that_does_not_exist_is_refused_at_once() -> None:
    with pytest.raises(ConfigError):
        Author(Settings(train=Train(questions="smoke://signals")), print)


def test_the_shipped_generator_writes(tmp_path: Path) -> None:
    passage = Chunk("pump", "pump.md", "", (), 0, 0, MANUALS["pump.md"])
    small = Settings(train=Train(questions="local://smollm2"), serve=Serve(threads=1, slots=1, context=1024))
    said = Author(small, print).write([passage], Kept(tmp_path / "questions.jsonl"), lambda done: None)
    assert said["pump"].strip()

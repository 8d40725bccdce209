"""An answer given again to a question in other words, over HTTP: only where all that it rests on is the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ragstone import config, release
from tests.origins import Origin, running, site, until
from tests.speaker import Speaker

PRIMED = "How long is the feed pump primed?"
AGAIN = "Can you tell me how long the feed pump is primed?"
TRUE = "Prime the feed pump for ninety seconds before it is started."


@pytest.fixture(scope="module")
def shared(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    made = site(tmp_path_factory.mktemp("reuse"), speaker.url)
    with running(replace(made, settings=config.override(made.settings, "api", reuse_mb=1))) as origin:
        yield origin


@pytest.fixture
def origin(shared: Origin, speaker: Speaker) -> Origin:
    """The shared origin; its generator says what is true."""
    speaker.reset(TRUE)
    return shared


def ask(origin: Origin, question: str | list[dict[str, Any]], seed: int, **fields: Any) -> Any:
    """The `ragstone` field; each test has a seed of its own, so that none meets another's answers."""
    return origin.chat(question, seed=seed, **fields).json["ragstone"]


def test_a_question_in_other_words_gets_the_answer_and_is_told_whose_it_is(origin: Origin, speaker: Speaker) -> None:
    first, asked = origin.chat(PRIMED, seed=1), len(speaker.asked)
    again, stream = origin.chat(AGAIN, seed=1), origin.chat(AGAIN, seed=1, stream=True)
    assert len(speaker.asked) == asked, "the generator was asked"
    assert again.json["choices"][0]["message"] == first.json["choices"][0]["message"]
    told = again.json["ragstone"]
    assert (told["reused"], told["question"]) == (PRIMED, AGAIN)
    assert told["citations"][0]["text"] == first.json["ragstone"]["citations"][0]["text"]
    assert again.json["usage"]["total_tokens"] == 0
    assert again.headers["x-ragstone-reused"] == stream.headers["x-ragstone-reused"] == quote(PRIMED, safe=" ")
    assert f'"reused":"{PRIMED}"' in stream.data.decode()
    assert "x-ragstone-reused" not in first.headers
    assert b"ragstone_reused_total" in origin.request("GET", "/metrics").data


def test_a_reused_answer_is_confirmed_as_one_and_never_takes_the_place_of_ones_own(origin: Origin) -> None:
    own = origin.chat(PRIMED, seed=2).headers["etag"]
    reused = origin.chat(AGAIN, seed=2).headers["etag"]
    assert reused.endswith('-reused"')
    assert reused != own
    assert origin.chat(AGAIN, seed=2, headers={"if-none-match": reused}).status == 304
    assert origin.chat(PRIMED, seed=2, headers={"if-none-match": reused}).status == 200


@pytest.mark.parametrize(
    ("seed", "question", "fields"),
    [
        (3, "How long is the feed pump not primed?", {}),
        (4, "How long is the feed pump E-1042 primed?", {}),
        (5, AGAIN, {"max_tokens": 99}),
        (6, AGAIN, {"metadata": {"a": "b"}}),
        (7, AGAIN, {"ragstone": {"top_k": 1, "similarity_threshold": 0.0}}),
        (8, AGAIN, {"headers": {"cache-control": "no-store"}}),
        (9, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": AGAIN}], {}),
    ],
)
def test_what_differs_in_anything_else_is_made_anew(origin: Origin, seed: int, question: Any, fields: dict[str, Any]) -> None:
    assert "reused" not in ask(origin, PRIMED, seed)
    assert "reused" not in ask(origin, question, seed, **fields)


def test_groups_never_share_an_answer(origin: Origin) -> None:
    ask(origin, PRIMED, 10)
    manager = origin.site.key(groups=("managers", "public"))
    assert "reused" not in ask(origin, AGAIN, 10, token=manager)
    assert "reused" in ask(origin, AGAIN, 10)


def test_an_answer_that_was_not_to_be_kept_is_not_given_again(origin: Origin) -> None:
    ask(origin, PRIMED, 11, headers={"cache-control": "no-store"})
    assert "reused" not in ask(origin, AGAIN, 11)


def test_a_purge_and_a_new_release_have_answers_made_anew(origin: Origin) -> None:
    ask(origin, PRIMED, 12)
    at = release.purge(origin.site.store, "production")
    until(lambda: bool(origin.request("GET", "/v1/release").json["purged"] == at))
    assert "reused" not in ask(origin, AGAIN, 12)
    before = origin.release
    (origin.site.docs / "hoist.md").write_text("# Hoist\n\nThe hoist lifts two tonnes.\n")
    origin.site.build()
    until(lambda: origin.release != before)
    assert "reused" not in ask(origin, AGAIN, 12)


def test_nothing_is_reused_unless_the_setting_says_so(speaker: Speaker, tmp_path: Path) -> None:
    speaker.reset(TRUE)
    with running(site(tmp_path, speaker.url)) as origin:
        ask(origin, PRIMED, 13)
        assert "reused" not in ask(origin, AGAIN, 13)

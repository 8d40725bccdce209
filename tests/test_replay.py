from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstone import replay
from ragstone.replay import Fold
from ragstone.wire import EventReader

VECTORS = json.loads((Path(__file__).parent / "vectors" / "transcripts.json").read_text(encoding="utf-8"))
WHOLE = [one for one in VECTORS["transcripts"] if one["complete"]]


def fold(chunks: list[dict[str, Any]]) -> Fold:
    folded = Fold()
    for chunk in chunks:
        folded.add(chunk)
    return folded


def read(stream: bytes) -> list[dict[str, Any]]:
    reader = EventReader()
    events = [orjson.loads(data) for data in reader.feed(stream)]
    assert reader.done
    return events


@pytest.mark.parametrize("transcript", VECTORS["transcripts"], ids=lambda one: one["name"])
def test_a_stream_is_whole_only_when_every_choice_has_ended(transcript: dict[str, Any]) -> None:
    assert fold(transcript["chunks"]).complete == transcript["complete"]


@pytest.mark.parametrize("transcript", WHOLE, ids=lambda one: one["name"])
def test_chunks_fold_into_the_completion_and_back(transcript: dict[str, Any]) -> None:
    folded = fold(transcript["chunks"])
    assert folded.completion() == transcript["completion"]
    assert folded.tokens == transcript["tokens"]
    assert read(replay.stream(transcript["completion"], include_usage=False)) == transcript["replayed"]
    assert read(replay.stream(transcript["completion"], include_usage=True)) == transcript["replayed_with_usage"]


@given(st.text(max_size=300), st.sampled_from(["stop", "length"]), st.none() | st.dictionaries(st.text(max_size=5), st.booleans()))
def test_a_replay_folds_into_what_was_replayed(text: str, finish: str, ragstone: dict[str, bool] | None) -> None:
    message = {"role": "assistant", "content": text, "refusal": None}
    completion: dict[str, Any] = {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m"}
    completion["choices"] = [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}]
    completion["usage"] = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    if ragstone is not None:
        completion["ragstone"] = ragstone
    assert fold(read(replay.stream(completion, include_usage=True))).completion() == completion


def test_usage_is_taken_out_of_a_live_event_for_who_did_not_ask() -> None:
    both = {"id": "c", "choices": [], "usage": {"total_tokens": 3}, "ragstone": {"release": "r-a"}}
    assert replay.without_usage(orjson.dumps(both), both) == b'{"id":"c","choices":[],"ragstone":{"release":"r-a"}}'
    alone = {"id": "c", "choices": [], "usage": {"total_tokens": 3}}
    assert replay.without_usage(orjson.dumps(alone), alone) is None
    plain = {"id": "c", "choices": [{"index": 0, "delta": {"content": "a"}}]}
    assert replay.without_usage(b"as it came", plain) == b"as it came"


def test_a_confirmed_answer_names_the_release_that_confirmed_it() -> None:
    body = b'{"choices":[],"ragstone":{"release":"r-a","basis":"generated"}}'
    assert orjson.loads(replay.renewed(body, "r-b"))["ragstone"] == {"release": "r-b", "basis": "generated"}
    assert replay.renewed(body, "r-a") is body
    assert replay.renewed(b'{"choices":[]}', "r-b") == b'{"choices":[]}'


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": [{"index": "0", "delta": {}}]},
        {"choices": [7]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 9, "id": "t"}]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": -1}]}}]},
        {"choices": 7},
    ],
)
def test_a_chunk_that_is_none_is_an_error_not_an_answer(chunk: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError)):
        Fold().add(chunk)


@pytest.mark.parametrize("usage", [None, 3, {}, {"total_tokens": "3"}, {"total_tokens": -1}, {"total_tokens": True}])
def test_usage_that_is_no_count_counts_as_unknown(usage: object) -> None:
    assert replay.used({"usage": usage}) is None

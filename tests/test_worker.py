"""The Worker's rules in workerd, by the cases that the Python modules obey; and its source, its types and its size."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from ragstone import canonical, npm
from ragstone.edge.cloudflare import SOURCE
from ragstone.wire import EventReader
from tests import workerd
from tests.conformance.bench import ROOT
from tests.sequences import steps
from tests.test_canonical import raw

Rule = Callable[..., Any]


def vectors(name: str) -> Any:
    return json.loads((ROOT / "tests" / "vectors" / f"{name}.json").read_text(encoding="utf-8"))


NAMES = ("keys", "cache", "limits", "tokens", "transcripts", "shares")
KEYS, CACHE, LIMITS, TOKENS, TRANSCRIPTS, SHARES = map(vectors, NAMES)
WHOLE = [one for one in TRANSCRIPTS["transcripts"] if one["complete"]]


class Refused(Exception):
    """The rule threw: its status, and the error in OpenAI's JSON."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status, body)
        self.status, self.error = status, body["error"]


@pytest.fixture(scope="module")
def rule(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rule]:
    """Calls a rule of `ragstone/worker/vectors.ts`."""
    with workerd.running(SOURCE / "vectors.ts", tmp_path_factory.mktemp("worker")) as url:
        connection = HTTPConnection(url.removeprefix("http://"), timeout=60)

        def call(name: str, /, **given: Any) -> Any:
            connection.request("POST", f"/{name}", json.dumps(given))
            answer = connection.getresponse()
            body = json.loads(answer.read())
            if answer.status != 200:
                raise Refused(answer.status, body)
            return body["is"]

        yield call
        connection.close()


def packed(data: bytes) -> str:
    return base64.b64encode(data).decode()


# ---- keys


@pytest.mark.parametrize("case", KEYS["cases"], ids=lambda case: case["name"])
def test_a_body_has_the_key_that_every_edge_gives_it(rule: Rule, case: dict[str, Any]) -> None:
    assert rule("key", body=packed(case["body"].encode()), tenant=case["tenant"], groups=case["groups"]) == case["key"]


@pytest.mark.parametrize("case", KEYS["unkept"], ids=lambda case: case["name"])
def test_a_number_that_shares_its_double_makes_no_key_and_is_sent_as_it_was_written(rule: Rule, case: dict[str, Any]) -> None:
    body = packed(case["body"].encode())
    assert rule("key", body=body, tenant="acme", groups=["public"]) is None
    sent = rule("sent", body=body)
    assert case["body"][1:-1] in sent
    assert json.loads(sent) == {**json.loads(case["body"]), "stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("case", KEYS["refused"], ids=lambda case: case["name"])
def test_a_body_that_two_readers_could_take_differently_is_refused(rule: Rule, case: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        rule("key", body=packed(raw(case)), tenant="acme", groups=["public"])
    assert (caught.value.status, caught.value.error["code"]) == (400, "invalid_json")
    assert len(caught.value.error["message"]) < 200


def test_numbers_and_text_are_spelled_as_python_spells_them(rule: Rule) -> None:
    numbers = [0.1, 1e-7, 5e-324, -0.0, 2**53 - 1, 1e-6, 0.000001234, 1 / 3, 100.0, -1.5e-300]
    body = {"a": numbers, "é\u20ac\U0001f600": "\x00\x1f\x7f\u2028\\\"/\t"}
    assert rule("key", body=packed(json.dumps(body).encode()), tenant="t", groups=["g"]) == canonical.key(body, "t", ["g"])


# ---- tokens


@pytest.mark.parametrize("case", TOKENS["accepted"], ids=lambda case: case["name"])
def test_a_key_stands_for_whom_every_edge_says(rule: Rule, case: dict[str, Any]) -> None:
    given = {"token": case["token"], "keys": TOKENS["keys"], "revoked": TOKENS["revoked"], "now": case["now"]}
    principal = rule("verify", **given)
    assert {name: principal[name] for name in case["principal"]} == case["principal"]


@pytest.mark.parametrize("case", TOKENS["refused"], ids=lambda case: case["name"])
def test_a_bad_key_is_refused(rule: Rule, case: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        rule("verify", token=case["token"], keys=TOKENS["keys"], revoked=TOKENS["revoked"], now=case["now"])
    assert (caught.value.status, caught.value.error["code"]) == (401, "invalid_api_key")
    assert not case["token"] or case["token"] not in caught.value.error["message"]


# ---- cache and limits


@pytest.mark.parametrize("case", CACHE["cases"], ids=lambda case: case["name"])
def test_an_entry_is_served_asked_for_or_passed_by_as_every_edge_does(rule: Rule, case: dict[str, Any]) -> None:
    assert rule("decide", **case) == {"decision": case["decision"], "stand_in": case["stand_in"]}


@pytest.mark.parametrize("sequence", LIMITS["sequences"], ids=lambda sequence: sequence["name"])
def test_a_key_is_admitted_and_told_what_every_edge_tells_it(rule: Rule, sequence: dict[str, Any]) -> None:
    most = {"rpm": sequence["rpm"], "tpm": sequence["tpm"]}
    taken = None
    for step in steps(sequence):
        verdict = rule("take", **most, taken=taken, kind=step.kind, cost=step.cost, owed=step.owed, at=step.at)
        assert verdict["wait"] == pytest.approx(step.wait, abs=2e-6)
        assert {name: verdict["headers"][name] for name in step.headers} == step.headers
        taken = verdict["taken"]


@pytest.mark.parametrize("case", LIMITS["estimates"], ids=lambda case: json.dumps(case["body"]))
def test_the_tokens_of_an_answer_are_estimated_from_its_body(rule: Rule, case: dict[str, Any]) -> None:
    assert rule("estimate", **case) == case["tokens"]


@pytest.mark.parametrize("case", LIMITS["durations"], ids=lambda case: case["text"])
def test_a_duration_is_written_as_openai_writes_it(rule: Rule, case: dict[str, Any]) -> None:
    assert rule("duration", seconds=case["seconds"]) == case["text"]


@pytest.mark.parametrize("case", SHARES["cases"], ids=lambda case: case["name"])
def test_a_conversation_is_answered_by_the_release_that_every_edge_says(rule: Rule, case: dict[str, Any]) -> None:
    assert rule("shares", **case) == case["release"]


# ---- streams


def read(stream: str) -> list[Any]:
    reader = EventReader()
    events = [json.loads(data) for data in reader.feed(stream.encode())]
    assert reader.done
    return events


@pytest.mark.parametrize("transcript", TRANSCRIPTS["transcripts"], ids=lambda one: one["name"])
def test_a_stream_is_whole_only_when_every_choice_has_ended(rule: Rule, transcript: dict[str, Any]) -> None:
    assert rule("fold", chunks=transcript["chunks"])["complete"] == transcript["complete"]


@pytest.mark.parametrize("transcript", WHOLE, ids=lambda one: one["name"])
def test_chunks_fold_into_the_completion_and_back(rule: Rule, transcript: dict[str, Any]) -> None:
    folded = rule("fold", chunks=transcript["chunks"])
    assert folded == {"complete": True, "completion": transcript["completion"], "tokens": transcript["tokens"]}
    assert read(rule("stream", completion=transcript["completion"], usage=False)) == transcript["replayed"]
    assert read(rule("stream", completion=transcript["completion"], usage=True)) == transcript["replayed_with_usage"]


@pytest.mark.parametrize("chunk", [{"choices": [{"index": "0"}]}, {"choices": [7]}, {"choices": 7},
                                   {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 9, "id": "t"}]}}]},
                                   {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": -1}]}}]}], ids=str)  # fmt: skip
def test_a_chunk_that_is_none_is_an_error_not_an_answer(rule: Rule, chunk: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        rule("fold", chunks=[chunk])


def test_usage_is_taken_out_of_a_live_event_for_who_did_not_ask(rule: Rule) -> None:
    assert rule("withoutUsage", data='{"choices":[],"usage":{"total_tokens":3},"ragstone":{}}') == 'data: {"choices":[],"ragstone":{}}\n\n'
    assert rule("withoutUsage", data='{"choices":[],"usage":{"total_tokens":3}}') == ""
    assert rule("withoutUsage", data='{"choices": [1]}') == 'data: {"choices": [1]}\n\n'


def test_a_confirmed_answer_names_the_release_that_confirmed_it(rule: Rule) -> None:
    body = '{"choices":[],"ragstone":{"release":"r-a","basis":"generated"}}'
    assert json.loads(rule("renewed", body=body, release="r-b"))["ragstone"] == {"release": "r-b", "basis": "generated"}
    assert rule("renewed", body=body, release="r-a") == body


STREAM = '\ufeff: a comment\r\n\r\ndata: {"a":\r\ndata: 1}\r\rid: 7\ndata\n\ndata:é\n\nevent: x\n\ndata: [DONE]\n\ndata: after\n\n'.encode()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_read_as_python_reads_them_cut_anywhere(rule: Rule, size: int) -> None:
    parts = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    reader = EventReader()
    events = [data.decode() for part in parts for data in reader.feed(part)]
    assert rule("events", parts=[packed(part) for part in parts]) == {"events": events, "done": reader.done}
    assert events == ['{"a":\n1}', "", "é"]


# ---- the source


def test_the_types_hold_and_none_is_any() -> None:
    installed = workerd.packages()
    compiler = installed / "node_modules" / "typescript" / "bin" / "tsc"
    roots = installed / "node_modules" / "@cloudflare"
    command: list[str | Path] = [npm.node(installed), compiler, "-p", SOURCE, "--typeRoots", roots, "--types", "workers-types"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for path in SOURCE.rglob("*.ts"):
        if "node_modules" not in path.parts:
            assert not re.search(r"[:<|]\s*any\b|\bas any\b|@ts-", path.read_text()), path

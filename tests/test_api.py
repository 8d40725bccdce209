"""The origin over HTTP, asked by the official openai client and by bare requests; corpus, index and embedding model are real."""

from __future__ import annotations

import base64
import json
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from ragstone import access, config, project, release, shares, store
from ragstone.corpus import snapshot, views
from ragstone.show import Silence
from tests.origins import Origin, Reply, Site, running, site, until
from tests.speaker import Speaker

PRIMED = "How long is the feed pump primed?"
TRUE = "Prime the feed pump for ninety seconds before it is started."
FOREIGN = "Who won the football world cup?"


@pytest.fixture(scope="module")
def shared(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    with running(site(tmp_path_factory.mktemp("api"), speaker.url)) as made:
        yield made


@pytest.fixture
def origin(shared: Origin, speaker: Speaker) -> Origin:
    """The shared origin; its generator is well and says what is true."""
    speaker.reset(TRUE)
    return shared


def refusal(reply: Reply) -> tuple[int, str, str | None]:
    """Status, code and param of an error in OpenAI's form."""
    error = reply.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return reply.status, error["code"], error["param"]


# ---- answers


def test_the_official_client_gets_an_answer_with_its_sources(origin: Origin) -> None:
    answer = origin.client.chat.completions.create(model="production", messages=[{"role": "user", "content": PRIMED}])
    assert answer.choices[0].message.content == f"{TRUE} [1]"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    told: dict[str, Any] = answer.model_extra["ragstone"] if answer.model_extra else {}
    assert (told["release"], told["basis"], told["abstained"]) == (origin.release, "generated", False)
    assert (told["citations"][0]["document"], told["citations"][0]["number"]) == ("pump.md", 1)
    assert TRUE in told["citations"][0]["text"]


def test_a_stream_says_the_same_and_ends_with_its_sources(origin: Origin, speaker: Speaker) -> None:
    speaker.text = f"{TRUE} A pump that runs dry scores its sleeve within a minute."
    whole = origin.chat(PRIMED).json
    stream = origin.client.chat.completions.create(
        model="production", messages=[{"role": "user", "content": PRIMED}], stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole["choices"][0]["message"]["content"]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    (told,) = [chunk.model_extra["ragstone"] for chunk in chunks if chunk.model_extra and "ragstone" in chunk.model_extra]
    assert told == whole["ragstone"]
    assert chunks[-1].usage
    assert chunks[-1].usage.model_dump(exclude_none=True) == whole["usage"]


def test_a_stream_without_usage_has_a_choice_in_every_chunk(origin: Origin) -> None:
    events = origin.chat(PRIMED, stream=True).events
    assert events[-1] == "[DONE]"
    assert all(json.loads(event)["choices"] for event in events[:-1])
    assert "ragstone" in json.loads(events[-2])


def test_a_sentence_is_sent_before_the_generator_has_ended(origin: Origin, speaker: Speaker) -> None:
    speaker.text, speaker.held = f"{TRUE} " + "A pump that runs dry scores its sleeve within a minute. " * 5, True
    stream = origin.client.chat.completions.create(model="production", messages=[{"role": "user", "content": PRIMED}], stream=True)
    said = next(chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta.content)
    assert said == f"{TRUE} [1]"
    speaker.go()
    stream.close()


def test_nothing_relevant_is_an_abstention_with_its_reason(origin: Origin) -> None:
    told = origin.chat(FOREIGN).json["ragstone"]
    assert (told["basis"], told["abstained"], told["citations"], told["question"]) == ("abstained", True, [], FOREIGN)
    assert told["best"] < told["threshold"] == 0.75


def test_a_caller_may_narrow_retrieval(origin: Origin) -> None:
    answer = origin.chat(PRIMED, ragstone={"similarity_threshold": 0.0, "top_k": 1, "filter": {"type": "html"}}).json
    assert {citation["document"] for citation in answer["ragstone"]["citations"]} == {"boiler.html"}
    assert answer["ragstone"]["threshold"] == 0.0


def test_sampling_reaches_the_generator(origin: Origin, speaker: Speaker) -> None:
    origin.chat(PRIMED, temperature=0.5, top_p=0.9, seed=7, stop=["END"], max_tokens=99, max_completion_tokens=33, user="u-1")
    asked = speaker.asked[-1]
    assert (asked["temperature"], asked["top_p"], asked["seed"], asked["stop"], asked["max_tokens"]) == (0.5, 0.9, 7, ["END"], 33)


def test_a_conversation_is_understood(origin: Origin) -> None:
    turns: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What does the feed pump do?"}]},
        {"role": "assistant", "content": "It moves condensate [1]."},
        {"role": "user", "content": "How long is it primed?"},
    ]
    told = origin.chat(turns).json["ragstone"]
    assert told["rewritten"]
    assert "feed pump" in told["question"]


def test_one_s_groups_decide_what_one_is_told(origin: Origin, speaker: Speaker) -> None:
    speaker.text = "The vault of the boiler house opens with the code 4711."
    question = "Which code opens the vault of the boiler house?"
    manager = origin.site.key(groups=("managers", "public"))
    assert origin.chat(question, token=manager).json["choices"][0]["message"]["content"] == f"{speaker.text} [1]"
    outsider = origin.chat(question, ragstone={"similarity_threshold": 0.0, "top_k": 50})
    assert b"4711" not in outsider.data
    assert b"vault.md" not in outsider.data
    found = origin.request("POST", "/v1/retrieve", {"query": question, "top_k": 50})
    assert b"4711" not in found.data


# ---- validators


def test_an_answer_that_would_be_the_same_is_not_made_again(origin: Origin, speaker: Speaker) -> None:
    first = origin.chat(PRIMED)
    asked = len(speaker.asked)
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}'):
        again = origin.chat(PRIMED, headers={"if-none-match": known})
        assert (again.status, again.data, again.headers["etag"]) == (304, b"", first.headers["etag"])
        assert again.headers["x-ragstone-release"] == origin.release
    assert len(speaker.asked) == asked, "the generator was asked"
    assert origin.chat("How is the feed pump primed?", headers={"if-none-match": first.headers["etag"]}).status == 200


def test_streams_and_abstentions_have_validators_too(origin: Origin) -> None:
    for question in (PRIMED, FOREIGN):
        whole, stream = origin.chat(question), origin.chat(question, stream=True)
        assert stream.headers["etag"] == whole.headers["etag"]
        assert stream.headers["x-ragstone-release"] == origin.release
        assert origin.chat(question, stream=True, headers={"if-none-match": whole.headers["etag"]}).status == 304


def test_how_long_an_answer_is_fresh_is_left_to_the_edge(origin: Origin) -> None:
    assert origin.chat(PRIMED).headers["cache-control"] == "private, max-age=0"


# ---- refusals


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [{"role": "user", "content": "why " * 9000}]}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"seed": 1.5}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"ragstone": {"top_k": 0}}, "ragstone.top_k"),
        ({"ragstone": {"similarity_threshold": 1.5}}, "ragstone.similarity_threshold"),
        ({"ragstone": {"filter": {"type": 1}}}, "ragstone.filter"),
        ({"ragstone": {"threshold": 0.5}}, "ragstone.threshold"),
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
    ],
)
def test_what_can_t_be_served_is_refused_by_name(origin: Origin, fields: dict[str, Any], param: str) -> None:
    body = {"model": "production", "messages": [{"role": "user", "content": PRIMED}], **fields}
    status, _, named = refusal(origin.request("POST", "/v1/chat/completions", body))
    assert (status, named) == (400, param)


@pytest.mark.parametrize(
    "fields",
    [{"n": 1}, {"tools": []}, {"logprobs": False}, {"response_format": {"type": "text"}}, {"frequency_penalty": 0.0}, {"stop": None},
     {"metadata": {"a": "b"}}, {"user": "u"}, {"store": False}],
)  # fmt: skip
def test_what_changes_nothing_is_accepted(origin: Origin, fields: dict[str, Any]) -> None:
    assert origin.chat(PRIMED, **fields).status == 200


@pytest.mark.parametrize("model", ["gpt-4o", "r-000000000000", "canary", "../channels", "a\0b", "x" * 5000, "/etc/passwd"])
def test_an_unknown_model_is_not_found(origin: Origin, model: str) -> None:
    reply = origin.chat(PRIMED, model=model)
    assert refusal(reply) == (404, "model_not_found", "model")
    assert len(reply.data) < 400


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"model": NaN}', b"\xff\xfe", b'{"model": "production", "messages": 1e999}',
     b'{"a":' * 50_000],
    ids=range(9),
)  # fmt: skip
def test_a_malformed_body_is_refused(origin: Origin, body: bytes) -> None:
    assert origin.request("POST", "/v1/chat/completions", body).status == 400


def test_a_body_over_the_limit_is_refused(origin: Origin) -> None:
    huge = {"model": "production", "messages": [{"role": "user", "content": "x" * 1_200_000}]}
    assert refusal(origin.request("POST", "/v1/chat/completions", huge)) == (413, "request_too_large", None)


def test_a_body_without_a_length_is_counted_as_it_comes(origin: Origin) -> None:
    host, port = origin.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {origin.token}\r\n"
        raw.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        part = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        try:
            for _ in range(40):
                raw.sendall(part)
        except OSError:
            pass  # it hung up: that is what a client that sends on must expect
        assert b" 413 " in raw.recv(200)


def test_keys_are_asked_for_everywhere_but_at_the_pointer(origin: Origin) -> None:
    body = {"model": "production", "messages": [{"role": "user", "content": PRIMED}]}
    for method, path in [("POST", "/v1/chat/completions"), ("POST", "/v1/embeddings"), ("POST", "/v1/retrieve"), ("GET", "/v1/models"),
                         ("GET", "/v1/models/production")]:  # fmt: skip
        reply = origin.request(method, path, body, token="")
        assert refusal(reply) == (401, "invalid_api_key", None), path
        assert reply.headers["www-authenticate"] == "Bearer"
    assert origin.request("GET", "/v1/release", token="").status == 200


def test_an_expired_and_a_forged_key_are_refused(origin: Origin, tmp_path: Path) -> None:
    expired, _ = origin.site.issue(expires=time.time() - 5)
    elsewhere = store.connect(str(tmp_path / "store"))
    forged, _ = access.create(tmp_path / "keys", elsewhere, tenant="acme", groups=["public"], rpm=1, tpm=1, expires=0)
    for token in (expired, forged, "nonsense", f"{origin.token}x"):
        reply = origin.chat(PRIMED, token=token)
        assert refusal(reply)[:2] == (401, "invalid_api_key")
        assert token not in reply.data.decode()


def test_a_revoked_key_is_refused_soon(origin: Origin) -> None:
    token, principal = origin.site.issue()
    assert origin.chat(PRIMED, token=token).status == 200
    access.revoke(origin.site.store, principal.key)
    until(lambda: origin.chat(PRIMED, token=token).status == 401)
    assert principal.key in origin.request("GET", "/v1/release").json["revoked"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/v1/chat/completions", 405), ("DELETE", "/v1/models", 405), ("POST", "/v1/responses", 404),
     ("GET", "/v1/models/../../etc", 404)],
)  # fmt: skip
def test_what_is_not_served_is_said_in_openai_s_form(origin: Origin, method: str, path: str, status: int) -> None:
    assert refusal(origin.request(method, path))[0] == status


# ---- a generator that fails


def test_a_generator_killed_in_mid_stream_is_an_error_event_and_no_end(origin: Origin, speaker: Speaker) -> None:
    speaker.text, speaker.dies_after = f"{TRUE} " + "A pump that runs dry scores its sleeve. " * 5, 120
    reply = origin.chat(PRIMED, stream=True)
    assert reply.status == 200
    error = json.loads(reply.events[-1])["error"]
    assert error["code"] == "generator_error"
    assert "127.0.0.1" not in error["message"]
    assert "[DONE]" not in reply.events
    assert '"finish_reason":"' not in reply.data.decode()
    with pytest.raises(openai.APIError):
        list(origin.client.chat.completions.create(model="production", messages=[{"role": "user", "content": PRIMED}], stream=True))


def test_a_generator_that_fails_at_once_is_an_http_error(origin: Origin, speaker: Speaker) -> None:
    speaker.status = 400
    for stream in (False, True):
        assert refusal(origin.chat(PRIMED, stream=stream))[:2] == (502, "generator_error")
    speaker.status = 200
    assert origin.chat(PRIMED).status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_the_generator(origin: Origin, speaker: Speaker, stream: bool) -> None:
    speaker.text, speaker.held = TRUE + " A pump that runs dry" + ", or nearly dry" * 9 + ", scores its sleeve.", True
    host, port = origin.url.removeprefix("http://").split(":")
    body = json.dumps({"model": "production", "messages": [{"role": "user", "content": PRIMED}], "stream": stream}).encode()
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {origin.token}\r\n"
        raw.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        assert speaker.begun.wait(60)
    assert speaker.left.wait(60)


# ---- beside answers


def test_embeddings_are_the_release_s_own(origin: Origin) -> None:
    texts = ["Prime the feed pump.", "The valve is closed."]
    found = origin.client.embeddings.create(model="production", input=texts)
    vectors = np.array([one.embedding for one in found.data])
    assert vectors.shape == (2, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    floats = origin.request("POST", "/v1/embeddings", {"model": "production", "input": texts[0], "encoding_format": "float"}).json
    assert np.allclose(floats["data"][0]["embedding"], vectors[0], atol=1e-6)
    packed = origin.request("POST", "/v1/embeddings", {"model": "production", "input": texts[0], "encoding_format": "base64"}).json
    assert np.allclose(np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4"), vectors[0], atol=1e-6)
    assert found.usage.prompt_tokens == found.usage.total_tokens > 5


def embedded(origin: Origin, model: str, texts: list[str], kind: str) -> np.ndarray[Any, Any]:
    reply = origin.request("POST", "/v1/embeddings", {"model": model, "input": texts, "ragstone": {"input_type": kind}})
    assert reply.status == 200, reply.json
    return np.array([one["embedding"] for one in reply.json["data"]], np.float32)


def test_a_chunk_is_embedded_as_an_index_has_it(origin: Origin) -> None:
    chunks = snapshot.load(origin.site.store, release.load(origin.site.store, origin.release).snapshot).chunks
    long = replace(chunks[0], text=f'A "quoted" \\ text.\n{chunks[0].text} ' * 20)
    expected = project.open_model(origin.site.store, release.load(origin.site.store, origin.release).model).passages([views.views(long)])
    assert len(views.views(long)) > 1
    np.testing.assert_array_equal(embedded(origin, "production", [views.passage(long)], "chunk"), expected)


def test_who_can_send_no_field_of_ours_says_in_the_address_what_the_texts_are(origin: Origin) -> None:
    def at(kind: str, text: str) -> np.ndarray[Any, Any]:
        reply = origin.request("POST", f"/v1/embeddings?input_type={kind}", {"model": "production", "input": text})
        return np.array([one["embedding"] for one in reply.json["data"]], np.float32)

    chunk = snapshot.load(origin.site.store, release.load(origin.site.store, origin.release).snapshot).chunks[0]
    for kind, text in (("query", PRIMED), ("document", PRIMED), ("chunk", views.passage(chunk))):
        np.testing.assert_array_equal(at(kind, text), embedded(origin, "production", [text], kind))
    np.testing.assert_array_equal(at("chunk", "how big"), at("chunk", '["", "how big"]'))  # an engine tries it so
    assert origin.request("POST", "/v1/embeddings?input_type=poem", {"model": "production", "input": "pump"}).status == 400


def test_a_model_can_be_asked_by_its_digest(origin: Origin) -> None:
    digest = release.load(origin.site.store, origin.release).model
    for kind in ("query", "document"):
        by_digest = embedded(origin, f"models/{digest}", [PRIMED], kind)
        np.testing.assert_array_equal(by_digest, embedded(origin, "production", [PRIMED], kind))
    for unknown in ("models/", f"models/{digest[:-1]}", "models/" + "0" * 64, "models/../releases"):
        asked = {"model": unknown, "input": "x"}
        assert refusal(origin.request("POST", "/v1/embeddings", asked)) == (404, "model_not_found", "model")


def test_models_by_digest_are_served_before_the_first_release(tmp_path: Path) -> None:
    settings = config.load(tmp_path, {})
    empty = Site(settings, store.connect(settings.store_url))
    digest = project.incumbent(empty.settings, empty.store, Silence())
    with running(empty, ready=False) as early:
        until(lambda: early.request("POST", "/v1/embeddings", {"model": f"models/{digest}", "input": "pump"}).status == 200)
        assert early.request("POST", "/v1/embeddings", {"model": "production", "input": "pump"}).status == 503


def test_shortened_embeddings_have_length_one_again(origin: Origin) -> None:
    found = origin.client.embeddings.create(model="production", input="Prime the feed pump.", dimensions=64)
    assert len(found.data[0].embedding) == 64
    assert np.isclose(np.linalg.norm(found.data[0].embedding), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"input": []}, "input"), ({"input": ""}, "input"), ({"input": [[1, 2]]}, "input"), ({"input": ["a"] * 2049}, "input"),
     ({"dimensions": 385}, "dimensions"), ({"dimensions": 0}, "dimensions"), ({"encoding_format": "int8"}, "encoding_format"),
     ({"ragstone": {"input_type": "poem"}}, "ragstone.input_type"),
     ({"ragstone": {"input_type": "chunk"}}, "input"), ({"model": "nobody"}, "model")],
)  # fmt: skip
def test_embeddings_that_can_t_be_made_are_refused_by_name(origin: Origin, fields: dict[str, Any], param: str) -> None:
    reply = origin.request("POST", "/v1/embeddings", {"model": "production", "input": "pump", **fields})
    assert (400 <= reply.status < 500, reply.json["error"]["param"]) == (True, param)


def test_retrieval_shows_every_score(origin: Origin) -> None:
    reply = origin.request("POST", "/v1/retrieve", {"query": PRIMED, "top_k": 3})
    hits = reply.json["data"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert hits[0]["document"] == "pump.md"
    assert set(hits[0]["scores"]) == {"dense", "keyword", "fused", "calibrated"}
    assert hits[0]["relevant"] is (hits[0]["scores"]["calibrated"] >= reply.json["threshold"])
    assert reply.json["release"] == reply.headers["x-ragstone-release"] == origin.release
    again = origin.request("POST", "/v1/retrieve", {"query": PRIMED, "top_k": 3}, if_none_match=reply.headers["etag"])
    assert again.status == 304
    assert refusal(origin.request("POST", "/v1/retrieve", {"question": "x"}))[2] == "question"


def test_models_are_channels_and_releases(origin: Origin) -> None:
    listed = {model.id: model for model in origin.client.models.list()}
    assert {"production", origin.release} <= set(listed)
    assert all(model.object == "model" and model.owned_by == "ragstone" for model in listed.values())
    assert origin.client.models.retrieve("production").id == "production"
    with pytest.raises(openai.NotFoundError):
        origin.client.models.retrieve("gpt-4o")


def test_a_release_is_asked_by_its_id(origin: Origin) -> None:
    assert origin.chat(PRIMED, model=origin.release).json["ragstone"]["release"] == origin.release


def test_the_pointer_says_what_an_edge_needs(origin: Origin) -> None:
    pointer = origin.request("GET", "/v1/release", token="").json
    assert set(pointer) == {"channel", "number", "release", "keys", "revoked", "canary", "purged"}
    assert (pointer["channel"], pointer["keys"]) == ("production", access.published(origin.site.store))


def test_health_and_metrics_are_open(origin: Origin) -> None:
    assert origin.request("GET", "/healthz", token="").json == {"status": "ok"}
    ready = origin.request("GET", "/readyz", token="").json
    assert (ready["status"], ready["release"]) == ("ready", origin.release)
    origin.chat(PRIMED)
    text = origin.request("GET", "/metrics", token="").data.decode()
    assert 'ragstone_requests_total{part="origin",route="/v1/chat/completions",status="200"}' in text
    assert f'ragstone_release_info{{channel="production",release="{origin.release}"}} 1.0' in text
    assert 'ragstone_answers_total{basis="generated"}' in text


def test_the_access_log_names_the_key_and_never_the_question(origin: Origin, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ragstone.access"):
        reply = origin.chat("Tell me about the purple elephant pump", headers={"x-request-id": "abc-1"})
        until(lambda: bool(caplog.records))
    assert reply.headers["x-request-id"] == "abc-1"
    fields = vars(caplog.records[-1])["fields"]
    assert (fields["id"], fields["status"], fields["tenant"], fields["path"]) == ("abc-1", 200, "acme", "/v1/chat/completions")
    assert fields["release"] == origin.release
    assert "elephant" not in str(fields)
    assert origin.token not in str(fields)


# ---- releases


@pytest.fixture
def own(speaker: Speaker, tmp_path: Path) -> Site:
    """A site for one test alone."""
    speaker.reset(TRUE)
    return site(tmp_path, speaker.url)


def edit(at: Site, seconds: str) -> str:
    """A new edition of the pump's manual, released and in force."""
    text = (at.docs / "pump.md").read_text()
    (at.docs / "pump.md").write_text(text.replace("ninety", seconds).replace("sixty", seconds))
    return at.build().id


def test_before_the_first_release_it_says_that_it_is_not_ready(speaker: Speaker, tmp_path: Path) -> None:
    settings = config.override(config.load(tmp_path, {}), "serve", url=speaker.url)
    empty = Site(settings, store.connect(settings.store_url))
    with running(empty, ready=False) as origin:
        assert origin.request("GET", "/readyz").json == {"status": "not ready", "reason": "channel production has no release yet"}
        assert origin.request("GET", "/healthz").status == 200
        assert refusal(origin.request("GET", "/v1/release")) == (503, "not_ready", None)
        until(lambda: origin.chat(PRIMED).status != 401)  # the keys are read in the background
        assert refusal(origin.chat(PRIMED)) == (503, "not_ready", None)
        site(tmp_path, speaker.url)
        until(lambda: origin.request("GET", "/readyz").status == 200)
        assert origin.chat(PRIMED).status == 200


def test_a_promotion_under_load_fails_no_request_and_mixes_no_answer(own: Site, speaker: Speaker) -> None:
    first = release.current(own.store, "production")
    assert first
    speaker.text = "A pump that runs dry scores its sleeve within a minute."
    with running(own) as origin:
        seen: Counter[str] = Counter()
        numbers = iter(range(100))
        lock = threading.Lock()

        def client() -> None:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                stream = number % 3 == 0
                reply = origin.chat(PRIMED if number % 2 else "What does the feed pump do when it runs dry?", stream=stream)
                assert reply.status == 200, reply.data
                told = json.loads(reply.events[-2])["ragstone"] if stream else reply.json["ragstone"]
                assert not stream or reply.events[-1] == "[DONE]"
                assert told["release"] == reply.headers["x-ragstone-release"]
                edition = {("ninety" in one["text"], "sixty" in one["text"]) for one in told["citations"] if one["document"] == "pump.md"}
                assert edition == {(True, False)} if told["release"] == first.release else {(False, True)}
                with lock:
                    seen[told["release"]] += 1

        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(client) for _ in range(7)]
            until(lambda: seen[first.release] >= 20)
            second = edit(own, "sixty")
            until(lambda: origin.release == second)
            release.rollback(own.store, "production")
            for one in clients:
                one.result()
        until(lambda: origin.release == first.release)
        assert sum(seen.values()) == 100


def test_a_canary_answers_its_share_of_the_conversations_and_a_purge_reaches_the_pointer(own: Site) -> None:
    with running(own) as origin:
        first = origin.release
        second = edit(own, "sixty")
        until(lambda: origin.release == second)
        release.canary(own.store, "production", first, 50)
        pointer = {}
        until(lambda: bool(pointer.update(origin.request("GET", "/v1/release", token="").json) or pointer["canary"]))
        assert pointer["canary"] == {first: 50}
        asked = [f"Is pump {number} primed?" for number in range(8)]
        answered = [origin.chat(one).headers["x-ragstone-release"] for one in asked]
        assert answered == [shares.release(second, {first: 50}, "production", one) for one in asked]
        assert set(answered) == {first, second}
        at = release.purge(own.store, "production")
        until(lambda: bool(origin.request("GET", "/v1/release", token="").json["purged"] == at))


def test_a_stream_ends_in_the_release_that_it_began_in(own: Site, speaker: Speaker) -> None:
    speaker.text, speaker.held = TRUE + " A pump that runs dry scores its sleeve within a minute." * 3, True
    with running(own) as origin:
        first = origin.release
        with ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(origin.chat, PRIMED, stream=True)
            assert speaker.begun.wait(60)
            second = edit(own, "sixty")
            until(lambda: origin.release == second)
            speaker.go()
            reply = under_way.result()
        told = json.loads(reply.events[-2])["ragstone"]
        assert told["release"] == reply.headers["x-ragstone-release"] == first
        assert "ninety" in told["citations"][0]["text"]
        speaker.held = False
        assert origin.chat(PRIMED, model=first).json["ragstone"]["release"] == first
        assert "sixty" in origin.chat("Is the feed pump primed for sixty seconds?").data.decode()


def test_a_validator_outlives_a_release_that_leaves_the_evidence_alone(own: Site) -> None:
    with running(own) as origin:
        etag = origin.chat(PRIMED).headers["etag"]
        (own.docs / "new.md").write_text("# Turbine\n\nThe turbine turns at 3000 revolutions a minute.\n")
        second = own.build().id
        until(lambda: origin.release == second)
        same = origin.chat(PRIMED, headers={"if-none-match": etag})
        assert (same.status, same.headers["x-ragstone-release"]) == (304, second)
        third = edit(own, "sixty")
        until(lambda: origin.release == third)
        assert origin.chat(PRIMED, headers={"if-none-match": etag}).status == 200


def test_a_release_that_does_not_open_leaves_the_one_in_force(own: Site) -> None:
    with running(own) as origin:
        first = origin.release
        broken = replace(release.load(own.store, first), index="0" * 64)
        release.promote(own.store, "production", release.save(own.store, broken))
        until(lambda: "reason" in origin.request("GET", "/readyz").json)
        assert origin.release == first
        assert origin.chat(PRIMED).json["ragstone"]["release"] == first
        assert str(own.settings.folder) not in origin.request("GET", "/readyz").data.decode()
        release.rollback(own.store, "production")
        until(lambda: "reason" not in origin.request("GET", "/readyz").json)


@pytest.mark.slow
def test_the_local_generator_answers_from_evidence_alone(tmp_path: Path) -> None:
    """SmolLM2, as `ragstone up` has it: whatever it says, what goes out is in the evidence."""
    with running(site(tmp_path, "local://smollm2", max_tokens=40, threads=1, slots=1, context=2048)) as origin:
        first, stream = origin.chat(PRIMED), origin.chat(PRIMED, stream=True)
        told = first.json["ragstone"]
        assert told["basis"] in ("generated", "quoted")
        assert "ninety seconds" in first.json["choices"][0]["message"]["content"]
        deltas = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in stream.events[:-1]]
        assert "".join(deltas) == first.json["choices"][0]["message"]["content"]

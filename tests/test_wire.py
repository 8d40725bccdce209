from itertools import pairwise

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from ragstone import wire
from ragstone.errors import GeneratorError, OriginError, RagstoneError, RateLimited, RequestError, Unauthorized
from ragstone.wire import EventReader, Head, Message, Piece, Sampling, Usage

HEAD = Head("chatcmpl-1", 1_700_000_000, "production")
STREAM = b": ping\n\ndata: one\r\n\r\nevent: x\rdata:two\rdata: lines\r\rid: 7\n\ndata: \xc3\xa9\n\ndata: [DONE]\n\ndata: after\n\n"


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    reader = EventReader()
    edges = [0, *sorted(cuts), len(STREAM)]
    events = [event for start, end in pairwise(edges) for event in reader.feed(STREAM[start:end])]
    assert events == [b"one", b"two\nlines", "é".encode()]
    assert reader.done


@settings(deadline=None)
@given(st.lists(st.binary().filter(lambda data: b"\r" not in data and data != b"[DONE]")))
def test_what_sse_writes_the_reader_reads(payloads: list[bytes]) -> None:
    reader = EventReader()
    assert reader.feed(b"".join(map(wire.sse, payloads)) + wire.DONE) == payloads
    assert reader.done


def test_a_byte_order_mark_is_no_part_of_the_first_event() -> None:
    assert EventReader().feed(b"\xef\xbb\xbfdata: 1\n\ndata: 2\n\n") == [b"1", b"2"]


def test_an_event_that_is_cut_off_at_the_end_is_not_given() -> None:
    reader = EventReader()
    assert reader.feed(b"data: 1\n\ndata: 2\n") == [b"1"]
    assert not reader.done


def test_an_event_over_the_limit_is_refused_before_it_fills_the_memory() -> None:
    reader = EventReader(limit=100)
    reader.feed(b"data: " + b"x" * 90)
    with pytest.raises(GeneratorError, match="over 100 bytes"):
        reader.feed(b"x" * 90)


def test_a_completion_is_what_the_official_client_reads() -> None:
    body = wire.completion(HEAD, "Prime it [1].", "stop", Usage(9, 4), {"release": "r-1"})
    completion = ChatCompletion.model_validate_json(body, strict=True)
    assert completion.choices[0].message.content == "Prime it [1]."
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 13
    assert completion.model_extra == {"ragstone": {"release": "r-1"}}


def test_chunks_are_what_the_official_client_reads() -> None:
    bodies = [wire.chunk(HEAD, "", role="assistant"), wire.chunk(HEAD, "Prime")]
    bodies.append(wire.chunk(HEAD, finish="stop", ragstone={"release": "r-1"}))
    bodies.append(wire.last_chunk(HEAD, Usage(9, 4)))
    first, text, end, last = (ChatCompletionChunk.model_validate_json(body, strict=True) for body in bodies)
    assert first.choices[0].delta.role == "assistant"
    assert text.choices[0].delta.content == "Prime"
    assert end.choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage is not None
    assert end.model_extra == {"ragstone": {"release": "r-1"}}


def test_a_chunk_reads_back_as_the_piece_it_was() -> None:
    assert wire.piece(wire.chunk(HEAD, "Prime")) == Piece("Prime")
    assert wire.piece(wire.chunk(HEAD, role="assistant")) == Piece()
    assert wire.piece(wire.chunk(HEAD, finish="length")) == Piece(finish="length")
    assert wire.piece(wire.last_chunk(HEAD, Usage(9, 4))) == Piece(usage=Usage(9, 4))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>", "not JSON"),
        (b"[1]", "not an object"),
        (b'{"object":"list"}', "not a chat.completion.chunk"),
        (b'{"choices":[7]}', "not a chat.completion.chunk"),
        (b'{"choices":[],"usage":{"prompt_tokens":"many"}}', "not a chat.completion.chunk"),
        (b'{"error":{"message":"out of memory","code":500}}', "the generator stopped: out of memory"),
        (b'{"error":"overloaded"}', "the generator stopped: overloaded"),
    ],
)
def test_what_is_no_chunk_is_an_error_that_says_so(data: bytes, message: str) -> None:
    with pytest.raises(GeneratorError, match=message):
        wire.piece(data)


def test_a_request_asks_for_a_stream_with_usage_and_leaves_out_what_was_not_given() -> None:
    body = orjson.loads(wire.request([Message("user", "Wie?")], Sampling(max_tokens=7), "qwen"))
    assert body["model"] == "qwen"
    assert body["messages"] == [{"role": "user", "content": "Wie?"}]
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["max_tokens"] == 7
    assert "seed" not in body
    assert "stop" not in body
    full = orjson.loads(wire.request([], Sampling(seed=0, stop=("\n",)), "qwen"))
    assert (full["seed"], full["stop"]) == (0, ["\n"])


@pytest.mark.parametrize(
    ("error", "kind", "param", "code"),
    [
        (RequestError("top_k is 0", "top_k"), "invalid_request_error", "top_k", "invalid_request"),
        (Unauthorized("the key has expired"), "invalid_request_error", None, "invalid_api_key"),
        (RateLimited("too many", 3, type="tokens"), "tokens", None, "rate_limit_exceeded"),
        (GeneratorError("it died", "ragstone up"), "server_error", None, "generator_error"),
    ],
)
def test_an_error_is_openais_json_and_its_hint_stays_here(error: RagstoneError, kind: str, param: str | None, code: str) -> None:
    body = orjson.loads(wire.error_body(error))
    assert body == {"error": {"message": error.message, "type": kind, "param": param, "code": code}}


def test_retry_after_is_whole_seconds_and_never_zero() -> None:
    assert wire.error_headers(RateLimited("too many", 0.01))["retry-after"] == "1"
    assert wire.error_headers(OriginError("it is starting", status=503, retry_after=4.2))["retry-after"] == "5"
    assert "retry-after" not in wire.error_headers(RequestError("no"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"no such model"}}', "no such model"),
        (b'{"message":"rate limited"}', "rate limited"),
        (b'{"detail":[1]}', '{"detail":[1]}'),
        (b"<h1>Bad gateway</h1>", "<h1>Bad gateway</h1>"),
        (b"\xff", "\ufffd"),
        (b"", "no message"),
    ],
)
def test_the_message_of_any_error_body_is_found(body: bytes, message: str) -> None:
    assert wire.error_message(body) == message

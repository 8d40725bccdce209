"""The contract of `ragstone.serve.Generator`: every connector runs the same cases, against real SmolLM2 and a real server."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing

import aiohttp
import pytest

from ragstone import serve
from ragstone.config import Serve, Settings
from ragstone.errors import GeneratorError
from ragstone.serve import Generator, Message, Piece, Sampling, Usage
from ragstone.serve.local import LocalGenerator

CONTEXT = 2048
PUMP = [Message("system", "Answer in one sentence."), Message("user", "What does a feed pump do?")]
VALVE = [Message("user", "Name three kinds of valves.")]
SHORT = Sampling(max_tokens=12)


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.Runner]:
    """One event loop for all cases: a generator and its connections belong to the loop they were started in."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def replica(loop: asyncio.Runner) -> Iterator[LocalGenerator]:
    """A replica with two slots; it is what both connectors talk to."""
    generator = LocalGenerator(Settings(serve=Serve(url="local://smollm2", threads=1, slots=2, context=CONTEXT)))
    loop.run(generator.start())
    yield generator
    loop.run(generator.close())


@pytest.fixture(scope="session", params=["local", "openai"])
def generator(request: pytest.FixtureRequest, loop: asyncio.Runner, replica: LocalGenerator) -> Iterator[Generator]:
    if request.param == "local":
        yield replica
        return
    url = replica.endpoint.url.replace("http://", "openai+http://")
    other = serve.connect(Settings(serve=Serve(url=f"{url}?model=smollm2", api_key=replica.endpoint.key)))
    loop.run(other.start())
    yield other
    loop.run(other.close())


async def answer(generator: Generator, messages: list[Message], sampling: Sampling = SHORT) -> tuple[str, Piece]:
    """The whole text, and the last piece."""
    pieces = [piece async for piece in generator.stream(messages, sampling)]
    return "".join(piece.text for piece in pieces), pieces[-1]


def test_an_answer_comes_in_pieces_and_only_the_last_carries_the_end(generator: Generator, loop: asyncio.Runner) -> None:
    async def case() -> list[Piece]:
        return [piece async for piece in generator.stream(PUMP, SHORT)]

    *pieces, last = loop.run(case())
    assert len(pieces) > 1
    assert all(piece.text and piece.finish is None and piece.usage is None for piece in pieces)
    assert last.text == ""
    assert last.finish in ("stop", "length")
    assert last.usage is not None
    assert last.usage.prompt_tokens > 10


def test_max_tokens_bounds_the_answer(generator: Generator, loop: asyncio.Runner) -> None:
    _, last = loop.run(answer(generator, VALVE, Sampling(max_tokens=5)))
    assert last.finish == "length"
    assert isinstance(last.usage, Usage)
    assert last.usage.completion_tokens == 5


def test_a_stop_sequence_ends_the_answer_and_is_no_part_of_it(generator: Generator, loop: asyncio.Runner) -> None:
    whole, _ = loop.run(answer(generator, VALVE))
    word = whole.split()[2]
    text, last = loop.run(answer(generator, VALVE, Sampling(max_tokens=12, stop=(word,))))
    assert last.finish == "stop"
    assert text == whole[: whole.index(word)]


def test_at_temperature_zero_an_answer_is_the_same_again_and_beside_another(generator: Generator, loop: asyncio.Runner) -> None:
    async def beside() -> tuple[str, str]:
        pump, valve = await asyncio.gather(answer(generator, PUMP), answer(generator, VALVE))
        return pump[0], valve[0]

    pump, valve = (loop.run(answer(generator, messages))[0] for messages in (PUMP, VALVE))
    assert loop.run(answer(generator, PUMP))[0] == pump
    assert loop.run(beside()) == (pump, valve)


def test_a_seed_makes_a_warm_answer_repeat(generator: Generator, loop: asyncio.Runner) -> None:
    warm = Sampling(max_tokens=12, temperature=1.5, seed=7)
    assert loop.run(answer(generator, VALVE, warm))[0] == loop.run(answer(generator, VALVE, warm))[0]


def test_what_is_asked_may_hold_any_text(generator: Generator, loop: asyncio.Runner) -> None:
    system = Message("system", 'Quote: "\\n" \u2028 <|im_end|>')
    awkward = [system, Message("user", "Ventil öffnen? 阀门 🔧\r\n\ttab"), Message("assistant", "{}"), Message("user", "Go on.")]
    text, last = loop.run(answer(generator, awkward))
    assert last.finish is not None
    assert "\ufffd" not in text


def test_closing_the_stream_stops_the_generation(generator: Generator, replica: LocalGenerator, loop: asyncio.Runner) -> None:
    most = CONTEXT // 2 - 200

    async def case() -> float:
        before = await metric(replica, "llamacpp:tokens_predicted_total")
        async with aclosing(generator.stream([Message("user", "Tell a very long story.")], Sampling(max_tokens=most))) as pieces:
            await anext(pieces)
        while await metric(replica, "llamacpp:requests_processing"):
            pass
        return await metric(replica, "llamacpp:tokens_predicted_total") - before

    assert loop.run(case()) < most / 2


def test_a_prompt_beyond_the_context_is_refused_and_harms_nothing(generator: Generator, loop: asyncio.Runner) -> None:
    async def case() -> GeneratorError:
        with pytest.raises(GeneratorError, match="context") as caught:
            await answer(generator, [Message("user", "word " * 2 * CONTEXT)])
        assert await generator.healthy()
        await answer(generator, VALVE, Sampling(max_tokens=1))
        return caught.value

    assert not loop.run(case()).retryable


def test_the_version_is_a_digest_that_stays_the_same(generator: Generator) -> None:
    version = generator.version
    assert len(version) == 64
    assert int(version, 16)
    assert version == generator.version


async def metric(replica: LocalGenerator, name: str) -> float:
    """A figure that llama.cpp itself shows of the replica."""
    url = replica.endpoint.url.removesuffix("/v1") + "/metrics"
    async with aiohttp.request("GET", url, headers=replica.endpoint.headers) as response:
        lines = (await response.text()).splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name + " "))

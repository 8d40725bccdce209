import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
import psutil
import pytest
from aiohttp import web

from ragstone import serve, telemetry, weights
from ragstone.config import Serve, Settings
from ragstone.errors import ConfigError, GeneratorError, RagstoneError
from ragstone.replica import Replica
from ragstone.replicas import Place
from ragstone.serve import Message, Sampling
from ragstone.serve.local import LocalGenerator
from ragstone.serve.openai import OpenAIGenerator

ASKED = [Message("user", "Tell a long story about a pump.")]
LONG = Sampling(max_tokens=800)
SHORT = Sampling(max_tokens=3)
KEY = "sk-very-secret"


def local(url: str = "local://smollm2", **values: Any) -> LocalGenerator:
    generator = serve.connect(Settings(serve=Serve(url=url, **{"threads": 1, "slots": 1, "context": 1024, **values})))
    assert isinstance(generator, LocalGenerator)
    return generator


def started(case: Callable[[LocalGenerator], Coroutine[Any, Any, None]], **values: Any) -> None:
    """Runs the case with replicas of its own, that it may kill."""

    async def run() -> None:
        generator = local(**values)
        await generator.start()
        try:
            await case(generator)
        finally:
            await generator.close()

    asyncio.run(run())


async def answer(generator: LocalGenerator) -> str:
    return "".join([piece.text async for piece in generator.stream(ASKED, SHORT)])


def process(generator: LocalGenerator, which: int = 0) -> psutil.Process:
    assert generator._replicas is not None
    return psutil.Process(generator._replicas.ready[which].pid)


def replicas(generator: LocalGenerator) -> list[Place]:
    assert generator._replicas is not None
    return generator._replicas.ready


async def until(holds: Callable[[], bool]) -> None:
    """Return when it holds; something that never comes is found by the time-out."""
    async with asyncio.timeout(120):
        while not holds():
            await asyncio.sleep(0.05)


def connection(url: str) -> socket.socket:
    """A connection to a replica, whose end tells that the process is gone."""
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 0))


def ends(watched: socket.socket) -> bool:
    watched.settimeout(30)
    try:
        return watched.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_replica_killed_in_mid_stream_is_an_error_and_comes_back() -> None:
    restarts = telemetry.REGISTRY.get_sample_value("ragstone_replica_restarts_total") or 0

    async def case(generator: LocalGenerator) -> None:
        killed = process(generator)
        async with aclosing(generator.stream(ASKED, LONG)) as pieces:
            await anext(pieces)
            killed.kill()
            with pytest.raises(GeneratorError) as caught:
                async for _ in pieces:
                    pass
        assert not caught.value.retryable
        assert await answer(generator)
        assert await generator.healthy()
        assert process(generator).pid != killed.pid
        assert telemetry.REGISTRY.get_sample_value("ragstone_replica_restarts_total") == restarts + 1

    started(case)


def test_each_replica_tells_how_busy_it_is() -> None:
    async def case(generator: LocalGenerator) -> None:
        assert [(one.cpu, one.busy, one.waiting) for one in generator.load()] == [(None, 0, 0)]
        async with aclosing(generator.stream(ASKED, LONG)) as one, aclosing(generator.stream(ASKED, LONG)) as other:
            await anext(one)
            queued = asyncio.ensure_future(anext(other))
            await until(lambda: [(told.busy, told.waiting) for told in generator.load()] == [(1, 1)])
            await until(lambda: (generator.load()[0].cpu or 0) > 0)
            assert generator.load()[0].replica == f"process {process(generator).pid}"
            queued.cancel()
            await asyncio.wait([queued])
        await until(lambda: generator.load()[0].busy == 0)

    started(case)


def test_a_replica_that_dies_before_its_first_piece_costs_no_error() -> None:
    async def case(generator: LocalGenerator) -> None:
        expected = await answer(generator)
        process(generator).kill()
        assert await answer(generator) == expected

    started(case)


def test_only_we_can_ask_a_replica() -> None:
    async def case(generator: LocalGenerator) -> None:
        assert "127.0.0.1" in generator.endpoint.url
        assert generator.endpoint.key not in repr(generator.endpoint)
        async with aiohttp.request("POST", f"{generator.endpoint.url}/chat/completions", json={"messages": []}) as response:
            assert response.status == 401
        arguments = Path(f"/proc/{process(generator).pid}/cmdline")
        assert not arguments.exists() or generator.endpoint.key.encode() not in arguments.read_bytes()

    started(case)


def test_two_replicas_on_one_machine_do_not_collide_and_close_ends_them() -> None:
    async def case(first: LocalGenerator) -> None:
        second = local()
        await second.start()
        watched = connection(second.endpoint.url)
        assert second.endpoint.url != first.endpoint.url
        assert await answer(first) == await answer(second)
        await second.close()
        assert not await second.healthy()
        assert await first.healthy()
        assert ends(watched)

    started(case)


def test_a_question_goes_to_the_replica_with_the_fewest_under_way() -> None:
    async def case(generator: LocalGenerator) -> None:
        async with aclosing(generator.stream(ASKED, LONG)) as first, aclosing(generator.stream(ASKED, LONG)) as second:
            await anext(first)
            await anext(second)
            assert [place.taken for place in replicas(generator)] == [1, 1]
        await until(lambda: [place.taken for place in replicas(generator)] == [0, 0])
        process(generator).kill()
        assert await answer(generator)
        await until(lambda: len(replicas(generator)) == 2)

    started(case, replicas=2)


def test_a_busy_generator_gets_another_replica_and_an_idle_one_gives_it_back_without_cutting_an_answer() -> None:
    async def ask(generator: LocalGenerator) -> str:
        return "".join([piece.text async for piece in generator.stream(ASKED, Sampling(max_tokens=80))])

    async def case(generator: LocalGenerator) -> None:
        questions = [asyncio.create_task(ask(generator)) for _ in range(3)]
        await until(lambda: len(replicas(generator)) == 2)
        assert telemetry.REGISTRY.get_sample_value("ragstone_replicas", {"model": "smollm2"}) == 2
        assert len(set(await asyncio.gather(*questions))) == 1
        await until(lambda: len(replicas(generator)) == 1)
        assert await answer(generator)

    started(case, replicas_most=2, target_cpu=5.0, scale_down=2.0)


def test_a_replica_that_is_to_end_finishes_its_answer() -> None:
    async def case(generator: LocalGenerator) -> None:
        async with aclosing(generator.stream(ASKED, SHORT)) as pieces:
            await anext(pieces)
            assert generator._replicas is not None
            generator._replicas._resize(0)
            assert replicas(generator) == []
            assert [piece async for piece in pieces][-1].finish == "length"
        await until(lambda: generator._replicas is not None and not generator._replicas._places)

    started(case)


def test_an_idle_replica_lets_go_of_its_model_and_wakes_with_the_next_question() -> None:
    async def case(generator: LocalGenerator) -> None:
        expected = await answer(generator)
        awake = process(generator).memory_info().rss
        await until(lambda: process(generator).memory_info().rss < awake / 2)
        assert await answer(generator) == expected

    started(case, sleep=1.0)


@pytest.mark.parametrize(("least", "most"), [(0, 1), (3, 2)])
def test_numbers_of_replicas_that_can_not_be_are_refused(least: int, most: int) -> None:
    with pytest.raises(ConfigError, match=f"serve.replicas = {least}"):
        local(replicas=least, replicas_most=most)


PARENT = """
import asyncio, os, signal, sys
from ragstone.config import Serve, Settings
from ragstone.serve.local import LocalGenerator
async def main():
    generator = LocalGenerator(Settings(serve=Serve(url=sys.argv[1], threads=1, slots=1, context=1024)))
    await generator.start()
    if sys.argv[2:] == ["fork"] and os.fork() == 0:
        signal.pause()
    print(generator.endpoint.url, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def parent(*arguments: str) -> subprocess.Popen[bytes]:
    """A process in a group of its own that starts a replica and prints its URL."""
    command = [sys.executable, "-c", PARENT, f"local://{weights.pull('smollm2')}", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)


def watch(process: subprocess.Popen[bytes]) -> socket.socket:
    """A connection to the replica whose URL the process prints."""
    assert process.stdout is not None
    return connection(process.stdout.readline().decode().strip())


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_parent_dies_its_replica_follows(how: signal.Signals) -> None:
    with parent() as process, watch(process) as watched:
        os.killpg(process.pid, how)  # as Ctrl-C in a terminal does: the whole group
        assert ends(watched)


@pytest.mark.skipif(os.name != "posix", reason="fork")
def test_a_process_that_the_parent_forked_keeps_no_replica_alive() -> None:
    with parent("fork") as process, watch(process) as watched:
        process.kill()
        assert ends(watched)
        os.killpg(process.pid, signal.SIGKILL)


def test_weights_that_are_no_gguf_are_an_error_with_llama_cpps_own_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really")

    async def case() -> None:
        generator = local(f"local://{broken}")
        with pytest.raises(GeneratorError, match=r"broken can't be loaded .*failed to load model") as caught:
            await generator.start()
        assert caught.value.hint == "ragstone models pull"
        assert not await generator.healthy()
        await generator.close()

    asyncio.run(case())


def test_weights_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RagstoneError):
        asyncio.run(local(f"local://{tmp_path / 'none.gguf'}").start())


def test_a_generator_that_was_not_started_says_so() -> None:
    async def case() -> None:
        with pytest.raises(GeneratorError, match="smollm2 was asked before it was started"):
            await answer(local())

    asyncio.run(case())


def test_a_version_is_what_generates_and_not_how_fast_or_with_which_key() -> None:
    version = local().version
    assert local(threads=2, timeout=5.0, api_key=KEY).version == version
    assert local(f"local://{weights.pull('smollm2')}").version == version
    assert local(context=2048).version != version
    assert local(slots=2).version != version


def test_a_replicas_line_carries_its_key_and_its_repr_does_not() -> None:
    replica = Replica("/w.gguf", "w", 1024, 1, 1, key=KEY)
    assert Replica(**orjson.loads(replica.line())) == replica
    assert KEY not in repr(replica)


def remote(url: str, **values: Any) -> OpenAIGenerator:
    generator = serve.connect(Settings(serve=Serve(url=url, **values)))
    assert isinstance(generator, OpenAIGenerator)
    return generator


@pytest.mark.parametrize(
    ("url", "expected", "model"),
    [
        ("openai://api.example.com/v1?model=qwen", "https://api.example.com/v1", "qwen"),
        ("openai+http://127.0.0.1:8000/v1/?model=Qwen/Qwen3-8B", "http://127.0.0.1:8000/v1", "Qwen/Qwen3-8B"),
        ("openai+https://api.example.com?model=a%20b", "https://api.example.com/v1", "a b"),
        ("openai://host/proxy/openai?model=q", "https://host/proxy/openai", "q"),
    ],
)
def test_a_url_names_the_server_and_the_model(url: str, expected: str, model: str) -> None:
    endpoint = remote(url).endpoint
    assert (endpoint.url, endpoint.model) == (expected, model)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("openai://host/v1", "must name a host and one model"),
        ("openai://?model=q", "must name a host and one model"),
        ("openai://host/v1?model=q&temperature=1", "must name a host and one model"),
        ("openai+ftp://host/v1?model=q", "has the scheme 'openai\\+ftp'"),
        (f"openai://user:{KEY}@host/v1?model=q", "holds a user or a password"),
    ],
)
def test_a_url_that_says_too_little_or_too_much_is_refused_without_showing_a_secret(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        remote(url)
    assert KEY not in str(caught.value)


def test_the_version_of_a_far_model_is_its_url_and_name_and_never_its_key() -> None:
    version = remote("openai://host/v1?model=q").version
    assert remote("openai://host/v1?model=q", api_key=KEY, timeout=3.0).version == version
    assert remote("openai://host/v1?model=r").version != version
    assert remote("openai+http://host/v1?model=q").version != version


def test_a_wrong_key_is_refused_by_name_of_the_setting_and_is_not_shown() -> None:
    async def case(replica: LocalGenerator) -> None:
        generator = remote(replica.endpoint.url.replace("http://", "openai+http://") + "?model=smollm2", api_key=KEY)
        with pytest.raises(GeneratorError, match="answered 401") as caught:
            await anext(generator.stream(ASKED, SHORT))
        assert caught.value.hint == "set RAGSTONE_SERVE_API_KEY"
        assert KEY not in str(caught.value)
        await generator.close()

    started(case)


@pytest.mark.parametrize(("status", "message"), [(401, "refuses our key with 401"), (503, "is not well: it answers 503")])
def test_a_server_that_will_not_serve_us_is_found_at_the_start(status: int, message: str) -> None:
    async def models(request: web.Request) -> web.Response:
        return web.Response(status=status)

    async def case() -> None:
        runner = web.AppRunner(web.Application())
        runner.app.router.add_get("/v1/models", models)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        generator = remote(f"openai+http://127.0.0.1:{runner.addresses[0][1]}/v1?model=q", api_key=KEY)
        with pytest.raises(GeneratorError, match=message):
            await generator.start()
        assert not await generator.healthy()
        await generator.close()
        await runner.cleanup()

    asyncio.run(case())


def test_a_server_that_is_not_there_is_found_at_the_start() -> None:
    with socket.socket() as reserved:  # bound but not listening: nobody else gets the port
        reserved.bind(("127.0.0.1", 0))
        generator = remote(f"openai+http://127.0.0.1:{reserved.getsockname()[1]}/v1?model=q")

        async def case() -> None:
            with pytest.raises(GeneratorError, match="can't be reached"):
                await generator.start()
            assert not await generator.healthy()
            await generator.close()

        asyncio.run(case())

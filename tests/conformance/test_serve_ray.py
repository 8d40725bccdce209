"""Ray Serve under the generators' contract, on a real Ray of this process; and its own: versions, scaling, ports."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import openai
import psutil
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from typer.testing import CliRunner

from ragstone import access, config, embedder, project, raycluster, rayserve, serve, service, store
from ragstone.cli import app
from ragstone.config import Serve, Settings
from ragstone.embedder import Embedder
from ragstone.errors import ConfigError, GeneratorError, ReleaseError
from ragstone.load import Load
from ragstone.serve import Sampling, ray
from ragstone.serve.ray import RayGenerator
from ragstone.show import Silence
from tests import causal
from tests.conformance.test_serve import (  # noqa: F401
    CONTEXT,
    VALVE,
    answer,
    loop,
    test_a_prompt_beyond_the_context_is_refused_and_harms_nothing,
    test_a_seed_makes_a_warm_answer_repeat,
    test_a_stop_sequence_ends_the_answer_and_is_no_part_of_it,
    test_an_answer_comes_in_pieces_and_only_the_last_carries_the_end,
    test_at_temperature_zero_an_answer_is_the_same_again_and_beside_another,
    test_closing_the_stream_stops_the_generation,
    test_max_tokens_bounds_the_answer,
    test_the_version_is_a_digest_that_stays_the_same,
    test_what_is_asked_may_hold_any_text,
)
from tests.conformance.test_serve_folder import generated
from tests.origins import Origin, asked, running, site, until
from tests.processes import below, listening
from tests.test_service import written
from tests.tiny import tiny

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'ragstone[ray]'")


@pytest.fixture(scope="module")
def generator(loop: asyncio.Runner) -> Iterator[RayGenerator]:  # noqa: F811
    raycluster.join(raycluster.HERE, 8, GeneratorError)  # CPUs as Ray counts them: versions on a cluster reserve some
    made = RayGenerator(ray.read("ray"), Settings(serve=Serve(url="ray", threads=1, slots=2, context=CONTEXT)))
    loop.run(made.start())
    yield made
    loop.run(made.close())


@pytest.fixture(scope="module")
def replica(generator: RayGenerator) -> RayGenerator:
    """The llama.cpp in the application, whose own figures it passes on."""
    return generator


@pytest.fixture
def cluster(generator: RayGenerator) -> str:
    """The Ray of the contract's cases as a cluster that is joined by its address."""
    return _joined(generator)


def _joined(generator: RayGenerator) -> str:
    from ray import get_runtime_context

    return f"ray+gcs://{get_runtime_context().gcs_address}?port={urlsplit(generator.place.base).port}"


def test_a_version_on_a_cluster_takes_questions_as_any_other(
    cluster: str, settings: Settings, manuals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(settings.folder)
    project.build(settings, store.connect(settings.store_url), Silence())
    file = written(settings.folder, {"name": "llm", "context": 1024, "slots": 1, "threads": 1, "max_tokens": 16})

    def said(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert "1 to 1 replicas of llama.cpp with smollm2" in said("deploy", str(file), "--to", cluster, "--explain")
    said("deploy", str(file), "--to", cluster)
    said("deploy", str(file), "--to", cluster)
    assert "is RUNNING (1 of 1 replicas)" in said("service", "status", "v1")
    said("service", "promote", "v1")
    assert "100 %" in said("service", "list").split("llm/v1")[1]
    assert said("ask", "How often is the bearing greased?").strip()
    with pytest.raises(ReleaseError, match="answers questions"):
        CliRunner().invoke(app, ["service", "delete", "v1"], catch_exceptions=False)
    said("service", "scale", "v1", "2")
    assert "is RUNNING (2 of 2 replicas)" in said("service", "status", "v1")
    said("service", "rollback")
    said("service", "delete", "v1")
    with pytest.raises(GeneratorError, match="has no application llm_v1-"):
        CliRunner().invoke(app, ["service", "status", "v1"], catch_exceptions=False)


@pytest.fixture
def head(generator: RayGenerator) -> Iterator[str]:
    """The same Ray as it is joined through its client port, from another process."""
    from ray import get_runtime_context

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told = ["--host", "127.0.0.1", "--port", str(port), "--mode", "specific-server", "--address", get_runtime_context().gcs_address]
    server = subprocess.Popen([sys.executable, "-m", "ray.util.client.server", *told], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: server.poll() is not None or _listens(port))
        assert server.poll() is None, "Ray's client server did not start"
        yield f"ray://127.0.0.1:{port}?port={urlsplit(generator.place.base).port}"
    finally:
        server.terminate()
        server.wait(30)


def _listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


COMMANDS = """
import json, sys
from ragstone.cli import app
from ragstone.config import Serve, Settings
from ragstone.serve.ray import RayGenerator, read
first, url, last = json.loads(sys.argv[1])
for words in first:
    app(words, standalone_mode=False)
print(RayGenerator(read(url), Settings(serve=Serve(url=url))).load())
app(last, standalone_mode=False)
"""


def test_a_cluster_is_joined_through_its_client_port(head: str, settings: Settings) -> None:
    """With the token that Ray's own tools find, though nobody names it."""
    file = written(settings.folder, {"name": "far", "context": 1024, "slots": 1, "threads": 1, "max_tokens": 16})
    url = ray.address(service.read(file, "v1", settings), head)
    words = [[["deploy", str(file), "--to", head], ["service", "status", "v1"]], url, ["service", "delete", "v1"]]
    there = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    command = [sys.executable, "-c", COMMANDS, json.dumps(words)]
    done = subprocess.run(command, cwd=settings.folder, env=there, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "is RUNNING (1 of 1 replicas)" in done.stdout
    assert re.search(r"\[Load\(replica='process \d+ on 127.0.0.1', cpu=None, busy=0, waiting=0\)\]", done.stdout), done.stdout


@pytest.fixture(scope="module")
def origin(generator: RayGenerator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    """An origin whose version in force answers on that cluster."""
    url = f"{_joined(generator)}&app=steady"
    with running(site(tmp_path_factory.mktemp("origin"), url, context=1024, slots=2, threads=1, max_tokens=16)) as made:
        yield made
    ray.remove(url)


def test_the_console_is_told_of_each_replica_on_the_cluster(origin: Origin) -> None:
    token, _ = access.create(
        origin.site.settings.keys_folder, origin.site.store, tenant="local", groups=("public",), rpm=10**6, tpm=10**9, expires=0, admin=True
    )
    told: list[dict[str, object]] = []

    def tells() -> bool:  # one that is starved does not
        told[:] = origin.request("GET", "/admin/serving", token=token).json["replicas"]
        return bool(told)

    until(tells)
    (row,) = told
    assert re.fullmatch(r"process \d+ on 127.0.0.1", str(row["replica"]))
    assert (row["busy"], row["waiting"]) == (0, 0)


def deploy(origin: Origin, folder: Path, cluster: str, **told: str) -> None:
    """Version v2, as `ragstone deploy` does it, with little patience."""
    settings = config.override(origin.site.settings, "serve", timeout=5.0)
    service.deploy(settings, origin.site.store, service.read(written(folder, {"name": "llm", **told}), "v2", settings), print, cluster)


def nothing_is_left(origin: Origin, app: str) -> None:
    assert "llm/v2" not in service.deployed(origin.site.store)
    with pytest.raises(GeneratorError, match="has no application"):
        rayserve.told(app)


TEXTS = ["Prime the feed pump.", "Tighten the bonnet crosswise.", "ten drops a minute"]


def vectors(origin: Origin, **asked: object) -> list[object]:
    reply = origin.request("POST", "/v1/embeddings", {"model": "production", "input": TEXTS, **asked})
    assert reply.status == 200, reply.data
    return [one["embedding"] for one in reply.json["data"]]


def test_an_embedding_service_on_a_cluster_gives_the_origins_vectors_to_it_and_to_any_client(
    origin: Origin, cluster: str, tmp_path: Path
) -> None:
    at, told = origin.site, {"name": "embed", "kind": "embedding", "threads": 1, "replicas": {"min": 1, "max": 2}}
    found = service.read(written(tmp_path, told), "v1", at.settings)
    assert "1 to 2 replicas of the release's embedding model" in service.explain(found, cluster)
    service.deploy(at.settings, at.store, found, print, cluster)
    url = ray.address(found, cluster)
    name, _, rest = service.status(at.store, "embed/v1").partition(" ")
    assert rest == "is RUNNING (1 of 1 replicas)"
    assert name.startswith(f"{ray.read(url).app}.")
    expected, short = vectors(origin), vectors(origin, dimensions=64, encoding_format="base64")
    with running(replace(at, settings=config.override(at.settings, "serve", embeddings="embed/v1"))) as other:
        assert vectors(other) == expected
        assert vectors(other, dimensions=64, encoding_format="base64") == short
    base = f"{ray.read(url).base}/{name}/v1"
    with openai.OpenAI(base_url=base, api_key="none") as client:
        assert [one.embedding for one in client.embeddings.create(model="m", input=TEXTS, encoding_format="float").data] == expected
        with pytest.raises(openai.BadRequestError, match="the model has"):
            client.embeddings.create(model="m", input=TEXTS, dimensions=65536)
    service.scale(at.store, "embed/v1", 2)
    assert "(2 of 2 replicas)" in service.status(at.store, "embed/v1")
    service.delete(at.store, "production", "embed/v1")
    with pytest.raises(GeneratorError, match="has no application embed_v1-"):
        service.status(at.store, "embed/v1")


def test_this_machines_own_ray_encodes_for_who_has_its_key_and_ends_the_application_with_it(
    generator: RayGenerator,
    loop: asyncio.Runner,  # noqa: F811
    tmp_path: Path,
) -> None:
    folder = tiny(tmp_path)

    async def case() -> None:
        made = ray.vectors(Serve(url="ray?app=mine", threads=1), folder, embedder.digest(folder))
        await made.start()
        np.testing.assert_array_equal(await made.encode("query", TEXTS), Embedder(folder, threads=1).queries(TEXTS))
        async with aiohttp.request("POST", f"{made.endpoint.url}/embeddings", json={"model": "m", "input": TEXTS}) as response:
            assert response.status == 401
        assert "is RUNNING" in await asyncio.to_thread(rayserve.told, "mine")
        await made.close()

    loop.run(case())
    with pytest.raises(GeneratorError, match="has no application mine"):
        rayserve.told("mine")


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed: pip install 'ragstone[transformers]'")
def test_a_folder_answers_on_a_cluster_as_it_does_here_and_vllm_without_a_gpu_is_an_error(
    cluster: str,
    settings: Settings,
    tmp_path: Path,
    loop: asyncio.Runner,  # noqa: F811
) -> None:
    folder = causal.made(tmp_path / "model")
    told = {"name": "tiny", "model": f"local://{folder}", "slots": 1, "context": 512, "threads": 1}
    opened, found = store.connect(settings.store_url), service.read(written(tmp_path, told), "v1", settings)
    service.deploy(settings, opened, found, print, cluster)
    there = serve.connect(serve.deployed(opened, "tiny/v1", settings))
    here = serve.connect(config.override(settings, "serve", **found.serve))
    assert there.version == here.version
    loop.run(there.start())
    assert loop.run(answer(there, VALVE, Sampling(max_tokens=20)))[0] == generated(folder)
    loop.run(there.close())
    service.delete(opened, "production", "tiny/v1")
    on_gpu = service.read(written(tmp_path, {**told, "metadata": {"gpu": 1}}), "v2", settings)
    with pytest.raises(GeneratorError, match="vLLM needs 1 GPU, and no node of the cluster has more than 0"):
        service.deploy(settings, opened, on_gpu, print, cluster)
    assert service.deployed(opened) == ["tiny/v1"]


def test_a_version_that_crashes_at_start_costs_no_user_an_answer(origin: Origin, cluster: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really")
    model = f"local://{broken}"
    with asked(origin), pytest.raises(GeneratorError, match=r"llm_v2-\w+ can't be started on Ray: .*failed to load model"):
        deploy(origin, tmp_path, cluster, model=model)
    nothing_is_left(origin, named(tmp_path, origin.site.settings, cluster, model=model))


def named(folder: Path, settings: Settings, cluster: str, **told: str) -> str:
    """What the application of version v2 is called."""
    return ray.read(ray.address(service.read(written(folder, {"name": "llm", **told}), "v2", settings), cluster)).app


def put(app: str, status: int) -> None:
    """An application of Ray Serve that lists its models and answers nothing else: with an error, or never."""
    from ray import serve as raysown

    class Broken:
        async def __call__(self, request: Request) -> Response:
            if request.url.path.endswith("/models"):
                return JSONResponse({"data": []})
            while not status:
                await asyncio.sleep(1)
            return JSONResponse({"error": {"message": "broken"}}, status)

    made = raysown.deployment(Broken, name=rayserve.PART, ray_actor_options={"num_cpus": 0}, graceful_shutdown_timeout_s=1.0)
    raysown.run(made.bind(), name=app, route_prefix=f"/{app}")


@pytest.mark.parametrize(("status", "message"), [(500, "500"), (0, "in time|fell silent|Timeout")])
def test_a_version_that_answers_500s_or_hangs_costs_no_user_an_answer(
    origin: Origin, cluster: str, tmp_path: Path, status: int, message: str
) -> None:
    app = named(tmp_path, origin.site.settings, cluster)
    put(app, status)
    with asked(origin), pytest.raises(GeneratorError, match=message):
        deploy(origin, tmp_path, cluster)
    nothing_is_left(origin, app)


def test_a_load_adds_a_replica_and_its_end_takes_it_away(generator: RayGenerator, loop: asyncio.Runner) -> None:  # noqa: F811
    busy = Serve(url="ray?app=busy", threads=1, slots=1, context=1024, replicas_most=2, target_cpu=5.0, scale_down=2.0)

    async def running(count: int) -> None:
        async with asyncio.timeout(120):
            while f"({count} of {count} replicas)" not in await asyncio.to_thread(rayserve.told, "busy"):
                await asyncio.sleep(0.2)

    async def case() -> None:
        made = serve.connect(Settings(serve=busy))
        await made.start()
        questions = [asyncio.create_task(answer(made, VALVE, Sampling(max_tokens=200))) for _ in range(3)]
        await running(2)
        assert len({text for text, _ in await asyncio.gather(*questions)}) == 1
        await running(1)
        await made.close()

    loop.run(case())


def test_each_replica_tells_what_it_takes_of_the_cpu_and_how_busy_it_is(generator: RayGenerator, loop: asyncio.Runner) -> None:  # noqa: F811
    async def until(true: Callable[[Load], bool]) -> Load:
        async with asyncio.timeout(60):
            while not (found := [one for one in await asyncio.to_thread(generator.load) if true(one)]):  # one that is starved tells nothing
                await asyncio.sleep(0.2)
        return found[0]

    async def case() -> None:
        questions = [asyncio.create_task(answer(generator, VALVE, Sampling(max_tokens=400))) for _ in range(3)]
        most = await until(lambda load: load.busy == 2 and load.waiting == 1 and bool(load.cpu))
        assert re.fullmatch(r"process \d+ on 127.0.0.1", most.replica)
        assert 0 < (most.cpu or 0) < 150
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)
        await until(lambda load: load.busy == load.waiting == 0 and load.cpu is not None and load.cpu < 5)

    loop.run(case())


def test_replicas_that_are_gone_tell_nothing(generator: RayGenerator) -> None:
    assert RayGenerator(ray.read("ray?app=nowhere"), Settings(serve=Serve(url="ray?app=nowhere"))).load() == []


def test_only_who_has_the_key_can_ask(generator: RayGenerator, loop: asyncio.Runner) -> None:  # noqa: F811
    async def status() -> int:
        async with aiohttp.request("GET", f"{generator.endpoint.url}/models") as response:
            return response.status

    assert loop.run(status()) == 401
    assert generator.endpoint.key not in f"{generator.endpoint} {generator.order}"


def test_every_part_of_ray_serve_listens_on_loopback_only(generator: RayGenerator) -> None:
    found = [*listening(psutil.Process()), *(ip for _, ips in below(listening) for ip in ips)]
    assert len(found) > 5
    assert all(ip_address(ip.removeprefix("::ffff:")).is_loopback for ip in found), found


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ray://host", "is not the address of a Ray cluster"),
        ("ray+gcs://host:6379?port=http", "is not the address of a Ray cluster"),
        ("ray://host:10001", "on the loopback of host only"),
        ("ray?workers=2", "ray has no 'workers'"),
    ],
)
def test_an_address_that_is_none_is_a_setting_to_mend(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        serve.connect(Settings(serve=Serve(url=url)))


def test_what_this_machines_own_ray_runs_is_looked_after_by_who_serves(settings: Settings, tmp_path: Path) -> None:
    found = service.read(written(tmp_path, {"name": "llm"}), "v1", settings)
    assert "on this machine, in the processes that serve" in service.explain(found, "ray")
    with pytest.raises(ConfigError, match="ends with them"):
        ray.status(ray.address(found, "ray"))
    with pytest.raises(ConfigError, match=r"openai://host/v1.* is neither"):
        ray.address(service.read(written(tmp_path, {"model": "openai://host/v1?model=q"}), "v1", settings), "ray")


def test_the_rule_is_that_of_this_machine_and_waits_while_a_replica_starts() -> None:
    assert advised((1, 100.0), (2, 100.0), (2, 70.0, 72.0), (3, 5.0, 5.0, 5.0)) == [2, 2, 2, 1]


def test_requests_that_wait_before_idle_processors_want_replicas_too() -> None:
    """As with a GPU, whose load no processor shows."""
    assert advised((1, 5.0), (1, 5.0), requests=4) == [1, 1]
    assert advised((1, 5.0), (2, 5.0, 5.0), (3, 5.0, 5.0, 5.0), requests=9) == [3, 3, 3]


def advised(*looks: tuple[float, ...], requests: int = 0) -> list[int]:
    """What the policy says at each look: the replicas that there are to be, and the load of each that runs, with room for four requests."""
    policy = rayserve.Policy(room=4, least=1, most=3, target=70.0, up=0.0, down=0.0)

    def advice(count: float, *loads: float) -> int:
        told = {"target_num_replicas": count, "aggregated_metrics": {"cpu": dict(enumerate(loads))}, "total_num_requests": requests}
        return policy(SimpleNamespace(**told))[0]

    return [advice(*look) for look in looks]

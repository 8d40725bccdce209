"""The Worker as it is configured and deployed, by wrangler itself; nothing is sent."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ragstone import canonical, config, edge, npm
from ragstone.config import Settings, cache_folder
from ragstone.edge import cloudflare
from ragstone.errors import ConfigError
from tests import workerd
from tests.conformance.bench import ROOT, Edge, asked, question, running

LARGEST = 20_000
"""Bytes of the bundle: what an isolate reads before its first answer."""


def settings(folder: Path, url: str = "cloudflare", **edge: Any) -> Settings:
    return config.override(config.load(folder, {}), "edge", url=url, origin="https://origin.example.com/", **edge)


def test_the_workers_variables_are_the_settings_in_its_units(tmp_path: Path) -> None:
    given = config.override(settings(tmp_path, ttl=60, release_check=2.5, timeout=30), "api", max_body_kb=2)
    told = {"ORIGIN": "https://origin.example.com", "TTL": 60, "RELEASE_CHECK": 2.5, "TIMEOUT": 30, "MAX_BODY": 2048, "MAX_TOKENS": 256}
    assert cloudflare.render(given)["vars"] == told


def test_a_url_says_the_domain_the_name_and_the_shared_cache(tmp_path: Path) -> None:
    plain = cloudflare.render(settings(tmp_path))
    assert (plain["name"], plain["workers_dev"], "routes" in plain, "kv_namespaces" in plain) == ("ragstone-edge", True, False, False)
    whole = cloudflare.render(settings(tmp_path, "cloudflare://api.example.com?kv=0f2a&name=answers"))
    assert (whole["name"], whole["workers_dev"]) == ("answers", False)
    assert whole["routes"] == [{"pattern": "api.example.com", "custom_domain": True}]
    assert whole["kv_namespaces"] == [{"binding": "ANSWERS", "id": "0f2a"}]


def test_an_unknown_option_of_the_url_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown option 'region'; there are kv, name"):
        cloudflare.render(settings(tmp_path, "cloudflare://api.example.com?region=eu"))


def test_an_origin_on_this_machine_is_not_deployed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is this machine: Cloudflare can't reach it"):
        edge.deploy(config.override(config.load(tmp_path, {}), "edge", url="cloudflare"))


def test_an_edge_that_runs_where_it_is_started_is_not_deployed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to deploy"):
        edge.deploy(settings(tmp_path, "local"), dry_run=True)


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment in which Ragstone is what a wheel of this checkout holds."""
    checkout, site = tmp_path / "checkout", tmp_path / "site"
    shutil.copytree(ROOT / "ragstone", checkout / "ragstone", ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        wheel.extractall(site)
    return {**os.environ, "PYTHONPATH": str(site)}


def test_an_installed_ragstone_deploys_and_wrangler_bundles_a_small_worker(installed: dict[str, str], tmp_path: Path) -> None:
    workerd.packages()
    deploy = ["edge", "deploy", "--to", "cloudflare", "--origin", "https://origin.example.com", "--dry-run"]
    done = subprocess.run([sys.executable, "-m", "ragstone", *deploy], cwd=tmp_path, capture_output=True, text=True, env=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    for bound in ("env.FLIGHT (Flight)", "env.BUDGET (Budget)", 'env.ORIGIN ("https://origin.example.com")'):
        assert bound in done.stdout
    assert "warning" not in (done.stdout + done.stderr).lower()
    rendered = json.loads((tmp_path / ".ragstone/worker/wrangler.jsonc").read_text())
    assert rendered["name"] == "ragstone-edge"
    assert Path(rendered["main"]).is_relative_to(tmp_path / "site")
    assert (tmp_path / ".ragstone/worker/bundle/index.js").stat().st_size < LARGEST


def test_what_wrangler_refuses_to_follow_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workerd.packages()
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAGSTONE_CACHE", str(cache_folder()))
    monkeypatch.setenv("CI", "1")
    with pytest.raises(ConfigError, match="wrangler tail ended with status"):
        edge.tail(settings(tmp_path))


def test_requests_are_printed_as_cloudflare_tells_of_them_and_it_is_told_when_nobody_listens(tmp_path: Path) -> None:
    workerd.packages()
    told = {"url": "https://edge.test/v1/models", "method": "GET", "headers": {}, "cf": {}}
    event = {"outcome": "ok", "scriptName": "ragstone-edge", "exceptions": [], "logs": [], "eventTimestamp": 1}
    asked: list[tuple[str, str]] = []

    async def api(request: web.Request) -> web.StreamResponse:
        asked.append((request.method, request.path))
        if "upgrade" in request.headers:
            socket = web.WebSocketResponse(protocols=("trace-v1",))
            await socket.prepare(request)
            await socket.send_bytes(json.dumps({**event, "event": {"request": told}}).encode())
            async for _ in socket:
                pass
            return socket
        made = {"id": "t1", "url": f"ws://{request.host}/events", "expires_at": "2100-01-01T00:00:00Z"}
        return web.json_response({"success": True, "errors": [], "messages": [], "result": made})

    async def scene() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", api)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        environment = {**os.environ, "CLOUDFLARE_API_TOKEN": "t", "CLOUDFLARE_ACCOUNT_ID": "a", "HOME": str(tmp_path)}
        environment |= {"CLOUDFLARE_API_BASE_URL": f"http://127.0.0.1:{runner.addresses[0][1]}/v4"}
        environment |= {"PYTHONPATH": str(ROOT), "RAGSTONE_CACHE": str(cache_folder())}
        command = [sys.executable, "-m", "ragstone", "edge", "tail", "--to", "cloudflare"]
        tail = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, env=environment, stdout=asyncio.subprocess.PIPE)
        assert tail.stdout
        async with asyncio.timeout(60):
            while b"/v1/models" not in await tail.stdout.readline():
                assert not tail.stdout.at_eof(), "wrangler ended before it told of a request"
            tail.terminate()
            await tail.communicate()  # whose end comes once wrangler has ended too
        await runner.cleanup()

    asyncio.run(scene())
    tails = "/v4/accounts/a/workers/scripts/ragstone-edge/tails"
    assert asked == [("POST", tails), ("GET", "/events"), ("DELETE", f"{tails}/t1")]


def test_packages_that_are_there_are_not_installed_again_and_what_npm_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workerd.packages()
    monkeypatch.setenv("RAGSTONE_CACHE", str(tmp_path / "cache"))
    manifest = tmp_path / "package.json"
    manifest.write_text('{"private": true}')
    folder = npm.packages(manifest)
    assert (folder / "package.json").read_text() == manifest.read_text()
    monkeypatch.setenv("PATH", "")
    assert npm.packages(manifest) == folder
    manifest.write_text("{}")
    with pytest.raises(ConfigError, match="npm is not installed"):
        npm.packages(manifest)
    with pytest.raises(ConfigError, match=r"Node\.js is not installed"):
        npm.node(folder)


def test_what_npm_refuses_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workerd.packages()
    monkeypatch.setenv("RAGSTONE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "package.json").write_text("{")
    with pytest.raises(ConfigError, match="npm can't install"):
        npm.packages(tmp_path / "package.json")
    assert list((tmp_path / "cache/npm").iterdir()) == []


def test_without_a_cache_of_its_own_a_location_answers_from_the_shared_one(tmp_path: Path) -> None:
    workerd.packages()
    with running(Edge("cloudflare://?kv=1").command, tmp_path) as bench:
        body = question()
        assert [bench.chat(body).cache, bench.chat(body).cache] == ["miss", "hit"]
        bench.promote("r-b")
        assert [bench.chat(body).cache, bench.chat(body).cache] == ["revalidated", "hit"]
        assert asked(bench, body) == 2


def test_an_answer_is_not_to_be_had_past_the_key_check(tmp_path: Path) -> None:
    workerd.packages()
    with running(Edge("cloudflare://edge.test").command, tmp_path) as bench:
        body = question()
        bench.chat(body)
        kept = canonical.key(body, "acme", ["public"])
        assert bench.request("GET", f"/v1/.kept/{kept}").status == 404

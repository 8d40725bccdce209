"""The files of `deploy/` by their rules, and the entry command of each role in a fresh environment. No container engine runs here."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from ragstone import config
from ragstone.config import Settings
from ragstone.connect import built_in
from tests.origins import Origin, Site, site, until
from tests.speaker import speaking

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
ROLES = {"origin": Settings().api.port, "edge": Settings().edge.port, "trainer": 0, "worker": 0}
"""Each role and the port that it listens on."""
KINDS = {"Deployment", "Service", "CronJob", "NetworkPolicy"}

Stage = list[tuple[str, str]]


def stages() -> dict[str, Stage]:
    """The instructions of each stage of the Containerfile, those of the stages that it is made from included."""
    found: dict[str, Stage] = {"": []}
    name = ""
    text = re.sub(r"\\\n", " ", "\n".join(line for line in (DEPLOY / "Containerfile").read_text().splitlines() if not line.startswith("#")))
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = list(found.get(base, []))
        found[name].append((word, rest.strip()))
    return found


def said(role: str, word: str) -> str:
    """What the stage of a role says last under a word."""
    return [rest for one, rest in stages()[role] if one == word][-1]


def environment(role: str) -> dict[str, str]:
    """What the image sets of Ragstone's own variables."""
    told = " ".join(rest for word, rest in stages()[role] if word == "ENV")
    return dict(re.findall(r"(RAGSTONE_\w+)=(\S+)", told))


@pytest.mark.parametrize("role", ROLES)
def test_no_role_is_root_and_each_says_how_it_is_looked_after(role: str) -> None:
    assert said(role, "USER") == "10001:10001"
    health = said(role, "HEALTHCHECK")
    assert (health == "NONE") == (role == "trainer")
    assert [int(rest) for word, rest in stages()[role] if word == "EXPOSE"] == ([ROLES[role]] if ROLES[role] else [])
    assert not ROLES[role] or f":{ROLES[role]}/healthz" in health


@pytest.mark.parametrize(("base", "status"), [("python:3.11", 1), ("alinux3/python@sha256:" + "0" * 64, 0)])
def test_a_base_that_is_not_pinned_ends_the_build(base: str, status: int) -> None:
    assert ("ARG", "BASE") in stages()[""]
    made_from = {rest.split()[0] for stage in stages().values() for word, rest in stage if word == "FROM"}
    assert made_from <= {"${BASE}", *stages()}
    (check,) = {rest for word, rest in stages()["source"] if word == "RUN" and "sha256" in rest}
    done = subprocess.run(["sh", "-c", check], env={"BASE": base}, capture_output=True, check=False)
    assert done.returncode == status


def known() -> dict[str, list[str]]:
    """The package's extras."""
    extras: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return extras


def installed(stage: str) -> list[str]:
    """The extras that a stage installs."""
    return [name for word, rest in stages()[stage] for names in re.findall(r"'\.\[(.+)\]'", rest) for name in names.split(",")]


def packages(stage: str) -> set[str]:
    """The packages that the extras of a stage ask for."""
    extras, wanted = known(), installed(stage)
    found: set[str] = set()
    while wanted:
        for asked in extras[wanted.pop()]:
            own = re.fullmatch(r"ragstone\[(.+)\]", asked)
            wanted += own[1].split(",") if own else []
            found.add(re.split(r"[\[<>=]", asked)[0])
    return found - {"ragstone"}


def test_the_origin_carries_no_torch_and_the_trainer_does() -> None:
    assert ("COPY", "--from=light /opt/ragstone /opt/ragstone") in stages()["origin"]
    assert packages("light") & {"torch", "transformers", "ray"} == set()
    assert packages("heavy") >= {"torch", "ray"}


def test_the_origin_can_reach_all_that_a_release_may_name_but_ray_itself() -> None:
    connectors = {name for stage in ("store", "index", "serve", "rag") for name in built_in(stage)}
    assert (connectors & set(known())) - {"ray"} <= set(installed("light"))


def test_the_services_of_the_compose_file_are_confined_and_only_the_edge_is_reached_on_loopback() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert {port for one in services.values() for port in one.get("ports", [])} == {f"127.0.0.1:{ROLES['edge']}:{ROLES['edge']}"}
    for name, one in services.items():
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        if "image" in one:
            assert re.fullmatch(r".+:\d+\.\d+\.\d+", one["image"]), name
            assert one["healthcheck"]["test"], name
        else:
            assert (one["read_only"], one["user"], one["tmpfs"]) == (True, "10001:10001", ["/tmp"]), name
            assert one["build"]["target"] in ROLES, name
            settings(one["environment"])
        for other, how in one.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "image" in services[other] or said(other, "HEALTHCHECK") != "NONE"


def settings(told: dict[str, str]) -> None:
    """Each variable is a setting, and has a value that it may have."""
    assert {name.split("_")[1].lower() for name in told} <= set(config.SECTIONS)
    known = {f"RAGSTONE_{part}_{name}".upper() for part in config.SECTIONS for name in vars(getattr(Settings(), part))}
    assert set(told) <= known
    config.load(ROOT / "deploy", told)


def manifests() -> list[dict[str, Any]]:
    listed = yaml.safe_load((DEPLOY / "base/kustomization.yaml").read_text())["resources"]
    assert set(listed) == {path.name for path in (DEPLOY / "base").glob("*.yaml")} - {"kustomization.yaml"}
    return [one for name in listed for one in yaml.safe_load_all((DEPLOY / "base" / name).read_text())]


def pods() -> dict[str, dict[str, Any]]:
    """The pod template of each workload, by its name."""
    found = {}
    for one in manifests():
        if one["kind"] in ("Deployment", "CronJob"):
            spec = one["spec"]["jobTemplate"]["spec"] if one["kind"] == "CronJob" else one["spec"]
            found[one["metadata"]["name"]] = spec["template"]
    return found


@pytest.mark.parametrize("name", sorted(pods()))
def test_pods_run_as_nobody_on_a_file_system_that_they_can_not_write(name: str) -> None:
    pod = pods()[name]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    confined = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert container["securityContext"] == confined
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    settings({one["name"]: one["value"] for one in container.get("env", [])})
    role = name.removeprefix("ragstone-")
    assert container["args"] == json.loads(said(role, "CMD"))
    assert [port["containerPort"] for port in container.get("ports", [])] == ([ROLES[role]] if ROLES[role] else [])
    for probe in ("readinessProbe", "livenessProbe") if ROLES[role] else ():
        assert container[probe]["httpGet"]["port"] == "http"


def test_services_select_the_pods_and_only_the_edge_reaches_the_origin() -> None:
    found = manifests()
    assert {one["kind"] for one in found} == KINDS
    labels = {name: pod["metadata"]["labels"] for name, pod in pods().items()}
    for one in found:
        if one["kind"] == "Service":
            assert one["spec"]["selector"] == labels[one["metadata"]["name"]]
    (policy,) = [one["spec"] for one in found if one["kind"] == "NetworkPolicy"]
    assert policy["podSelector"]["matchLabels"] == labels["ragstone-origin"]
    (rule,) = policy["ingress"]
    assert [peer["podSelector"]["matchLabels"] for peer in rule["from"]] == [labels["ragstone-edge"]]


def test_the_bases_settings_are_settings() -> None:
    assert config.load(DEPLOY / "base", {}).store_url.startswith("s3://")


# ---- the entry commands


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the package installed from a copy of the sources, and no PyTorch, as the origin's image has it."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "src").mkdir()
    shutil.copytree(ROOT / "ragstone", folder / "src/ragstone", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "src")
    venv.create(folder / "venv", with_pip=False)
    (packages,) = [path for path in sys.path if (Path(path) / "torch").is_dir()][:1] or [""]
    if not packages:
        pytest.skip("the dependencies are not in one folder")
    (place,) = (folder / "venv/lib").glob("python*/site-packages")
    (place / "dependencies.pth").write_text(packages)
    install = [sys.executable, "-m", "pip", "--python", str(folder / "venv/bin/python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--no-build-isolation", "--no-index", str(folder / "src")], check=True, timeout=300)
    (place / "torch.py").write_text("raise ImportError('no torch in this image')")
    return folder / "venv"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with speaking() as speaker:
        yield site(tmp_path_factory.mktemp("project"), speaker.url)


def entry(role: str) -> list[str]:
    """What the image of a role runs."""
    words: list[str] = json.loads(said(role, "ENTRYPOINT")) + json.loads(said(role, "CMD"))
    return words


def command(role: str, fresh: Path) -> list[str]:
    """The entry command of a role, by the programs of the environment."""
    program, *rest = entry(role)
    return [str(fresh / "bin" / program), *rest]


def variables(role: str, fresh: Path, built: Site, port: int, **more: str) -> dict[str, str]:
    """The image's own, but for its port and for the address: a test listens on loopback only."""
    part = "API" if role == "origin" else "EDGE"
    own = {**environment(role), f"RAGSTONE_{part}_HOST": "127.0.0.1", f"RAGSTONE_{part}_PORT": str(port)}
    here = {"RAGSTONE_CACHE": str(config.cache_folder()), "RAGSTONE_SERVE_URL": built.settings.serve.url}
    return {"PATH": f"{fresh}/bin:{os.environ['PATH']}", "HOME": str(built.settings.folder), **own, **here, **more}


@contextmanager
def entered(role: str, fresh: Path, built: Site, **more: str) -> Iterator[str]:
    """The role's process; its health check holds before the block and it ends in order after it. Yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told = variables(role, fresh, built, port, **more)
    process = subprocess.Popen(command(role, fresh), cwd=built.settings.folder, env=told, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline().strip() == f"{role} http://127.0.0.1:{port}"
        check = json.loads(said(role, "HEALTHCHECK").partition("CMD ")[2])
        check = [str(fresh / "bin" / check[0]), *(part.replace(f":{ROLES[role]}/", f":{port}/") for part in check[1:])]
        subprocess.run(check, env=told, check=True, timeout=60)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        status = process.wait(60)
    assert status in (0, -signal.SIGTERM)  # uvicorn takes the signal again once it has drained


def test_origin_and_edge_start_by_their_entry_commands_without_torch(fresh: Path, built: Site) -> None:
    token = built.key()
    with entered("origin", fresh, built) as origin, entered("edge", fresh, built, RAGSTONE_EDGE_ORIGIN=origin) as edge:
        reply = Origin(built, edge, token)
        until(lambda: reply.request("GET", "/readyz").status == 200)
        assert reply.chat("How long is the feed pump primed?").json["ragstone"]["citations"]


def test_the_trainer_ends_with_its_verdict(fresh: Path, built: Site) -> None:
    told = variables("trainer", fresh, built, 0)
    done = subprocess.run(command("trainer", fresh), cwd=built.settings.folder, env=told, capture_output=True, text=True, timeout=300)
    assert (done.returncode, "corpus" in done.stdout or "question" in done.stdout) == (0, True), done.stderr


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'ragstone[ray]'")
def test_the_workers_command_is_one_that_ray_has() -> None:
    program, *rest = entry("worker")
    assert program == "ray"
    health = json.loads(said("worker", "HEALTHCHECK").partition("CMD ")[2])
    script = "import json; from ray.scripts.scripts import cli\n"
    script += "print(json.dumps({name: sum((one.opts for one in made.params), []) for name, made in cli.commands.items()}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    known = json.loads(done.stdout.splitlines()[-1])
    for name, *options in (rest, health[1:]):
        assert set(options) <= set(known[name])

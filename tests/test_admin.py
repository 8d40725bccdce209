"""The JSON behind the console, over HTTP: who may ask, what is hidden from whom, and what a promotion rests on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ragstone import access, project, relay, release
from ragstone import runs as run_states
from ragstone import store as stores
from ragstone.api import app, live, runs
from ragstone.corpus import labels
from ragstone.errors import CorpusError
from ragstone.show import Silence
from tests.origins import Origin, Reply, Site, running, site, until
from tests.speaker import Speaker
from tests.topics import flood

PRIMED = "How long is the feed pump primed?"
ADMIN = [
    (route.path, method)
    for route in app.ROUTES
    if route.path.startswith("/admin")
    for method in sorted((route.methods or set()) - {"HEAD"})
]


@pytest.fixture(scope="module")
def origin(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    folder = tmp_path_factory.mktemp("admin")
    (folder / "docs").mkdir()
    (folder / "docs" / "vault.pdf").write_bytes(b"no PDF")
    with running(site(folder, speaker.url)) as made:
        yield made


def administrator(at: Site, groups: tuple[str, ...] = ("public",)) -> str:
    return access.create(at.settings.keys_folder, at.store, tenant="local", groups=groups, rpm=10**6, tpm=10**9, expires=0, admin=True)[0]


def post(origin: Origin, path: str, body: object, groups: tuple[str, ...] = ("public",)) -> Reply:
    return origin.request("POST", path, body, administrator(origin.site, groups))


@contextmanager
def held(pid: int) -> Iterator[None]:
    """The process stands still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def refusal(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.json["error"]["code"]


@pytest.mark.parametrize(("path", "method"), ADMIN)
def test_administration_needs_an_administrator(origin: Origin, path: str, method: str) -> None:
    body: object = {} if method == "POST" else None
    assert refusal(origin.request(method, path, body)) == (403, "forbidden")
    assert refusal(origin.request(method, path, body, token="")) == (401, "invalid_api_key")


def test_the_edge_passes_all_of_administration_and_nothing_else() -> None:
    assert {path for path, _ in ADMIN} == relay.ADMIN


def test_a_key_is_told_what_it_stands_for(origin: Origin) -> None:
    told = origin.request("GET", "/v1/key", token=administrator(origin.site)).json
    assert (told["tenant"], told["groups"], told["admin"], told["expires"]) == ("local", ["public"], True, None)
    assert origin.request("GET", "/v1/key").json["admin"] is False


# ---- documents


def test_a_document_comes_with_its_chunks(origin: Origin) -> None:
    whole = origin.request("POST", "/v1/documents", {"document": "pump.md"}).json
    assert (whole["title"], whole["start"], whole["end"]) == ("Feed pump", 0, whole["characters"])
    (cited,) = origin.request("POST", "/v1/retrieve", {"query": PRIMED, "top_k": 1}).json["data"]
    assert whole["text"][cited["start"] : cited["end"]] == cited["text"]
    assert cited["chunk"] in [one["chunk"] for one in whole["chunks"]]
    part = origin.request("POST", "/v1/documents", {"document": "pump.md", "start": 3, "end": 9}).json
    assert (part["text"], part["start"], part["end"]) == (whole["text"][3:9], 3, 9)


def test_a_document_of_other_groups_is_not_there(origin: Origin) -> None:
    hidden = origin.request("POST", "/v1/documents", {"document": "vault.md"})
    missing = origin.request("POST", "/v1/documents", {"document": "nothing.md"})
    assert refusal(hidden) == refusal(missing) == (404, "not_found")
    assert hidden.json["error"]["message"].replace("vault", "nothing") == missing.json["error"]["message"]
    manager = origin.site.key(("managers",))
    assert "4711" in origin.request("POST", "/v1/documents", {"document": "vault.md"}, manager).json["text"]


def test_an_administrator_lists_what_its_groups_may_read(origin: Origin) -> None:
    listed = post(origin, "/admin/documents", {"limit": 2}).json
    assert (listed["total"], [one["document"] for one in listed["data"]]) == (4, ["boiler.html", "crew/rota.txt"])
    assert [one["document"] for one in post(origin, "/admin/documents", {"search": "VALVE"}).json["data"]] == ["valve.md"]
    assert post(origin, "/admin/documents", {}, ("managers", "public")).json["total"] == 5


def test_a_file_that_could_not_be_read_is_named_with_its_reason(origin: Origin) -> None:
    (failure,) = post(origin, "/admin/documents", {}).json["failures"]
    assert failure["path"] == "vault.pdf"
    assert failure["reason"]


def test_a_sync_names_only_files_that_the_key_may_read(origin: Origin) -> None:
    with run_states.kept(origin.site.settings.work_folder, "build", Silence()) as (show, _), show.bar("parse", 5) as advance:
        show.failed("vault.pdf", "is no PDF")
        show.failed("vault.md", "is no text")
        advance(4, 5, "vault.md")
        everyone, manager = administrator(origin.site), administrator(origin.site, ("managers",))
        until(lambda: synced(origin, manager)["note"] == "vault.md")
        assert (synced(origin, everyone)["note"], [one["path"] for one in synced(origin, everyone)["failures"]]) == ("", ["vault.pdf"])
        assert [one["path"] for one in synced(origin, manager)["failures"]] == ["vault.md"]
    with pytest.raises(CorpusError), run_states.kept(origin.site.settings.work_folder, "build", Silence()):
        raise CorpusError("vault.md can't be read")
    assert "vault" not in synced(origin, everyone)["error"]
    assert "vault" in synced(origin, administrator(origin.site, ("managers", "public")))["error"]


def test_a_sync_that_is_stopped_leaves_what_is_in_force_and_nothing_half(origin: Origin) -> None:
    store, token, fresh = origin.site.store, administrator(origin.site), origin.site.docs / "fresh"
    before = [stat.key for part in ("channels/", "releases/") for stat in store.list(part)]
    flood(fresh)
    try:
        origin.request("POST", "/admin/sync", {}, token)
        until(lambda: synced(origin, token)["stage"] in ("parse", "index"))
        assert origin.request("POST", "/admin/sync/stop", {}, token).json["stopped"] == synced(origin, token)["id"]
        until(lambda: synced(origin, token)["state"] == "stopped")
        assert origin.request("POST", "/admin/sync/stop", {}, token).json["stopped"] is None
        assert [stat.key for part in ("channels/", "releases/") for stat in store.list(part)] == before
        found = {"/".join(stat.key.split("/")[:2]) for part in ("corpora/", "indexes/") for stat in store.list(part)}
        assert not [folder for folder in found if not stores.published(store, folder)]
    finally:
        shutil.rmtree(fresh)
        project.stage(origin.site.settings, store, Silence())


def synced(origin: Origin, token: str) -> Any:
    return origin.request("GET", "/admin/sync", token=token).json["runs"][0]


def test_only_a_pdf_that_one_may_read_has_pages(origin: Origin) -> None:
    for name in ("vault.md", "nothing.md"):
        assert refusal(origin.request("POST", "/v1/documents/page", {"document": name})) == (404, "not_found")
    assert "no PDF" in origin.request("POST", "/v1/documents/page", {"document": "pump.md"}).json["error"]["message"]


# ---- feedback


def verdict(origin: Origin, chunk: str, **fields: object) -> Reply:
    body = {"model": "production", "verdict": "up", "question": PRIMED, "answer": "Two minutes.", "hits": [chunk], **fields}
    return origin.request("POST", "/v1/feedback", body)


def test_verdicts_become_labels_where_one_consents(origin: Origin, tmp_path: Path) -> None:
    chunk = origin.request("POST", "/v1/retrieve", {"query": PRIMED, "top_k": 1}).json["data"][0]["chunk"]
    assert verdict(origin, chunk, consent=True).json == {"kept": True, "consent": True}
    assert verdict(origin, chunk, verdict="down", question="Is my salary secret?").status == 201
    store = origin.site.store
    kept = b"\n".join(store.get(stat.key) for stat in store.list("feedback/"))
    assert b"salary" not in kept
    (tmp_path / "feedback.jsonl").write_bytes(kept)
    read = labels.read([tmp_path / "feedback.jsonl"])
    assert (read.withheld, [label.question for label in read.labels]) == (1, [PRIMED])
    assert [(target.name, target.groups) for target in read.labels[0].targets] == [(chunk, ("public",))]


def test_a_verdict_on_what_one_may_not_read_is_refused_like_one_on_nothing(origin: Origin) -> None:
    manager = origin.site.key(("managers",))
    hidden = origin.request("POST", "/v1/retrieve", {"query": "vault code", "top_k": 1}, manager).json["data"][0]["chunk"]
    assert refusal(verdict(origin, hidden)) == refusal(verdict(origin, "0" * 20)) == (404, "not_found")
    assert refusal(verdict(origin, hidden, verdict="sideways")) == (404, "not_found")
    assert refusal(verdict(origin, "x", hits=[])) == (400, "invalid_request")


# ---- releases


def test_a_candidate_has_the_tested_settings_and_is_in_force_nowhere(origin: Origin) -> None:
    id = post(origin, "/admin/releases", {"release": "production", "top_k": 2, "similarity_threshold": 0.4}).json["release"]
    made, parent = release.load(origin.site.store, id), release.load(origin.site.store, origin.release)
    assert release.diff(parent, made) == [("retrieval", parent.retrieval, {**parent.retrieval, "top_k": 2, "similarity_threshold": 0.4})]
    assert origin.release != id
    found = origin.request("POST", "/v1/retrieve", {"query": PRIMED, "model": id}).json
    assert (found["threshold"], len(found["data"])) == (0.4, 2)
    differences = post(origin, "/admin/diff", {"one": "production", "other": id}).json["data"]
    assert [one["part"] for one in differences] == ["retrieval"]


def test_promotion_and_rollback_are_refused_once_another_record_is_in_force(origin: Origin) -> None:
    before = origin.release
    id = post(origin, "/admin/releases", {"release": before, "top_k": 3}).json["release"]
    listed = origin.request("GET", "/admin/releases", token=administrator(origin.site)).json
    number = listed["channels"]["production"][-1]["number"]
    made = post(origin, "/admin/promote", {"channel": "production", "release": id, "after": number})
    assert (made.status, made.json["number"]) == (201, number + 1)
    until(lambda: origin.release == id)
    assert refusal(post(origin, "/admin/promote", {"channel": "production", "release": before, "after": number})) == (409, "conflict")
    assert refusal(post(origin, "/admin/rollback", {"channel": "production", "after": number})) == (409, "conflict")
    assert post(origin, "/admin/rollback", {"channel": "production", "after": number + 1}).json["release"] == before
    until(lambda: origin.release == before)


def test_a_canary_gets_a_share_and_gives_it_back_unless_another_record_came_first(origin: Origin) -> None:
    before = origin.release
    id = post(origin, "/admin/releases", {"release": before, "top_k": 4}).json["release"]
    number = records(origin)[-1]["number"]
    told = {"channel": "production", "release": id, "after": number}
    assert post(origin, "/admin/canary", {**told, "share": 30}).json["canary"] == {id: 30}
    until(lambda: origin.request("GET", "/v1/release").json["canary"] == {id: 30})
    assert refusal(post(origin, "/admin/canary", {**told, "share": 40})) == (409, "conflict")
    assert post(origin, "/admin/canary", {**told, "after": number + 1, "share": 0}).json["canary"] == {}
    assert refusal(post(origin, "/admin/canary", {**told, "share": 100})) == (400, "invalid_request")
    assert [record["release"] for record in records(origin)[-3:]] == [before] * 3


def records(origin: Origin) -> list[dict[str, Any]]:
    listed = origin.request("GET", "/admin/releases", token=administrator(origin.site)).json
    return list(listed["channels"]["production"])


def test_a_release_that_is_not_there_is_said(origin: Origin) -> None:
    reply = post(origin, "/admin/promote", {"channel": "production", "release": "r-000000000000", "after": 1})
    assert refusal(reply) == (404, "release_not_found")
    assert refusal(post(origin, "/admin/promote", {"channel": "production", "release": "r-000000000000"})) == (400, "invalid_request")


# ---- models and serving


def test_models_name_their_releases(origin: Origin) -> None:
    told = origin.request("GET", "/admin/models", token=administrator(origin.site)).json
    (model,) = told["models"]
    assert (model["model"], model["name"]) == (told["in_force"], "minilm")
    assert origin.release in model["releases"]
    assert told["verdicts"] == []


def test_a_map_of_terms_is_made_of_what_one_may_read(origin: Origin) -> None:
    told = origin.request("GET", "/admin/models", token=administrator(origin.site)).json
    asked = {"before": told["in_force"], "after": told["in_force"]}
    seen = {term["word"] for term in post(origin, "/admin/terms", asked, ("managers", "public")).json["terms"]}
    mine = post(origin, "/admin/terms", asked).json["terms"]
    assert "house" in seen, "in the rota and in the vault"
    assert "house" not in {term["word"] for term in mine}, "in the rota alone, as far as one may read"
    assert max(term["moved"] for term in mine) < 1e-5, "the same model twice"
    assert refusal(post(origin, "/admin/terms", {"before": "0" * 64, "after": told["in_force"]})) == (404, "model_not_found")


def test_slow_answers_are_told_without_their_question(origin: Origin) -> None:
    answered = origin.chat(PRIMED)
    assert answered.status == 200
    slowest = origin.request("GET", "/admin/serving", token=administrator(origin.site)).json["slowest"]
    assert ("acme", answered.headers["x-ragstone-release"]) in {(one["tenant"], one["release"]) for one in slowest}
    assert {one["question"] for one in slowest} == {""}
    assert all(one["total"] >= one["first"] >= one["search"] > 0 for one in slowest)
    assert [one["total"] for one in slowest] == sorted((one["total"] for one in slowest), reverse=True)


def test_counts_come_once_or_as_events(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PERIOD", 0.01)
    token = administrator(origin.site)
    once = origin.request("GET", "/admin/serving", token=token).json
    events = [json.loads(event) for event in origin.request("GET", "/admin/live", token=token).events]
    assert once["release"] == events[-1]["release"] == origin.release
    served = [sum(count for _, count in event["samples"]["ragstone_requests_total"]) for event in (once, events[-1])]
    assert served[1] > served[0]


# ---- training and exams


def ended(origin: Origin, path: str, groups: tuple[str, ...] = ("public",)) -> dict[str, Any]:
    """The newest run, once it is not under way any more."""
    newest: list[dict[str, Any]] = []

    def over() -> bool:
        newest[:] = origin.request("GET", path, token=administrator(origin.site, groups)).json["runs"][:1]
        return bool(newest) and newest[0]["state"] != "running"

    until(over)
    return newest[0]


def test_a_training_run_is_started_once_and_told_as_events(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "PERIOD", 0.01)
    begun = post(origin, "/admin/training", {"minutes": 1})
    assert (begun.status, begun.json["state"]) == (201, "running")
    with held(begun.json["pid"]):  # on a busy machine so small a run would be over before the second request
        assert refusal(post(origin, "/admin/training", {})) == (409, "conflict")
    events = origin.request("GET", "/admin/training/live", token=administrator(origin.site)).events
    assert json.loads(events[0])["runs"][0]["pid"] == begun.json["pid"]
    run = ended(origin, "/admin/training")
    assert (run["state"], run["pid"]) == ("done", begun.json["pid"])
    assert "are needed to keep some out" in run["result"]["verdict"]
    assert refusal(post(origin, "/admin/training", {"minutes": "many"})) == (400, "invalid_request")


LINES = '{"question": "How long is the feed pump primed?", "document": "pump.md"}\n{"question": "Who won the cup?", "answerable": false}\n'


def test_an_exam_compares_two_releases_and_hides_what_was_asked_as_others(origin: Origin) -> None:
    one = post(origin, "/admin/releases", {"release": "production", "top_k": 1}).json["release"]
    asked = {"releases": ["production", one], "questions": LINES, "answers": False}
    assert post(origin, "/admin/exam", asked, ("managers", "public")).status == 201
    hidden = ended(origin, "/admin/exam")
    assert (hidden["state"], hidden["result"], hidden["hidden"]) == ("done", None, True)
    seen = ended(origin, "/admin/exam", ("managers", "public"))["result"]
    assert seen["releases"] == [origin.release, one]
    assert [one["question"] for one in seen["questions"]] == [PRIMED, "Who won the cup?"]
    assert post(origin, "/admin/exam", {"releases": [one], "questions": LINES, "answers": False}).status == 201
    assert ended(origin, "/admin/exam")["result"]["asked"] == 2
    older = origin.request("GET", "/admin/exam", token=administrator(origin.site, ("managers", "public"))).json["runs"][1]
    assert (older["result"]["asked"], "questions" in older["result"]) == (2, False), "a list of long exams stays short"


def test_questions_that_this_key_may_not_ask_are_refused(origin: Origin) -> None:
    foreign = '{"question": "Which code?", "groups": ["managers"]}'
    for text in (foreign, "no JSON"):
        reply = post(origin, "/admin/exam", {"releases": ["production"], "questions": text})
        assert (reply.status, reply.json["error"]["param"]) == (400, "questions")
    assert refusal(post(origin, "/admin/exam", {"releases": []})) == (400, "invalid_request")


def test_what_one_may_not_read_can_not_be_forgotten_and_a_look_changes_nothing(origin: Origin) -> None:
    before = origin.release
    for name in ("vault.md", "nothing.md", "--delete"):
        assert refusal(post(origin, "/admin/forget", {"documents": [name]})) == (404, "not_found")
    assert post(origin, "/admin/forget", {"documents": ["vault.md"]}, ("managers", "public")).status == 201
    assert ended(origin, "/admin/forget")["hidden"]
    told = ended(origin, "/admin/forget", ("managers", "public"))["result"]
    assert (told["documents"], told["forgotten"]) == (["vault.md"], False)
    assert origin.release == before

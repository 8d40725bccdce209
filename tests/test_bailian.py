"""Bailian against a cloud on loopback (`cloud.py`, `workspace.py`): every request is signed and checked, and what it finds is cited."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
from contextlib import aclosing
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest
from typer.testing import CliRunner

from ragstone import application, config, forget, project, rag, release, serve, service
from ragstone.cli import app
from ragstone.config import Settings
from ragstone.errors import ConfigError, GeneratorError, IndexingError, ReleaseError
from ragstone.retrieve import Search
from ragstone.serve import Generator, Message, Piece, Sampling, Usage
from ragstone.show import Silence
from ragstone.store import Store, connect
from tests.cloud import KEY, SECRET, Cloud
from tests.conversations import PRIMED
from tests.origins import SECRET as VAULT
from tests.origins import Site, running, site
from tests.speaker import Speaker
from tests.test_service import written
from tests.workspace import API_KEY, APP, WORKSPACE

bailian = pytest.importorskip("ragstone.rag.bailian", reason="pip install 'ragstone[bailian]'")
ALL = 5
"""Passages of the manuals, and the vault's."""


class Said(Silence):
    """Keeps the lines that a person would see."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def built(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The manuals with a release of their own index."""
    return site(tmp_path_factory.mktemp("bailian"), speaker.url)


@pytest.fixture
def at(built: Site, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The same with this test's workspace as what finds passages, two passages a file."""
    monkeypatch.setattr(bailian, "PART", 2)
    return replace(built, settings=config.override(built.settings, "rag", url=cloud.knowledge()))


def made(at: Site, show: Said | None = None) -> str:
    """The URL of the knowledge base of what is in force."""
    record = release.current(at.store, "production")
    assert record
    return rag.make(at.settings, at.store, release.load(at.store, record.release).snapshot, show or Said())


def finder(at: Site) -> Search:
    record = release.current(at.store, "production")
    assert record
    return project.open_retriever(at.settings, at.store, replace(release.load(at.store, record.release), rag=made(at)))


def test_a_knowledge_base_is_made_of_the_passages_and_each_is_found_as_it_was(at: Site, cloud: Cloud) -> None:
    said = Said()
    url = made(at, said)
    (base,) = cloud.workspace.bases.values()
    assert len(base.files) == len({file.name for file in cloud.workspace.files.values()}) == 3
    assert (base.asked["chunkMode"], base.asked["Separator"], base.asked["OverlapSize"]) == ("regex", bailian.SEPARATOR, "0")
    assert len(base.passages) == ALL
    assert any("job job-1 is RUNNING: 0 of 3 files are imported" in line for line in said.lines)
    assert any("files are read" in line for line in said.lines)
    hit = finder(at).search(PRIMED, ("public",), 3)[0]
    assert hit.chunk.document == "pump.md"
    assert "ninety seconds" in hit.chunk.text
    assert "ragstone" not in hit.chunk.text
    assert url.startswith(f"bailian://{WORKSPACE}/kb-1?region=cn-test")


def test_top_k_and_the_threshold_are_the_reranker_s(at: Site, cloud: Cloud) -> None:
    found = finder(at).found(PRIMED, ("public",), 5, 0.75, {})
    asked = cloud.workspace.retrieved[0]
    assert (asked["RerankTopN"], asked["RerankMinScore"], asked["Query"]) == ("5", "0.75", PRIMED)
    assert found
    assert all(hit.score >= 0.75 for hit in found)


def test_without_a_passage_at_the_threshold_it_says_how_near_the_best_came(at: Site, cloud: Cloud) -> None:
    found = finder(at).found("Who won the cup?", ("public",), 5, 0.75, {})
    assert [asked["RerankMinScore"] for asked in cloud.workspace.retrieved][:2] == ["0.75", "0.01"]
    assert found
    assert max(hit.score for hit in found) < 0.75


def test_limits_beyond_bailian_s_are_its_limits(at: Site, cloud: Cloud) -> None:
    finder(at).found(PRIMED, ("public",), 50, 0.0, {})
    assert (cloud.workspace.retrieved[0]["RerankTopN"], cloud.workspace.retrieved[0]["RerankMinScore"]) == ("20", "0.01")


def test_what_the_caller_may_not_see_is_left_out_and_made_up_for(at: Site, cloud: Cloud) -> None:
    question = "What is the vault code of the boiler house?"
    found = finder(at).search(question, ("public",), 1)
    assert [asked["RerankTopN"] for asked in cloud.workspace.retrieved] == ["1", "20"]
    assert len(found) == 1
    assert found[0].chunk.text not in VAULT
    assert finder(at).search(question, ("managers",), 1)[0].chunk.document == "vault.md"


def test_an_outside_region_gets_no_separator_and_passages_are_known_by_their_marks(at: Site, cloud: Cloud) -> None:
    abroad = replace(at, settings=config.override(at.settings, "rag", url=cloud.knowledge(region="ap-test")))
    hits = finder(abroad).search(PRIMED, ("public",), 20)
    assert "chunkMode" not in next(iter(cloud.workspace.bases.values())).asked
    assert {hit.chunk.document for hit in hits} == {"pump.md", "valve.md", "boiler.html", "crew/rota.txt"}


def test_what_is_there_is_not_made_again(at: Site, cloud: Cloud) -> None:
    url = made(at)
    cloud.calls.clear()
    assert made(at) == url
    assert not cloud.calls


@pytest.mark.parametrize(
    "call",
    [
        r"POST \S+/datacenter/category/$",
        r"POST \S+/datacenter/category/cate",
        r"PUT /upload/lease-3",
        r"PUT \S+/datacenter/file|POST \S+/datacenter/file$",
        r"\S+/datacenter/files",
        r"\S+/index/create",
        r"\S+/index/submit",
        r"\S+/index/job/status",
    ],
)
def test_a_run_that_was_cut_off_goes_on_and_makes_nothing_twice(at: Site, cloud: Cloud, call: str) -> None:
    cloud.cut = {call: 1}
    with pytest.raises(IndexingError) as lost:
        made(at)
    assert lost.value.hint == bailian.AGAIN
    assert not [pattern for pattern, left in cloud.cut.items() if left], "no such call was made"
    made(at)
    done = cloud.workspace
    assert (len(done.categories), len(done.bases), len(done.jobs)) == (1, 1, 1)
    assert len(done.files) == len({file.name for file in done.files.values()}) == 3
    assert len(finder(at).search(PRIMED, ("public", "managers"), 20)) == ALL


def test_a_job_that_was_begun_is_waited_for_by_the_next_run(at: Site, cloud: Cloud) -> None:
    cloud.cut = {r"/index/job/status": 1}
    with pytest.raises(IndexingError):
        made(at)
    made(at)
    assert cloud.workspace.actions.count("SubmitIndexJob") == 1


def test_a_failed_job_names_each_file_and_why_and_the_next_run_asks_anew(at: Site, cloud: Cloud) -> None:
    cloud.workspace.failing = {"part-0002.txt", "part-0003.txt"}
    with pytest.raises(IndexingError, match=r"job-1 failed: part-0002\.txt: out of quota; part-0003\.txt: out of quota"):
        made(at)
    cloud.workspace.failing = set()
    made(at)
    assert list(cloud.workspace.jobs) == ["job-1", "job-2"]


def test_a_file_that_can_t_be_read_is_named_and_sent_anew(at: Site, cloud: Cloud) -> None:
    cloud.workspace.unreadable = {"part-0003.txt"}
    with pytest.raises(IndexingError, match=r"can't read part-0003\.txt: no text in it"):
        made(at)
    cloud.workspace.unreadable = set()
    made(at)
    assert len(cloud.workspace.files) == 3


def test_a_refusal_of_status_200_is_an_error_with_its_words(at: Site, cloud: Cloud) -> None:
    cloud.workspace.refuses = "CreateIndex"
    with pytest.raises(IndexingError, match=r"can't make the knowledge base: Index\.Forbidden: this workspace may not"):
        made(at)


def test_a_wrong_key_is_refused_and_shown_nowhere(at: Site, cloud: Cloud) -> None:
    cloud.secrets["bailian"] = "another"
    with pytest.raises(IndexingError, match="SignatureDoesNotMatch") as refused:
        made(at)
    assert "ALIBABA_CLOUD_ACCESS_KEY_ID" in refused.value.hint
    assert SECRET not in str(refused.value)
    assert KEY not in str(refused.value)


def test_explain_prints_the_calls_that_are_made(at: Site, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bailian, "PART", 500)
    settings = config.override(at.settings, "retrieve", top_k=5, similarity_threshold=0.75)
    told = application.explain(settings, at.store)
    assert not cloud.calls
    made(at)
    finder(at).found(PRIMED, ("public",), 5, 0.75, {})
    sent = [_place(call.partition(" ")[2]) for call in cloud.calls]
    lines = [_place(line.partition(" ")[2]) for line in told.splitlines() if re.match(r"(GET|POST|PUT|DELETE) ", line)]
    assert list(dict.fromkeys(lines)) == list(dict.fromkeys(sent))
    assert "RerankMinScore=0.75" in told
    assert "RerankTopN=5" in told
    assert "5 passages as 1 files" in told


def _place(target: str) -> str:
    """A call without what Bailian gave: the ids in its path, and the query."""
    path = unquote_plus(re.sub(r"https?://[^/]*", "", target)).partition("?")[0]
    return re.sub(r"/(?:cate-\d+|CATEGORY|upload/lease-\d+)|URL-OF-THE-LEASE", "/X", path)


def test_explain_of_our_own_search_calls_nothing(built: Site) -> None:
    assert "no service is called" in application.explain(built.settings, built.store)


def test_an_application_is_a_release_that_is_promoted_and_rolled_back(at: Site, cloud: Cloud) -> None:
    before = release.current(at.store, "production")
    assert before
    settings = application.configured(at.settings, None, 3, 0.6, None)
    record = application.create(settings, at.store, Silence())
    now = release.load(at.store, record.release)
    assert now.rag.startswith(f"bailian://{WORKSPACE}/kb-1")
    assert (now.retrieval["top_k"], now.retrieval["similarity_threshold"]) == (3, 0.6)
    assert application.create(settings, at.store, Silence()).number == record.number
    with pytest.raises(ReleaseError, match="finds its passages there"):
        rag.remove(at.store, now.rag)
    assert release.rollback(at.store, "production").release == before.release


def test_the_origin_answers_from_the_knowledge_base(at: Site, cloud: Cloud) -> None:
    application.create(at.settings, at.store, Silence())
    try:
        with running(at) as origin:
            found = origin.request("POST", "/v1/retrieve", {"query": PRIMED, "top_k": 2}).json
            assert cloud.workspace.retrieved[-1]["Query"] == PRIMED
            assert "ninety seconds" in json.dumps(found)
    finally:
        release.rollback(at.store, "production")


def test_deleting_ends_the_knowledge_base_its_files_and_its_category(at: Site, cloud: Cloud) -> None:
    url = made(at)
    rag.remove(at.store, url)
    assert (cloud.workspace.bases, cloud.workspace.files, cloud.workspace.categories) == ({}, {}, {})
    assert url not in [json.loads(at.store.get(stat.key))["url"] for stat in at.store.list("bailian/")]
    rag.remove(at.store, url)


def test_the_command_takes_the_seed_s_figures_for_our_own_search(built: Site, speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built.settings.folder)
    monkeypatch.setenv("RAGSTONE_SERVE_URL", speaker.url)
    asked = ["app", "create", "--top-k", "3", "--similarity-threshold", "0.8"]
    done = CliRunner().invoke(app, asked, catch_exceptions=False)
    record = release.current(built.store, "production")
    assert record
    now = release.load(built.store, record.release)
    release.rollback(built.store, "production")
    assert (now.retrieval["top_k"], now.retrieval["similarity_threshold"], now.rag) == (3, 0.8, "")
    assert record.release in done.output
    assert "retrieve.similarity_threshold = 0.8" in done.output


@pytest.mark.parametrize(("top_k", "threshold"), [(0, None), (None, 1.0), (None, 0.0)])
def test_figures_that_can_t_be_are_refused(settings: Settings, top_k: int | None, threshold: float | None) -> None:
    with pytest.raises(ConfigError):
        application.configured(settings, None, top_k, threshold, None)


@pytest.mark.parametrize(
    "url",
    ["bailian://llm-1", "bailian://?region=cn-beijing", "bailian://k:s@llm-1?region=x", "bailian://llm-1?region=x&top=3",
     "bailian://llm-1?region=x&poll=soon", "bailian://llm-1?region=x&endpoint=http://elsewhere"],
)  # fmt: skip
def test_a_workspace_s_url_that_says_too_little_or_too_much_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        bailian.read(url)


# ---- an application of Bailian as the generator


@pytest.fixture
def generator(cloud: Cloud, settings: Settings) -> Generator:
    return application_of(cloud, settings, index="kb-1", workspace="llm-1")


def application_of(cloud: Cloud, settings: Settings, key: str = API_KEY, **options: str) -> Generator:
    given = "&".join(f"{name}={value}" for name, value in {"endpoint": f"{cloud.endpoint}/api/v1", **options}.items())
    return serve.connect(config.override(settings, "serve", url=f"bailian://{APP}?{given}", api_key=key))


def answered(generator: Generator, **sampling: Any) -> list[Piece]:
    async def case() -> list[Piece]:
        await generator.start()
        asked = [Message("system", "Be brief."), Message("user", "What is it?")]
        return [piece async for piece in generator.stream(asked, Sampling(**sampling))]

    return asyncio.run(case())


def test_an_application_s_answer_comes_in_pieces_with_its_usage(generator: Generator, cloud: Cloud) -> None:
    assert answered(generator, seed=7) == [Piece("The "), Piece("pump."), Piece("", "stop", Usage(9, 2))]
    headers, asked = cloud.workspace.asked[0]
    assert headers["x-dashscope-workspace"] == "llm-1"
    assert [turn["role"] for turn in asked["input"]["messages"]] == ["system", "user"]
    told = asked["parameters"]
    assert told["rag_options"] == {"pipeline_ids": ["kb-1"]}
    assert (told["incremental_output"], told["seed"], told["temperature"]) == (True, 7, 0.0)


def test_explain_of_an_application_is_what_is_sent(cloud: Cloud, settings: Settings, tmp_path: Path) -> None:
    url = f"bailian://{APP}?index=kb-1&endpoint={cloud.endpoint}/api/v1"
    file = written(tmp_path, {"name": "helper", "model": url})
    told = service.explain(service.read(file, "v1", settings))
    assert f"POST {cloud.endpoint}/api/v1/apps/{APP}/completion" in told
    answered(application_of(cloud, settings, index="kb-1"))
    shown = json.loads(
        "\n".join(line.strip() for line in told.splitlines() if line.strip()[:1] in ("{", "}", '"', "]", "[") or "role" in line)
    )
    assert shown["parameters"].items() <= cloud.workspace.asked[0][1]["parameters"].items()


def test_an_application_is_deployed_as_any_generator(cloud: Cloud, settings: Settings, opened: Store, tmp_path: Path) -> None:
    url = f"bailian://{APP}?endpoint={cloud.endpoint}/api/v1"
    settings = config.override(settings, "serve", api_key=API_KEY)
    service.deploy(settings, opened, service.read(written(tmp_path, {"name": "helper", "model": url}), "v1", settings), print)
    assert service.deployed(opened) == ["helper/v1"]
    assert API_KEY not in str(opened.get("services/helper/v1.json"))


@pytest.fixture
def opened(settings: Settings) -> Store:
    from ragstone import store

    return store.connect(settings.store_url)


def test_a_wrong_api_key_is_refused_and_shown_nowhere(cloud: Cloud, settings: Settings) -> None:
    with pytest.raises(GeneratorError, match="401, InvalidApiKey") as refused:
        answered(application_of(cloud, settings, key="sk-wrong-one"))
    assert refused.value.hint == "set RAGSTONE_SERVE_API_KEY or DASHSCOPE_API_KEY"
    assert "sk-wrong-one" not in str(refused.value)
    assert not refused.value.retryable


def test_no_api_key_is_said_before_anything_is_sent(cloud: Cloud, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashscope.api_key", None)
    with pytest.raises(GeneratorError, match="needs an API key"):
        answered(application_of(cloud, settings, key=""))
    assert not cloud.workspace.asked


def test_too_many_questions_may_be_asked_again_later(generator: Generator, cloud: Cloud) -> None:
    cloud.workspace.status = 429
    with pytest.raises(GeneratorError, match="Throttling") as busy:
        answered(generator)
    assert busy.value.retryable


def test_an_answer_without_an_end_is_no_answer(generator: Generator, cloud: Cloud) -> None:
    cloud.workspace.finish = ""
    with pytest.raises(GeneratorError, match="before it was whole") as cut:
        answered(generator)
    assert not cut.value.retryable


def test_a_server_that_is_gone_is_an_error_that_may_pass(settings: Settings) -> None:
    nowhere = config.override(settings, "serve", url=f"bailian://{APP}?endpoint=http://127.0.0.1:9/api/v1", api_key="k")
    with pytest.raises(GeneratorError, match="can't be reached") as gone:
        answered(serve.connect(nowhere))
    assert gone.value.retryable


def test_closing_the_answer_ends_the_request(generator: Generator, cloud: Cloud) -> None:
    cloud.workspace.says = repeat("word ")
    cloud.workspace.go.clear()

    async def leave() -> Piece:
        async with aclosing(generator.stream([Message("user", "Tell a story.")], Sampling())) as pieces:
            return await anext(pieces)

    assert asyncio.run(leave()) == Piece("word ")
    cloud.workspace.go.set()
    assert cloud.workspace.left.wait(30)


def test_an_answer_that_does_not_end_in_time_is_an_error(cloud: Cloud, settings: Settings) -> None:
    cloud.workspace.go.clear()
    try:
        with pytest.raises(GeneratorError, match="did not end its answer in time"):
            answered(application_of(cloud, config.override(settings, "serve", timeout=0.3)))
    finally:
        cloud.workspace.go.set()


def test_stop_sequences_are_refused_rather_than_ignored(generator: Generator, cloud: Cloud) -> None:
    with pytest.raises(GeneratorError, match="no stop sequences"):
        answered(generator, stop=("x",))
    assert not cloud.workspace.asked


def test_an_application_s_version_is_its_address_and_no_key(cloud: Cloud, settings: Settings) -> None:
    one, other = application_of(cloud, settings), application_of(cloud, settings, key="another", index="kb-2")
    assert one.version == application_of(cloud, settings, key="another").version
    assert one.version != other.version
    assert len(one.version) == len(hashlib.sha256().hexdigest())


@pytest.mark.parametrize("url", ["bailian://", "bailian://k@app", "bailian://app?top=1", "bailian://app?endpoint=http://elsewhere/v1"])
def test_an_application_s_url_that_says_too_little_or_too_much_is_refused(settings: Settings, url: str) -> None:
    with pytest.raises(ConfigError):
        serve.connect(config.override(settings, "serve", url=url))


def test_a_forgotten_document_is_in_no_knowledge_base_either(at: Site, cloud: Cloud, tmp_path: Path) -> None:
    shutil.copytree(at.settings.folder, tmp_path / "house")
    settings = config.override(config.load(tmp_path / "house", {}), "rag", url=at.settings.rag.url)
    own = Site(settings, connect(settings.store_url))
    application.create(own.settings, own.store, Silence())
    told = forget.forget(own.settings, own.store, ["pump.md"], Silence(), grace=0)
    now = release.load(own.store, release.resolve(own.store, "production"))
    (base,) = cloud.workspace.bases.values()
    assert now.rag.startswith(f"bailian://{WORKSPACE}/kb-2")
    assert now.rag.replace("kb-2", "kb-1") in told.elsewhere
    assert base.passages
    assert not [text for text in base.passages if "ninety seconds" in text]
    assert not [file for file in cloud.workspace.files.values() if b"ninety seconds" in file.content]

"""PAI-DLC against a cloud on loopback (`cloud.py`): every request is signed and checked, every job is run for real."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch

from ragstone import embedder, train
from ragstone.embedder import Embedder
from ragstone.errors import ConfigError, TrainError
from ragstone.train import Progress, Recipe
from ragstone.train import __main__ as job_main
from tests import cloud as clouds
from tests.cloud import SECRET, Cloud
from tests.conformance.test_train import SHORT, pairs
from tests.test_cli import ragstone
from tests.tiny import tiny

pai = pytest.importorskip("ragstone.train.pai", reason="pip install 'ragstone[pai]'")

LONG = replace(SHORT, epochs=1_000_000, minutes=60)
"""A job that is running whenever it is looked at."""


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    clouds.keys(monkeypatch)
    with clouds.running(tmp_path / "cloud") as running:
        yield running


@pytest.fixture(scope="module")
def bucket(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bucket with a finished job in it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as monkeypatch, clouds.running(folder / "cloud") as running:
        clouds.keys(monkeypatch)
        run(running, base, folder / "work")
    return folder / "cloud" / "bucket"


@pytest.fixture
def finished(cloud: Cloud, bucket: Path) -> Cloud:
    """The cloud with a copy of that bucket, and no memory of who ran the job."""
    shutil.copytree(bucket, cloud.root / "bucket", dirs_exist_ok=True)
    return cloud


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """As in the job: sums over another number of threads differ in their last bits."""
    torch.set_num_threads(1)


def run(cloud: Cloud, base: Path, work: Path, recipe: Recipe = SHORT, **options: str) -> tuple[dict[float, Path], list[Progress]]:
    seen: list[Progress] = []
    return train.connect(cloud.url(**options)).train(base, pairs(), recipe, work, seen.append), seen


def interrupt(now: Progress) -> None:
    raise KeyboardInterrupt


def test_the_verifiers_agree_with_the_vendors_published_examples() -> None:
    """Else a mistake that they shared with the SDK would pass: the API reference's RunInstances, the OSS SDKs' own, CRC-64/XZ's check."""
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    told = {"host": "ecs.cn-shanghai.aliyuncs.com", "x-acs-action": "RunInstances", "x-acs-content-sha256": empty}
    told |= {
        "x-acs-date": "2023-10-26T10:22:32Z",
        "x-acs-signature-nonce": "3156853299f313e23d1673dc12e1703d",
        "x-acs-version": "2014-05-26",
    }
    target = "/?ImageId=win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd&RegionId=cn-shanghai"
    signature = clouds.acs3("YourAccessKeySecret", "POST", target, told, ";".join(told))
    assert signature == "06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"

    told = {"x-oss-head1": "value", "abc": "value", "zabc": "value", "xyz": "value", "content-type": "text/plain"}
    told |= {"x-oss-content-sha256": "UNSIGNED-PAYLOAD", "x-oss-date": "20231216T162057Z"}
    target = "/bucket/1234%2B-/123/1.txt?param1=value1&%2Bparam1=value3&%7Cparam1=value4&%2Bparam2&%7Cparam2&param2"
    signature = clouds.oss4("sk", "PUT", target, told, "20231216/cn-hangzhou/oss/aliyun_v4_request")
    assert signature == "e21d18daa82167720f9b1047ae7e7f1ce7cb77a31e8203a7d5f4624fa0284afe"

    assert clouds.crc64(b"123456789") == 0x995D_C9BB_DF19_39FA


def test_the_candidates_of_a_job_come_back_whole_and_the_same_as_local_ones(cloud: Cloud, base: Path, tmp_path: Path) -> None:
    folders, seen = run(cloud, base, tmp_path / "far")
    here = train.connect("local").train(base, pairs(), SHORT, tmp_path / "near", lambda now: None)
    assert [now.step for now in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1].seconds_left == 0
    assert {share: embedder.digest(folder) for share, folder in folders.items()} == {share: embedder.digest(here[share]) for share in here}
    assert np.allclose(np.linalg.norm(Embedder(folders[0.5], threads=1).queries(["how is a class made?"]), axis=1), 1, atol=1e-3)


def test_what_is_asked_for_is_what_explain_says(cloud: Cloud, base: Path, tmp_path: Path) -> None:
    url = cloud.url(job_name="custom-emb")
    run(cloud, base, tmp_path, job_name="custom-emb")
    digest = cloud.jobs()[0].name
    told = train.explain(url, SHORT.minutes).replace("DIGEST", digest)
    assert json.loads(told[told.index("{") : told.rindex("}") + 1]) == cloud.runs[0].asked

    explained = {re.sub(r"(\w+) https?://[^/]*", r"\1 ", line) for line in told.splitlines() if not line.startswith(("#", " ", "{", "}"))}
    explained = {line.replace("/jobs/JOB", "/jobs/dlc0001").replace("/pods/POD", "/pods/dlc0001-worker-0") for line in explained}
    for call in cloud.calls:
        call = re.sub(r"\?StartTime=.*", "", call.replace(" /bucket/", " /"))
        call = re.sub(r"(/candidates)/[\d.]+/.+|(/base)/.+", lambda found: f"{found[1]}/SHARE/*" if found[1] else f"{found[2]}/*", call)
        assert call in explained, call


@pytest.mark.parametrize("now", [Progress(3, 72, 2.1, 71.0), Progress(20, 72, 1.2, 50.0, held_out=1.3)])
def test_a_line_of_the_log_is_read_as_the_job_tells_it(now: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    job_main._tell(now)
    line = capsys.readouterr().out
    assert pai._progress(f"2026-11-23T08:00:00Z {line}") == now
    assert pai._progress('{"step": 3, "steps": 72, "loss": 2.1, "seconds_left": 71.0}') == Progress(3, 72, 2.1, 71.0)  # an older image


def test_explain_needs_no_key_and_sends_nothing(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    clouds.keys(monkeypatch, None, None)
    told = train.explain(cloud.url(), 10)
    assert "POST http" in told
    assert SECRET not in told
    assert not cloud.calls


def test_a_finished_job_is_found_by_another_machine_and_not_run_again(finished: Cloud, base: Path, tmp_path: Path) -> None:
    folders, seen = run(finished, base, tmp_path)
    assert set(folders) == {0.5, 1.0}
    assert not seen
    assert not finished.runs
    assert all(call.startswith(("GET /bucket/", "HEAD /bucket/")) for call in finished.calls)


def test_another_recipe_is_another_job(finished: Cloud, base: Path, tmp_path: Path) -> None:
    first, _ = run(finished, base, tmp_path / "one")
    second, _ = run(finished, base, tmp_path / "other", replace(SHORT, seed=18))
    assert embedder.digest(first[1.0]) != embedder.digest(second[1.0])
    assert len(finished.runs) == 1
    assert len(finished.jobs()) == 2


def test_a_lost_connection_is_borne_for_a_while(cloud: Cloud, base: Path, tmp_path: Path) -> None:
    cloud.cut = {r"GET /api/v1/jobs/\w+\?": 4, r"GET /api/v1/jobs/\w+/pods": 2}
    folders, _ = run(cloud, base, tmp_path)
    assert set(folders) == {0.5, 1.0}
    assert cloud.cut == {r"GET /api/v1/jobs/\w+\?": 0, r"GET /api/v1/jobs/\w+/pods": 0}


def test_a_job_that_went_out_of_sight_is_found_again(cloud: Cloud, base: Path, tmp_path: Path) -> None:
    cloud.cut = {r"GET /api/v1/jobs/\w+\?": 1000}
    with pytest.raises(TrainError, match=r"lost sight of the PAI job dlc0001, which may still run") as lost:
        run(cloud, base, tmp_path)
    assert lost.value.hint == pai.AGAIN
    cloud.cut = {}
    folders, _ = run(cloud, base, tmp_path)
    assert set(folders) == {0.5, 1.0}
    assert len(cloud.runs) == 1


def test_a_job_whose_creation_was_not_confirmed_is_not_created_twice(
    cloud: Cloud, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost, not the request: the job runs."""
    create = cloud._create

    def lose(asked: dict[str, object]) -> dict[str, object]:
        create(asked)
        raise clouds.Refused(504, "GatewayTimeout", "no answer")

    monkeypatch.setattr(cloud, "_create", lose)
    with pytest.raises(TrainError, match="GatewayTimeout"):
        run(cloud, base, tmp_path, LONG)
    with pytest.raises(KeyboardInterrupt):
        train.connect(cloud.url()).train(base, pairs(), LONG, tmp_path, interrupt)
    assert len(cloud.runs) == 1


def test_ctrl_c_stops_the_job_and_the_next_one_goes_on_from_its_checkpoint(cloud: Cloud, base: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []

    def note(now: Progress) -> None:
        seen.append(now)
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train.connect(cloud.url()).train(base, pairs(), LONG, tmp_path, note)
    assert sum(call.endswith("/stop") for call in cloud.calls) == 2
    assert [run.asked["DisplayName"] for run in cloud.runs] == [f"ragstone-{cloud.jobs()[0].name}"] * 2
    assert seen[0].step == 1
    assert seen[1].step > 1
    assert (cloud.jobs()[0] / "work" / "checkpoint.safetensors").is_file()


def test_a_job_that_somebody_stops_is_an_error_that_says_so(cloud: Cloud, base: Path, tmp_path: Path) -> None:
    def stop(now: Progress) -> None:
        if not cloud.runs[0].stopped:
            cloud._stop(cloud.runs[0])

    with pytest.raises(TrainError, match="the PAI job dlc0001 did not succeed: Stopped"):
        train.connect(cloud.url()).train(base, pairs(), LONG, tmp_path, stop)


def test_a_job_that_fails_says_why_with_the_last_lines_of_its_log(
    cloud: Cloud, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image has another version, which does not know a field of the recipe."""
    trainer = train.connect(cloud.url())
    create = cloud._create

    def spoil(asked: dict[str, object]) -> dict[str, object]:
        recipe = cloud.jobs()[0] / "recipe.json"
        recipe.write_text(recipe.read_text().replace("epochs", "rounds"))
        return create(asked)

    monkeypatch.setattr(cloud, "_create", spoil)
    with pytest.raises(TrainError) as failed:
        trainer.train(base, pairs(), SHORT, tmp_path, lambda now: None)
    assert "the PAI job dlc0001 did not succeed: Failed: JobFailed: a worker ended with an error" in failed.value.message
    assert "recipe.json has 'rounds', which this version does not know" in failed.value.message

    monkeypatch.setattr(cloud, "_create", create)
    assert set(trainer.train(base, pairs(), SHORT, tmp_path, lambda now: None)) == {0.5, 1.0}, "the spoilt file is sent again"
    assert len(cloud.runs) == 2


@pytest.mark.parametrize("service", ["oss", "dlc"])
def test_a_wrong_secret_is_an_error_that_shows_none(
    cloud: Cloud, base: Path, tmp_path: Path, service: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    cloud.secrets[service] = "another-secret"
    with pytest.raises(TrainError, match="SignatureDoesNotMatch") as refused:
        run(cloud, base, tmp_path)
    assert "ALIBABA_CLOUD_ACCESS_KEY_ID" in refused.value.hint
    for text in (str(refused.value), caplog.text, *capfd.readouterr()):
        assert SECRET not in text
        assert clouds.KEY not in text


def test_without_keys_the_error_says_where_they_are_looked_for(
    cloud: Cloud, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clouds.keys(monkeypatch, None, None)
    with pytest.raises(TrainError, match="credentials") as refused:
        run(cloud, base, tmp_path)
    assert "ALIBABA_CLOUD_ACCESS_KEY_ID" in refused.value.hint
    assert not cloud.calls


def test_a_session_token_is_sent_and_signed(cloud: Cloud, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clouds.keys(monkeypatch, token="a-token")
    tokens = set()
    verify_acs3, verify_oss4 = cloud._verify_acs3, cloud._verify_oss4

    def note_acs3(method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        tokens.add(headers["x-acs-security-token"])
        verify_acs3(method, target, headers, body)

    def note_oss4(method: str, target: str, headers: dict[str, str]) -> None:
        tokens.add(headers["x-oss-security-token"])
        verify_oss4(method, target, headers)

    monkeypatch.setattr(cloud, "_verify_acs3", note_acs3)
    monkeypatch.setattr(cloud, "_verify_oss4", note_oss4)
    run(cloud, base, tmp_path)
    assert tokens == {"a-token"}


def test_a_candidate_that_was_changed_in_the_bucket_is_refused(finished: Cloud, base: Path, tmp_path: Path) -> None:
    folder = finished.jobs()[0]
    weights = folder / "candidates" / "0.5" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(TrainError, match=r"candidate-0.5/model.safetensors is not what the job made") as refused:
        run(finished, base, tmp_path)
    assert f"delete oss://bucket/jobs/{folder.name}/done.json" in refused.value.hint

    (folder / "done.json").unlink()
    folders, seen = run(finished, base, tmp_path)
    assert set(folders) == {0.5, 1.0}
    assert not seen, "the checkpoint was whole: nothing is trained again"


@pytest.mark.parametrize("path", ["../../raw", "/etc", "candidates/../../x", "candidates\\0.5"])
def test_a_done_json_that_points_elsewhere_is_refused(finished: Cloud, base: Path, tmp_path: Path, path: str) -> None:
    done = finished.jobs()[0] / "done.json"
    told = json.loads(done.read_text())
    told["candidates"][0]["folder"] = path
    done.write_text(json.dumps(told))
    with pytest.raises(TrainError, match="outside the job's folder"):
        run(finished, base, tmp_path)


def test_a_crc_that_differs_is_an_error(cloud: Cloud, base: Path, tmp_path: Path) -> None:
    cloud.wrong_crc = True
    with pytest.raises(TrainError, match=r"can't upload oss://bucket/jobs/\w+/base/.*crc is inconsistent"):
        run(cloud, base, tmp_path)
    assert not cloud.runs


def test_a_large_file_goes_up_in_parts_and_arrives_whole(cloud: Cloud, base: Path, tmp_path: Path) -> None:
    large = shutil.copytree(base, tmp_path / "large")
    (large / "thirteen.bin").write_bytes(np.random.default_rng(17).bytes(13 << 20))
    cloud.cut = {r"POST /api/v1/jobs$": 1}
    with pytest.raises(TrainError, match="can't create the PAI job"):
        run(cloud, large, tmp_path)
    assert (cloud.jobs()[0] / "base" / "thirteen.bin").read_bytes() == (large / "thirteen.bin").read_bytes()
    assert sum("partNumber=" in call for call in cloud.calls) == 3


def test_what_the_bucket_has_is_not_sent_again(cloud: Cloud, base: Path, tmp_path: Path) -> None:
    cloud.cut = {r"POST /api/v1/jobs$": 1}
    with pytest.raises(TrainError, match="can't create the PAI job"):
        run(cloud, base, tmp_path)
    (cloud.jobs()[0] / "pairs.jsonl").write_text("damaged")
    before = len(cloud.calls)
    run(cloud, base, tmp_path)
    sent = [call for call in cloud.calls[before:] if call.startswith("PUT")]
    assert sent == [f"PUT /bucket/jobs/{cloud.jobs()[0].name}/pairs.jsonl"]


def test_a_job_that_succeeds_and_leaves_nothing_is_an_error(
    cloud: Cloud, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = cloud._create

    def idle(asked: dict[str, object]) -> dict[str, object]:
        return create({**asked, "UserCommand": "python --version"})

    monkeypatch.setattr(cloud, "_create", idle)
    with pytest.raises(TrainError, match=r"has ended but left no oss://bucket/jobs/\w+/done.json"):
        run(cloud, base, tmp_path)


REFUSED = [
    ("pai://1?framework=tensorflow", "no training with 'tensorflow': Ragstone trains with PyTorch"),
    ("pai://1?instance=x", "train.url has no 'instance' for pai; there are region, oss_path, instance_type"),
    ("pai://1?poll=often", "poll=often in train.url is no number"),
    ("pai://1?job_name=a/b", "'a/b' is no name of a PAI job"),
    ("pai://1?oss_path=s3://bucket/raw/", "'s3://bucket/raw/' is no folder of a bucket"),
    ("pai://1?oss_path=oss://bucket/", "'oss://bucket/' is no folder of a bucket"),
    ("pai://1?endpoint=http://pai.example.com", "http://pai.example.com is not encrypted"),
    ("pai", "training on PAI needs region, oss_path, instance_type, image: not in RAGSTONE_TRAIN_URL"),
    ("pai://1?region=cn-hangzhou&oss_path=oss://bucket/raw/&instance_type=x", "training on PAI needs image: not"),
]


@pytest.mark.parametrize(("url", "message"), REFUSED)
def test_an_url_that_can_not_work_says_why(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        train.connect(url)


def test_the_endpoints_are_the_regions_own_unless_given() -> None:
    told = train.explain("pai://4211?region=cn-hangzhou&oss_path=oss://bucket/raw/&instance_type=x&image=y", 30)
    assert "POST https://pai-dlc.cn-hangzhou.aliyuncs.com/api/v1/jobs\n" in told
    assert "PUT https://bucket.oss-cn-hangzhou.aliyuncs.com/jobs/DIGEST/pairs.jsonl\n" in told
    assert '"Uri": "oss://bucket.oss-cn-hangzhou-internal.aliyuncs.com/raw/"' in told
    assert '"JobMaxRunningTimeMinutes": 90' in told
    assert "still to be set" not in told


def test_the_raw_folder_can_lie_deeper_in_the_bucket() -> None:
    told = train.explain("pai://?region=r&oss_path=oss://bucket/team/raw", 10)
    assert '"Uri": "oss://bucket.oss-r-internal.aliyuncs.com/team/jobs/DIGEST/"' in told
    assert '"Uri": "oss://bucket.oss-r-internal.aliyuncs.com/team/raw/"' in told
    assert told.endswith("# still to be set in train.url or by an option: instance_type, image")


SEED = ["train", "--job-name", "custom-emb", "--oss-path", "oss://bucket/raw/", "--framework", "pytorch"]
SEED += ["--instance-type", "ecs.gn6v-c8g1.2xlarge", "--to", "pai"]


def test_the_seeds_command_is_explained_before_there_is_an_account_or_a_project(tmp_path: Path) -> None:
    told = ragstone(tmp_path, *SEED, "--explain").stdout
    asked = json.loads(told[told.index("{") : told.rindex("}") + 1])
    assert (asked["JobType"], asked["JobSpecs"][0]["EcsSpec"]) == ("PyTorchJob", "ecs.gn6v-c8g1.2xlarge")
    assert (asked["DisplayName"], asked["UserCommand"]) == ("custom-emb-DIGEST", "python -m ragstone.train --job /mnt/job")
    assert told.endswith("# still to be set in train.url or by an option: region, image\n")


def test_a_framework_that_is_not_pytorch_is_a_clear_error(tmp_path: Path) -> None:
    done = ragstone(tmp_path, *SEED, "--framework", "tensorflow", status=1)
    assert done.stderr.startswith("ragstone: no training with 'tensorflow': Ragstone trains with PyTorch")


def test_an_option_of_pai_is_an_error_elsewhere(tmp_path: Path) -> None:
    done = ragstone(tmp_path, "train", "--job-name", "custom-emb", status=1)
    assert done.stderr.startswith("ragstone: local training has no --job-name")


def test_local_training_has_nothing_to_explain(tmp_path: Path) -> None:
    assert ragstone(tmp_path, "train", "--explain").stdout == "local training calls no service\n"


@pytest.mark.slow
def test_the_seeds_command_trains_on_pai_judges_and_promotes(
    cloud: Cloud, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    for name, text in sorted(topics.items())[:45]:
        (tmp_path / "docs" / f"{name.lower()}.txt").write_text(text)
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", clouds.KEY)
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", SECRET)
    monkeypatch.setenv(
        "RAGSTONE_TRAIN_URL", f"pai://4211?region={clouds.REGION}&image=i&endpoint={cloud.endpoint}&oss_endpoint={cloud.endpoint}&poll=0.1"
    )
    (tmp_path / "ragstone.toml").write_text(f"[train]\nbase = '{base}'\nmargin = -1.0\nminutes = 0.05\nepochs = 1\n")
    ragstone(tmp_path, "build")
    done = ragstone(tmp_path, *SEED)
    assert [(run.status, run.asked["DisplayName"]) for run in cloud.runs] == [("Succeeded", f"custom-emb-{cloud.jobs()[0].name}")]
    assert "is in force on production" in done.stderr
    assert SECRET not in done.stdout + done.stderr

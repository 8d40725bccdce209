import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway import Gateway

ROOT = Path(__file__).parent.parent


def ragstone(folder: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "ragstone", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_help_teaches_where_to_start(tmp_path: Path) -> None:
    assert "ragstone up ./docs" in ragstone(tmp_path, "--help").stdout


def test_the_command_loads_nothing_heavy_for_its_help(tmp_path: Path) -> None:
    program = (
        "import sys; sys.argv = ['ragstone', '--help']\n"
        "from ragstone.cli import main\n"
        "try: main()\n"
        "except SystemExit: print([m for m in ('torch', 'onnxruntime', 'tantivy', 'xllamacpp', 'starlette') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_error_names_the_thing_and_the_next_command(tmp_path: Path) -> None:
    done = ragstone(tmp_path, "snapshot", status=1)
    assert "nothing is staged" in done.stderr
    assert "try: ragstone stage" in done.stderr


def test_a_wrong_setting_ends_the_command_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "ragstone.toml").write_text("[retrieve]\ntopk = 3\n")
    assert "'topk'" in ragstone(tmp_path, "stage", status=1).stderr


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "nowhere" in ragstone(tmp_path, "stage", "nowhere", status=1).stderr


def test_cp_is_stage_under_the_seeds_spelling(tmp_path: Path, manuals: Path) -> None:
    first = ragstone(tmp_path, "cp", "-r", str(manuals), f"file://{tmp_path}/store/raw/")
    assert "copied 4 files" in first.stderr
    assert "copied 0 files" in ragstone(tmp_path, "cp", str(manuals), f"file://{tmp_path}/store/raw/", "--recursive").stderr


def test_cp_forgets_what_is_gone_only_when_asked(tmp_path: Path, manuals: Path) -> None:
    raw = f"file://{tmp_path}/store/raw/"
    ragstone(tmp_path, "cp", "-r", str(manuals), raw)
    (manuals / "valve.md").unlink()
    assert "deleted 0 files" in ragstone(tmp_path, "cp", "-r", str(manuals), raw).stderr
    assert "deleted 1 file " in ragstone(tmp_path, "cp", "-r", "--delete", str(manuals), raw).stderr


def test_cp_goes_into_a_bucket_with_the_options_of_the_projects_own_store(tmp_path: Path, manuals: Path, s3: Gateway) -> None:
    place, _, options = s3.url().partition("?")
    (tmp_path / "ragstone.toml").write_text(f'[project]\nstore = "{place}?{options}"\n')
    assert "copied 4 files" in ragstone(tmp_path, "cp", "-r", str(manuals), f"{place}/raw/").stderr
    assert "copied 0 files (0.0 MB), skipped 4 files" in ragstone(tmp_path, "cp", "-r", str(manuals), f"{place}/raw/?{options}").stderr
    assert "4 documents" in ragstone(tmp_path, "snapshot").stderr


def test_a_scheme_without_its_connector_says_what_there_is(tmp_path: Path, manuals: Path) -> None:
    done = ragstone(tmp_path, "cp", "-r", str(manuals), "gs://bucket/raw/", status=1)
    assert "no store connector for 'gs': there is file, oss, s3" in done.stderr


def test_a_key_is_shown_once_and_can_be_revoked(tmp_path: Path) -> None:
    done = ragstone(tmp_path, "keys", "create", "--tenant", "acme", "--groups", "public,staff", "--rpm", "5", "--expires", "12h")
    token, id = done.stdout.strip(), done.stderr.split()[1]
    shown = ragstone(tmp_path, "keys", "list").stdout
    assert "acme  public,staff  5 rpm" in shown
    assert token not in shown
    ragstone(tmp_path, "keys", "revoke", id)
    assert "revoked" in ragstone(tmp_path, "keys", "list").stdout


def test_no_file_of_the_store_holds_a_key(tmp_path: Path) -> None:
    token = ragstone(tmp_path, "keys", "create", "--tenant", "acme").stdout.strip()
    secret = token.rpartition(".")[2]
    files = [path for path in (tmp_path / ".ragstone/store").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_releases_can_be_listed_compared_promoted_and_rolled_back(tmp_path: Path, manuals: Path) -> None:
    first = ragstone(tmp_path, "build", "docs").stdout.strip()
    (manuals / "valve.md").unlink()
    second = ragstone(tmp_path, "build", "docs").stdout.strip()
    assert f"{second}" in ragstone(tmp_path, "release", "list").stdout.splitlines()[-1]
    changed = ragstone(tmp_path, "release", "diff", first, second).stdout
    assert "snapshot" in changed
    assert "model" not in changed
    assert first in ragstone(tmp_path, "release", "rollback").stdout
    assert first in ragstone(tmp_path, "release", "show", "production").stdout
    assert second in ragstone(tmp_path, "release", "promote", second).stdout


def test_an_unknown_release_is_an_error_with_a_next_step(tmp_path: Path, manuals: Path) -> None:
    ragstone(tmp_path, "build", "docs")
    done = ragstone(tmp_path, "release", "promote", "r-000000000000", status=1)
    assert "r-000000000000" in done.stderr
    assert "try: ragstone release list" in done.stderr


def test_a_question_before_the_first_release_says_what_to_do(tmp_path: Path) -> None:
    assert "try: ragstone up" in ragstone(tmp_path, "ask", "anything", status=1).stderr


def test_a_full_temporary_folder_is_an_error_not_a_traceback(tmp_path: Path, manuals: Path) -> None:
    limit = f"ulimit -f 1000; exec {sys.executable} -m ragstone build {manuals}"  # no file may grow beyond 1000 blocks
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", limit], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "ragstone: " in done.stderr


def test_retrieve_shows_every_score(tmp_path: Path, manuals: Path) -> None:
    ragstone(tmp_path, "build", "docs")
    table = ragstone(tmp_path, "retrieve", "bonnet torque of the isolation valve").stdout
    assert "valve.md" in table
    for column in ("P(relevant)", "fused", "dense", "keyword"):
        assert column in table


def test_ask_answers_with_numbered_sources(tmp_path: Path, manuals: Path) -> None:
    ragstone(tmp_path, "build", "docs")
    answer = ragstone(tmp_path, "ask", "How long is the feed pump primed before it is started?").stdout
    assert "[1]" in answer
    assert "pump.md" in answer


@pytest.mark.parametrize("command", ["up", "build", "stage"])
def test_an_empty_folder_is_refused_by_name(tmp_path: Path, command: str) -> None:
    (tmp_path / "empty").mkdir()
    done = ragstone(tmp_path, command, "empty", status=0 if command == "stage" else 1)
    assert command == "stage" or "empty" in done.stderr or "no document" in done.stderr


def test_without_the_extras_it_builds_and_retrieves_and_says_what_training_needs(tmp_path: Path, manuals: Path) -> None:
    absent = ("torch", "sentence_transformers", "transformers", "xberg", "pypdfium2")
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(f"import sys\nfor name in {absent!r}: sys.modules[name] = None\n")
    environment = {**os.environ, "PYTHONPATH": f"{blocked}:{ROOT}", "COLUMNS": "200"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ragstone", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    (manuals / "extra.docx").write_bytes(b"PK\x03\x04 not really")
    built = run("build", "docs")
    assert built.returncode == 0, built.stderr
    assert "extra.docx" in built.stderr
    assert "pump.md" in run("retrieve", "How long is the feed pump primed?").stdout

from pathlib import Path

import pytest

from ragstone import config
from ragstone.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    (folder / config.FILE).write_text(text, encoding="utf-8")
    return folder


def test_a_folder_without_a_file_has_the_defaults(tmp_path: Path) -> None:
    settings = config.load(tmp_path, {})
    assert settings.retrieve.top_k == 5
    assert settings.retrieve.similarity_threshold == 0.75


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    write(tmp_path, "[retrieve]\ntop_k = 7\n")
    assert config.load(tmp_path, {}).retrieve.top_k == 7
    assert config.load(tmp_path, {"RAGSTONE_RETRIEVE_TOP_K": "9"}).retrieve.top_k == 9


def test_values_from_the_environment_are_read_as_the_settings_type(tmp_path: Path) -> None:
    settings = config.load(tmp_path, {"RAGSTONE_CORPUS_STRICT": "yes", "RAGSTONE_TRAIN_MINUTES": "2.5"})
    assert settings.corpus.strict is True
    assert settings.train.minutes == 2.5


def test_a_list_is_a_list_in_the_file_and_has_commas_in_the_environment(tmp_path: Path) -> None:
    write(tmp_path, "[train]\npairs = ['clicks.jsonl', 'judged']\n")
    assert config.load(tmp_path, {}).train.pairs == ("clicks.jsonl", "judged")
    assert config.load(tmp_path, {"RAGSTONE_TRAIN_PAIRS": "a.csv, b.csv"}).train.pairs == ("a.csv", "b.csv")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[retreive]\ntop_k = 7\n", "[retreive]"),
        ("[retrieve]\ntopk = 7\n", "'topk'"),
        ("[retrieve]\ntop_k = 'many'\n", "'many' is not a whole number"),
        ("[retrieve]\ntop_k = true\n", "True is not a whole number"),
        ("[corpus]\nstrict = 3\n", "3 is not true or false"),
        ("[corpus]\ngroups = 'hr'\n", "is not a list of"),
        ("[train]\npairs = 3\n", "3 is not a list like"),
        ("retrieve = 3\n", "must be a table"),
        ("[retrieve\n", "is not TOML"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError) as error:
        config.load(write(tmp_path, text), {})
    assert named in str(error.value)


def test_a_wrong_value_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="RAGSTONE_EDGE_PORT = 'http'"):
        config.load(tmp_path, {"RAGSTONE_EDGE_PORT": "http"})


def test_group_rules_are_read_in_order(tmp_path: Path) -> None:
    write(tmp_path, '[corpus]\ngroups = [{match = "hr/**", groups = ["hr"]}, {match = "*.md", groups = ["public", "staff"]}]\n')
    first, second = config.load(tmp_path, {}).corpus.groups
    assert (first.match, first.groups) == ("hr/**", ("hr",))
    assert second.groups == ("public", "staff")


def test_a_relative_store_is_below_the_project_folder(tmp_path: Path) -> None:
    assert config.load(tmp_path, {}).store_url == f"file://{tmp_path}/.ragstone/store"
    assert config.load(tmp_path, {"RAGSTONE_PROJECT_STORE": "s3://bucket/x"}).store_url == "s3://bucket/x"


def test_the_generators_key_is_not_shown(tmp_path: Path) -> None:
    settings = config.load(tmp_path, {"RAGSTONE_SERVE_API_KEY": "sk-secret"})
    assert settings.serve.api_key == "sk-secret"
    assert "sk-secret" not in repr(settings)


def test_an_override_of_none_leaves_a_setting_as_it_is(tmp_path: Path) -> None:
    settings = config.load(tmp_path, {})
    changed = config.override(settings, "train", minutes=1.0, epochs=None)
    assert (changed.train.minutes, changed.train.epochs) == (1.0, settings.train.epochs)


def test_the_cache_folder_follows_its_variables_in_order() -> None:
    assert config.cache_folder({"RAGSTONE_CACHE": "/c", "XDG_CACHE_HOME": "/x"}) == Path("/c")
    assert config.cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/ragstone")
    assert config.cache_folder({}) == Path.home() / ".cache" / "ragstone"

from __future__ import annotations

from pathlib import Path

import pytest

from ragstone import lessons
from ragstone.config import Settings, Train
from ragstone.corpus.labelled import Material
from ragstone.corpus.pairs import Mined, Pair, Search
from ragstone.errors import ConfigError
from ragstone.recipe import Recipe
from ragstone.show import Silence
from tests.bases import cross_encoder
from tests.test_cli import ragstone

PAIR = Pair("Who?", "c", "d", "The night crew.", scores=(0.6,), kind="crop")
RERANK = "rerank+https://api.example.com/v2/rerank?model=rerank-v3.5"
OPENAI = "openai://api.example.com/v1?model=writer"


def test_by_default_the_retriever_teaches_and_nobody_writes(tmp_path: Path) -> None:
    def never(questions: list[str]) -> Search:
        raise AssertionError(questions)

    recipe = lessons.chosen(Settings(), "", Silence())
    assert (recipe.teacher, recipe.questions) == ("", "")
    material = Material(Mined((PAIR,), (), ()))
    assert lessons.write(Settings(), (), material, never, tmp_path, Silence()) is material
    assert lessons.score(Settings(), tmp_path, Silence(), (PAIR,)) == (PAIR,)
    assert not list(tmp_path.iterdir())


def test_the_recipe_names_who_teaches_and_who_writes_but_no_key(tmp_path: Path) -> None:
    def recipe(**told: str) -> Recipe:
        return lessons.chosen(Settings(train=Train(**told)), "", Silence())  # type: ignore[arg-type]

    named = recipe(teacher=RERANK, teacher_key="sk-secret", questions=OPENAI, questions_key="sk-secret")
    assert named.teacher == "https://api.example.com/v2/rerank rerank-v3.5"
    assert named == recipe(teacher=RERANK, questions=OPENAI)
    others = [recipe(teacher=str(cross_encoder(tmp_path / "teacher"))), recipe(questions=OPENAI), recipe(teacher=RERANK), recipe()]
    assert len({one.digest for one in (named, *others)}) == 5
    assert others[0].teacher.startswith("cross-encoder ")


def test_labels_are_learned_as_before_beside_a_teacher() -> None:
    plain, named = (lessons.chosen(Settings(train=told), "labels", Silence()) for told in (Train(), Train(teacher=RERANK)))
    assert (plain.epochs, plain.learning_rate, plain.interpolations) == (named.epochs, named.learning_rate, named.interpolations)


def test_explain_says_which_texts_would_leave_this_machine(tmp_path: Path) -> None:
    (tmp_path / "ragstone.toml").write_text(f'[train]\nteacher = "{RERANK}"\nquestions = "{OPENAI}"\nquestions_most = 25\n')
    told = ragstone(tmp_path, "train", "--explain").stdout.splitlines()
    assert told == [
        "local training calls no service",
        "train.teacher sends up to 1,400 questions, each with one to three passages, to https://api.example.com/v2/rerank rerank-v3.5",
        f"train.questions sends up to 25 passages to {OPENAI}",
    ]


def test_what_runs_here_sends_nothing() -> None:
    assert lessons.explain(Settings(train=Train(teacher="./cross-encoder", questions="local://smollm2"))) == []
    assert lessons.explain(Settings(train=Train(teacher="hub://org/reranker"))) == []


@pytest.mark.parametrize("told", [Train(teacher="rerank+http://far.example/rerank?model=a"), Train(questions="openai://me:pass@host/v1")])
def test_explain_refuses_what_a_run_would_refuse(told: Train) -> None:
    with pytest.raises(ConfigError):
        lessons.explain(Settings(train=told))

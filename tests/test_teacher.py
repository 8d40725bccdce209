"""What each teacher refuses, how the endpoint's faults are borne, and that a teacher moves what a model learns."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ragstone import candidates, teacher
from ragstone.candidates import Base, Corpus
from ragstone.config import Train
from ragstone.corpus import Chunk
from ragstone.corpus.labelled import Material
from ragstone.corpus.pairs import Mined, Pair
from ragstone.corpus.taught import teach
from ragstone.embedder import Embedder
from ragstone.errors import ConfigError, TrainError, WeightsError
from ragstone.kept import Kept
from ragstone.recipe import Recipe
from ragstone.show import Silence
from ragstone.teacher import Listed
from ragstone.teacher.local import CrossEncoder
from tests.bases import base, cross_encoder
from tests.reranker import Reranker, reranking
from tests.tiny import tiny

ASKED = [Listed("How is the pump primed?", ("For ninety seconds.", "Never."))]
KEY = "sk-very-secret"


def scored(server: Reranker, lists: Sequence[Listed] = ASKED, key: str = KEY) -> list[list[float]]:
    return list(teacher.connect(Train(teacher=server.url, teacher_key=key), print).scores(lists))


def by_length(question: str, passages: Sequence[str]) -> list[float]:
    return [float(len(passage)) for passage in passages]


# A cross-encoder in a folder.


def test_a_folder_of_other_weights_is_another_teacher(tmp_path: Path) -> None:
    first, second = cross_encoder(tmp_path / "first"), tmp_path / "second"
    shutil.copytree(first, second)
    assert CrossEncoder(first).identity == CrossEncoder(second).identity
    weights = load_file(second / "model.safetensors")
    save_file({**weights, "classifier.bias": weights["classifier.bias"] + 1}, second / "model.safetensors", metadata={"format": "pt"})
    assert CrossEncoder(first).identity != CrossEncoder(second).identity


def test_a_cross_encoder_scores_as_sentence_transformers_does(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder as Theirs

    folder = cross_encoder(tmp_path / "cross-encoder")
    theirs = Theirs(str(folder), device="cpu", local_files_only=True)
    pairs = [(ASKED[0].question, passage) for passage in ASKED[0].passages]
    wanted = theirs.predict(pairs, activation_fn=torch.nn.Identity())
    assert next(CrossEncoder(folder).scores(ASKED)) == pytest.approx(list(wanted), abs=1e-4)


def test_a_model_without_a_scoring_head_is_refused_and_not_given_a_random_one(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"is no cross-encoder: it has no classifier\.bias"):
        next(CrossEncoder(base(tmp_path / "base", "bert")).scores(ASKED))


def test_a_classifier_of_several_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="has 3 outputs"):
        next(CrossEncoder(cross_encoder(tmp_path / "classes", outputs=3)).scores(ASKED))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = cross_encoder(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="may run code when it is loaded"):
        teacher.connect(Train(teacher=str(folder)), print)


def test_a_folder_that_is_damaged_is_named(tmp_path: Path) -> None:
    folder = cross_encoder(tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(WeightsError, match=r"can't load the teacher .*damaged"):
        next(CrossEncoder(folder).scores(ASKED))


# An endpoint.


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("rerank+https://host/v1/rerank", "must name a host and one model"),
        ("rerank+https://host/v1/rerank?model=a&model=b", "must name a host and one model"),
        ("rerank+https://host/v1/rerank?model=a&key=sk-secret", "must name a host and one model"),
        ("rerank+ftp://host/v1/rerank?model=a", "must name a host and one model"),
        ("rerank+https://[::1/v1/rerank?model=a", "train.teacher is no URL"),
        ("rerank+https:///v1/rerank?model=a", "must name a host and one model"),
        ("rerank+http://host.example/v1/rerank?model=a", "this machine only"),
        ("rerank+http://10.0.0.1/v1/rerank?model=a", "this machine only"),
        ("rerank+https://me:secret@host/v1/rerank?model=a", "holds a user or a password"),
        ("https://host/v1/rerank?model=a", "no teacher connector for 'https'"),
    ],
)
def test_a_url_that_can_not_be_meant_is_refused_at_once(url: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        teacher.connect(Train(teacher=url), print)
    assert "secret" not in str(caught.value)


def test_a_request_has_the_common_form_and_the_key_in_its_header_only() -> None:
    with reranking(by_length) as server:
        assert scored(server) == [[19.0, 6.0]]
        assert server.asked == [{"model": "judge", "query": ASKED[0].question, "documents": list(ASKED[0].passages)}]
        assert server.keys == [f"Bearer {KEY}"]
        scored(server, key="")
        assert server.keys[1] is None


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_endpoint_is_asked_again_when_it_says(status: int) -> None:
    with reranking(by_length) as server:
        server.faults = [(status, {"retry-after": "0"}, b"{}")] * 3
        assert scored(server) == [[19.0, 6.0]]
        assert len(server.asked) == 4


def test_an_endpoint_that_asks_for_more_than_our_patience_ends_the_run_at_once() -> None:
    with reranking(by_length) as server:
        server.faults = [(429, {"retry-after": "86400"}, b'{"message": "out of quota"}')]
        with pytest.raises(TrainError, match=r"answered 429 for 'judge': .*out of quota"):
            scored(server)
        assert len(server.asked) == 1


def test_an_answer_that_breaks_off_is_an_error() -> None:
    with reranking(by_length) as server:
        server.faults = [(200, {"content-length": "999", "connection": "close"}, b'{"results": [')]
        with pytest.raises(TrainError, match="broke off its answer"):
            scored(server)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_not_quoted_and_the_variable_is_named(status: int) -> None:
    with reranking(by_length) as server:
        server.faults = [(status, {}, json.dumps({"error": {"message": f"no such key {KEY}"}}).encode())]
        with pytest.raises(TrainError, match="RAGSTONE_TRAIN_TEACHER_KEY") as caught:
            scored(server)
        assert KEY not in str(caught.value)
        assert KEY not in repr(Train(teacher=server.url, teacher_key=KEY))


def test_a_redirect_is_not_followed() -> None:
    with reranking(by_length) as server:
        server.faults = [(307, {"location": "/v1/rerank"}, b"")]
        with pytest.raises(TrainError, match="answered 307"):
            scored(server)
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"results": null}',
        b'{"results": [{"index": 0, "relevance_score": 0.5}]}',
        b'{"results": [{"index": 0, "relevance_score": 0.5}, {"index": 2, "relevance_score": 0.5}]}',
        b'{"results": [{"index": 0, "relevance_score": 0.5}, {"index": 1, "relevance_score": null}]}',
        b'{"results": [{"index": 0, "relevance_score": 0.5}, {"index": 1, "relevance_score": "NaN"}]}',
    ],
)
def test_an_answer_without_a_score_for_each_passage_is_an_error_that_shows_it(body: bytes) -> None:
    with reranking(by_length) as server:
        server.faults = [(200, {}, body)]
        with pytest.raises(TrainError, match=f"the teacher http://127.0.0.1:{server.port}/v1/rerank gave"):
            scored(server)


def test_a_dead_endpoint_is_named_and_what_it_scored_before_is_not_asked_again(tmp_path: Path) -> None:
    lists = [Listed(f"Question {number}?", ("one", "another")) for number in range(12)]
    with reranking(by_length) as server:
        named = teacher.connect(Train(teacher=server.url), print)
        teacher.scores(named, lists[:8], Kept(tmp_path / "scores.jsonl"), lambda done: None)
        server.faults = [(500, {"retry-after": "0"}, b"{}")] * 16
        with pytest.raises(TrainError, match="answered 500"):
            teacher.scores(named, lists, Kept(tmp_path / "scores.jsonl"), lambda done: None)
        server.faults, server.asked = [], []
        assert teacher.scores(named, lists, Kept(tmp_path / "scores.jsonl"), lambda done: None) == [[3.0, 7.0]] * 12
        assert {asked["query"] for asked in server.asked} == {one.question for one in lists[8:]}
    with pytest.raises(TrainError, match="can't be reached"):
        list(named.scores(ASKED))


# What it is worth.

THINGS = ["pump", "valve", "boiler", "crew", "turbine", "drum", "gasket", "filter", "motor", "fan", "cable", "relay"]
JARGON = ["glorb", "snell", "brack", "tovik", "quern", "plock", "drith", "wembo", "yarl", "fusk", "mimsy", "vorpal"]
CHUNKS = [Chunk(str(at), f"{at}.md", "", (), 0, 9, f"The {thing} is checked every week by hand") for at, thing in enumerate(THINGS)]


def knows_the_jargon(question: str, passages: Sequence[str]) -> list[float]:
    """The truth, which no word of the corpus says: what each piece of jargon means."""
    thing = next(thing for thing, jargon in zip(THINGS, JARGON, strict=True) if jargon in question)
    return [0.98 if thing in passage else 0.02 for passage in passages]


def first_found(model: Path) -> float:
    """The share of questions for which the model puts the passage first that the truth names."""
    opened = Embedder(model, threads=1)
    cosines = opened.queries([f"Where is the {jargon}?" for jargon in JARGON]) @ opened.documents([chunk.context for chunk in CHUNKS]).T
    return float(np.mean(cosines.argmax(axis=1) == np.arange(len(CHUNKS))))


def trained(folder: Path, taught: Callable[[tuple[Pair, ...]], tuple[Pair, ...]]) -> Path:
    """A model that learned from a retriever to which all passages are alike, or from the teacher."""
    pairs = tuple(Pair(f"Where is the {jargon}?", str(at), f"{at}.md", CHUNKS[at].context, kind="crop") for at, jargon in enumerate(JARGON))
    blind = [(chunk.id, 0.5) for chunk in CHUNKS]
    corpus = Corpus(
        CHUNKS,
        Material(Mined(pairs, (), tuple(CHUNKS))),
        lambda question, limit: [],
        lambda model: lambda question, limit: blind,
        taught=taught,
    )
    recipe = Recipe(epochs=60, batch=12, learning_rate=5e-3, interpolations=(1.0,), query_tokens=16, document_tokens=16)
    return candidates.make(Base("tiny", tiny(folder / "base")), corpus, recipe, folder / "work", "local", Silence())[1.0]


def test_a_teacher_that_knows_the_truth_moves_the_ranking_where_the_retriever_can_not(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    with reranking(knows_the_jargon) as server:
        named = teacher.connect(Train(teacher=server.url), print)
        wise = first_found(trained(tmp_path / "wise", lambda pairs: teach(pairs, lambda lists: list(named.scores(lists)))))
    assert wise >= 0.75
    assert first_found(trained(tmp_path / "blind", lambda pairs: pairs)) < 0.5


def test_the_teacher_is_part_of_the_recipe() -> None:
    assert replace(Recipe(), teacher="one").digest != replace(Recipe(), teacher="other").digest

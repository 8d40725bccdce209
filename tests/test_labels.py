"""Reading labels: every form that people keep them in, and what is said of those that teach nothing."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragstone.corpus import labels
from ragstone.corpus.labels import Label, Labels, Target, read
from ragstone.errors import TrainError

QUESTION = "How long is the pump primed?"
RIGHT = "Prime the feed pump for ninety seconds before it is started."
WRONG = "Graphite packing is replaced every four years."


@pytest.fixture
def log(tmp_path: Path) -> Callable[..., Path]:
    """A JSONL file of these records."""

    def write(*records: object, name: str = "log.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
        return path

    return write


def beir(folder: Path, qrels: Mapping[str, Sequence[tuple[str, str, int]]], corpus: bool = True) -> Path:
    (folder / "qrels").mkdir(parents=True)
    queries = [{"_id": "q1", "text": QUESTION}, {"_id": "q2", "text": "When is packing replaced?"}]
    documents = [{"_id": "d1", "title": "Pump", "text": RIGHT}, {"_id": "d2", "title": "", "text": WRONG}]
    (folder / "queries.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in queries))
    if corpus:
        (folder / "corpus.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in documents))
    for split, lines in qrels.items():
        rows = "".join(f"{question}\t{document}\t{grade}\n" for question, document, grade in lines)
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    return folder


def only(found: Labels) -> Label:
    (label,) = found.labels
    return label


def said(found: Labels) -> list[tuple[str, float]]:
    return [(target.text or target.name, target.grade) for target in only(found).targets]


PAIRS: list[object] = [
    {"question": QUESTION, "passage": RIGHT},
    {"query": QUESTION, "answer": RIGHT},
    {"anchor": QUESTION, "positive": RIGHT},
    {"sentence1": QUESTION, "sentence2": RIGHT},
    {"Query": QUESTION, "Context": RIGHT, "answer": "90 s"},
    {"query": QUESTION, "pos": [RIGHT]},
    {"query": QUESTION, "positive_passages": [{"docid": "", "title": "", "text": RIGHT}]},
    {"question": QUESTION, "positive": RIGHT, "label": 1},
    [QUESTION, RIGHT],
]


@pytest.mark.parametrize("record", PAIRS, ids=lambda record: ",".join(record) if isinstance(record, dict) else "list")
def test_a_pair_is_read_under_the_names_that_tools_write(log: Callable[..., Path], record: object) -> None:
    found = read([log(record)])
    assert only(found).question == QUESTION
    assert said(found) == [(RIGHT, 1.0)]


TRIPLES: list[object] = [
    {"anchor": QUESTION, "positive": RIGHT, "negative": WRONG},
    {"anchor": QUESTION, "positive": RIGHT, "negative_1": WRONG},
    {"query": QUESTION, "pos": [RIGHT], "neg": [WRONG]},
    {"question": QUESTION, "passage": RIGHT, "hard_negatives": [WRONG]},
    {"query": QUESTION, "positive_passages": [{"text": RIGHT}], "negative_passages": [{"text": WRONG}]},
    [QUESTION, RIGHT, WRONG],
]


@pytest.mark.parametrize("record", TRIPLES, ids=lambda record: ",".join(record) if isinstance(record, dict) else "list")
def test_a_triple_keeps_its_negative(log: Callable[..., Path], record: object) -> None:
    assert said(read([log(record)])) == [(RIGHT, 1.0), (WRONG, 0.0)]


@pytest.mark.parametrize(("ending", "dialect"), [("csv", "excel"), ("tsv", "excel-tab")])
def test_tables_are_read_by_their_first_line(tmp_path: Path, ending: str, dialect: str) -> None:
    path = tmp_path / f"pairs.{ending}"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, dialect).writerows([["Question", "Passage", "negative"], [QUESTION, f'{RIGHT}\n"Twice", a day.', WRONG]])
    assert said(read([path])) == [(f'{RIGHT}\n"Twice", a day.', 1.0), (WRONG, 0.0)]


def test_an_empty_cell_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(f"question,passage,negative\n{QUESTION},{RIGHT},\n")
    assert said(read([path])) == [(RIGHT, 1.0)]


NAMED: list[dict[str, object]] = [
    {"question": QUESTION, "document": "pump.md"},
    {"question": QUESTION, "chunk": {"id": "pump.md", "text": ""}},
    {"question": QUESTION, "path": "pump.md"},
    {"question": QUESTION, "doc-id": "pump.md"},
]


@pytest.mark.parametrize("record", NAMED, ids=lambda record: ",".join(record))
def test_a_label_may_name_its_passage_only(log: Callable[..., Path], record: dict[str, object]) -> None:
    assert said(read([log(record)])) == [("pump.md", 1.0)]


def test_a_name_beside_a_passage_is_that_passages(log: Callable[..., Path]) -> None:
    (target,) = only(read([log({"question": QUESTION, "passage": RIGHT, "document_id": 7})])).targets
    assert (target.name, target.text) == ("7", RIGHT)


VOTES = [
    ({"clicked": True}, 1.0), ({"clicked": 3}, 1.0), ({"clicked": False}, 0.0), ({"clicked": 0}, 0.0),
    ({"thumb": "up"}, 1.0), ({"thumbs": "DOWN"}, 0.0), ({"thumb": "👎"}, 0.0), ({"vote": -1}, 0.0),
    ({"label": 1}, 1.0), ({"label": "0"}, 0.0), ({"label": "irrelevant"}, 0.0), ({"relevance": 2}, 2.0), ({"score": 0.9}, 0.9),
    ({"rating": 5}, 2.0), ({"rating": 4}, 1.0), ({"rating": "2"}, 0.0), ({"stars": 1.0, "padding": 1}, 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("vote", "grade"), VOTES, ids=str)
def test_clicks_thumbs_labels_and_stars_are_votes(log: Callable[..., Path], vote: dict[str, object], grade: float) -> None:
    assert said(read([log({"question": QUESTION, "chunk": "c1", **vote})])) == [("c1", grade)]


def test_one_star_is_the_worst_where_others_gave_five(log: Callable[..., Path]) -> None:
    records = [{"question": QUESTION, "chunk": f"c{stars}", "rating": stars} for stars in (1, 3, 5)]
    found = read([log(*records)])
    assert said(found) == [("c1", 0.0), ("c5", 2.0)]
    assert found.undecided == 1


def test_a_passage_that_was_shown_often_and_clicked_once_is_right(log: Callable[..., Path]) -> None:
    shown = [{"question": QUESTION, "chunk": "c1", "clicked": clicked} for clicked in (False, False, True, False)]
    assert said(read([log(*shown)])) == [("c1", 1.0)]


def test_the_majority_of_thumbs_decides_and_a_draw_is_left_out(log: Callable[..., Path]) -> None:
    votes = [("c1", "up"), ("c1", "down"), ("c1", "down"), ("c2", "up"), ("c2", "down"), ("c3", "up")]
    found = read([log(*({"question": QUESTION, "chunk": chunk, "thumb": thumb} for chunk, thumb in votes))])
    assert said(found) == [("c1", 0.0), ("c3", 1.0)]
    assert found.undecided == 1


def test_the_same_question_in_another_dress_is_one_label(log: Callable[..., Path]) -> None:
    first = log({"question": QUESTION, "chunk": "c1"})
    second = log({"question": f"  {QUESTION.upper()} ", "chunk": "c2"}, name="other.jsonl")
    assert said(read([first, second])) == [("c1", 1.0), ("c2", 1.0)]


@pytest.mark.parametrize("consent", [False, None, "no", "false", 0, ""])
def test_who_did_not_consent_is_left_out_and_counted(log: Callable[..., Path], consent: object) -> None:
    path = log({"question": QUESTION, "chunk": "c1", "consent": consent}, {"question": QUESTION, "chunk": "c2", "consent": True})
    found = read([path])
    assert said(found) == [("c2", 1.0)]
    assert (found.withheld, found.unusable) == (1, ())


@pytest.mark.parametrize("groups", [["hr", "public"], "public, hr"])
def test_the_groups_of_the_asker_are_kept(log: Callable[..., Path], groups: object) -> None:
    (target,) = only(read([log({"question": QUESTION, "chunk": "c1", "groups": groups})])).targets
    assert target.groups == ("hr", "public")


def test_what_teaches_nothing_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [
        json.dumps({"question": QUESTION, "chunk": "c1"}), "", "{broken", '"text"', json.dumps({"question": " ? ", "chunk": "c1"}),
        json.dumps({"question": QUESTION}), json.dumps({"question": QUESTION, "chunk": "c1", "thumb": "sideways"}),
    ]  # fmt: skip
    path.write_text("\n".join(lines))
    found = read([path])
    assert [one.where for one in found.unusable] == [f"log.jsonl:{line}" for line in (3, 4, 5, 6, 7)]
    reasons = ["is not JSON", "is not a JSON object", "has no question", "names no chunk, document or passage", "'sideways' says neither"]
    assert all(reason in one.reason for one, reason in zip(found.unusable, reasons, strict=True))
    assert said(found) == [("c1", 1.0)]


def test_a_file_without_a_question_says_which_columns_it_has(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("frage,antwort\nWie lange?,Neunzig Sekunden\n")
    with pytest.raises(TrainError, match="no column for the question; it has antwort, frage"):
        read([path])


@pytest.mark.parametrize("name", ["labels.xlsx", "labels"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(TrainError, match="is no file of labels"):
        read([tmp_path / name])


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes('{"question": "Wie groß?"}'.encode("latin-1"))
    for name in ("absent.jsonl", "latin.jsonl"):
        with pytest.raises(TrainError, match="can't be read as labels"):
            read([tmp_path / name])


def test_a_torn_table_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(f'question,passage\n{QUESTION},{RIGHT}\n"open,{RIGHT}\n')
    with pytest.raises(TrainError, match="can't be read after line 2"):
        read([path])


def test_a_beir_folder_gives_its_train_and_dev_splits_with_the_words_of_its_documents(tmp_path: Path) -> None:
    folder = beir(tmp_path / "beir", {"train": [("q1", "d1", 2), ("q1", "d2", 0)], "dev": [("q2", "d2", 1)]})
    train, dev = read([folder]).labels
    assert (train.held_out, dev.held_out) == (False, True)
    assert train.targets == (Target("d1", RIGHT, "Pump", 2.0), Target("d2", WRONG, "", 0.0))
    assert dev.question == "When is packing replaced?"


def test_a_beir_folder_may_lack_the_documents(tmp_path: Path) -> None:
    assert only(read([beir(tmp_path / "beir", {"train": [("q1", "d1", 1)]}, corpus=False)])).targets == (Target("d1"),)


def test_the_test_split_is_never_opened(tmp_path: Path) -> None:
    folder = beir(tmp_path / "beir", {"train": [("q1", "d1", 1)]})
    (folder / "qrels" / "test.tsv").mkdir()  # to read it would be an error
    assert len(read([folder]).labels) == 1
    (folder / "qrels" / "train.tsv").unlink()
    with pytest.raises(TrainError, match=r"has no qrels/train\.tsv"):
        read([folder])


def test_odd_judgements_are_left_out(tmp_path: Path) -> None:
    folder = beir(tmp_path / "beir", {"train": [("q1", "d1", 1), ("q9", "d1", 1), ("q1", "d2", -1)]})
    with (folder / "qrels" / "train.tsv").open("a") as file:
        file.write("q1\td1\n")
    found = read([folder])
    assert said(found) == [(RIGHT, 1.0)]
    assert [one.where for one in found.unusable] == ["qrels/train.tsv:5", "qrels/train.tsv:3"]


def test_the_digest_is_of_what_is_said_not_of_where(log: Callable[..., Path]) -> None:
    record = {"question": QUESTION, "chunk": "c1"}
    one, other = read([log(record)]), read([log("no label", record, name="other.jsonl")])
    assert one.digest == other.digest
    assert one.digest != read([log({**record, "thumb": "down"})]).digest


ANY = [None, True, -1, 0.5, float("nan"), "", " ", "true", "a,b", [], {}, [1, "x", [None]], {"id": 0}, {"id": {}, "text": ["x"]}]
NAMES = (*labels.QUESTION, *labels.PASSAGE, *labels.NAME, *labels.VOTES, "consent", "groups", "negative", "negatives")


@given(st.lists(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(ANY), max_size=6), max_size=4))
@settings(deadline=None)
def test_no_record_breaks_the_reading(tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in [{"question": "the first?", "chunk": "c"}, *records]))
    found = read([path])
    assert found.labels[0].question
    assert len(found.unusable) + found.withheld <= len(records)
    assert str(found)


# Feedback on answers.

AGREED: dict[str, object] = {"groups": ["public"], "consent": True}
UP: dict[str, object] = {"release": "r-1", "question": QUESTION, "hits": ["c1", "c2"], "verdict": "up", **AGREED}


def test_a_verdict_for_an_answer_is_a_vote_for_all_that_it_cites(log: Callable[..., Path]) -> None:
    assert said(read([log(UP)])) == [("c1", 1.0), ("c2", 1.0)]


@pytest.mark.parametrize("change", [{"consent": False}, {"consent": None}, {"consent": "no"}], ids=str)
def test_feedback_without_consent_never_trains(log: Callable[..., Path], change: dict[str, object]) -> None:
    found = read([log({**UP, **change})])
    assert (found.labels, found.withheld) == ((), 1)


def test_feedback_that_does_not_say_consent_never_trains(log: Callable[..., Path]) -> None:
    found = read([log({name: value for name, value in UP.items() if name != "consent"})])
    assert (found.labels, found.withheld) == ((), 1)


@pytest.mark.parametrize("groups", [["public", "staff"], ["staff"], [], None], ids=str)
def test_feedback_of_other_groups_than_public_never_trains(log: Callable[..., Path], groups: object) -> None:
    found = read([log({**UP, "groups": groups})])
    assert (found.labels, found.confined) == ((), 1)
    assert "1 of groups that are not public" in str(found)


def test_a_verdict_against_an_answer_takes_votes_but_makes_no_known_negative(log: Callable[..., Path]) -> None:
    down = {**UP, "hits": ["c1"], "verdict": "down"}
    assert read([log(down)]).labels == ()
    assert said(read([log(UP, down)])) == [("c2", 1.0)]
    assert said(read([log(UP, UP, down)])) == [("c1", 1.0), ("c2", 1.0)]


def test_a_passage_that_people_called_wrong_stays_wrong_beside_a_bad_answer(log: Callable[..., Path]) -> None:
    down = {**UP, "hits": ["c1"], "verdict": "down"}
    assert said(read([log({"question": QUESTION, "chunk": {"id": "c1"}, "thumb": "down"}, down)])) == [("c1", 0.0)]


def test_a_verdict_that_is_none_is_named(log: Callable[..., Path]) -> None:
    (refused,) = read([log({**UP, "verdict": "perhaps"})]).unusable
    assert (refused.where, "'perhaps'" in refused.reason) == ("log.jsonl:1", True)


def test_a_verdict_on_an_abstention_teaches_nothing_and_is_no_fault(log: Callable[..., Path]) -> None:
    found = read([log({**UP, "hits": [], "verdict": "down"})])
    assert (found.labels, found.unusable, found.undecided) == ((), (), 1)


def test_a_column_of_that_name_in_another_file_is_no_feedback(log: Callable[..., Path]) -> None:
    assert said(read([log({"question": QUESTION, "passage": RIGHT, "verdict": "supported"})])) == [(RIGHT, 1.0)]

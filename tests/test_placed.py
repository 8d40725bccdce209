"""What labels mean in a corpus."""

from __future__ import annotations

import pytest

from ragstone.corpus import Chunk
from ragstone.corpus.labels import Label, Labels, Target
from ragstone.corpus.placed import Answer, Asked, place


def chunk(name: str, document: str, text: str, groups: tuple[str, ...] = ("public",)) -> Chunk:
    return Chunk(name, document, "", (), 0, len(text), text, groups)


CORPUS = (
    chunk("pump-1", "manuals/pump.md", "The feed pump moves condensate from the hotwell to the boiler drum of the unit."),
    chunk("pump-2", "manuals/pump.md", "Prime the feed pump for ninety seconds before it is started by the crew."),
    chunk("valve-1", "manuals/valve.md", "Tighten the bonnet of the isolation valve with 85 newton metres, crosswise."),
    chunk("copy-1", "old/valve (2).md", "Tighten the bonnet of the isolation valve with 85 newton metres, crosswise."),
    chunk("pay-1", "hr/pay.md", "Wages of the night crew are paid on the last working day of a month.", ("hr",)),
    *(chunk(f"other-{n}", f"other/{n}.md", f"Section {n} of the book tells of matters numbered {n} and {n + 1} alone.") for n in range(60)),
)


def label(question: str, *targets: Target, held_out: bool = False) -> Label:
    return Label(question, targets, held_out)


def placed(*targets: Target) -> Asked:
    (asked,), unusable = place(Labels((label("what?", *targets),)), CORPUS)
    assert not unusable
    return asked


@pytest.mark.parametrize("name", ["manuals/pump.md", "pump.md", "pump", "./manuals/pump.md", "/srv/docs/manuals/pump.md"])
def test_a_document_is_known_by_its_path_and_any_chunk_of_it_answers(name: str) -> None:
    assert placed(Target(name)).answers == (Answer(("pump-1", "pump-2")),)
    assert placed(Target(text=name)).answers == (Answer(("pump-1", "pump-2")),)


def test_a_chunk_is_known_by_its_id() -> None:
    assert placed(Target("pump-2")).answers == (Answer(("pump-2",)),)


def test_a_quoted_passage_is_found_with_its_copies() -> None:
    assert placed(Target(text="the bonnet of the ISOLATION valve, with 85 newton metres")).answers == (Answer(("valve-1", "copy-1")),)


def test_a_copy_in_another_document_answers_as_well() -> None:
    assert placed(Target("valve-1")).answers == (Answer(("valve-1", "copy-1")),)


def test_a_name_that_the_corpus_lacks_falls_back_to_the_words() -> None:
    assert placed(Target("d17", "Prime the feed pump for ninety seconds before it is started")).answers == (Answer(("pump-2",)),)


def test_a_passage_that_the_corpus_lacks_is_kept_as_text() -> None:
    text = "Grease the bearing of the fan with two strokes of the gun each week."
    assert placed(Target(text=text, title="Fan")).answers == (Answer((), f"Fan\n{text}"),)


def test_what_means_nothing_is_named_with_its_place_and_the_rest_kept() -> None:
    said = label("what?", Target("pump-1"), Target("fan.md", where="log.jsonl:4"), Target(text="85 nm", where="log.jsonl:5"))
    (asked,), unusable = place(Labels((said, label("nothing?", Target("x", where="log.jsonl:6")))), CORPUS)
    assert asked.answers == (Answer(("pump-1",)),)
    assert [(one.where, one.reason) for one in unusable] == [
        ("log.jsonl:4", "the corpus has no chunk, document or passage 'fan.md'"),
        ("log.jsonl:5", "the corpus has no chunk, document or passage '85 nm'"),
        ("log.jsonl:6", "the corpus has no chunk, document or passage 'x'"),
    ]


def test_a_name_of_two_documents_names_none() -> None:
    corpus = [*CORPUS, chunk("pump-3", "spares/pump.md", "Spare parts of the pump are kept in the third row of the store.")]
    asked, unusable = place(Labels((label("what?", Target("pump.md")), label("which?", Target("spares/pump.md")))), corpus)
    assert [one.text for one in asked] == ["which?"]
    assert len(unusable) == 1


def test_what_the_asker_may_not_read_is_no_answer() -> None:
    hr, public = (Target("hr/pay.md", groups=(group,)) for group in ("hr", "public"))
    asked, unusable = place(Labels((label("when?", hr), label("who?", public))), CORPUS)
    assert [one.text for one in asked] == ["when?"]
    assert unusable[0].reason == "'hr/pay.md' is not for public"


def test_quoting_it_does_not_help() -> None:
    quoted = Target(text="Wages of the night crew are paid on the last working day of a month.", groups=("public",))
    asked, unusable = place(Labels((label("when?", quoted),)), CORPUS)
    assert asked == ()
    assert "is not for public" in unusable[0].reason


def test_known_negatives_are_placed_and_a_question_with_no_answer_is_no_pair() -> None:
    said = label("what?", Target("pump-1"), Target("valve-1", grade=0.0))
    asked, unusable = place(Labels((said, label("which?", Target("pump-1", grade=0.0)))), CORPUS)
    assert [(one.text, len(one.wrong)) for one in asked] == [("what?", 1)]
    assert not unusable


def test_no_chunk_counts_twice() -> None:
    asked = placed(Target("pump-2", grade=1.0), Target("pump.md", grade=2.0), Target("pump-1", grade=1.0))
    assert asked.answers == (Answer(("pump-1", "pump-2"), grade=2.0),)

"""The contract of `ragstone.rag.Rag`: what every orchestrator promises of grounds, text and citations."""

from collections.abc import Iterator
from contextlib import aclosing

import pytest

from ragstone import ground
from ragstone.errors import GeneratorError, RequestError
from ragstone.rag import Answer, Options
from ragstone.serve import Message, Sampling
from tests import cloud as clouds
from tests.conversations import FOREIGN, PRIMED, Bench, bench

ANSWERS = [
    "The feed pump is primed for ninety seconds [1].",
    "Prime the feed pump for ninety seconds before it is started [7]. A pump that runs dry scores its sleeve within a minute.",
    "The feed pump is primed for 45 minutes [1].",
    "I like turtles. They are green.",
    "",
]


@pytest.fixture(scope="module", params=["local", "bailian"])
def rag(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("rag")
    if request.param == "local":
        with bench(folder) as made:
            yield made
        return
    pytest.importorskip("ragstone.rag.bailian", reason="pip install 'ragstone[bailian]'")
    with pytest.MonkeyPatch.context() as monkeypatch, clouds.running(folder / "cloud") as cloud:
        clouds.keys(monkeypatch)
        with bench(folder, cloud.knowledge()) as made:
            yield made


@pytest.fixture(autouse=True)
def well(rag: Bench) -> None:
    rag.speaker.reset()


def test_evidence_reaches_the_threshold_and_is_no_more_than_asked(rag: Bench) -> None:
    grounds = rag.prepare(PRIMED, top_k=2, similarity_threshold=0.5)
    assert 0 < len(grounds.evidence) <= 2
    assert all(hit.score >= 0.5 for hit in grounds.evidence)
    assert grounds.best == max(hit.score for hit in grounds.evidence)
    assert rag.prepare(PRIMED, similarity_threshold=1.0).evidence == ()


def test_evidence_is_only_what_the_caller_may_read(rag: Bench) -> None:
    question = "What is the code of the vault in the boiler house?"
    assert "vault.md" not in {hit.chunk.document for hit in rag.prepare(question, similarity_threshold=0.0, top_k=50).evidence}
    managers = rag.prepare(question, groups=("managers",), similarity_threshold=0.0).evidence
    assert [hit.chunk.document for hit in managers] == ["vault.md"]


def test_evidence_is_narrowed_by_metadata(rag: Bench) -> None:
    found = rag.prepare(PRIMED, filter={"type": "html"}, similarity_threshold=0.0).evidence
    assert {hit.chunk.document for hit in found} == {"boiler.html"}


def test_without_evidence_it_abstains_and_says_why(rag: Bench) -> None:
    asked = len(rag.speaker.asked)
    answer = rag.ask(FOREIGN, "Germany won.")
    assert (answer.basis, answer.citations, answer.finish) == ("abstained", (), "stop")
    assert f"{answer.grounds.best:.2f}" in answer.text
    assert "0.75" in answer.text
    assert FOREIGN in answer.text
    assert len(rag.speaker.asked) == asked, "the generator was asked"


@pytest.mark.parametrize("says", ANSWERS)
def test_the_pieces_add_up_to_the_text(rag: Bench, says: str) -> None:
    rag.speaker.text = says
    pieces, answer = rag.answer(rag.prepare(PRIMED))
    assert "".join(pieces) == answer.text
    assert answer.text


@pytest.mark.parametrize("says", ANSWERS)
def test_every_number_in_the_text_is_evidence_that_was_given(rag: Bench, says: str) -> None:
    answer = rag.ask(PRIMED, says)
    evidence = {hit.chunk.id: hit.chunk for hit in answer.grounds.evidence}
    assert {citation.number for citation in answer.citations} == set(ground.marks(answer.text))
    for citation in answer.citations:
        chunk = evidence[citation.chunk]
        assert answer.grounds.evidence[citation.number - 1].chunk is chunk
        assert (citation.text, citation.document, citation.start, citation.end) == (chunk.text, chunk.document, chunk.start, chunk.end)


@pytest.mark.parametrize("says", ANSWERS[2:])
def test_what_the_evidence_does_not_say_is_never_said(rag: Bench, says: str) -> None:
    answer = rag.ask(PRIMED, says)
    assert answer.basis == "quoted"
    assert "45" not in answer.text
    assert "turtles" not in answer.text
    assert "ninety seconds" in answer.text


def test_the_same_question_has_the_same_answer(rag: Bench) -> None:
    first, second = (rag.ask(PRIMED, ANSWERS[1]) for _ in range(2))
    assert (first.text, first.grounds.etag) == (second.text, second.grounds.etag)


def test_the_validator_changes_with_what_the_answer_rests_on(rag: Bench) -> None:
    grounds = [
        rag.prepare(PRIMED),
        rag.prepare("How is the feed pump primed?"),
        rag.prepare(PRIMED, similarity_threshold=0.0),
        rag.prepare(PRIMED, sampling=Sampling(max_tokens=9)),
        rag.prepare([Message("system", "Be brief."), Message("user", PRIMED)]),
        rag.prepare(FOREIGN),
    ]
    etags = [one.etag for one in grounds]
    assert len(set(etags)) == len(etags)
    assert all(etag.startswith('"') and etag.endswith('"') for etag in etags)


@pytest.mark.parametrize("turns", [[], [Message("assistant", "Hello")], [Message("user", "  ")]])
def test_a_conversation_that_asks_nothing_is_refused(rag: Bench, turns: list[Message]) -> None:
    with pytest.raises(RequestError) as caught:
        rag.prepare(turns)
    assert caught.value.param == "messages"


def test_a_question_that_leans_on_the_conversation_is_rewritten_and_shown(rag: Bench) -> None:
    earlier = [Message("user", "What does the feed pump do?"), Message("assistant", "It moves condensate.")]
    grounds = rag.prepare([*earlier, Message("user", "How long is it primed?")])
    assert grounds.rewritten
    assert "feed pump" in grounds.question
    assert grounds.evidence[0].chunk.document == "pump.md"
    assert not rag.prepare(PRIMED).rewritten


def test_a_generator_that_dies_is_an_error_and_no_answer(rag: Bench) -> None:
    rag.speaker.text, rag.speaker.dies_after = ANSWERS[1], 80
    with pytest.raises(GeneratorError):
        rag.answer(rag.prepare(PRIMED))


def test_closing_the_answer_stops_the_generator(rag: Bench) -> None:
    rag.speaker.text, rag.speaker.held = ANSWERS[1] * 9, True

    async def leave() -> str | Answer:
        async with aclosing(rag.rag.answer(rag.prepare(PRIMED), Options())) as parts:
            return await anext(parts)

    assert rag.runner.run(leave()) == "Prime the feed pump for ninety seconds before it is started. [1]"
    assert rag.speaker.left.wait(30)

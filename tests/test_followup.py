"""Follow-up questions: which ones lean on the conversation, and what is carried over."""

import pytest

from ragstone.followup import CARRIED, resolve
from ragstone.serve import Message


def resolved(*turns: str) -> tuple[str, bool]:
    question = resolve([Message("user", turn) for turn in turns])
    return question.text, question.rewritten


@pytest.mark.parametrize(
    ("turns", "text"),
    [
        (("How do I reverse a list?", "and for tuples?"), "and for tuples? (reverse list)"),
        (("What is the asyncio event loop?", "How does it work?"), "How does it work? (asyncio event loop)"),
        (("What is a generator?", "why?"), "why? (generator)"),
        (("How do I open a file?", "What errors can it raise?"), "What errors can it raise? (open file)"),
        (("How do I open a file?", "What about sockets?"), "What about sockets? (open file)"),
        (("What is a generator?", "Can you give an example?"), "Can you give an example? (generator)"),
        (("What is asyncio?", "Tell me more"), "Tell me more (asyncio)"),
        (("What is asyncio?", "How does it work?", "what are its limits?"), "what are its limits? (asyncio)"),
        (("How do I reverse a list?", "and for tuples?", "and for strings?"), "and for strings? (tuples reverse list)"),
        (("什么是生成器？", "它怎么工作？"), "它怎么工作？ (生成器)"),
    ],
)
def test_a_question_that_leans_on_the_conversation_takes_its_topic_along(turns: tuple[str, ...], text: str) -> None:
    assert resolved(*turns) == (text, True)


@pytest.mark.parametrize(
    "question",
    ["How do I define a decorator?", "Is it possible to sort a dictionary by value?", "What does it mean when a function returns None?",
     "Which functions are there in os.path?", "Is there a way to stop a thread?", "What is asyncio?", "tuples", "如何定义装饰器？",
     "When the drum is blown down in the night shift, who writes it into the log book?"],
)  # fmt: skip
def test_a_question_that_stands_by_itself_is_untouched(question: str) -> None:
    assert resolved("What is the feed pump?", question) == (question, False)


def test_the_first_question_is_never_rewritten() -> None:
    assert resolved("How does it work?") == ("How does it work?", False)


def test_only_what_the_user_said_is_carried() -> None:
    turns = [Message("user", "What is a generator?"), Message("assistant", "A kangaroo."), Message("user", "How does it work?")]
    assert resolve(turns).text == "How does it work? (generator)"


def test_a_long_question_does_not_drown_the_next() -> None:
    long = "Explain " + " ".join(f"topic{number}" for number in range(50))
    assert len(resolved(long, "why?")[0].split()) == 1 + CARRIED


def test_the_same_conversation_gives_the_same_question() -> None:
    turns = ("What is the feed pump?", "How is it primed?")
    assert resolved(*turns) == resolved(*turns)

"""A follow-up question made whole from the conversation, by rule: no generator is asked, and the same words give the same question."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ragstone.wire import Message
from ragstone.words import WIDE, Word, content, listed, words

CARRIED = 8
"""At most so many words are carried over; more would drown the question's own."""
LEANING = re.compile(
    r"(?:and|or|but|also|so|then|what about|how about|same (?:for|with)|ok(?:ay)?,? and"
    r"|for|in|on|with|without|from|to|by|after|before|except)\b",
    re.IGNORECASE,
)
"""Beginnings of a question that goes on from the one before."""
POINTING = listed("it its they them their theirs this that these those he him his she her hers there former latter same such one ones")
EXPLETIVE = re.compile(
    r"\b(?:is|was|would) it (?:possible|true|necessary|safe|ok|okay|better|best|worth|allowed|that)\b|\bdoes it (?:mean|take|matter)\b"
    r"|\bit (?:is|was|takes?)\b.*\b(?:that|to)\b|\bthere (?:is|are|was|were|a|an|any)\b|\b(?:is|are|was|were) there\b"
    r"|\b(?:such|same) (?:as|a|an)\b|\bthat (?:is|are|was|were|has|have|can)\b",
    re.IGNORECASE,
)
"""Places where such a word points at nothing, or at a word of the same sentence."""
WIDE_POINTING = re.compile(r"它|这个|那个|这些|那些|这种|那种|上述|前者|后者|^(?:那|还有|以及)|呢[?？]?$")
WIDE_ASKING = re.compile(r"什么是|是什么|什么|怎么样?|怎样|如何|为何|为什么|哪些?|多少|请问|吗|呢|的|[?？。，]")
VAGUE = listed(
    """describe detail details difference elaborate example examples explain give happen happens mean means more please reason show
    tell thing things work works working why"""
)
"""Words that say what is asked of a topic, but not which topic."""


@dataclass(frozen=True)
class Question:
    """What to search for, and whether words of earlier questions were added to it."""

    text: str
    rewritten: bool = False


def resolve(conversation: Sequence[Message]) -> Question:
    """The last user turn; where it leans on earlier ones, with their topic's words behind it, in brackets.

    >>> turns = [Message("user", "How do I sort a list?"), Message("assistant", "With sort()."), Message("user", "and for tuples?")]
    >>> resolve(turns).text
    'and for tuples? (sort list)'
    """
    asked = [message.content.strip() for message in conversation if message.role == "user"]
    question = Question(asked[0]) if asked else Question("")
    for text in asked[1:]:
        question = _follow(question, text)
    return question


def leans(text: str) -> bool:
    """Whether a question can't be understood without the ones before it.

    A question of many words is taken as whole even if one of them points: carrying words over would poison it.

    >>> leans("How does it work?"), leans("How does the garbage collector work?"), leans("why?")
    (True, False, True)
    """
    if WIDE.search(text):
        return bool(WIDE_POINTING.search(text))
    topic = _topic(text)
    points = any(word.text.lower() in POINTING for word in words(EXPLETIVE.sub(" ", text)))
    if LEANING.match(text):
        return len(topic) <= 4
    return not topic or (points and len(topic) <= 3)


def _follow(before: Question, text: str) -> Question:
    if not leans(text):
        return Question(text)
    carried = _carried(before.text, {word.stem for word in content(text)})
    return Question(f"{text} ({carried})", rewritten=True) if carried else Question(text)


def _carried(before: str, own: set[str]) -> str:
    """The topic of an earlier question, without the words that the new one has itself."""
    if WIDE.search(before):
        return " ".join(WIDE_ASKING.sub(" ", before).split())
    topic = {word.stem: word.text for word in _topic(before) if word.stem not in own}
    return " ".join(list(topic.values())[:CARRIED])


def _topic(text: str) -> list[Word]:
    """The words that say which thing is asked about."""
    return [word for word in content(text) if word.text.lower() not in VAGUE | POINTING]

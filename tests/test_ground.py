"""Groundedness: faithful sentences pass, invented ones do not. The passages are Python's own documentation."""

import re
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstone.ground import Passage, bare, claims, declines, marks, unmarked
from ragstone.sentences import Unit, sentences

FAITHFUL = [
    ("assert", "Assert statements are a convenient way to insert debugging assertions into a program."),
    ("assert", "No code is emitted for an assert statement when optimization is requested at compile time."),
    ("try", "The `finally` clause is executed on the way out when a return, break or continue statement runs in the try suite."),
    ("try", "If finally is present, it specifies a cleanup handler."),
    ("try", "If no except clause matches the exception, the search continues in the surrounding code."),
    ("try", "If the finally clause executes a return, break or continue statement, the saved exception is discarded."),
    ("lambda", "A lambda expression creates an anonymous function."),
    ("lambda", "Functions created with lambda expressions cannot contain statements or annotations."),
    ("pass", "`pass` is a null operation: nothing happens when it is executed."),
    ("del", "Deletion of a name removes the binding of that name from the local or global namespace."),
    ("del", "Deleting a target list recursively deletes each target, from left to right."),
    ("nonlocal", "Names in a nonlocal statement refer to bindings in enclosing function scopes."),
    ("for", "When the items are exhausted, the suite in the else clause is executed, and the loop terminates."),
    ("for", "A break statement executed in the first suite terminates the loop without executing the else clause's suite."),
    ("function", "Default parameter values are evaluated from left to right when the function definition is executed."),
    ("function", "A function definition does not execute the function body; this is executed only when the function is called."),
    ("truth", "By default, an object is considered true."),
    ("truth", "An object is false if its class defines a `__bool__()` method that returns False."),
    ("typesseq", "Lists are mutable sequences, typically used to store collections of homogeneous items."),
    ("typesmapping", "Values that are not hashable, such as lists, may not be used as keys."),
    ("formatstrings", "The `,` option signals the use of a comma as thousands separator."),
    ("return", "If an expression list is present, it is evaluated, else None is substituted."),
    ("while", "The while statement is used for repeated execution as long as an expression is true."),
    ("while", "If the expression is false, the suite of the else clause, if present, is executed and the loop terminates."),
    ("continue", "continue may only occur nested in a for or while loop."),
    ("break", "The break statement terminates the nearest enclosing loop and skips the optional else clause."),
    ("raise", "If no expressions are present, raise re-raises the exception that is currently being handled."),
    ("raise", "When no exception is active, a RuntimeError is raised."),
    ("comparisons", "Comparisons can be chained arbitrarily."),
    ("comparisons", "Comparisons yield boolean values, True or False."),
    ("bltin-null-object", "There is exactly one null object, named None."),
    ("booleans", "The operator `not` yields True if its argument is false, False otherwise."),
    ("integers", "Underscores are ignored when the numeric value of an integer literal is determined."),
    ("power", "The power operator binds more tightly than unary operators on its left."),
    ("typesseq-mutable", "clear() and copy() are included for consistency with mutable containers that don't support slicing operations."),
    ("debugger", "The debugger is extensible and is defined as the class Pdb."),
    ("strings", "String literals can be enclosed in matching single or double quotes."),
    ("class", "Variables defined in the class definition are class attributes, and they are shared by instances."),
    ("exceptions", "Exceptions are identified by class instances."),
    ("execmodel", "If a name is bound in a block, it is a local variable of that block, unless declared as nonlocal or global."),
    ("slicings", "A slicing selects a range of items in a sequence object such as a string, tuple or list."),
]
INVENTED = [
    ("assert", "The assert statement is a built-in Python function that checks the validity of an assert statement."),
    ("assert", "The assert statement does not do anything."),
    ("assert", "The simple form of assert raises a ValueError if the expression is false."),
    ("assert", "The simple form of assert raises an AssertionError if the expression is true."),
    ("assert", "It is not a special keyword but is a special syntax that allows you to use the \"assert\" statement."),
    ("try", "The finally clause is never executed when a return statement is executed in the try suite."),
    ("try", "The finally clause is executed 3 times."),
    ("try", "You can use the `finally` statement to catch multiple exceptions in a single exception."),
    ("lambda", "Functions created with lambda expressions can contain statements or annotations."),
    ("lambda", "A lambda expression creates an anonymous class."),
    ("pass", "pass raises an exception when it is executed."),
    ("del", "Deleting a target list recursively deletes each target, from right to left."),
    ("global", "The global statement was introduced in Python 2.5."),
    ("nonlocal", "The nonlocal statement does not change the scope of a variable."),
    ("for", "A break statement executed in the first suite terminates the loop and executes the else clause's suite."),
    ("for", "A for loop's else clause runs before the first iteration."),
    ("function", "Default parameter values are evaluated from right to left when the function definition is executed."),
    ("function", "Default parameter values are evaluated each time the function is called."),
    ("function", "A function definition executes the function body."),
    ("truth", "By default, an object is considered false."),
    ("typesseq", "Lists are immutable sequences, typically used to store collections of homogeneous items."),
    ("typesmapping", "Values that are not hashable, such as lists, may be used as keys."),
    ("typesmapping", "Python dictionaries use up to 64 keys."),
    ("return", "If an expression list is present, it is ignored."),
    ("identifiers", "Identifiers are limited to 255 characters in length."),
    ("identifiers", "Identifiers are unlimited in length and case is not significant."),
    ("with", "The with statement was invented by Guido van Rossum in Berlin."),
    ("import", "The import statement downloads modules from PyPI."),
    ("while", "The while statement is used for repeated execution as long as an expression is false."),
    ("while", "A while loop runs at most 1000 times."),
    ("continue", "continue may occur anywhere in a function."),
    ("break", "The break statement continues the nearest enclosing loop and executes the optional else clause."),
    ("raise", "If no expressions are present, raise raises a ValueError."),
    ("raise", "When no exception is active, a TypeError is raised."),
    ("comparisons", "Comparisons cannot be chained."),
    ("comparisons", "Comparisons yield integers."),
    ("bltin-null-object", "There are exactly two null objects."),
    ("booleans", "The operator `not` yields False if its argument is false, True otherwise."),
    ("integers", "Underscores are counted when the numeric value of an integer literal is determined."),
    ("shifting", "The shifting operations accept floats as arguments and have a higher priority than arithmetic operations."),
    ("typesseq-mutable", "clear() and copy() were removed from mutable containers."),
    ("debugger", "The debugger is written in Rust and is not extensible."),
    ("strings", "String literals can only be enclosed in double quotes."),
    ("class", "Class attributes are private to each instance."),
    ("exceptions", "Exceptions are identified by strings."),
]
REFUSED = [
    ("assert", "The simple form of `assert` raises an AssertionError if the expression is false."),
    ("with", "If an exception occurred in the with block, its type, value and traceback are passed to `__exit__()`."),
    ("typesmapping", "Mappings are mutable objects, and there is only one standard mapping type, the dictionary."),
    ("identifiers", "Identifiers are unlimited in length and case is significant."),
    ("numbers", "Complex literals are not supported; they are formed by adding a real number and an imaginary number."),
    ("shifting", "The shifting operations accept integers as arguments and have a lower priority than arithmetic operations."),
]
"""Faithful, and refused all the same: mostly two sentences of the passage in one."""
PASSED = [
    ("try", "If the finally clause executes a return statement, the saved exception is re-raised."),
    ("power", "The power operator binds less tightly than unary operators on its left."),
    ("execmodel", "If a name is bound in a block, it is a global variable of that block, unless declared as nonlocal."),
    ("slicings", "A slicing deletes a range of items in a sequence object such as a string, tuple or list."),
]
"""Invented, and passed all the same: their words are all near one another in the passage, in another relation."""
VALVE = "The relief valve opens at 6 bar. It is not opened by hand. Close the drain before the steam valve is opened. argv[1] is its name."


@cache
def passage(topic: str) -> Passage:
    return Passage(re.sub(r"\n\*{5,}\n", "\n", topics[topic]), topic)


def one(text: str) -> Unit:
    (unit,) = sentences(text)
    return unit


@pytest.mark.parametrize(("topic", "sentence"), FAITHFUL)
def test_a_faithful_sentence_holds(topic: str, sentence: str) -> None:
    support = passage(topic).supports(one(sentence))
    assert support.holds, support.reason


@pytest.mark.parametrize(("topic", "sentence"), INVENTED)
def test_an_invented_sentence_does_not_hold(topic: str, sentence: str) -> None:
    support = passage(topic).supports(one(sentence))
    assert not support.holds
    assert support.reason


def test_the_known_misses_are_as_many_as_the_docs_say() -> None:
    assert [topic for topic, sentence in REFUSED if passage(topic).supports(sentences(sentence)[0]).holds] == []
    assert [topic for topic, sentence in PASSED if not passage(topic).supports(one(sentence)).holds] == []
    page = (Path(__file__).parent.parent / "docs/rag.md").read_text()
    assert f"{len(FAITHFUL)} of {len(FAITHFUL + REFUSED)} faithful ones pass" in " ".join(page.split())
    assert f"{len(INVENTED)} of {len(INVENTED + PASSED)} invented ones are refused" in " ".join(page.split())


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("The relief valve opens at 7 bar.", "the passage has no 7"),
        ("The relief valve of Siemens opens at 6 bar.", "the passage has no Siemens"),
        ("The relief valve closes at 6 bar.", "the passage says open, not clos"),
        ("The relief valve does not open at 6 bar.", "the passage does not deny this"),
        ("It is opened by hand.", "the passage denies open hand"),
        ("The steam valve is opened before the drain is closed.", "the passage has it the other way round of befor"),
        ("The relief valve opens quickly, loudly and often at 6 bar.", "the passage has no loud, often, quick"),
    ],
)
def test_the_reason_names_what_is_wrong(sentence: str, reason: str) -> None:
    assert Passage(VALVE).supports(one(sentence)).reason == reason


def test_every_sentence_of_a_passage_holds_in_it() -> None:
    failing = [
        (topic, unit.text)
        for topic in ("assert", "try", "lambda", "del", "for", "function", "truth", "with", "return", "typesmapping")
        for unit in passage(topic).units
        if claims(unit) and not passage(topic).supports(unit).holds
    ]
    assert failing == []


def test_numbers_agree_however_they_are_written() -> None:
    numbers = Passage("The tank holds 10,000 litres and has three inlets at 3.50 m.")
    assert numbers.supports(one("The tank holds 10000 litres.")).holds
    assert numbers.supports(one("The tank has 3 inlets at 3.5 m.")).holds
    assert not numbers.supports(one("The tank holds 1000 litres.")).holds


def test_headings_say_what_a_sentence_is_about() -> None:
    assert Passage("It opens at 6 bar under load.", "Relief valve").supports(one("The relief valve opens at 6 bar under load.")).holds


def test_code_must_be_made_of_the_passage_s_names() -> None:
    code = Passage("Open it with:\n\nwith open(path) as file:\n    print(file.read(10))")
    assert code.supports(one("```python\nwith open(path) as file:\n    print(file.read(10))\n```")).holds
    assert code.supports(one("```\nfile.read(11)\n```")).reason == "the passage has no 11"
    assert not code.supports(one("```python\nimport os\nos.remove(path)\n```")).holds


def test_writing_without_spaces_is_checked_too() -> None:
    chinese = Passage("默认超时时间是30秒。该值不能修改。")
    assert chinese.supports(one("默认超时时间是30秒。")).holds
    assert not chinese.supports(one("默认超时时间是60秒。")).holds
    assert not chinese.supports(one("该值可以修改。")).holds


def test_citation_marks_are_told_from_indices() -> None:
    assert marks("It stops [2][1, 3], as `argv[9]` says.") == [2, 1, 3]
    assert unmarked("Lists are mutable[1] [2].") == "Lists are mutable."
    assert unmarked("See argv[1].", literals=VALVE) == "See argv[1]."
    assert bare("3. **Close** the valve [1].") == "Close the valve."


@pytest.mark.parametrize(
    ("text", "says"),
    [("Sure! Here is the answer:", False), ("Is it open?", False), ("|---|---|", False), ("It opens.", True), ("```\nx\n```", True)],
)
def test_talk_and_questions_claim_nothing(text: str, says: bool) -> None:
    assert any(claims(unit) for unit in sentences(text)) is says


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("The passages do not answer the question.", True),
        ("The context does not mention the torque.", True),
        ("I don't know.", True),
        ("There is no information on this.", True),
        ("The valve does not open by hand.", False),
        ("The documents are kept for ten years.", False),
    ],
)
def test_a_generator_that_finds_no_answer_is_understood(text: str, says: bool) -> None:
    assert declines(text) is says


@given(st.text(), st.text(min_size=1))
def test_any_text_can_be_checked_against_any(passage_text: str, sentence: str) -> None:
    for unit in sentences(sentence):
        assert 0 <= Passage(passage_text).supports(unit).share <= 1

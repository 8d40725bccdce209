"""Quotations: the sentences that answer, word for word."""

from ragstone.quote import WORDS, quotes

PUMP = "The pump hums. Prime the feed pump for ninety seconds before it is started. A pump that runs dry scores its sleeve."
VALVE = "# Valve\n\nGraphite packing is replaced every four years. Tighten the bonnet with 85 newton metres."


def said(question: str, *passages: str) -> list[str]:
    return [passages[quote.passage][quote.start : quote.end] for quote in quotes(question, passages)]


def test_the_best_sentence_is_quoted_as_it_stands() -> None:
    assert said("How long is the feed pump primed?", PUMP, VALVE) == ["Prime the feed pump for ninety seconds before it is started."]


def test_meaning_counts_beside_words() -> None:
    near = quotes("Which torque?", [VALVE], lambda _, texts: [1.0 if "newton" in text else 0.0 for text in texts])
    assert VALVE[near[0].start : near[0].end] == "Tighten the bonnet with 85 newton metres."


def test_neighbours_are_one_quotation() -> None:
    text = "A dry pump scores its sleeve. A dry pump also scores its seal."
    assert said("What does a dry pump do to its sleeve and its seal?", text) == [text]


def test_nothing_is_quoted_twice() -> None:
    text = "Prime the feed pump for ninety seconds."
    assert said("How long do I prime the feed pump?", text, f"{text} Then start it.") == [text]


def test_a_sentence_that_only_repeats_the_question_is_passed_over() -> None:
    text = 'The "finally" clause is executed. If an exception occurs in the "try" block, the "finally" clause is executed on the way out.'
    assert said("When is the finally clause executed?", text)[0].startswith("If an exception")


def test_a_sentence_that_leads_to_code_brings_it() -> None:
    text = "To prime the pump, run this program:\n\n```\nprime(90)\n```\n\nThe sky is blue today."
    assert said("How do I prime the pump by program?", text) == ["To prime the pump, run this program:\n\n```\nprime(90)\n```"]


def test_headings_tables_and_numbers_that_look_like_citations_are_passed_over() -> None:
    text = "# The pump primes\n| pump | prime |\n\nThe pump primes as in [7] for long. The pump primes for ninety seconds."
    assert said("How long does the pump prime?", text) == ["The pump primes for ninety seconds."]


def test_a_passage_without_sentences_is_quoted_all_the_same() -> None:
    assert said("pump?", "pump: 12") == ["pump: 12"]
    assert said("pump?", "") == []


def test_quotations_are_short() -> None:
    text = " ".join(f"The pump number {number} is primed with care by the crew every day of the week." for number in range(40))
    assert sum(len(quote.split()) for quote in said("Which pump is primed?", text)) <= WORDS

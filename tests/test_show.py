"""What a person sees of long work."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from ragstone.show import Terminal


def shown(terminal: bool) -> tuple[Terminal, StringIO]:
    """A terminal that is none, and what was written to it."""
    found, written = Terminal(), StringIO()
    found.console = Console(file=written, force_terminal=terminal, width=120, color_system=None)
    return found, written


def test_a_bar_shows_what_is_told_of_its_steps_and_the_time_that_is_left() -> None:
    found, written = shown(terminal=True)
    with found.bar("train") as advance:
        advance(20, 87, "loss 1.204, held out [1.310]", 71.4)
    last = written.getvalue().replace("\r", "\n")
    assert "train" in last
    assert "20/87" in last
    assert "0:01:11 loss 1.204, held out [1.310]" in last


def test_a_bar_that_is_told_no_time_goes_by_its_pace() -> None:
    found, written = shown(terminal=True)
    with found.bar("encode", 4) as advance:
        advance(4)
    assert "4/4" in written.getvalue()
    assert "0:00:00" in written.getvalue()


def test_where_there_is_no_terminal_lines_stay_and_bars_are_left_out() -> None:
    found, written = shown(terminal=False)
    with found.bar("train") as advance:
        advance(1, 2, "loss 1.204", 3.0)
    found.say("train     64 pairs")
    assert written.getvalue().strip() == "train     64 pairs"

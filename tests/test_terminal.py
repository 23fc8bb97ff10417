"""What reaches a terminal."""

import pytest
from rich.text import Text

from broker.cli.terminal import instant, plain, printable


@pytest.mark.parametrize("text", [r"\[/x]", "[red]", "[/]", r"a\\[b]", ":smile:"])
def test_nothing_is_read_as_markup(text: str) -> None:
    assert Text.from_markup(plain(text), emoji=False).plain == text


def test_control_characters_are_written_out_and_lines_stay_lines() -> None:
    assert printable("a\x1b[31m\r\x9b\u202e\ud800\n\tb") == "a\\x1b[31m\\r\\x9b\\u202e\\ud800\n\tb"


def test_an_instant_that_no_calendar_holds_is_said() -> None:
    assert instant(10**15) == "after the year 9999"

"""What reaches a terminal."""

import subprocess
import sys

import pytest
from rich.text import Text

from broker.cli.terminal import instant, money, plain, printable


@pytest.mark.parametrize("text", [r"\[/x]", "[red]", "[/]", r"a\\[b]", ":smile:"])
def test_nothing_is_read_as_markup(text: str) -> None:
    assert Text.from_markup(plain(text), emoji=False).plain == text


def test_control_characters_are_written_out_and_lines_stay_lines() -> None:
    assert printable("a\x1b[31m\r\x9b\u202e\ud800\n\tb") == "a\\x1b[31m\\r\\x9b\\u202e\\ud800\n\tb"


def test_an_instant_that_no_calendar_holds_is_said() -> None:
    assert instant(10**15) == "after the year 9999"


@pytest.mark.parametrize(
    ("nano_usd", "shown"),
    [(0, "$0.000000"), (330, "$0.000000330"), (1000, "$0.000001"), (1_234_567_891_000, "$1,234.567891")],
)
def test_money_shows_what_is_less_than_a_micro_dollar(nano_usd: int, shown: str) -> None:
    assert money(nano_usd) == shown


def test_a_command_that_is_stopped_while_it_is_loaded_ends_without_a_trace() -> None:
    finder = "class F:\n def find_spec(self, name, *more):\n  if name == 'broker.cli.app': raise KeyboardInterrupt\n"
    program = f"import sys\n{finder}sys.meta_path.insert(0, F())\nfrom broker.cli import main\nmain()\n"

    ran = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)

    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")

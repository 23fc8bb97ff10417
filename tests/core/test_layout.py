"""How tables and fields are laid out on a terminal of a given width."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from broker.cli.layout import fields, table, wrapped

BATCH = "0199aa7e-6c3f-7d21-8f4b-5c1e9a0d2b34"
COLUMNS = ("batch", "status", "created", "jobs>", "why")
ROWS = [
    (BATCH, "in_progress", "2026-05-01 12:30:00 UTC", 12_000, "the model small-chat is paused by ops: an upgrade"),
    (BATCH, "open", "2026-05-01 12:30:00 UTC", 3, ""),
]


def laid(width: int | None) -> list[str]:
    return [line.text for line in table(COLUMNS, ROWS, width)]


def test_a_table_that_fits_has_its_names_above_and_numbers_to_the_right() -> None:
    assert table(("a", "n>", "b"), [("x", 5, "y"), ("xyz", 10, "")], 20)[0].strong == "a     n  b"
    assert [line.text for line in table(("a", "n>", "b"), [("x", 5, "y"), ("xyz", 10, "")], 20)] == [
        "a     n  b",
        "x     5  y",
        "xyz  10",
    ]


def test_a_row_is_one_line_however_long_where_there_is_no_terminal() -> None:
    assert len(laid(None)) == 3
    assert ROWS[0][4] in laid(None)[1]


def test_the_last_column_goes_on_below_itself() -> None:
    header, first, second, last = laid(115)

    assert header.startswith("batch ")
    assert first.endswith("the model small-chat is paused")
    assert second == " " * first.index("the model") + "by ops: an upgrade"
    assert last.endswith("  3")


def test_a_table_that_does_not_fit_is_folded_into_blocks_without_what_is_empty() -> None:
    assert laid(60) == [
        f"batch {BATCH}",
        "  status: in_progress · created: 2026-05-01 12:30:00 UTC",
        "  jobs: 12000",
        "  why: the model small-chat is paused by ops: an upgrade",
        f"batch {BATCH}",
        "  status: open · created: 2026-05-01 12:30:00 UTC · jobs: 3",
    ]


def test_a_table_without_names_has_no_line_of_them() -> None:
    assert [line.text for line in table(("", ""), [("ok", "x")], 80)] == ["ok  x"]


def test_a_long_value_of_a_field_goes_on_below_itself() -> None:
    lines = [line.text for line in fields([("id", BATCH), ("reason", "word " * 12), ("none", "")], 50)]

    assert lines[:2] == [f"id      {BATCH}", "reason  word word word word word word word word"]
    assert lines[2].startswith("        word")
    assert lines[-1] == "none"


@pytest.mark.parametrize("width", [None, 5])
def test_lines_of_a_text_stay_lines(width: int | None) -> None:
    assert wrapped("a b\n\nc", width) == ["a b", "", "c"]


CELLS = st.lists(st.text(alphabet="ab漢é-", min_size=1, max_size=12), max_size=12).map(" ".join)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=5), st.integers(40, 120))
def test_no_line_is_wider_than_the_terminal_and_no_word_is_lost(rows: list[tuple[str, str, str]], width: int) -> None:
    lines = [line.text for line in table(("one", "two>", "three"), rows, width)]

    words = [word for row in rows for cell in row for word in cell.split()]
    shown = " ".join(lines).split()
    assert max(map(cell_len, lines)) <= width
    assert all(shown.count(word) >= words.count(word) for word in words)

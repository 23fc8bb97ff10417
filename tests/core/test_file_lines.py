"""The pages of a file: each line is in one, whole, wherever pieces and pages end."""

import random

import pytest

from broker.core import file_lines
from broker.core.file_lines import PAGE_BYTES, PAGE_LINES, Cursor, Page, cut
from broker.core.files import PIECE_BYTES, Pieces, spans


def pages_of(content: bytes, *, step: int = PAGE_BYTES) -> list[tuple[Cursor, Page]]:
    """All pages of a file of which `step` bytes are read at a time."""
    pages, cursor = [], Cursor()
    while True:
        data = content[cursor.offset : cursor.offset + step]
        page = cut(cursor, data, is_end=cursor.offset + len(data) >= len(content))
        pages.append((cursor, page))
        if page.next is None:
            return pages
        cursor = Cursor.read(page.next.text())


@pytest.mark.parametrize("end", [b"", b"\n"], ids=["cut", "ended"])
@pytest.mark.parametrize("lines", [0, 1, PAGE_LINES - 1, PAGE_LINES, PAGE_LINES + 1, 3 * PAGE_LINES])
def test_each_line_is_in_one_page_under_its_number(lines: int, end: bytes) -> None:
    content = b"\n".join(b"line %d" % n for n in range(1, lines + 1)) + (end if lines else b"")

    found = [
        (number, line)
        for cursor, page in pages_of(content)
        for number, line in enumerate(page.data.splitlines(), cursor.line)
    ]

    assert found == [(n, b"line %d" % n) for n in range(1, lines + 1)]


@pytest.mark.parametrize("seed", range(20))
def test_lines_of_any_length_are_read_whole_and_longer_ones_than_a_page_are_passed(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - no secret
    lengths = [chance.choice([0, 3, 900, 1023, 1024, 1025, 5000]) for _ in range(60)]
    lines = [bytes(chance.choices(b"abc", k=length)) for length in lengths]
    content = b"\n".join(lines) + chance.choice([b"", b"\n"])

    pages = pages_of(content, step=1024)

    read = {
        number: line
        for cursor, page in pages
        if not page.too_long
        for number, line in enumerate(page.data.splitlines(), cursor.line)
    }
    passed = {cursor.line for cursor, page in pages if page.too_long}
    for number, line in enumerate(lines, 1):
        if len(line) > 1024:
            assert number in passed
        elif line:
            assert read.get(number) == line or number in passed  # as long as what is read at once
    assert passed <= {number for number, line in enumerate(lines, 1) if len(line) >= 1023}


def test_pieces_are_of_one_size_and_hold_all_that_came() -> None:
    pieces, content = Pieces(), bytes(range(256)) * 9000
    out = [piece for at in range(0, len(content), 70_000) for piece in pieces.add(content[at : at + 70_000])]
    out += pieces.rest()

    assert b"".join(out) == content
    assert {len(piece) for piece in out[:-1]} == {PIECE_BYTES}
    assert pieces.bytes == len(content)


@pytest.mark.parametrize(
    ("begin", "end"), [(0, 0), (0, 1), (0, PIECE_BYTES), (5, PIECE_BYTES + 5), (PIECE_BYTES, 3 * PIECE_BYTES), (7, 7)]
)
def test_a_range_is_cut_into_what_each_piece_has_of_it(begin: int, end: int) -> None:
    found = spans(begin, end)

    assert sum(one.end - one.begin for one in found) == end - begin
    assert [one.number * PIECE_BYTES + one.begin for one in found] == sorted(
        {begin, *(one.number * PIECE_BYTES for one in found[1:])}
    )[: len(found)]
    assert file_lines.PAGE_BYTES >= PIECE_BYTES

"""Lays out tables and fields as lines of a given width. Nothing is cut off: what does not fit is folded into more lines."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

_GAP = "  "
_LEAST = 24
"""How narrow a column of words may become before a row is folded into a block."""
_BETWEEN = " · "


@dataclass(frozen=True, slots=True)
class Line:
    """A line of output, the beginning of which is emphasised."""

    strong: str
    rest: str = ""

    @property
    def text(self) -> str:
        return self.strong + self.rest


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], width: int | None) -> list[Line]:
    """Lay out rows below their names; or, where that is too wide, each row as a block of `name: value`.

    A column whose name ends with `>` is aligned to the right, as numbers are. Without a width, a row is one line.
    """
    cells = [[" ".join(str(cell).split()) for cell in row] for row in rows]
    names = [column.removesuffix(">") for column in columns]
    widths = [max(map(cell_len, column)) for column in zip(names, *cells, strict=True)]
    room = None if width is None else width - sum(widths[:-1]) - len(_GAP) * (len(columns) - 1)
    last = [*(row[-1] for row in cells), names[-1]]
    if room is not None and widths[-1] > room and (columns[-1].endswith(">") or room < _needed(last)):
        return [line for row in cells for line in _block(names, row, width or 0)]
    rights = [column.endswith(">") for column in columns]
    header = [Line(line) for line in _aligned(names, widths, rights, room)] if any(names) else []
    return header + [Line("", line) for row in cells for line in _aligned(row, widths, rights, room)]


def fields(pairs: Iterable[tuple[str, str]], width: int | None) -> list[Line]:
    """Lay out names with their values beside them. Long values go on below themselves."""
    kept = list(pairs)
    beside = max((cell_len(name) for name, _ in kept), default=0) + len(_GAP)
    room = None if width is None else width - beside
    lines = []
    for name, value in kept:
        first, *others = wrapped(value, room)
        lines.append(Line(_padded(name, beside), first) if first else Line(name))
        lines += [Line("", (" " * beside + other).rstrip()) for other in others]
    return lines


def wrapped(text: str, width: int | None) -> list[str]:
    """Break a text between words. Its own line ends stay, and a word that is longer than a line stays whole."""
    return [line for part in text.split("\n") for line in flowed(part.split(" ") if width else [part], width, " ")]


def flowed(parts: Sequence[str], width: int | None, between: str) -> list[str]:
    """Put as many parts on each line as fit. There is at least one line."""
    lines = [parts[0] if parts else ""]
    for part in parts[1:]:
        longer = f"{lines[-1]}{between}{part}"
        if width is None or cell_len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


def _needed(cells: Iterable[str]) -> int:
    """How wide a column must be so that no word of it is broken."""
    return max([_LEAST, *(cell_len(word) for cell in cells for word in cell.split())])


def _aligned(row: Sequence[str], widths: Sequence[int], rights: Sequence[bool], room: int | None) -> list[str]:
    """Align the cells of a row. Only the last may go on below itself."""
    *cells, last = [
        " " * (width - cell_len(cell)) + cell if right else cell
        for cell, width, right in zip(row, widths, rights, strict=True)
    ]
    begin = "".join(_padded(cell, width) + _GAP for cell, width in zip(cells, widths, strict=False))
    first, *others = wrapped(last, room)
    return [(begin + first).rstrip(), *(" " * cell_len(begin) + other for other in others)]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _block(names: Sequence[str], row: Sequence[str], width: int) -> list[Line]:
    """Put the first cell on a line of its own, and the others below it, without those that are empty."""
    pairs = [f"{name}: {cell}" if name else cell for name, cell in zip(names[1:], row[1:], strict=True) if cell]
    within = width - len(_GAP)
    head, *more = wrapped(f"{names[0]} {row[0]}".strip(), within - len(_GAP))
    lines = [Line(head), *(Line(2 * _GAP + other) for other in more)]
    for line in flowed(pairs, within, _BETWEEN) if pairs else []:
        first, *others = wrapped(line, within if cell_len(line) <= within else within - len(_GAP))
        lines += [Line("", _GAP + first), *(Line("", 2 * _GAP + other) for other in others)]
    return lines

"""Each kind of small wrong edit, and what none is made of."""

import ast
from pathlib import Path

import pytest

from tests.mutation.edits import python_edits
from tests.mutation.seeded import candidates
from tests.mutation.sql_edits import sql_edits
from tests.mutation.tree import ROOT


@pytest.mark.parametrize(
    ("line", "edited"),
    [
        ("return a < b", {"return a <= b"}),
        ("return a is None and b", {"return a is not None and b", "return a is None or b"}),
        ("if ready: await send(x)", {"if not (ready): await send(x)", "if ready: pass"}),
        ("return not a", {"return bool(a)"}),
        ("self.count += n", {"pass"}),
        ("self.seen[n] = m", {"pass"}),
        ("raise Gone", {"pass"}),
        ("return [x for x in xs if good(x)]", {"return [x for x in xs if True]"}),
        ("return min(a, b) * 2", {"return max(a, b) * 2", "return min(a, b) + 2", "return min(a, b) * 3"}),
        ("return sorted(xs, key=age)", {"return list(xs)"}),
        ("log.info('came')", set()),
        ("self.metrics.settled.inc()", set()),
        ("raise_if(f'{a + 1}')", {"pass"}),
        ("assert a < b", set()),
    ],
)
def test_a_line_of_python_is_edited_in_these_ways(line: str, edited: set[str]) -> None:
    text = f"async def act(self, a: int | None):\n    {line}\n"

    assert {edit.shown(text)[1] for edit in python_edits("a.py", text)} == edited


@pytest.mark.parametrize(
    ("line", "edited"),
    [
        ("select a from b where c = $1", {"select a from b where c <> $1", "select a from b where true"}),
        ("update b set c = c + $1", {"update b set c = c - $1"}),
        ("select a from b order by c desc limit $2", {
            "select a from b limit $2", "select a from b order by c asc limit $2", "select a from b order by c desc",
        }),
        ("select coalesce(a, 0)", {"select a", "select coalesce(a, 7)"}),
        ("select a -- where a = 1", set()),
    ],
)  # fmt: skip
def test_a_line_of_sql_is_edited_in_these_ways(line: str, edited: set[str]) -> None:
    assert {edit.shown(line)[1].strip() for edit in sql_edits("a.sql", line)} == edited


def test_every_edit_leaves_python_that_can_be_read() -> None:
    texts = {edit.file: (ROOT / edit.file).read_text() for _, edit in candidates()}

    for _, edit in candidates()[::20]:
        if Path(edit.file).suffix == ".py":
            ast.parse(edit.applied(texts[edit.file]))

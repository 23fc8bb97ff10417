"""A sample of all small wrong edits, drawn by a seed, each tried against the tests that run the edited line."""

import itertools
import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec

from tests.mutation.edits import Edit, python_edits
from tests.mutation.relevance import Relevance
from tests.mutation.sql_edits import sql_edits
from tests.mutation.tree import ROOT, Tree

AREAS: Mapping[str, tuple[str, ...]] = {
    "cores": ("broker/core/*.py", "workers/core/*.py", "schemas/*.py", "schemas/jetstream/*.py"),
    "client": ("broker/client/*.py", "broker/batch_file.py"),
    "roles": ("broker/*.py", "broker/roles/*.py", "broker/service/*.py", "broker/doors/*.py"),
    "bus": ("broker/bus/*.py",),
    "ledger": ("broker/ledger/*.py",),
    "SQL": ("broker/ledger/sql/*.sql",),
    "pool": ("workers/*.py",),
    "engines": ("workers/engines/*.py",),
}
"""What is edited, by place. Commands, benchmarks and the supervisor run in processes of their own, out of sight here."""
LEFT_OUT = frozenset(
    """broker/config.py broker/cli/doctor.py broker/local/servers.py broker/local/supervised.py broker/local/up.py
    broker/metrics.py schemas/export.py
    workers/cli.py workers/bench.py workers/http.py workers/metrics.py
    workers/engines/guard.py workers/engines/vllm.py broker/ledger/migrate.py
    """.split()
)
"""What runs in a process of its own only; what is only observed; the engine that needs an environment of its own."""
ELSEWHERE = {"workers/engines/asgi.py": "only the engine vllm runs it, whose tests need an environment of their own"}
"""What is set aside as a whole."""
EQUIVALENTS = Path(__file__).with_name("equivalents.toml")
_MOST_S = 90.0
"""Of tests for one edit, as long as they took when they were recorded: the quickest of those that run its line."""
_MARGIN_S = 30.0


class Equivalent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An edit that changes nothing that anybody could see, by its lines before and after."""

    file: str
    before: str
    after: str
    why: str
    within: str = ""
    """The function, where these lines stand in several."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one edit."""

    area: str
    edit: Edit
    before: str
    after: str
    noticed_by: str | None
    tests: int
    """How many run its line, within the time given."""
    equivalent: str | None = None
    """Why it is set aside."""

    def __str__(self) -> str:
        if self.equivalent is not None:
            end = f"set aside: {self.equivalent}"
        else:
            end = f"noticed by {self.noticed_by}" if self.noticed_by else f"SURVIVED {self.tests} tests"
        return f"{self.edit.file}:{self.edit.line} [{self.edit.kind}] {self.before}  ⟶  {self.after}  {end}"


def candidates() -> list[tuple[str, Edit]]:
    """Every edit of every file, with its area."""
    return [(area, edit) for area, path in _files() for edit in _edits(path)]


def sample(seed: int, number: int) -> list[tuple[str, Edit]]:
    everything = candidates()
    return random.Random(seed).sample(  # noqa: S311 - to be drawn again
        everything, min(number, len(everything))
    )


def attempt(tree: Tree, area: str, edit: Edit, relevance: Relevance) -> Tried:
    """Make the edit in the copy, run the tests that run its line, and take it back."""
    text = (ROOT / edit.file).read_text()
    before, after = edit.shown(text)
    why = ELSEWHERE.get(edit.file) or _equivalent(edit, before, after)
    tests = _affordable(relevance.of(edit.file, edit.line), relevance.seconds)
    if why is not None or not tests:
        return Tried(area, edit, before, after, None, 0, why)
    tree.write({edit.file: edit.applied(text)})
    try:
        expected = sum(relevance.seconds.get(test, 0.0) for test in tests)
        ran = tree.run(tests, within_s=_MARGIN_S + 3 * expected, until_one_fails=True)
    finally:
        tree.restore(edit.file)
    return Tried(area, edit, before, after, None if ran.is_clean else ran.outcome(), len(tests))


def table(tried: Sequence[Tried]) -> str:
    """A line an area, then what survived."""
    rows = [f"{'area':10}{'edits':>7}{'noticed':>9}{'survived':>10}{'set aside':>11}{'':>4}share noticed"]
    for area, group in _by_area(tried):
        aside = sum(1 for one in group if one.equivalent is not None)
        noticed = sum(1 for one in group if one.noticed_by is not None)
        counted = len(group) - aside
        share = f"{noticed / counted:.0%}" if counted else "-"
        rows.append(f"{area:10}{len(group):7}{noticed:9}{counted - noticed:10}{aside:11}{'':4}{share}")
    return "\n".join(rows)


def survivors(tried: Sequence[Tried]) -> list[Tried]:
    left = [one for one in tried if one.noticed_by is None and one.equivalent is None]
    return sorted(left, key=lambda one: (one.edit.file, one.edit.line))


def _by_area(tried: Sequence[Tried]) -> Iterator[tuple[str, list[Tried]]]:
    for area in AREAS:
        yield area, [one for one in tried if one.area == area]
    yield "all", list(tried)


def _files() -> Iterator[tuple[str, Path]]:
    """Each file in the first area that names it."""
    seen = {ROOT / name for name in LEFT_OUT}
    for area, patterns in AREAS.items():
        for path in itertools.chain.from_iterable(sorted(ROOT.glob(pattern)) for pattern in patterns):
            if path not in seen:
                seen.add(path)
                yield area, path


def _edits(path: Path) -> list[Edit]:
    find = sql_edits if path.suffix == ".sql" else python_edits
    return find(str(path.relative_to(ROOT)), path.read_text())


def _affordable(tests: Sequence[str], seconds: Mapping[str, float]) -> list[str]:
    sums = itertools.accumulate(seconds.get(test, 0.0) for test in tests)
    return [test for test, total in zip(tests, sums, strict=True) if total <= _MOST_S or test == tests[0]]


def _equivalent(edit: Edit, before: str, after: str) -> str | None:
    for one in _equivalents():
        if (one.file, one.before, one.after) == (edit.file, before, after) and one.within in {"", edit.within}:
            return one.why
    return None


@cache
def _equivalents() -> list[Equivalent]:
    return msgspec.convert(tomllib.loads(EQUIVALENTS.read_text())["equivalent"], list[Equivalent])

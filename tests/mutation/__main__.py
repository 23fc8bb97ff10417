"""`python -m tests.mutation`: break the code on purpose, and see whether a test notices."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, TypeVar

import typer

from tests.mutation.edits import Edit
from tests.mutation.relevance import relevance
from tests.mutation.removals import Removal, removals
from tests.mutation.seeded import Tried, attempt, candidates, sample, survivors, table
from tests.mutation.tree import Tree

T = TypeVar("T")
R = TypeVar("R")
_SIDE_BY_SIDE = 4
"""Twice the cores that these runs are made for: tests wait more than they compute."""
_REMOVAL_S = 180.0
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def mutate() -> None:
    """Break the code on purpose, and see whether a test notices."""


@app.command("removals")
def run_removals(names: Annotated[list[str] | None, typer.Argument(help="Some of them.")] = None) -> None:
    """Take out one promise after the other; each must be noticed by the tests that its patch names."""
    chosen = removals(names or [])
    with _trees() as trees:
        missed = [removal for removal, tests in zip(chosen, _spread(chosen, trees, _removed), strict=True) if tests]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} removals were noticed by each test that they name")
    if missed:
        raise typer.Exit(1)


def _removed(tree: Tree, removal: Removal) -> Sequence[str]:
    """The tests that did not notice. Prints a line in any case."""
    changed = removal.changed(tree.root)
    tree.write(changed)
    try:
        ran = tree.run(removal.noticed_by, within_s=_REMOVAL_S, until_one_fails=False)
    finally:
        tree.restore(*changed)
    missed = [test for test in removal.noticed_by if not ran.failed(test)]
    end = f"MISSED by {', '.join(missed)} ({ran.outcome()})" if missed else "noticed"
    print(f"{removal.name}: {removal.promise}: {end}", flush=True)
    return missed


@app.command("seeded")
def run_seeded(
    seed: Annotated[int, typer.Option(help="Draws the same edits from the same source.")] = 1,
    number: Annotated[int, typer.Option("--number", "-n", help="Of edits.")] = 300,
    only: Annotated[str, typer.Option(help="The beginning of the paths of the files to edit.")] = "",
) -> None:
    """Make small wrong edits, one at a time, and run the tests that run the edited line."""
    known = relevance()
    drawn = [(area, edit) for area, edit in sample(seed, number) if edit.file.startswith(only)]
    print(f"{len(drawn)} of {len(candidates())} possible edits")

    def act(tree: Tree, one: tuple[str, Edit]) -> Tried:
        tried = attempt(tree, *one, known)
        print(tried, flush=True)
        return tried

    with _trees() as trees:
        tried = _spread(drawn, trees, act)
    print("\nsurvived:", *survivors(tried), "", table(tried), sep="\n")


@contextmanager
def _trees() -> Iterator[Sequence[Tree]]:
    with tempfile.TemporaryDirectory(prefix="infermq-mutate-") as folder:
        yield [Tree.copy_to(Path(folder) / str(n)) for n in range(_SIDE_BY_SIDE)]


def _spread(items: Iterable[T], trees: Sequence[Tree], act: Callable[[Tree, T], R]) -> list[R]:
    """Do it for each, one at a time in each tree."""
    idle: SimpleQueue[Tree] = SimpleQueue()
    for tree in trees:
        idle.put(tree)

    def one(item: T) -> R:
        tree = idle.get()
        try:
            return act(tree, item)
        finally:
            idle.put(tree)

    with ThreadPoolExecutor(len(trees)) as pool:
        return list(pool.map(one, items))


if __name__ == "__main__":
    app()

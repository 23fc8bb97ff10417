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
_SIDE_BY_SIDE = 2
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
        ends = [end for end in _spread(chosen, trees, _removed) if end is not None]
    print(f"{len(chosen) - len(ends)} of {len(chosen)} removals were noticed by each test that they name")
    if ends:
        raise typer.Exit(1)


def _removed(tree: Tree, removal: Removal) -> str | None:
    """None when it was noticed by all; else what is wrong. Prints a line either way."""
    changed = removal.changed(tree.root)
    tree.write(changed)
    try:
        wrong = next((why for test in removal.noticed_by if (why := _missed(tree, test)) is not None), None)
    finally:
        tree.restore(*changed)
    print(f"{'ok    ' if wrong is None else 'MISSED'} {removal.name}: {wrong or removal.promise}", flush=True)
    return wrong


def _missed(tree: Tree, test: str) -> str | None:
    ran = tree.run([test], within_s=_REMOVAL_S)
    return None if ran.has_failed_test else f"{test}: {'passes' if ran.is_clean else ran.noticed_by()}"


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

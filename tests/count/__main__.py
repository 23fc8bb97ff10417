"""`python -m tests.count`: what a job and a request cost, against the kept figures."""

from pathlib import Path
from typing import Annotated

import typer
import uvloop

from tests.count import cpu, kept
from tests.count.rounds import count

ROOT = Path(__file__).parents[2]
_TRIES = 3
_FOLDER = {"exists": True, "file_okay": False, "resolve_path": True}
_Checkout = Annotated[Path, typer.Argument(**_FOLDER)]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def figures(
    context: typer.Context,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Keep what is counted instead.")] = False,
    of: Annotated[Path, typer.Option(**_FOLDER, help="Count another checkout.")] = ROOT,
    keys: Annotated[bool, typer.Option("--keys", help="Show what keys add: kept is without, now with.")] = False,
    against: Annotated[Path | None, typer.Option(**_FOLDER, help="Say which functions cost more than there.")] = None,
) -> None:
    """Count what a job and a request cost. Fails where one costs over 2 % more than is kept."""
    if context.invoked_subcommand is not None:
        return
    if keys:
        without, with_keys = (uvloop.run(count(of, with_keys=are_asked)) for are_asked in (False, True))
        figures = [{path: cost.figures for path, cost in found.items()} for found in (without, with_keys)]
        print(kept.table(kept.changes(*figures)))
        return
    if keep:
        kept.write({path: cost.figures for path, cost in uvloop.run(count(of)).items()})
        print(kept.FILE.read_text())
    elif against is not None:
        old, new = uvloop.run(count(against)), uvloop.run(count(of))
        for path in new:
            print(f"{path}: Python calls", kept.by_function(old[path].calls, new[path].calls), "", sep="\n")
    elif not _holds(of):
        print(f"if it is worth that, say why in the commit and renew {kept.FILE.name}: python -m tests.count --keep")
        print("which functions they are, against another checkout: python -m tests.count --against FOLDER")
        raise typer.Exit(1)


def _holds(checkout: Path) -> bool:
    """Count until nothing is too much, three times at most. Prints the table."""
    counts = []
    while True:
        counts.append({path: cost.figures for path, cost in uvloop.run(count(checkout)).items()})
        found = kept.changes(kept.read(), kept.least(counts))
        print(kept.table(found), flush=True)
        if not any(one.is_risen for one in found):
            return True
        if len(counts) == _TRIES:
            return False
        print("counted again, since a busy machine can only add to it")


@app.command("cpu")
def compare(
    old: _Checkout,
    new: _Checkout,
    *,
    pairs: Annotated[int, typer.Option(min=1, help="Interleaved pairs of runs.")] = 11,
    jobs: Annotated[int, typer.Option(min=1000, help="Of a run.")] = 5000,
) -> None:
    """Compare the CPU time of a bulk job in two checkouts."""
    found = cpu.pairs(old, new, number=pairs, jobs=jobs, say=lambda line: print(line, flush=True))
    print(cpu.table(cpu.ratios(found)))


if __name__ == "__main__":
    app()

"""`python -m tests.chaos`: everything is killed, stopped and cut off under load, and the record must come out right."""

import asyncio
from typing import Annotated

import typer

from tests.chaos import planted
from tests.chaos.cluster import kill_nodes
from tests.chaos.faults import Kind
from tests.chaos.round import Plan, Summary, round_of

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def say(line: str) -> None:
    print(line, flush=True)


@app.callback()
def chaos() -> None:
    """Kill, stop and cut off everything under load, and compare the ledger with what was promised."""


@app.command("run")
def run(
    seeds: Annotated[
        list[int] | None, typer.Argument(help="A round each; the same seed draws the same faults.")
    ] = None,
    *,
    faults: Annotated[int, typer.Option(min=0, help="How many faults each round has.")] = 100,
    only: Annotated[list[Kind] | None, typer.Option(help="Only faults of these kinds.")] = None,
    group: Annotated[int, typer.Option(help="How many faults come before everything must settle.")] = 5,
    cap_usd: Annotated[float, typer.Option(help="The daily cap of one deployment.")] = 1000.0,
    may_repeat: Annotated[bool, typer.Option(help="Whether faults may lead to a second run of an attempt.")] = True,
    forges: Annotated[bool, typer.Option(help="Whether somebody forges reports and rulings.")] = True,
    orders: Annotated[bool, typer.Option(help="Whether people cancel, pause, change, retry and replay.")] = True,
    size: Annotated[int, typer.Option(min=1, help="Batches have so many times 10, 30 or 60 jobs.")] = 1,
) -> None:
    """Run a round for each seed. Ends with 1 if a promise was broken."""
    summaries = []
    for seed in seeds or [1]:
        say(f"seed {seed}")
        plan = Plan(
            seed=seed,
            faults=faults,
            kinds=only or tuple(Kind),
            group=group,
            cap_usd=cap_usd,
            may_repeat=may_repeat,
            forges=forges,
            orders=orders,
            size=size,
        )
        summaries.append(asyncio.run(round_of(plan, say=say)))
    say("")
    for summary in summaries:
        say(str(summary))
    say(total(summaries))
    if any(summary.violations for summary in summaries):
        raise typer.Exit(1)


@app.command("cluster")
def run_cluster(
    seed: Annotated[int, typer.Argument(help="The same seed kills the same nodes.")] = 1,
    *,
    kills: Annotated[int, typer.Option(min=1, help="How many nodes are killed, one after the other.")] = 10,
    every_s: Annotated[float, typer.Option(min=1, help="How long after one kill the next comes.")] = 30.0,
) -> None:
    """Kill one of three NATS nodes again and again. Ends with 1 if something was lost."""
    result = asyncio.run(kill_nodes(seed=seed, kills=kills, every_s=every_s, say=say))
    for one in result.lost[:20]:
        say(f"lost: {one}")
    for one in result.violations[:20]:
        say(f"VIOLATION {one}")
    say(str(result))
    if result.lost or result.violations:
        raise typer.Exit(1)


@app.command("planted")
def run_planted(
    words: Annotated[list[str] | None, typer.Argument(help="Only bugs whose description has one of these.")] = None,
) -> None:
    """Plant one bug after the other in a copy of the source. Ends with 1 if a round noticed nothing."""
    chosen = [bug for bug in planted.bugs() if not words or any(word in bug.says for word in words)]
    missed = []
    for bug in chosen:
        tried = planted.plant(bug)
        if not tried.is_noticed:
            missed.append(bug)
            say(tried.output)
        say(f"{bug.says}: {tried.violations[0] if tried.is_noticed else 'MISSED'}")
    say(f"{len(chosen) - len(missed)} of {len(chosen)} planted bugs were noticed")
    if missed:
        raise typer.Exit(1)


def total(summaries: list[Summary]) -> str:
    faults = sum(summary.faults.total() for summary in summaries)
    violations = sum(len(summary.violations) for summary in summaries)
    return f"{faults} faults over {len(summaries)} seeds: {violations} violations"


if __name__ == "__main__":
    app()

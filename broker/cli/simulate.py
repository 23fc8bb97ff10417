"""`infermq simulate …`: the real broker and worker in a world of virtual time, where everything goes wrong."""

import os
import subprocess
import sys
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.cli.commands import Commands
from broker.cli.terminal import AsJson, Exit, end_failed, err, fail, print_json, print_text

if TYPE_CHECKING:
    from broker.simulate.run import Ended
    from broker.simulate.scenarios import Scenario

app = Commands(help="Try the system in a simulated world.")
_EVERY_S = 10.0
"""How often to say how far it is."""


@app.command()
def faults(
    *,
    seed: Annotated[int | None, typer.Option(min=0, help="Run this seed only.")] = None,
    first: Annotated[int, typer.Option(min=0, help="Run seeds from this one on.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, max=86_400, help="How long to run seeds.")] = 60.0,
    processes: Annotated[int, typer.Option(min=1, max=256, help="How many run at once.")] = os.cpu_count() or 1,
    scenario: Annotated[Path | None, typer.Option(metavar="FILE", help="Run a scenario that was kept.")] = None,
    story: Annotated[bool, typer.Option("--story", help="Print what happens, an event a line.")] = False,
    keep: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a failing seed there, shrunk.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run brokers, workers and callers on virtual time under faults, and compare all that was promised.

    A seed decides everything: the same one gives the same story, byte for byte. It stops at the first seed that fails.

    Examples:
      infermq simulate faults --seconds 60
      infermq simulate faults --seed 7 --story
    """
    from broker.simulate import scenarios  # noqa: PLC0415 - only this command needs it

    try:
        given = None if scenario is None else scenarios.read(scenario)
    except scenarios.BadScenario as error:
        fail(str(error), Exit.USAGE)
    if os.environ.get("PYTHONHASHSEED") != "0":
        options = {"seed": seed, "first": first, "seconds": seconds, "processes": processes}
        files = {"scenario": scenario, "keep": keep}
        given_words = [(f"--{name}", str(value)) for name, value in (options | files).items() if value is not None]
        flags = [flag for flag, is_set in (("--story", story), ("--json", as_json)) if is_set]
        raise typer.Exit(_again([*(word for pair in given_words for word in pair), *flags]))
    if given is not None:
        _one(given.seed, given, story=story, keep=keep, as_json=as_json)
    elif seed is not None:
        _one(seed, None, story=story, keep=keep, as_json=as_json)
    else:
        _many(first, seconds, processes, keep=keep, as_json=as_json)


def _again(words: list[str]) -> int:
    """Run the command with the hashes of texts fixed, on which the order of sets depends. Return its exit code."""
    command = [sys.executable, "-m", "broker", "simulate", "faults", *words]
    return subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "0"}, check=False).returncode


def _one(seed: int, scenario: "Scenario | None", *, story: bool, keep: Path | None, as_json: bool) -> None:
    from broker.simulate.apart import run_apart  # noqa: PLC0415

    say = (lambda line: print(line, flush=True)) if story else None
    ended = run_apart(seed, faults=None if scenario is None else scenario.faults, say=say)
    _end([ended], keep=keep, as_json=as_json)


def _many(first: int, seconds: float, processes: int, *, keep: Path | None, as_json: bool) -> None:
    from broker.simulate.apart import run_many  # noqa: PLC0415

    began = said = time.monotonic()
    all_ended: list[Ended] = []
    for ended in run_many(count(first), processes=processes, go_on=lambda: time.monotonic() - began < seconds):
        all_ended.append(ended)
        if ended.failures:
            break
        if time.monotonic() - said > _EVERY_S:
            said = time.monotonic()
            err.print(f"{len(all_ended)} seeds in {said - began:.0f} s")
    _end(all_ended, keep=keep, as_json=as_json)


def _end(all_ended: "list[Ended]", *, keep: Path | None, as_json: bool) -> None:
    """Say what the seeds came to, of which at most the last failed. Raises: typer.Exit, if it did."""
    _show(all_ended, as_json=as_json)
    if all_ended and all_ended[-1].failures:
        if keep is not None or not as_json:
            _keep(all_ended[-1], keep)
        end_failed(f"seed {all_ended[-1].seed} failed")


def _show(all_ended: "list[Ended]", *, as_json: bool) -> None:
    kinds = Counter(str(fault.kind) for ended in all_ended for fault in ended.faults)
    totals = {
        "seeds": len(all_ended),
        "virtual_s": round(sum(ended.virtual_s for ended in all_ended)),
        "steps": sum(ended.steps for ended in all_ended),
        "messages": sum(ended.messages for ended in all_ended),
        "transactions": sum(ended.transactions for ended in all_ended),
        "jobs": sum(ended.jobs for ended in all_ended),
        "replies": sum(ended.replies for ended in all_ended),
        "longest_quiet_s": round(max((ended.quiet_s for ended in all_ended), default=0.0), 1),
        "faults": dict(sorted(kinds.items())),
    }
    failed = {str(ended.seed): list(ended.failures) for ended in all_ended if ended.failures}
    if as_json:
        digest = {"digest": all_ended[0].digest} if len(all_ended) == 1 else {}
        died = sum((Counter(ended.died) for ended in all_ended), Counter[str]())
        print_json({**totals, "failed": failed, "died": dict(sorted(died.items())), **digest})
        return
    for seed, failures in failed.items():
        print_text(f"seed {seed} failed:")
        for failure in failures[:20]:
            print_text(f"  {failure}")
    print_text(
        f"{totals['seeds']} seeds, {totals['virtual_s']} s of virtual time: {totals['jobs']} jobs, {totals['replies']} "
        f"replies, {sum(kinds.values())} faults, {totals['steps']} steps, {totals['messages']} messages, "
        f"{totals['transactions']} transactions; quiet after {totals['longest_quiet_s']} s at most; {len(failed)} failed"
    )


def _keep(ended: "Ended", file: Path | None) -> None:
    """Leave out the faults that do not matter, and say or write down what is left."""
    from broker.simulate import scenarios  # noqa: PLC0415
    from broker.simulate.apart import shrunk  # noqa: PLC0415

    left = shrunk(ended.seed, ended.faults, lambda other: bool(other.failures))
    what = "; ".join(map(str, left))
    err.print(f"with {len(left)} of its {len(ended.faults)} faults seed {ended.seed} fails too: {what}")
    if file is not None:
        file.write_bytes(scenarios.written(scenarios.Scenario(ended.seed, tuple(left), why=ended.failures[0])))
        err.print(f"kept in {file}: infermq simulate faults --scenario {file} --story")

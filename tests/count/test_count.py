"""What the count makes of its readings. What it reads is counted on a real system: `make count`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.count import counted, cpu, kept
from tests.count.kept import Figures
from tests.count.rounds import cost_of
from tests.count.system import Spent, Traffic

LOOP = """
import sys, threading

def answer(): pass

for _ in range(3): answer()
print("{}", flush=True)
threading.Event().wait()
"""


def some_figures(**changes: float) -> Figures:
    return Figures(**{**dict.fromkeys(Figures.__struct_fields__, 100.0), **changes})


def spent(*, statements: int = 16, **calls: int) -> Spent:
    return Spent(traffic=Traffic(statements, 64, 4096), broker=calls, worker={"run": 8})


def test_the_calls_of_each_function_are_counted_in_a_process_that_ends_with_its_input(tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text(LOOP)
    command = [sys.executable, counted.__file__, str(tmp_path), "loop"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()

    process.stdin.write("{}\n")
    process.stdin.flush()
    calls = json.loads(process.stdout.readline())
    process.communicate(timeout=20)

    assert calls["loop.py:answer"] == 3
    assert process.returncode != 0


def test_a_tick_that_falls_into_most_rounds_does_not_count() -> None:
    rounds = [spent(statements=16 + (n > 2), step=4, tick=n % 3) for n in range(20)]

    cost = cost_of(rounds, of=4)

    assert cost.figures == Figures(statements=4, messages=16, bytes=1024, broker_calls=1, worker_calls=2)
    assert cost.calls == {"broker step": 1, "worker run": 2}


@pytest.mark.parametrize(("now", "is_risen"), [(102, False), (102.1, True), (50, False)])
def test_a_figure_may_be_two_percent_above_the_kept_one(now: float, is_risen: bool) -> None:  # noqa: FBT001
    found = kept.changes({"bulk": some_figures()}, {"bulk": some_figures(bytes=now)})

    assert [one.name for one in found if one.is_risen] == (["bytes"] if is_risen else [])
    assert ("too much" in kept.table(found)) == is_risen


def test_the_least_of_several_counts_is_taken_by_figure() -> None:
    counts = [{"bulk": some_figures(bytes=90, messages=110)}, {"bulk": some_figures(messages=95)}]

    assert kept.least(counts) == {"bulk": some_figures(bytes=90, messages=95)}


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    figures = {"bulk": some_figures(bytes=1.5), "interactive": some_figures()}

    kept.write(figures, tmp_path / "kept.toml")

    assert kept.read(tmp_path / "kept.toml") == figures


def test_functions_are_shown_by_how_much_they_changed() -> None:
    shown = kept.by_function({"a": 1, "b": 5, "c": 2}, {"a": 2, "c": 2, "d": 3})

    assert [line.split() for line in shown.splitlines()] == [["-5.00", "b"], ["+3.00", "d"], ["+1.00", "a"]]


def test_cpu_is_compared_pair_by_pair() -> None:
    found = cpu.ratios(
        [({"worker": 10, "NATS": 10}, {"worker": 11, "NATS": 10})] * 2 + [({"worker": 1, "NATS": 1},) * 2]
    )

    assert found["worker"] == (1.1, 1.0, 1.1)
    assert found["all"] == (1.05, 1.0, 1.05)

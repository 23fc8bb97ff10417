"""CPU time of a bulk job in two checkouts, in interleaved pairs: noise touches both alike."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Costs = Mapping[str, float]
"""CPU µs a job, by process."""


def pairs(old: Path, new: Path, *, number: int, jobs: int, say: Callable[[str], None]) -> list[tuple[Costs, Costs]]:
    """Which of a pair runs first changes from one to the next."""
    found = []
    for n in range(1, number + 1):
        order = (old, new) if n % 2 else (new, old)
        cost = {checkout: _cost(checkout, jobs) for checkout in order}
        found.append((cost[old], cost[new]))
        say(f"pair {n}: {sum(cost[old].values()):.0f} → {sum(cost[new].values()):.0f} µs a job")
    return found


def _cost(checkout: Path, jobs: int) -> Costs:
    command = [sys.executable, "-m", "broker", "bench", "bulk", "--jobs", str(jobs), "--runs", "1", "--json"]
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    ran = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"the benchmark of {checkout} failed:\n{ran.stderr[-2000:]}")
    cost: Costs = json.loads(ran.stdout)["cpu_us_per_job"]
    return cost


def ratios(found: Sequence[tuple[Costs, Costs]]) -> dict[str, tuple[float, float, float]]:
    """New over old, by process and for all: the median of the pairs, the least and the most."""
    every = [({**old, "all": sum(old.values())}, {**new, "all": sum(new.values())}) for old, new in found]
    by_name = {name: [new[name] / old[name] for old, new in every] for name in every[0][0]}
    return {name: (statistics.median(each), min(each), max(each)) for name, each in by_name.items()}


def table(found: Mapping[str, tuple[float, float, float]]) -> str:
    lines = [f"{'CPU of a job, new / old':<28}{'median':>8}{'from':>8}{'to':>8}"]
    lines += [f"{name:<28}{middle:>8.3f}{low:>8.3f}{high:>8.3f}" for name, (middle, low, high) in found.items()]
    return "\n".join(lines)

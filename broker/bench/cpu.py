"""Adds up the CPU time of all that a benchmark started, by kind of process."""

import contextlib
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import psutil

KINDS = ("producer", "broker", "worker", "NATS", "Postgres")


def spent_s(*, but: Collection[int] = ()) -> dict[str, float]:
    """Return the CPU seconds so far, user and system, of this process and its children, `but` those with these ids."""
    spent: dict[str, float] = defaultdict(float)
    me = psutil.Process()
    times = me.cpu_times()
    spent["producer"] = times.user + times.system
    for child in me.children(recursive=False):
        if child.pid in but:
            continue
        for process in (child, *child.children(recursive=True)):
            try:
                times = process.cpu_times()
                kind = _kind(child)
            except psutil.NoSuchProcess:
                continue
            spent[kind] += times.user + times.system + times.children_user + times.children_system
    return dict(spent)


def of_processes_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds so far, user and system, of processes that run, and of their children."""
    spent = 0.0
    for pid in pids:
        one = psutil.Process(pid)
        for process in (one, *one.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                spent += times.user + times.system + times.children_user + times.children_system
    return spent


def _kind(process: psutil.Process) -> str:
    words = process.cmdline()
    if "nats-server" in words[0]:
        return "NATS"
    if words[0].endswith("postgres"):
        return "Postgres"
    return "worker" if {"worker", "workers", "workers.bench"} & set(words) else "broker"


def of_baseline(name: str, runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Describe the CPU time of a baseline's runs as details of a figure. `runs` are values of `us_per_job`."""
    return {f"{name}, CPU µs a job: {kind}": statistics.median_low([run[kind] for run in runs]) for kind in KINDS}


def us_per_job(before: Mapping[str, float], after: Mapping[str, float], jobs: int) -> dict[str, float]:
    return {kind: (after.get(kind, 0.0) - before.get(kind, 0.0)) * 1e6 / jobs for kind in KINDS}

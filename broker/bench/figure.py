"""Defines what every benchmark prints: a figure, its spread, and its ratio to what ran beside it."""

import os
import platform
import statistics
from collections.abc import Sequence

import msgspec
import psutil


class Baseline(msgspec.Struct, frozen=True):
    name: str
    figure: float


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    unit: str
    figure: float
    """The median of the runs."""
    spread: tuple[float, float]
    runs: tuple[float, ...]
    baselines: tuple[Baseline, ...] = ()
    ratios: dict[str, float] = {}
    """The figure, divided by each baseline's."""
    cpu_us_per_job: dict[str, float] = {}
    """By kind of process, in the median run."""
    details: dict[str, float] = {}
    """What else was measured, with its unit in the name."""
    machine: str


def machine() -> str:
    memory = psutil.virtual_memory().total / 1024**3
    return f"{os.cpu_count()} × {_processor()}, {memory:.0f} GiB, Linux {platform.release()}"


def _processor() -> str:
    with open("/proc/cpuinfo") as file:  # noqa: PTH123 - a kernel's table
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def figure_of(
    name: str,
    unit: str,
    runs: Sequence[float],
    *,
    cpu: Sequence[dict[str, float]] = (),
    baselines: Sequence[Baseline] = (),
    details: dict[str, float] | None = None,
) -> Figure:
    """Sum up the runs. `cpu` has one entry for each of them."""
    middle = statistics.median_low(runs)
    return Figure(
        name=name,
        unit=unit,
        figure=middle,
        spread=(min(runs), max(runs)),
        runs=tuple(runs),
        baselines=tuple(baselines),
        ratios={baseline.name: middle / baseline.figure for baseline in baselines},
        cpu_us_per_job=cpu[list(runs).index(middle)] if cpu else {},
        details=details or {},
        machine=machine(),
    )

"""Rounds of faults under load, each followed by a comparison of all that was promised with the ledger."""

import asyncio
import contextlib
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from broker.client import Client
from tests.chaos.check import FENCE, Check, Figures
from tests.chaos.faults import Fault, Faults, Kind, draw
from tests.chaos.load import Load, a_load
from tests.chaos.machine import Machine, a_machine, catalog_of

_CALM_S = 5.0
_SETTLES_S = 120.0
Say = Callable[[str], None]


@dataclass(slots=True)
class Summary:
    """What a round came to."""

    seed: int
    faults: Counter[Kind] = field(default_factory=Counter)
    figures: Figures = field(default_factory=Figures)
    violations: list[str] = field(default_factory=list)
    longest_pause_s: float = 0.0
    longest_settling_s: float = 0.0
    seconds: float = 0.0
    evidence: Path | None = None

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(self.faults.items()))
        lines = [
            f"seed {self.seed}: {self.faults.total()} faults in {self.seconds:.0f} s ({kinds})",
            f"  {self.figures}",
            f"  longest pause {self.longest_pause_s:.1f} s, longest settling {self.longest_settling_s:.1f} s",
            f"  {len(self.violations)} violations",
        ]
        if self.violations:
            lines.append(f"  VIOLATED: seed {self.seed}, evidence in {self.evidence}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What happens in a round."""

    seed: int
    faults: int
    kinds: Sequence[Kind] = tuple(Kind)
    group: int = 5
    """How many faults come, mostly one over the other, before everything must settle."""
    cap_usd: float = 1000.0
    """The daily cap of one deployment."""
    may_repeat: bool = True
    """Whether faults may lead to a second run of an attempt. Without any fault, nothing may."""
    forges: bool = True
    """Whether somebody forges reports and rulings."""
    orders: bool = True
    """Whether people cancel, pause, change, retry and replay."""
    size: int = 1
    """How large batches are: so many times 10, 30 or 60 jobs."""


async def round_of(plan: Plan, *, say: Say) -> Summary:
    """Run one system through a plan. What it leaves is kept if something was wrong."""
    seed = plan.seed
    folder = Path(tempfile.mkdtemp(prefix=f"infermq-chaos-{seed}-"))
    summary = Summary(seed)
    began = time.monotonic()
    try:
        async with _running(folder, plan) as (machine, load):
            one = _Round(machine, load, summary, say)
            await one.calm()
            left = draw(random.Random(seed), plan.faults, plan.kinds)
            while left and not summary.violations:
                await one.group(left[: plan.group], may_repeat=plan.may_repeat)
                left = left[plan.group :]
    except (AssertionError, ExceptionGroup, OSError) as error:
        summary.violations.append(f"{type(error).__name__}: {error}")
        say(f"  VIOLATION {summary.violations[-1]}")
    summary.seconds = time.monotonic() - began
    if summary.violations:
        summary.evidence = folder
        (folder / "violations.txt").write_text("\n".join([f"seed {seed}", *summary.violations]))
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return summary


@asynccontextmanager
async def _running(folder: Path, plan: Plan) -> AsyncIterator[tuple[Machine, Load]]:
    async with a_machine(folder) as machine:
        for broker in machine.brokers:
            broker.start()
        looking = asyncio.create_task(machine.look_after())
        try:
            async with a_load(
                machine.nats.url, plan.seed, forges=plan.forges, orders=plan.orders, size=plan.size
            ) as load:
                await _prepare(machine, cap_usd=plan.cap_usd)
                yield machine, load
        finally:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking


async def _prepare(machine: Machine, *, cap_usd: float) -> None:
    """The catalog, the workers, and the check of the fence."""
    connection = await asyncpg.connect(machine.postgres.url)
    await connection.execute(FENCE)
    await connection.close()
    while not any(broker.is_ready() for broker in machine.brokers):
        await asyncio.sleep(0.05)
    async with Client.connect(machine.nats.url) as client:
        await client.apply_catalog(catalog_of(machine, cap_usd=cap_usd))
    for worker in machine.workers:
        worker.start()
    await machine.all_ready()


class _Round:
    def __init__(self, machine: Machine, load: Load, summary: Summary, say: Say) -> None:
        self._machine = machine
        self._load = load
        self._summary = summary
        self._say = say
        self._faults = Faults(machine)
        self._check = Check(machine, load)
        self._number = 0

    async def calm(self) -> None:
        """Without a fault, nothing runs twice."""
        self._load.open(is_calm=True)
        await asyncio.sleep(_CALM_S)
        await self._settle(may_repeat=False)

    async def group(self, faults: Sequence[Fault], *, may_repeat: bool) -> None:
        """Faults under load, one over the other; then everything must settle and agree."""
        self._load.open()
        async with asyncio.TaskGroup() as acting:
            for fault in faults:
                self._number += 1
                acting.create_task(self._act(fault, self._number))
                await asyncio.sleep(fault.then_s)
        await self._settle(may_repeat=may_repeat)

    async def _act(self, fault: Fault, number: int) -> None:
        began = time.monotonic()
        whom = await self._faults.act(fault)
        self._summary.faults[fault.kind] += 1
        self._say(f"{number:4} {fault.kind:<18} {whom} ({time.monotonic() - began:.1f} s)")

    async def _settle(self, *, may_repeat: bool) -> None:
        self._load.close()
        await self._machine.all_ready()
        took_s = await self._check.settled(_SETTLES_S)
        if self._check.late:
            self._say(f"     settling takes long: {self._check.late}")
        if lost := await self._check.missing():
            for job in lost:
                await self._load.submit_again(job)
            took_s += await self._check.settled(_SETTLES_S)
        found, figures = await self._check.compare(may_repeat=may_repeat)
        summary = self._summary
        summary.figures += figures
        summary.figures.set_totals(figures.executions, wasted=figures.wasted, capped_nano_usd=figures.capped_nano_usd)
        summary.longest_settling_s = max(summary.longest_settling_s, took_s)
        summary.longest_pause_s = max(summary.longest_pause_s, self._load.longest_pause_s)
        summary.violations += found
        self._say(f"     settled in {took_s:.1f} s: {figures}")
        ordered = self._load.orders.ordered
        self._say("     ordered: " + ", ".join(f"{what} {n}" for what, n in sorted(ordered.counts.items())))
        for one in found:
            self._say(f"  VIOLATION {one}")

"""Adds up what deployments cost, by day."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import timedelta
from uuid import UUID

from broker.core.records import Spend, SpendReading
from broker.ledger.spend import day_of
from broker.simulate.ledger.stored import ExecutionRow, SpendRow
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import Area, transaction
from schemas.units import Ms, NanoUsd


def add_spend(tables: Tables, costs: Sequence[tuple[str, NanoUsd]], *, now: Ms) -> None:
    """Add what the executions of a group cost, by deployment. Nothing is written for what costs nothing.

    A negative cost takes back an execution that was recorded before.
    """
    sums: dict[str, tuple[int, int]] = {}
    for deployment, nano_usd in costs:
        if nano_usd:
            executions, cost = sums.get(deployment, (0, 0))
            sums[deployment] = (executions + (1 if nano_usd > 0 else -1), cost + nano_usd)
    day = day_of(now)
    for deployment, (executions, cost) in sorted(sums.items()):
        row = tables.spend.get((day, deployment)) or SpendRow(
            day=day, deployment=deployment, executions=0, cost_nano_usd=0
        )
        tables.spend.put(
            SpendRow(
                day=day,
                deployment=deployment,
                executions=row.executions + executions,
                cost_nano_usd=row.cost_nano_usd + cost,
            )
        )


class MemorySpend(Area):
    """Implements `broker.ports.SpendLedger`."""

    @transaction
    def read(self, now: Ms, attempts: Collection[tuple[UUID, int]] = ()) -> SpendReading:
        today = day_of(now)
        week: dict[str, list[SpendRow]] = defaultdict(list)
        for row in sorted(self._tables.spend, key=lambda row: (row.deployment, row.day)):
            if today - timedelta(days=6) <= row.day <= today:
                week[row.deployment].append(row)
        sums_today = {name: _sum([row for row in rows if row.day == today]) for name, rows in week.items()}
        return SpendReading(
            today={name: spend for name, spend in sums_today.items() if spend.executions},
            week={name: _sum(rows) for name, rows in week.items()},
            recorded=frozenset(
                (row.job, row.attempt)
                for job in dict.fromkeys(job for job, _ in attempts)
                for row in executions_of(self._tables, job)
            ),
        )


def executions_of(tables: Tables, job: UUID) -> list[ExecutionRow]:
    return [tables.executions[key] for key in tables.executions_by_job.keys(job)]


def _sum(rows: Sequence[SpendRow]) -> Spend:
    return Spend(NanoUsd(sum(row.cost_nano_usd for row in rows)), sum(row.executions for row in rows))

"""Records groups in which every verdict ends a job that runs the very attempt, or a request that was not known."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from broker.core.records import EndedAttempt, Final, Recorded, Settled, Verdict
from broker.ledger import requests
from broker.ledger.connection import Connection
from broker.ledger.copies import copy_results
from broker.ledger.counts import Deltas
from broker.ledger.days import bounds, day_of, days_of
from broker.ledger.failures import record_failures
from broker.ledger.rows import (
    EXECUTION_COLUMNS,
    columns,
    end_of,
    execution_row,
    flow_of,
    json_text,
    recorded_of,
    recorded_request,
)
from broker.ledger.spend import add_spend
from broker.ledger.sql import query
from schemas.api import State
from schemas.outcome import Usage
from schemas.units import Ms


class NotUsual(Exception):
    """Something in the group is not as usual, so its transaction must be rolled back, and the group recorded row by row."""


def are_usual(verdicts: Sequence[Verdict]) -> bool:
    """Say whether all may be usual ends. What the ledger holds may differ."""
    return not [
        verdict
        for verdict in verdicts
        if not isinstance(verdict.transition, Final) or (verdict.executed is None and verdict.entry is None)
    ]


@dataclass(slots=True)
class UsualEnds:
    """Records one group in one transaction."""

    connection: Connection
    now: Ms
    ended: dict[int, Recorded] = field(default_factory=dict)
    """The jobs that ended, by the place of the verdict in the group."""
    ended_attempts: list[EndedAttempt] = field(default_factory=list)

    async def settle(self, verdicts: Sequence[Verdict]) -> Settled:
        """Raises: NotUsual, UniqueViolationError if an execution is recorded already."""
        await self._insert_requests({n: v for n, v in enumerate(verdicts) if v.entry is not None})
        await self._finish({n: v for n, v in enumerate(verdicts) if v.entry is None})
        if len(self.ended) < len(verdicts):
            raise NotUsual
        await self._record(verdicts)
        return Settled(tuple(self.ended.values()), (), tuple(self.ended_attempts))

    async def _insert_requests(self, verdicts: Mapping[int, Verdict]) -> None:
        ends = {v.job: (v, v.entry, v.executed) for v in verdicts.values() if v.entry is not None}
        if not ends:
            return
        later = [verdict for verdict in verdicts.values() if not _is_first(verdict)]
        await requests.hold(self.connection, later)
        new = await requests.insert(self.connection, ends, now=self.now)
        if len(new) < len(verdicts):
            raise NotUsual
        await self._add_earlier(later)
        for n, verdict in verdicts.items():
            _, entry, _ = ends[verdict.job]
            self.ended[n] = recorded_request(verdict, entry)
            self.ended_attempts.append(EndedAttempt(entry.id, verdict.attempt or 0, entry.flow))

    async def _add_earlier(self, verdicts: Sequence[Verdict]) -> None:
        """Charge the requests for their earlier attempts, whose executions were recorded before the job was."""
        jobs = [verdict.job for verdict in verdicts]
        rows = await self.connection.fetch(query("spent_on"), jobs, min(jobs), max(jobs)) if jobs else []
        if rows:
            names = ("job", "input_tokens", "output_tokens", "cached_tokens", "cost_nano_usd")
            spent = columns([tuple(row[name] for name in names) for row in rows], len(names))
            await self.connection.fetch(query("charge"), *spent, *days_of(jobs))

    async def _finish(self, verdicts: Mapping[int, Verdict]) -> None:
        by_day: dict[int, list[Verdict]] = defaultdict(list)
        for verdict in verdicts.values():
            by_day[day_of(verdict.job)].append(verdict)
        by_job = {verdict.job: n for n, verdict in verdicts.items()}
        for day, theirs in sorted(by_day.items()):
            for row in await self.connection.fetch(query("finish"), *_ends(theirs), self.now, *bounds(day)):
                self.ended[by_job[row["id"]]] = recorded_of(row)
                self.ended_attempts.append(EndedAttempt(row["id"], row["attempts"], flow_of(row), row["tokens"]))

    async def _record(self, verdicts: Sequence[Verdict]) -> None:
        """Record executions, results, what they cost, and the batches' counts."""
        deltas = Deltas()
        ran = [(v, v.executed) for v in verdicts if v.executed is not None]
        await self._copy_executions([execution_row(v, executed, waste=False) for v, executed in ran])
        for n, one in self.ended.items():
            deltas.ended(one.batch, one.state)
            if (executed := verdicts[n].executed) is not None:
                deltas.spent(one.batch, executed.usage, executed.cost_nano_usd)
        costs = [(executed.deployment, executed.cost_nano_usd) for _, executed in ran]
        await add_spend(self.connection, costs, now=self.now)
        failed = [one.job for one in self.ended.values() if one.state is not State.SUCCEEDED]
        await record_failures(self.connection, failed)
        ended_before = await deltas.write(self.connection, now=self.now)
        ended = sorted(self.ended.items(), key=_ended_number)
        results = [(one.job, one.batch, end_of(verdicts[n]).body) for n, one in ended]
        await copy_results(self.connection, results, ended_before)

    async def _copy_executions(self, rows: Sequence[tuple[object, ...]]) -> None:
        if rows:
            await self.connection.copy_records_to_table(
                "executions", records=rows, columns=EXECUTION_COLUMNS, schema_name="infermq"
            )


def _is_first(verdict: Verdict) -> bool:
    """Say whether an interactive request has no earlier attempt to pay for."""
    return verdict.attempt == 1 and verdict.executed is not None


def _job_number(verdict: Verdict) -> int:
    """Sort as the ids sort, without their slower comparison."""
    return verdict.job.int


def _ended_number(ended: tuple[int, Recorded]) -> int:
    return ended[1].job.int


def _ends(finals: Iterable[Verdict]) -> list[list[object]]:
    """Make the arrays of finish.sql, sorted by job, so that two groups lock in one order."""
    rows = []
    for verdict in sorted(finals, key=_job_number):
        final, executed = end_of(verdict), verdict.executed
        usage = executed.usage if executed else Usage()
        rows.append(
            (
                verdict.job,
                verdict.attempt,
                final.state,
                json_text(final.failure),
                usage.input_tokens,
                usage.output_tokens,
                usage.cached_tokens,
                executed.cost_nano_usd if executed else 0,
            )
        )
    return columns(rows, 8)

"""What must hold whenever a job's row or its result changes: what has ended stays as it is, but for what is opened again."""

from collections.abc import Callable
from uuid import UUID

from broker.simulate.ledger.stored import BatchRow, JobRow, ResultRow
from broker.simulate.ledger.tables import Tables

_OPENED_AGAIN = frozenset({"failed", "expired", "cancelled", "dead"})
"""What a person may have tried again. An answer is for good."""
ENDED = _OPENED_AGAIN | {"succeeded"}
"""The states of jobs that are over."""


class Ends:
    """Looks at each change while the transaction that makes it runs."""

    def __init__(self, tables: Tables, wrong: Callable[[str], object]) -> None:
        self._wrong = wrong
        self._tell_of_result = tables.results.trigger
        self._tell_of_batch = tables.batches.trigger
        self._tables = tables
        self.listening: dict[UUID, frozenset[UUID]] = {}
        """Which endpoints of its tenant there were when each batch was complete."""
        tables.batches.trigger = self._batch_changed
        tables.jobs.trigger = self._job_changed
        tables.results.trigger = self._result_changed

    def _job_changed(self, before: JobRow | None, after: JobRow | None) -> None:
        if before is None or after is None or before.state not in ENDED or before.state == after.state:
            return
        if after.state != "open" or before.state not in _OPENED_AGAIN:
            self._wrong(f"job {before.id} was {before.state}, and becomes {after.state}")

    def _result_changed(self, before: ResultRow | None, after: ResultRow | None) -> None:
        if self._tell_of_result is not None:
            self._tell_of_result(before, after)
        if before is not None and after is not None and before.body is not None and before.body != after.body:
            self._wrong(f"the result of job {before.job} is written over")

    def _batch_changed(self, before: BatchRow | None, after: BatchRow | None) -> None:
        if self._tell_of_batch is not None:
            self._tell_of_batch(before, after)
        if (
            before is not None
            and after is not None
            and before.completed_ms is None
            and after.completed_ms is not None
        ):
            self.listening[after.id] = frozenset(self._tables.webhooks_by_tenant.keys(after.tenant))

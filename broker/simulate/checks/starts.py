"""What must hold whenever a job starts: who starts it, what it may have used up, and that nothing holds it back."""

from collections.abc import Callable
from uuid import UUID

from broker.simulate.ledger.stored import PauseRow, RunningRow
from broker.simulate.ledger.tables import Tables
from broker.simulate.world.world import World
from schemas.control import PauseKind


class Starts:
    """Looks at each attempt while the transaction that starts it runs.

    A leader knows of a pause or a cancel only later, but the ledger starts nothing for one that does not know it yet.
    """

    def __init__(self, world: World, tables: Tables, wrong: Callable[[str], object]) -> None:
        self._world = world
        self._tables = tables
        self._wrong = wrong
        self.started: set[UUID] = set()
        """The jobs that were dispatched. All others that run are requests."""
        tables.running.trigger = self._changed

    def _changed(self, before: RunningRow | None, after: RunningRow | None) -> None:
        if before is None and after is not None:
            self.started.add(after.job)
            for what in (self._not_led(after), self._not_open(after), self._used_up(after), self._held(after)):
                if what:
                    self._wrong(f"job {after.job} starts on {after.deployment}, {what}")

    def _not_led(self, row: RunningRow) -> str:  # noqa: ARG002 - all are asked alike
        leader, who = self._tables.leader.get(0), self._world.current
        if leader is None or who is None or leader.holder == who.name:
            return ""
        return f"by {who}, while {leader.holder} leads"

    def _not_open(self, row: RunningRow) -> str:
        job = self._tables.jobs.get(row.job)
        return "" if job is not None and job.state == "open" else f"and is {job and job.state}"

    def _used_up(self, row: RunningRow) -> str:
        """Attempts are numbered on, and no more of them count than the job may have."""
        job = self._tables.jobs[row.job]
        if row.attempt <= job.attempts:
            return f"with attempt {row.attempt} after {job.attempts}"
        if row.attempt - row.uncounted > job.max_attempts:
            return (
                f"with attempt {row.attempt}, of which {row.uncounted} do not count, and may have {job.max_attempts}"
            )
        return ""

    def _held(self, row: RunningRow) -> str:
        batch_id = self._tables.jobs[row.job].batch
        batch = None if batch_id is None else self._tables.batches.get(batch_id)
        if batch is not None and batch.cancel_ms is not None:
            return f"and its batch {batch.id} is cancelled"
        names = {
            PauseKind.MODEL: row.model,
            PauseKind.LANE: row.lane,
            PauseKind.TENANT: row.tenant,
            PauseKind.BATCH: str(batch_id),
        }
        if row.ward is None:  # what runs apart is held by what its leader knows of the deployment
            names[PauseKind.DEPLOYMENT] = row.deployment
        paused = [pause for pause in self._tables.pauses if _is_of(pause, names)]
        return f"and the {paused[0].kind} {paused[0].name} is paused" if paused else ""


def _is_of(pause: PauseRow, names: dict[PauseKind, str]) -> bool:
    return names.get(PauseKind(pause.kind)) == pause.name

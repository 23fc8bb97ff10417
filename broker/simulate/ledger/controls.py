"""Keeps what is paused, and reads all that holds jobs back."""

from uuid import UUID

import msgspec
from msgspec.structs import asdict

from broker.core.controls import Controls
from broker.core.records import Audited, Flow, Place
from broker.ledger.rows import NEVER_MS
from broker.simulate.ledger import audit
from broker.simulate.ledger.backlog import back_to_backlog
from broker.simulate.ledger.stored import DelayedRow, PauseRow
from broker.simulate.ledger.table import ALL
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import Area, transaction
from schemas.cancel import CancelChoice
from schemas.control import Pause, PauseAnswer, PauseKind
from schemas.instructions import InstructionKind
from schemas.units import Ms

_order = msgspec.json.Decoder(CancelChoice)


def changed(tables: Tables) -> None:
    """Note in the transaction of a change that what may start has changed."""
    tables.control_version.set(tables.control_version.now + 1)


class MemoryControls(Area):
    """Implements `broker.ports.ControlLedger`."""

    @transaction
    def read(self) -> Controls:
        tables = self._tables
        pauses = tuple(_pause_of(row) for row in sorted(tables.pauses, key=lambda row: (row.kind, row.name)))
        open_ones = [tables.instructions[key] for key in sorted(tables.instructions_open.keys())]
        orders = tuple(_order.decode(row.what) for row in open_ones if row.kind == InstructionKind.CANCEL)
        return Controls(tables.control_version.now, pauses, frozenset(tables.batches_cancelling.keys()), orders)

    @transaction
    def pause(self, pause: Pause, audited: Audited) -> PauseAnswer:
        row = PauseRow(**asdict(pause))
        if not self._tables.pauses.add(row):
            return PauseAnswer(_pause_of(self._tables.pauses[pause.kind, pause.name]), changed=False)
        changed(self._tables)
        audit.record(self._tables, audited, "pause", _target(pause.kind, pause.name), after=pause)
        return PauseAnswer(pause, changed=True)

    @transaction
    def resume(self, kind: PauseKind, name: str, audited: Audited) -> PauseAnswer:
        if (kind, name) not in self._tables.pauses:
            return PauseAnswer(None, changed=False)
        row = self._tables.pauses.remove((kind, name))
        changed(self._tables)
        audit.record(self._tables, audited, "resume", _target(kind, name), before=_pause_of(row))
        return PauseAnswer(None, changed=True)

    @transaction
    def park(self, batch: UUID, *, now: Ms, limit: int) -> int:
        tables = self._tables
        if (PauseKind.BATCH, str(batch)) not in tables.pauses:
            return 0
        rows = [tables.waiting[job] for job in tables.waiting_by_batch.keys(batch)]
        page = [row for row in rows if row.deadline_ms > now][:limit]
        for row in page:
            tables.waiting.remove(row.job)
            tables.delayed.insert(DelayedRow(not_before_ms=NEVER_MS, is_parked=True, **asdict(row)))
        return len(page)

    @transaction
    def unpark(self, *, limit: int) -> list[tuple[Flow, Place]]:
        tables = self._tables
        rows = [tables.delayed[job] for job in tables.delayed_parked.keys(ALL)]
        free = [row for row in rows if (PauseKind.BATCH, str(row.batch)) not in tables.pauses]
        return [back_to_backlog(tables, row.job) for row in free[:limit]]


def _target(kind: PauseKind, name: str) -> dict[str, str]:
    return {"kind": kind, "name": name}


def _pause_of(row: PauseRow) -> Pause:
    return Pause(
        kind=PauseKind(row.kind),
        name=row.name,
        paused_ms=Ms(row.paused_ms),
        tenant=row.tenant,
        key=row.key,
        reason=row.reason,
    )

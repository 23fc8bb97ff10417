"""Use-cases of batches whose jobs are the lines of a stored file."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import msgspec

from broker.core.admit import LONGEST_MS
from broker.core.authorise import Action
from broker.core.openai_batch import ERRORS_SHOWN, batch_id, file_id
from broker.core.principal import Principal
from broker.core.records import ANY_ENDPOINT, Audited, BadLine, FileBatch, FileBatchState
from broker.errors import Conflict
from broker.ports import Clock, Entropy, FileBatchLedger, WebhookLedger
from broker.service.refusal import Refusal, authorise, found
from broker.service.repeats import RepeatService
from broker.service.webhooks import check_webhook
from schemas.api import Problem
from schemas.endpoints import ENDPOINTS
from schemas.ids import id_problem, uuid7
from schemas.job import Lane
from schemas.repeats import BatchRetry, FileRetry
from schemas.units import Ms

_MINUTE_MS = 60_000
_UNITS_MS = {"m": _MINUTE_MS, "h": 60 * _MINUTE_MS, "d": 24 * 60 * _MINUTE_MS}
LEAST_MS = 15 * _MINUTE_MS


class NewFileBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for: a batch of the lines of a file."""

    id: UUID | None = None
    """None: a new one. If it is known already, the batch stays as it is."""
    file: UUID
    endpoint: str
    window: str
    deadline_ms: Ms | None = None
    """None: the window says it."""
    metadata: dict[str, str]
    lane: Lane = Lane.BULK
    priority: int = 0
    model: str | None = None
    skips_bad: bool = False
    webhook: UUID | None = None
    files_last_ms: int | None = None
    """How long its two files can be read after its end. None: as long as the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBatchService:
    """Each method raises Refusal, Unavailable, Conflict or BadData."""

    ledger: FileBatchLedger
    webhooks: WebhookLedger
    tell: Callable[[], Awaitable[None]]
    """Tells the brokers that an instruction was given."""
    repeats: RepeatService
    clock: Clock
    entropy: Entropy

    async def create(self, principal: Principal, ask: NewFileBatch) -> FileBatchState:
        """Accept a batch: from now on all its lines run, unless one is bad or it is cancelled."""
        authorise(principal, Action.SUBMIT, lane=ask.lane)
        if ask.endpoint not in (*ENDPOINTS, ANY_ENDPOINT):
            message = f"{ask.endpoint[:80]!r} is not one of {', '.join(ENDPOINTS)}"
            raise Refusal(Problem("bad_url", message, "endpoint"))
        await check_webhook(self.webhooks, ask.webhook, principal.tenant)
        now = self.clock()
        if ask.id is not None:
            if wrong := id_problem(ask.id, now):
                raise Refusal(Problem("bad_id", f"the id {ask.id} {wrong}", "id"))
            if (known := await self.ledger.find(ask.id, principal.tenant)) is not None:
                return known
        batch = FileBatch(
            id=ask.id or uuid7(now, self.entropy()),
            file=ask.file,
            lane=ask.lane,
            endpoint=ask.endpoint,
            window=ask.window,
            deadline_ms=_deadline_ms(ask, now),
            skips_bad=ask.skips_bad,
            webhook=ask.webhook,
            files_last_ms=ask.files_last_ms,
            model=ask.model,
            priority=ask.priority,
        )
        by = Audited(uuid7(now, self.entropy()), now, principal.tenant, principal.key)
        try:
            file = await self.ledger.create(batch, ask.metadata, principal.tenant, by)
        except Conflict:  # an earlier try, for whose answer nobody waited, may have made it just now
            if (known := await self.ledger.find(batch.id, principal.tenant)) is None:
                raise
            return known
        if file is None:
            raise Refusal(Problem("unknown_file", f"there is no file {file_id(ask.file)}", "input_file_id"))
        await self.tell()
        return await self.show(principal, batch.id, action=Action.SUBMIT)

    async def show(self, principal: Principal, batch: UUID, *, action: Action = Action.READ_JOBS) -> FileBatchState:
        authorise(principal, action)
        return found(await self.ledger.find(batch, principal.tenant), f"batch {batch_id(batch)}")

    async def retry(self, principal: Principal, batch: UUID, ask: FileRetry) -> FileBatchState:
        """Run again what failed, as a batch of its own. What that comes to replaces the failures of the first."""
        state = await self.show(principal, batch, action=Action.CONTROL_JOBS)
        now = self.clock()
        retry, window = ask.id or uuid7(now, self.entropy()), ask.completion_window or state.window
        counts = (state.batch.merged or state.batch).counts
        if retry not in state.batch.retries and not any(getattr(counts, str(one), 0) for one in ask.states):
            ends = " or ".join(ask.states)
            message = f"no request of the batch {batch_id(batch)} has ended as {ends}, or all those are being retried"
            raise Refusal(Problem("nothing_to_retry", message, "states"))
        given = BatchRetry(
            id=retry,
            batch=batch,
            states=ask.states,
            kinds=ask.kinds,
            model=ask.model,
            deadline_in_ms=window_ms(window),
        )
        await self.repeats.retry(principal, given, window)
        return await self.show(principal, retry, action=Action.CONTROL_JOBS)

    async def errors(self, state: FileBatchState) -> list[BadLine]:
        """List the first bad lines of a batch that failed by them."""
        if state.failed_ms is None:
            return []
        return await self.ledger.bad_lines(state.batch.id, after=-1, limit=ERRORS_SHOWN)

    async def bad_lines(self, principal: Principal, batch: UUID, *, after: int, limit: int) -> list[BadLine]:
        """List the lines of a batch that cannot run, in order."""
        state = await self.show(principal, batch)
        return await self.ledger.bad_lines(state.batch.id, after=after, limit=limit)

    async def list(self, principal: Principal, *, limit: int, before: UUID | None) -> list[FileBatchState]:
        """List the tenant's batches that are made of files, the newest first."""
        authorise(principal, Action.READ_JOBS)
        return await self.ledger.page(principal.tenant, limit=limit, before=before)


def _deadline_ms(ask: NewFileBatch, now: Ms) -> Ms:
    """Raises: Refusal."""
    if ask.deadline_ms is None:
        return Ms(now + window_ms(ask.window))
    if not now < ask.deadline_ms <= now + LONGEST_MS:
        message = f"it is {ask.deadline_ms - now} ms from now, not 1 to {LONGEST_MS}"
        raise Refusal(Problem("bad_deadline", message, "deadline_ms", LONGEST_MS))
    return ask.deadline_ms


def window_ms(window: str) -> int:
    """Read how long a batch may take, such as 24h, 15m or 7d. Raises: Refusal."""
    match = re.fullmatch(r"([0-9]{1,6})([mhd])", window)
    ms = 0 if match is None else int(match[1]) * _UNITS_MS[match[2]]
    if not LEAST_MS <= ms <= LONGEST_MS:
        message = f"{window[:20]!r} is no time from 15m to 7d, such as 24h"
        raise Refusal(Problem("bad_window", message, "completion_window"))
    return ms

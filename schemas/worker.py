"""Defines the beat, which each worker publishes once a second in the WORKERS bucket, and what it says is held."""

import struct
from collections.abc import Iterable, Iterator
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from schemas.subjects import DEFAULT, WorkerId, worker_id
from schemas.units import MOST_ATTEMPTS, AttemptNumber, DurationMs, Instant, Ms, Name, SlotCount, Subject, Text

BEAT_EVERY_MS = Ms(1000)
BEAT_LIFETIME_MS = Ms(4000)
"""The time to live of a beat: a worker counts as gone once three beats in a row are missing."""


class Paused(msgspec.Struct, frozen=True):
    """Why a worker sends nothing to its provider, or only a single attempt to try it again."""

    cause: Name
    """`denied`, `throttled` or `upstream_down`. Brokers must accept other words too."""
    detail: Text
    """The HTTP status that the provider answered, or a few words if it did not answer."""
    left_ms: DurationMs
    """In how long a single attempt will try the provider again. 0: it is being tried."""


DENIED = "denied"
"""The provider refuses the deployment's key or account."""
THROTTLED = "throttled"
"""The provider asks for fewer requests."""
UPSTREAM_DOWN = "upstream_down"
"""The provider cannot be reached, or is down behind its gateway."""


class WorkerBeat(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one worker process."""

    worker: Name
    """A name unique among the workers of the deployment that have the same key."""
    deployment: Name
    key: Name = DEFAULT
    """The id of the key that the worker has."""
    engine: Name
    slots: SlotCount
    """How many dispatched attempts the engine takes at once."""
    reserve: SlotCount
    """How many more slots it has, which only interactive attempts take. They take any that is free."""
    running: SlotCount
    """How many attempts of both kinds the engine runs now."""
    interactive: SlotCount
    """How many of them are interactive."""
    draining: bool
    started_ms: Instant
    at_ms: Instant
    """When the beat was published, by the worker's clock."""
    version: Name
    revision: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    """The newest revision of the catalog with what its engine was made of: a later one needs a restart. 0: unknown."""
    paused: Paused | None = None
    wanted: SlotCount = 0
    """How many interactive requests wait for a slot of the deployment, at all relays, as far as the worker was told."""
    reconnects: Annotated[int, Meta(ge=0, le=10**9)] = 0
    """How often its connection to NATS was lost so far: what was on its way then never arrived."""
    held: Annotated[bytes, Meta(max_length=4 * 1024 * 1024)] = b""
    """The executions that the worker holds, as `held_bytes` encodes them: they have begun and are not reported yet."""

    @property
    def id(self) -> WorkerId:
        """What the worker is among all. A beat counts only on the subject of this id."""
        return worker_id(self.deployment, self.key, self.worker)


class HeldExecution(msgspec.Struct, frozen=True):
    """One execution that a worker holds, of a dispatched attempt or of an interactive one."""

    job: UUID
    attempt: AttemptNumber
    execution: UUID


MOST_CANCELS = 2000
"""The most attempts that one message of cancels names."""
CancelNotice = Annotated[list[tuple[UUID, AttemptNumber]], Meta(max_length=MOST_CANCELS)]
"""Tells workers, in MessagePack, which leased attempts to end as cancelled: each by its job and its number."""
WantedNotice = tuple[Name, SlotCount]
"""Tells workers, in MessagePack, how many requests wait for a slot, and at which relay."""
SlotOffer = tuple[Name, Name, SlotCount]
"""Offers a relay free slots, in MessagePack: the key and the name of the worker, and how many."""
AbortNotice = Subject
"""Tells workers, in MessagePack, which interactive attempt to end: by the subject of its reply."""

NOT_BEGUN = UUID(int=0)
"""The execution of an attempt that a worker has and has not begun: it waits there to run apart from others."""
BEGINNING = UUID(int=1)
"""The execution of an attempt that a worker will begin apart at once: it says so first, in case it does not live long."""


def is_execution(execution: UUID) -> bool:
    """Say whether this is an execution that has begun."""
    return execution not in (NOT_BEGUN, BEGINNING)


_HELD = struct.Struct(">16sI16s")


def held_bytes(held: Iterable[HeldExecution]) -> bytes:
    """Encode executions as records of one length: a beat names hundreds of them each second, and few are ever read."""
    return b"".join([_HELD.pack(one.job.bytes, one.attempt, one.execution.bytes) for one in held])


def held_in(records: bytes) -> Iterator[HeldExecution]:
    """Decode what `held_bytes` encoded. What no worker can hold, and what follows the last whole record, is ignored."""
    whole = len(records) - len(records) % _HELD.size
    for job, attempt, execution in _HELD.iter_unpack(records[:whole]):
        if 1 <= attempt <= MOST_ATTEMPTS:
            yield HeldExecution(UUID(bytes=job), attempt, UUID(bytes=execution))

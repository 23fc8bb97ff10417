"""Decides which workers are there and which have died, and when it is known that nobody holds a delivered attempt.

Each worker sends a beat every second that names what it holds. Who has sent none for two and a half of them is dead. Time in
which this broker itself could hear nobody is not passed in here, so it makes nobody dead.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from schemas.ids import ms_of
from schemas.ruling import Lost
from schemas.subjects import WorkerId
from schemas.units import Ms
from schemas.worker import BEAT_EVERY_MS, HeldExecution, WorkerBeat, held_in, is_execution

QUIET_MS = 3 * BEAT_EVERY_MS // 2
"""A worker that has been silent this long has missed a beat: it may be dead."""
DEAD_MS = 5 * BEAT_EVERY_MS // 2
"""A worker that has been silent this long has missed two beats, and counts as dead."""
REMEMBERED_MS = 60 * BEAT_EVERY_MS
"""How long a death is remembered, for a broker that begins to lead meanwhile: several times a leader's lease."""


@dataclass(slots=True, eq=False)
class Heard:
    """A worker process that is there."""

    beat: WorkerBeat
    """Its last one."""
    heard_ms: Ms
    """When that came, by this broker's clock."""
    beats: int = 1
    """How many beats it has sent."""
    silent_ms: int = 0


@dataclass(slots=True, eq=False)
class Departed:
    """A worker process that is not there any more."""

    beat: WorkerBeat
    """Its last one."""
    heard_ms: Ms
    """When that came, by this broker's clock."""
    has_died: bool
    """Whether it left without a goodbye."""
    since_ms: int = 0


class Presence:
    """The worker processes that are there, and those that departed lately. Two processes with one id are never one."""

    def __init__(self) -> None:
        self._here: dict[WorkerId, Heard] = {}
        self.departed: list[Departed] = []
        """The oldest first. A process that is heard again has not departed."""
        self._listened_ms = 0

    def __repr__(self) -> str:
        return f"Presence(here={sorted(self._here)}, departed={[one.beat.id for one in self.departed]})"

    @property
    def knows_all(self) -> bool:
        """Whether it has listened for so long that every worker that lives has been heard."""
        return self._listened_ms >= DEAD_MS

    @property
    def here(self) -> Iterable[Heard]:
        return self._here.values()

    def started_ms(self, worker: WorkerId) -> Ms | None:
        """Return when the process of this name that is here started, by its own clock. None: none is known here."""
        known = self._here.get(worker)
        return None if known is None else known.beat.started_ms

    def heard(self, beat: WorkerBeat, now: Ms) -> None:
        """Note a beat. One of a newer process means that the older one with its id has died."""
        known = self._here.get(beat.id)
        if known is not None and process_of(known.beat) == process_of(beat):
            known.beat, known.heard_ms, known.silent_ms = beat, now, 0
            known.beats += 1
            return
        if known is not None:
            self.departed.append(Departed(known.beat, known.heard_ms, has_died=True))
        self.departed = [gone for gone in self.departed if process_of(gone.beat) != process_of(beat)]
        self._here[beat.id] = Heard(beat, now)

    def said_goodbye(self, worker: WorkerId) -> None:
        if (known := self._here.pop(worker, None)) is not None:
            self.departed.append(Departed(known.beat, known.heard_ms, has_died=False))

    def could_not_hear(self) -> None:
        """Note that this broker was cut off, and the workers perhaps, too: they have a while more to be heard again."""
        self._listened_ms = -DEAD_MS
        for known in self._here.values():
            known.silent_ms = -DEAD_MS

    def passed(self, ms: int) -> None:
        """Note that this time has passed in which beats would have been heard."""
        self._listened_ms += ms
        for gone in self.departed:
            gone.since_ms += ms
        self.departed = [gone for gone in self.departed if gone.since_ms <= REMEMBERED_MS]
        for worker, known in list(self._here.items()):
            known.silent_ms += ms
            if known.silent_ms >= DEAD_MS:
                del self._here[worker]
                self.departed.append(Departed(known.beat, known.heard_ms, has_died=True))


Process = tuple[WorkerId, Ms]
"""A worker's id, and when it started by its own clock: another process with the same id started at another time."""


def process_of(beat: WorkerBeat) -> Process:
    return beat.id, beat.started_ms


def lost_executions(gone: Departed, handed_out: Collection[tuple[UUID, int]]) -> list[Lost]:
    """Say of the executions in the last beat of a worker that died that it can report no more.

    What it holds is the worker's own word, and what is lost costs. So only attempts that were `handed_out` to its deployment
    count, and one execution of each: a worker has no more at once.
    """
    held: dict[tuple[UUID, int], HeldExecution] = {}
    for one in held_in(gone.beat.held):
        if is_execution(one.execution) and (one.job, one.attempt) in handed_out:
            held.setdefault((one.job, one.attempt), one)
    return [
        Lost(
            job=one.job,
            attempt=one.attempt,
            deployment=gone.beat.deployment,
            execution=one.execution,
            worker=gone.beat.worker,
            started_ms=_started_ms(one, gone),
        )
        for one in held.values()
    ]


def _started_ms(held: HeldExecution, gone: Departed) -> Ms:
    """Return when an execution started, by this broker's clock: its id and the beat tell how long before the beat."""
    ran_ms = gone.beat.at_ms - ms_of(held.execution)
    return Ms(gone.heard_ms - max(0, min(ran_ms, gone.beat.at_ms - gone.beat.started_ms)))


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment, from which it is found out which of the messages that were delivered by then nobody holds.

    A message may be on its way to a worker that is there. But when each worker has sent two beats since, what came before
    is in the second of them, or was over, or never arrived.
    """

    last_sequence: int
    """The last message of the stream that had been delivered to a worker of the deployment."""
    beats: Mapping[Process, int]
    """How many beats each worker of the deployment had sent."""
    quiet: Collection[Process] = ()
    """Those who were silent by then, so that nothing was delivered to them later: if they are dead, they were dead."""

    def is_over(self, workers: Iterable[Heard]) -> bool:
        """Tell whether all workers that are there have sent two beats since."""
        return all(one.beats >= self.beats.get(process_of(one.beat), 0) + _BEATS for one in workers)


def mark_of(workers: Iterable[Heard], *, last_sequence: int) -> Mark:
    workers = list(workers)
    return Mark(
        last_sequence,
        {process_of(one.beat): one.beats for one in workers},
        {process_of(one.beat) for one in workers if one.silent_ms >= QUIET_MS},
    )


_BEATS = 2


def held_by(workers: Iterable[Heard]) -> set[tuple[bytes, int]]:
    """Name the attempts that these workers hold, by their jobs' ids and their numbers."""
    return {(held.job.bytes, held.attempt) for one in workers for held in held_in(one.beat.held)}

"""Knows the workers that are alive, from the beat that each sends every second, and those that died lately.

A broker that has just started knows all of them one beat later. A beat counts only if its subject, which permissions
restrict, is its worker's own: so nobody beats, says goodbye or claims to hold attempts in the name of another.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

import msgspec

from broker.core.presence import Presence
from schemas import subjects
from schemas.codec import UNREADABLE
from schemas.jetstream import Message, NatsConnection
from schemas.subjects import WorkerId
from schemas.units import Ms
from schemas.worker import BEAT_LIFETIME_MS, WorkerBeat

log = logging.getLogger(__name__)
_KV_DELETED = "KV-Operation"
WATCH_S = 0.25
_LONGEST_WATCH_S = 2 * WATCH_S
"""The most silence that one look counts: a broker that was busy or stopped for longer has beats still to read."""
_beat = msgspec.json.Decoder(WorkerBeat)


class Beats:
    """The last beat of each worker, forgotten after its lifetime."""

    def __init__(
        self,
        nc: NatsConnection,
        *,
        clock: Callable[[], Ms],
        lifetime_ms: int = BEAT_LIFETIME_MS,
        ignored: Callable[[], object] = lambda: None,
    ) -> None:
        """`ignored` is called for each message that is no beat."""
        self._nc = nc
        self._ignored = ignored
        self._clock = clock
        self._reconnects = nc.reconnects
        self._lifetime_s = lifetime_ms / 1000
        self._known: dict[WorkerId, tuple[WorkerBeat, float]] = {}
        """The last beat of each worker and when it was heard, by `_watched_s`, in the order in which they were."""
        self._watched_s = 0.0
        """How long this broker has watched, less the times in which it was busy or stopped and so heard nobody."""
        self._alive: Sequence[WorkerBeat] | None = None
        """The beats that are known. None: they have changed since somebody asked. Each request asks."""
        self.changed: Callable[[], None] = lambda: None
        """Called when the capacity of some deployment has changed."""
        self.presence = Presence()

    async def listen(self) -> None:
        await self._nc.subscribe(subjects.ALL_BEATS, cb=self._on_beat)

    async def watch(self) -> None:
        """Note the silence of workers, until cancelled. While NATS is away nobody is silent: nobody could be heard."""
        loop = asyncio.get_running_loop()
        looked = loop.time()
        while True:
            await asyncio.sleep(WATCH_S)
            before, looked = looked, loop.time()
            passed_s = min(looked - before, _LONGEST_WATCH_S)
            self._watched_s += passed_s
            if not self._nc.is_connected or self._nc.reconnects != self._reconnects:
                self._reconnects = self._nc.reconnects
                self.presence.could_not_hear()
            else:
                self.presence.passed(int(1000 * passed_s))

    def alive(self) -> Sequence[WorkerBeat]:
        oldest = self._watched_s - self._lifetime_s
        while self._known and next(iter(self._known.values()))[1] <= oldest:
            del self._known[next(iter(self._known))]
            self._alive = None
        if self._alive is None:
            self._alive = [beat for beat, _ in self._known.values()]
        return self._alive

    async def _on_beat(self, message: Message) -> None:
        worker = subjects.beat_of(message.subject)
        if not message.data or (message.headers and _KV_DELETED in message.headers):
            if self._known.pop(worker, None):
                self._alive = None
                self.changed()
            self.presence.said_goodbye(worker)
            return
        try:
            beat = _beat.decode(message.data)
            if beat.id != worker:
                raise msgspec.ValidationError(f"it is of {beat.id}")
        except UNREADABLE as error:
            log.warning("ignored subject=%s bytes=%d error=%s", message.subject, len(message.data), error)
            self._ignored()
            return
        self.presence.heard(beat, self._clock())
        before = self._known.pop(worker, None)
        self._known[worker] = (beat, self._watched_s)
        self._alive = None
        if before is None or _capacity(before[0]) != _capacity(beat):
            self.changed()


def _capacity(beat: WorkerBeat) -> tuple[str, int, bool]:
    return beat.deployment, beat.slots, beat.draining

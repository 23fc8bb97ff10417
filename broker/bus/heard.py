"""What brokers and workers tell everyone: core NATS, so a listener that missed one has a net of its own.

beats      each second, so a late listener knows all workers a second later
catalog    the active revision; read again each few seconds
delayed    a job waits for its time: when the first of them is due; the dispatch leader asks the ledger now and then
waiting    a flow has work: the lowest place that was let in; the dispatch leader reads fronts anew now and then
settled    attempts that are over; the leader counts anew now and then
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from uuid import UUID

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error

from broker.core.records import Flow, Place
from broker.errors import Unavailable
from schemas import subjects
from schemas.catalog import Catalog, Revision
from schemas.codec import UNREADABLE, jsoned, packed
from schemas.job import Lane
from schemas.units import Ms
from schemas.worker import BEAT_LIFETIME_MS, WorkerBeat

log = logging.getLogger(__name__)
_NOTICE = 2000
"""Entries of one message."""
_KV_DELETED = "KV-Operation"

_beat = msgspec.json.Decoder(WorkerBeat)
_revision = msgspec.json.Decoder(Revision)
_waiting = msgspec.msgpack.Decoder(list[tuple[str, Lane, str, int, UUID]])
_delayed = msgspec.msgpack.Decoder(Ms)
_settled = msgspec.msgpack.Decoder(list[tuple[UUID, int]])


class Beats:
    """The workers that are alive, by what they say each second."""

    def __init__(self, nc: Client, *, lifetime_ms: int = BEAT_LIFETIME_MS) -> None:
        self._nc = nc
        self._lifetime_s = lifetime_ms / 1000
        self._heard: dict[str, tuple[WorkerBeat, float]] = {}
        self.changed: Callable[[], None] = lambda: None
        """Called when the capacity of some deployment is another one."""

    async def listen(self) -> None:
        await self._nc.subscribe(f"$KV.{subjects.WORKERS_BUCKET}.>", cb=self._beat)

    def alive(self) -> Sequence[WorkerBeat]:
        oldest = asyncio.get_running_loop().time() - self._lifetime_s
        self._heard = {name: heard for name, heard in self._heard.items() if heard[1] > oldest}
        return [beat for beat, _ in self._heard.values()]

    async def _beat(self, message: Msg) -> None:
        name = message.subject.rpartition(".")[2]
        if not message.data or (message.headers and _KV_DELETED in message.headers):
            if self._heard.pop(name, None):
                self.changed()
            return
        try:
            beat = _beat.decode(message.data)
        except UNREADABLE as error:
            log.warning("beat ignored worker=%s error=%s", name, error)
            return
        before = self._heard.get(name)
        self._heard[name] = (beat, asyncio.get_running_loop().time())
        if before is None or _capacity(before[0]) != _capacity(beat):
            self.changed()


def _capacity(beat: WorkerBeat) -> tuple[str, int, bool]:
    return beat.deployment, beat.slots, beat.draining


NONE = Revision(number=0, applied_ms=Ms(0), catalog=Catalog())
"""Before the first catalog is applied: no model is known."""


class Catalogs:
    """The active revision, as the CATALOG bucket has it."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self.active = NONE
        self.changed = asyncio.Event()

    async def listen(self) -> None:
        await self._nc.subscribe(_ACTIVE, cb=self._put)

    async def publish(self, revision: Revision) -> None:
        """Make it the one that brokers and workers use, unless a newer one is. Raises: Unavailable."""
        self._take(revision)
        if self.active is not revision:
            return
        try:
            await self._nc.jetstream().publish(_ACTIVE, jsoned(revision))
        except Error as error:
            raise Unavailable("NATS", str(error) or type(error).__name__) from error

    async def _put(self, message: Msg) -> None:
        try:
            self._take(_revision.decode(message.data))
        except UNREADABLE as error:
            log.warning("catalog ignored error=%s", error)

    def _take(self, revision: Revision) -> None:
        if revision.number > self.active.number:
            self.active = revision
            self.changed.set()


_ACTIVE = f"$KV.{subjects.CATALOG_BUCKET}.{subjects.ACTIVE}"


async def announce_waiting(nc: Client, places: Iterable[tuple[Flow, Place]]) -> None:
    """Of each flow the lowest place is enough."""
    lowest: dict[Flow, Place] = {}
    for flow, place in places:
        if flow not in lowest or place < lowest[flow]:
            lowest[flow] = place
    entries = [(flow.model, flow.lane, flow.tenant, place.deadline_ms, place.job) for flow, place in lowest.items()]
    await _tell(nc, subjects.CTL_WAITING, entries)


async def announce_delayed(nc: Client, due_ms: Sequence[Ms]) -> None:
    """When jobs are due that wait for their time: of these the first."""
    if due_ms:
        await _publish(nc, subjects.CTL_DELAYED, packed(min(due_ms)))


async def announce_settled(nc: Client, attempts: Sequence[tuple[UUID, int]]) -> None:
    await _tell(nc, subjects.CTL_SETTLED, attempts)


async def _tell(nc: Client, subject: str, entries: Sequence[object]) -> None:
    for start in range(0, len(entries), _NOTICE):
        await _publish(nc, subject, packed(entries[start : start + _NOTICE]))


async def _publish(nc: Client, subject: str, notice: bytes) -> None:
    try:
        await nc.publish(subject, notice)
    except Error as error:
        log.warning("not announced subject=%s error=%s", subject, error)


def heard_waiting(message: Msg) -> Iterator[tuple[Flow, Place]]:
    for model, lane, tenant, deadline_ms, job in _waiting.decode(message.data):
        yield Flow(model, lane, tenant), Place(Ms(deadline_ms), job)


def heard_delayed(message: Msg) -> Ms:
    return _delayed.decode(message.data)


def heard_settled(message: Msg) -> list[tuple[UUID, int]]:
    return _settled.decode(message.data)

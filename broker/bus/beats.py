"""Workers' beats, one each second: a listener that begins late knows all workers a second later."""

import asyncio
import logging
from collections.abc import Callable, Sequence

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from schemas import subjects
from schemas.codec import UNREADABLE
from schemas.worker import BEAT_LIFETIME_MS, WorkerBeat

log = logging.getLogger(__name__)
_KV_DELETED = "KV-Operation"
_beat = msgspec.json.Decoder(WorkerBeat)


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

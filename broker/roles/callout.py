"""Answers NATS servers that ask who may connect, and ends the connections of keys that may no longer."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field

from broker.bus.callout import SUBJECT, Question, Unasked, allowing, read_question, refusing
from broker.bus.connections import Connections
from broker.core.keys import KeyName
from broker.core.nats_keys import NatsKeys
from broker.core.permissions import permissions_of
from broker.core.principal import Principal
from broker.errors import Unavailable
from broker.ports import Clock
from broker.roles.tasks import Tasks
from schemas import subjects
from schemas.api import ErrorBody, Problem
from schemas.codec import ERROR, KIND, jsoned
from schemas.jetstream import Message, NatsConnection, NatsError
from schemas.subjects import BROKERS

log = logging.getLogger(__name__)
REFUSE_S = 1.0
"""How long a wrong key waits for its answer, so that trying keys is slow. Longer, and a server would give up first."""
MOST_REFUSED = 100
"""How many wrong keys may wait at once. Those beyond it get no answer, and their server refuses them a little later."""
_TOLD_S = 0.2
"""How long the end of a connection may wait until who has it was told why."""
AGAIN_S = (0.0, 1.0, 4.0)
"""When the connections of a key are ended: at once, and again for those that another broker let in at that moment."""
Identify = Callable[[str | None], Awaitable[Principal | Problem]]
"""Makes a principal out of the text of a key, None if none is shown; or says why not. Raises: Unavailable."""


@dataclass(slots=True, kw_only=True)
class Callout:
    """Does so in every broker: servers ask one of them."""

    nc: NatsConnection
    doors: NatsConnection
    """A connection in the account of the tenants."""
    connections: Connections
    keys: NatsKeys
    identify: Identify
    clock: Clock
    answered: Callable[[str], object] = lambda _: None
    """Called for each question with how it was answered: `allowed`, or the code of the refusal."""
    refuse_s: float = REFUSE_S
    again_s: Collection[float] = AGAIN_S
    tasks: Tasks = field(default_factory=Tasks)
    listening: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the servers know that somebody answers here."""
    _refused: int = 0

    async def serve(self) -> None:
        """Answer until cancelled."""
        questions = await self.nc.subscribe(SUBJECT, queue=BROKERS, cb=self._asked)
        try:
            for _ in range(2):  # nats-py writes the PING of the first in front of what still waits to be written
                with contextlib.suppress(NatsError):
                    await self.nc.flush()
            self.listening.set()
            while True:
                await asyncio.sleep(1)
                self.tasks.check()
        finally:
            if not self.nc.is_closed:
                await questions.unsubscribe()

    def end(self, keys: Mapping[KeyName, Problem]) -> None:
        """End the connections of these keys, and tell who shows them why."""
        for (tenant, key), why in keys.items():
            self.tasks.spawn(self._end(tenant, key, why))

    async def _end(self, tenant: str, key: str, why: Problem) -> None:
        with contextlib.suppress(NatsError, TimeoutError):
            async with asyncio.timeout(_TOLD_S):
                await self.doors.publish(subjects.key_ended(tenant, key), jsoned(ErrorBody(why)), "", {KIND: ERROR})
                for _ in range(2):
                    await self.doors.flush()
        waited = 0.0
        for at in self.again_s:
            await asyncio.sleep(at - waited)
            waited = at
            try:
                ended = await self.connections.end(key)
            except NatsError as error:
                log.warning("connections not ended key=%s error=%s", key, str(error) or type(error).__name__)
                continue
            if ended:
                log.info("connections ended key=%s number=%d", key, ended)

    async def _asked(self, message: Message) -> None:
        try:
            question = read_question(self.keys, message.data, message.headers)
        except Unasked as error:
            log.warning("question of a NATS server ignored error=%s", error)
            return
        self.tasks.spawn(self._decide(message, question))

    async def _decide(self, message: Message, question: Question) -> None:
        caller = await self._caller(question)
        if isinstance(caller, Problem):
            await self._refuse(message, question, caller)
            return
        self.answered("allowed")
        allowed = allowing(self.keys, question, permissions_of(caller), now_s=self.clock() // 1000)
        await self._answer(message, allowed)

    async def _caller(self, question: Question) -> Principal | Problem:
        try:
            return await self.identify(question.text)
        except Unavailable as error:
            return Problem("unavailable", f"the key is not known here, and {error}")

    async def _refuse(self, message: Message, question: Question, problem: Problem) -> None:
        self.answered(problem.code)
        where = (question.host, question.client, problem.code, problem.message)
        log.warning("connection refused host=%s client=%r code=%s: %s", *where)
        if self._refused >= MOST_REFUSED:
            return
        self._refused += 1
        try:
            await asyncio.sleep(self.refuse_s)
        finally:
            self._refused -= 1
        await self._answer(message, refusing(self.keys, question, problem.message, now_s=self.clock() // 1000))

    async def _answer(self, message: Message, answer: bytes) -> None:
        try:
            await self.nc.publish(message.reply, answer)
        except NatsError as error:
            log.warning("question of a NATS server not answered error=%s", str(error) or type(error).__name__)

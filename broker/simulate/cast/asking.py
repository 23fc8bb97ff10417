"""Requests for answers of a simulated world over NATS, and what was heard of them."""

import contextlib
import json
from collections.abc import Iterator

from broker.client import Reply, RequestRefused, RequestTimedOut
from broker.client.door import Question
from broker.client.encode import payload_of
from broker.client.errors import NoBroker
from broker.client.nats_door import NatsDoor
from broker.errors import Unavailable
from broker.simulate.cast.told import SUCCEEDED, Asked, JobKind, Told, a_body, a_kind
from broker.simulate.world.world import Process
from schemas.endpoints import CHAT
from schemas.jetstream import NatsError
from schemas.job import Job

TIMEOUT_S = 6.0
_LEAVES = 0.3
"""How many of those who are streamed to leave after a piece."""
_SILENT = "went silent"
"""In what a client says that has heard nothing."""


class Asking:
    """Asks models, one request at a time."""

    def __init__(self, process: Process, tenant: str, told: Told, door: NatsDoor) -> None:
        self._process = process
        self._tenant = tenant
        self._told = told
        self._door = door
        self._chance = process.random

    async def whole(self) -> None:
        await self._ask(a_kind(self._chance), streamed=False, leaves=False)

    async def stream(self) -> None:
        kind = a_kind(self._chance)
        await self._ask(kind, streamed=True, leaves=self._chance.random() < _LEAVES)

    async def _ask(self, kind: JobKind, *, streamed: bool, leaves: bool) -> None:
        asked = Asked(kind, self._tenant, self._process.monotonic(), TIMEOUT_S, job=self._process.new_id())
        self._told.asked.append(asked)
        body = a_body(self._chance, kind) | ({"stream": True} if streamed else {})
        job = Job(
            id=asked.job,
            endpoint=CHAT.path,
            body=json.dumps(body).encode(),
            deadline_in_ms=int(TIMEOUT_S * 1000),
        )
        question = Question(model=kind.model, job=job, payload=payload_of(job), timeout_s=TIMEOUT_S)
        with self._heard(asked):
            async with contextlib.aclosing(self._door.converse(question)) as steps:
                async for step in steps:
                    if isinstance(step, Reply):
                        self._answered(asked, step)
                    elif leaves:
                        asked.has_left = True
                        return

    def _answered(self, asked: Asked, reply: Reply) -> None:
        asked.hear(SUCCEEDED, "", self._process.monotonic())
        self._told.counted("replies")
        if reply.job is not None:
            self._told.replies[reply.job] = reply.body
            if reply.job != asked.job:
                self._told.wrong.append(f"request {asked.job} was answered as {reply.job}")

    @contextlib.contextmanager
    def _heard(self, asked: Asked) -> Iterator[None]:
        """Note what a broker says that goes wrong, and give up what does not come about because something is away."""
        now_s = self._process.monotonic
        try:
            yield
        except RequestRefused as error:
            asked.hear(error.problem.code, error.problem.message, now_s())
        except RequestTimedOut as error:
            if _SILENT not in str(error):
                asked.hear("timed_out", str(error), now_s())
        except (NoBroker, NatsError, OSError, TimeoutError) as error:
            self._process.say(f"gives up: request {asked.kind.words}: {str(error) or type(error).__name__}")
        except Unavailable as error:
            if "infermq" in str(error):
                asked.hear("unavailable", str(error), now_s())
        if asked.code and asked.code != SUCCEEDED:
            self._process.say(f"is told {asked.code} of {asked.job}, {asked.kind.words}: {asked.message}")

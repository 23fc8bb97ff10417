"""Tries the simplest request, to learn whose fault a refusal is: the deployment's or the requests'. A part of `openai`."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TypeGuard

from schemas.endpoints import Endpoint
from schemas.outcome import BadRequest, Denied, EngineFault, Failed, Succeeded, public_message
from workers.core.alike import PROBE_TOKENS, Alike, is_too_short, simplest_request
from workers.engines.openai_call import PROBE
from workers.ports import EngineRequest, Step

log = logging.getLogger("workers.engines.openai")
_PROBE_S = 10.0
"""How long the simplest request may take. If the API is that slow, jobs will show what is wrong."""
Ended = Succeeded | Failed | None
"""What a request came to. None: nothing in time."""


def is_denied(outcome: Ended) -> TypeGuard[Failed]:
    return isinstance(outcome, Failed) and isinstance(outcome.failure, Denied)


def is_served(outcome: Ended) -> bool:
    """Say whether the API knows key, path and model, though it may refuse the request."""
    return isinstance(outcome, Succeeded) or (isinstance(outcome, Failed) and isinstance(outcome.failure, BadRequest))


class Simplest:
    """The simplest request of one deployment, and what the others say of it."""

    def __init__(
        self,
        model: str,
        send: Callable[[EngineRequest], AsyncGenerator[Step, None]],
        *,
        is_paused: Callable[[], bool],
    ) -> None:
        self._model = model
        self._send = send
        self._is_paused = is_paused
        self._alike = Alike()
        self._trying = asyncio.Lock()
        self._tries = 0
        """How many times it was tried because others failed."""
        self._last: Ended = None
        """What it came to last, unless another request was served since."""
        self._unfit = self._refused = ""
        """How it is refused although others are served, and how it was refused last."""

    def other_served(self) -> None:
        """Note that another request was served. If this one was refused, it is too simple for the model."""
        self._alike.answered()
        self._unfit, self._refused, self._last = self._refused or self._unfit, "", None

    async def is_refused_like(self, failure: BadRequest | EngineFault, endpoint: Endpoint) -> Failed | None:
        """Note a failure of another request. If several failed alike, return how this one is refused, too, if it is."""
        self._alike.failed(public_message(failure))
        outcome = await self._came_to(endpoint) if self._alike.is_suspicious else None
        return outcome if is_denied(outcome) else None

    async def is_served_instead(self, endpoint: Endpoint) -> bool:
        """Say whether this one is served while another is refused, which is that one's fault then."""
        return is_served(await self._came_to(endpoint))

    def judged(self, failure: BadRequest | EngineFault) -> Failed:
        """Return a failure of this request as the deployment's, unless it is too simple for the model."""
        words = public_message(failure)
        if isinstance(failure, BadRequest) and (words == self._unfit or is_too_short(words)):
            return Failed(failure)
        self._refused = words if isinstance(failure, BadRequest) else ""
        return Failed(Denied(f"it answers the simplest request: {words}"))

    async def _came_to(self, endpoint: Endpoint) -> Ended:
        """Try it, once for all that ask at a time. During a pause, return how it was refused, if that began the pause."""
        tries = self._tries
        async with self._trying:
            if self._tries != tries:
                return self._last
            if self._is_paused():
                return self._last if is_denied(self._last) else None
            self._tries += 1
            outcome = await self.tried((endpoint,))
            if is_served(outcome):
                self._alike.exonerated()
            return outcome

    async def tried(self, endpoints: Sequence[Endpoint]) -> Ended:
        """Send it to the endpoints until one serves it. Return what it came to at last; a refusal has begun a pause."""
        self._last = None
        for endpoint in endpoints:
            body = simplest_request(endpoint)
            request = EngineRequest(PROBE, self._model, endpoint, body, PROBE_TOKENS, streamed=False, priority=0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_S), aclosing(self._send(request)) as steps:
                    async for step in steps:
                        self._last = step if isinstance(step, Succeeded | Failed) else self._last
            if is_served(self._last):
                break
        if is_denied(self._last):
            log.error("the API does not serve this deployment: %s", public_message(self._last.failure))
        return self._last

"""The part of the client that runs jobs again: retries of what failed in a batch, replays, and their comparison."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from uuid import UUID

import msgspec
from msgspec.structs import replace

from broker.client.session import Session
from broker.errors import Unavailable
from schemas.api import State
from schemas.codec import grouped
from schemas.instructions import Instruction
from schemas.job import Lane
from schemas.repeats import (
    FAILED_STATES,
    MOST_CHECKED,
    BatchRetry,
    Compared,
    FixedBody,
    Given,
    Replay,
    ReplayChoice,
    ReplayDiff,
    ReplayDiffPage,
    ReplayEstimate,
    ReplayEstimateAsk,
    RetryCheck,
    RetryChecked,
    RetryChoice,
)
from schemas.subjects import Verb

_TRIES = 4
_PAUSE_S = 1.0
"""Between two tries. A broker that was killed is started again within some seconds."""
_MOST_BODIES = 500
_BODY_BYTES = 1024 * 1024
"""The bodies of one request: well below what a message may hold."""


class RepeatClient(Session):
    """Runs jobs again. Raises: RequestRefused, NoBroker, Unavailable."""

    async def retry(
        self,
        batch: UUID,
        *,
        states: Sequence[State] = FAILED_STATES,
        kinds: Sequence[str] = (),
        model: str | None = None,
        deadline_in_ms: int | None = None,
        bodies: Sequence[FixedBody] = (),
    ) -> Instruction:
        """Retry what failed in a batch, in a new batch with the id of the instruction that is returned.

        `bodies` replace those of the jobs of their custom ids.
        """
        ask = BatchRetry(
            id=self._new_id(),
            batch=batch,
            states=tuple(states),
            kinds=tuple(kinds),
            model=model,
            deadline_in_ms=deadline_in_ms,
            fixed_bodies=len(bodies),
        )
        given: Given | None = None
        for part in _parts(bodies):
            given = await self._given(Verb.BATCH_RETRY, replace(ask, bodies=tuple(part)))
        if given is None:
            given = await self._given(Verb.BATCH_RETRY, ask)
        return given.instruction

    async def _given(self, verb: Verb, ask: BatchRetry | Replay) -> Given:
        """Ask, and ask again if no answer comes: an instruction with the same id is the same. Raises: Unavailable."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(Unavailable):
                return await self._call(verb, ask, Given)
            await asyncio.sleep(_PAUSE_S)
        return await self._call(verb, ask, Given)

    async def not_retried(self, choice: RetryChoice, custom_ids: Sequence[str]) -> list[str]:
        """Return those of the custom ids of which such a retry would take no job."""
        found: list[str] = []
        for start in range(0, len(custom_ids), MOST_CHECKED):
            ask = RetryCheck(
                batch=choice.batch,
                states=choice.states,
                kinds=choice.kinds,
                custom_ids=tuple(custom_ids[start : start + MOST_CHECKED]),
            )
            found += (await self._call(Verb.BATCH_RETRY_CHECK, ask, RetryChecked)).not_retried
        return found

    async def replay(
        self,
        choice: ReplayChoice,
        *,
        lane: Lane = Lane.BULK,
        rate_per_s: float | None = None,
        deadline_in_ms: int | None = None,
    ) -> Instruction:
        """Run settled jobs again, in a new batch with the id of the instruction that is returned."""
        fields = msgspec.structs.asdict(choice)
        ask = Replay(id=self._new_id(), lane=lane, rate_per_s=rate_per_s, deadline_in_ms=deadline_in_ms, **fields)
        return (await self._given(Verb.REPLAY, ask)).instruction

    async def replay_estimates(self, choice: ReplayChoice) -> AsyncIterator[ReplayEstimate]:
        """Yield what a replay would come to, of one part of the jobs after the other."""
        ask = ReplayEstimateAsk(**msgspec.structs.asdict(choice))
        while True:
            part = await self._call(Verb.REPLAY_ESTIMATE, ask, ReplayEstimate)
            yield part
            if part.next is None:
                return
            ask = replace(ask, after=part.next)

    async def replay_diff(self, batch: UUID, *, limit: int = 200) -> AsyncIterator[Compared]:
        """Yield the settled jobs of a replay or a retry, each beside the one that it repeats."""
        ask = ReplayDiff(batch, limit=limit)
        while True:
            page = await self._call(Verb.REPLAY_DIFF, ask, ReplayDiffPage)
            for pair in page.pairs:
                yield pair
            if page.cursor is None:
                return
            ask = replace(ask, cursor=page.cursor)


def _parts(fixed: Sequence[FixedBody]) -> Iterator[list[FixedBody]]:
    return grouped(fixed, lambda one: len(one.body), most=_MOST_BODIES, most_bytes=_BODY_BYTES)

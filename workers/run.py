"""Runs an attempt in the engine, to its outcome."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from uuid import UUID

from schemas.endpoints import ENDPOINTS, Shape
from schemas.ids import uuid7
from schemas.job import Attempt
from schemas.outcome import ConstraintViolated, CutWhileReasoning, EngineFault, EngineLost, Failed, Outcome, Succeeded
from workers.catalog import ActiveCatalog
from workers.core.body import asks_for_stream
from workers.core.constraints import Constraints, constraints_of, violation
from workers.core.leases import PRIORITY, before_run
from workers.core.reasoning import CUT, cut_while_reasoning
from workers.pool import HeldAttempt, Key, SlotPool, Slots
from workers.ports import Chunk, Clock, Engine, EngineDied, EngineRequest, Entropy, Progress

log = logging.getLogger(__name__)
Piece = Callable[[bytes], Awaitable[None]]
"""Sends one streaming object of an answer to its reader."""


class Runner:
    """Runs the attempts that a worker holds in its engine."""

    def __init__(
        self, engine: Engine, pool: SlotPool, *, catalog: ActiveCatalog, clock: Clock, entropy: Entropy
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._catalog = catalog
        self._clock = clock
        self._entropy = entropy

    def hold(
        self, attempt: Attempt, slots: Slots, key: Key, *, delivery: int = 1, ack_subject: str = ""
    ) -> HeldAttempt:
        """Begin an execution of an attempt, under an id of its own."""
        now = self._clock()
        return HeldAttempt(
            key,
            attempt,
            delivery,
            ack_subject,
            slots,
            execution=uuid7(now, self._entropy()),
            started_ms=now,
            progressed_ms=now,
        )

    async def outcome(self, held: HeldAttempt, *, piece: Piece | None = None) -> Outcome:
        """Run an attempt to its outcome and give its slot back. `piece` takes the answer as it grows; None: nobody reads it.

        Raises: CancelledError, if the worker itself is stopped meanwhile.
        """
        held.has_begun = True
        attempt = held.attempt
        try:
            early = held.ended or before_run(attempt)
            if early is not None:
                return early
            request = request_of(
                attempt,
                execution=held.execution,
                max_output_tokens=attempt.max_output_tokens or self._catalog.max_output_tokens(attempt.model),
                is_read=piece is not None,
            )
            return await self._generate(held, request, piece)
        except asyncio.CancelledError:
            if held.ended is None or (held.task is not None and held.task.uncancel() > 0):
                raise
            return held.with_usage(held.ended)
        except EngineDied as error:
            self._pool.died.set()
            return held.with_usage(Failed(EngineLost(str(error))))
        finally:
            held.slots.give_back(held)

    async def _generate(self, held: HeldAttempt, request: EngineRequest, piece: Piece | None) -> Outcome:
        """Follow the engine step by step to an outcome. Raises: EngineDied."""
        try:
            async with aclosing(self._engine.run(request)) as steps:
                async for step in steps:
                    now = self._clock()
                    held.progressed_ms = now
                    if isinstance(step, Progress):
                        held.usage_so_far = step if step.usage is not None else held.usage_so_far
                        held.so_far = step.so_far or held.so_far
                        continue
                    if not isinstance(step, Chunk):
                        if not isinstance(step, Succeeded) or (request.constraints is None and CUT not in step.body):
                            return step
                        return checked(step, request)
                    if held.first_ms is None:
                        held.first_ms = now
                        held.so_far = step.so_far or held.so_far
                    if step.data and piece is not None and request.streamed:
                        await piece(step.data)
        except EngineDied:
            raise
        except Exception as error:
            log.exception("engine failed job=%s", held.attempt.job)
            return held.with_usage(Failed(EngineFault(f"{type(error).__name__} in the engine")))
        return held.with_usage(Failed(EngineFault("the engine ended without an outcome")))


def checked(outcome: Succeeded, request: EngineRequest) -> Succeeded | Failed:
    """Turn an answer that is nothing but reasoning, or not what its request demanded, into a failure, which keeps what it
    cost.
    """
    failure = _only_reasoned(outcome, request)
    if failure is None and request.constraints is not None:
        return _broken(outcome, request.constraints) or outcome
    return outcome if failure is None else Failed(failure, outcome.usage, outcome.charge)


def _only_reasoned(outcome: Succeeded, request: EngineRequest) -> CutWhileReasoning | None:
    if CUT not in outcome.body or request.endpoint.shape is not Shape.CHAT:
        return None
    return cut_while_reasoning(
        outcome.body,
        outcome.usage,
        body=request.body,
        endpoint=request.endpoint,
        most_tokens=request.max_output_tokens,
    )


def _broken(outcome: Succeeded, constraints: Constraints) -> Failed | None:
    broken = violation(constraints, outcome.body)
    if broken is None:
        return None
    return Failed(ConstraintViolated(broken, constraints.may_differ), outcome.usage, outcome.charge)


def request_of(attempt: Attempt, *, execution: UUID, max_output_tokens: int, is_read: bool) -> EngineRequest:
    """Make the engine's request of an attempt with a known endpoint. `is_read` says that the answer is read as it grows."""
    endpoint = ENDPOINTS[attempt.endpoint]
    return EngineRequest(
        id=f"{attempt.job}.{attempt.number}.{execution.int:032x}",
        model=attempt.model,
        endpoint=endpoint,
        body=attempt.body,
        max_output_tokens=max_output_tokens,
        streamed=is_read and endpoint.can_stream and asks_for_stream(attempt.body),
        priority=PRIORITY[attempt.lane],
        attempt=attempt.number,
        constraints=constraints_of(attempt.body) if endpoint.shape is Shape.CHAT else None,
    )

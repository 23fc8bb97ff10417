"""What an engine is to a worker."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from schemas.catalog import Deployment
from schemas.endpoints import Endpoint
from schemas.outcome import Charge, Failed, Succeeded, Usage
from schemas.units import Ms
from schemas.worker import Paused

LARGEST_BODY = 7 * 1024 * 1024
"""Bytes of a response, however large the server's messages may be."""
Clock = Callable[[], Ms]
"""Milliseconds since the epoch."""


class EngineRequest(msgspec.Struct, frozen=True):
    """What an engine is given. Engines never see NATS."""

    id: str
    """Unique to the execution."""
    model: str
    """The public name, for the response's `model`."""
    endpoint: Endpoint
    body: bytes
    """The OpenAI request, JSON."""
    max_output_tokens: int
    """What is generated at most, where the body does not say."""
    streamed: bool
    """Somebody reads the chunks."""
    priority: int
    """Lower runs sooner, where the engine can."""
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Chunk:
    """One OpenAI streaming object, as JSON without `data: `. Empty: a token came, and nobody reads."""

    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Progress:
    """The engine is at work on it, though nothing can be shown for it yet."""

    usage: Usage | None = None
    """What it has used, if it were ended now; None: unknown."""
    charge: Charge | None = None


Step = Chunk | Progress | Succeeded | Failed
"""The last one of a run is its outcome, and the only one that is not a Chunk or Progress."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many requests run at once: `slots` of dispatched work and `reserve` interactive ones beside them."""

    slots: int
    reserve: int
    paused: Paused | None = field(default=None, compare=False)
    """Why it is less than usual, for people to read. None: it is not, or the engine does not say."""


class EngineConfigError(ValueError):
    """The deployment cannot be served as it is configured; the message is for a person."""


class EngineDied(Exception):
    """The engine is gone for good: the worker puts its jobs back and ends."""


class Engine(Protocol):
    async def start(self) -> Capacity:
        """Load. Raises: EngineConfigError; EngineDied, where trying again may help."""

    def capacity(self) -> Capacity:
        """As it is now: never more than it started with."""

    async def gone(self) -> str:
        """Wait until it is dead, also while nothing runs; says of what. An engine that cannot die waits for ever."""

    def run(self, request: EngineRequest) -> AsyncGenerator[Step, None]:
        """Raises: EngineDied; every other failure is a Failed. Cancelled or closed, it stops generating."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the worker's own arguments say; None leaves it to deployment and engine."""

    slots: int | None = None


EngineFactory = Callable[[Deployment, Overrides], Engine]
"""Raises: EngineConfigError, for options that the engine does not know."""

"""Defines the port between a worker and its engine."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from schemas.catalog import Deployment
from schemas.endpoints import Endpoint
from schemas.outcome import Charge, Failed, Succeeded, Usage
from schemas.units import Ms
from schemas.worker import Paused
from workers.core.constraints import Constraints

LARGEST_BODY = 7 * 1024 * 1024
"""The largest response in bytes, however large messages the server allows."""
Clock = Callable[[], Ms]
"""Returns milliseconds, evenly counted: only differences of them mean anything to others."""
Entropy = Callable[[], int]
"""Returns a number whose lowest 74 bits no other call gives, in this process or another: for ids of one instant."""


class EngineRequest(msgspec.Struct, frozen=True):
    """What an engine gets. Engines never see NATS."""

    id: str
    """Unique to the execution."""
    model: str
    """The public name, for the response's `model`."""
    endpoint: Endpoint
    body: bytes
    """The OpenAI request, JSON."""
    max_output_tokens: int
    """How many tokens to generate at most if the body does not say."""
    streamed: bool
    """Whether somebody reads the chunks."""
    priority: int
    """A lower number runs sooner, if the engine supports it."""
    attempt: int = 1
    constraints: Constraints | None = None
    """What a chat request demands of the answer; None: nothing that can be checked."""


@dataclass(frozen=True, slots=True)
class SoFar:
    """What a request has come to when it is ended from outside."""

    body: bytes | None = None
    """What it has answered, as a response with the finish reason `cancelled`. None: nothing, or unknown."""
    usage: Usage | None = None
    """What it has used. None: see the last Progress."""
    charge: Charge | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """One OpenAI streaming object, as JSON without `data: `. Empty: a token came, and nobody reads it."""

    data: bytes = b""
    so_far: Callable[[], SoFar] | None = None
    """As in Progress: an engine that has nothing to say before its first token saves a step."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A sign that the engine works on the request, although it has no piece of the answer yet."""

    usage: Usage | None = None
    """What it would have used if it ended now. None: unknown."""
    charge: Charge | None = None
    so_far: Callable[[], SoFar] | None = None
    """Says what the request has come to whenever it is called, until the run ends. None: as said before, if at all."""


Step = Chunk | Progress | Succeeded | Failed
"""What an engine yields. The last step of a run is its outcome; all others are Chunk or Progress."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many requests run at once: `slots` and `reserve` together, of which dispatched work takes no more than `slots`."""

    slots: int
    reserve: int
    paused: Paused | None = field(default=None, compare=False)
    """Why it is less than usual, for people to read. None: it is as usual, or the engine does not say."""


class EngineConfigError(ValueError):
    """The deployment cannot be served as configured. The message is for a person."""


class EngineDied(Exception):
    """The engine is gone for good. The worker puts its jobs back and ends."""


class Engine(Protocol):
    """Generates answers, several at once. Its calls raise nothing but what they state."""

    async def start(self) -> Capacity:
        """Load the model. Raises: EngineConfigError; EngineDied, if trying again may help."""

    def capacity(self) -> Capacity:
        """Return the capacity now, never more than `start` returned."""

    async def gone(self) -> str:
        """Wait until the engine is dead, even if nothing runs, and return why. An engine that cannot die waits for ever."""

    def run(self, request: EngineRequest) -> AsyncGenerator[Step, None]:
        """Yield the steps of a request. If cancelled or closed, stop generating.

        Raises: EngineDied. Every other failure is yielded as Failed.
        """

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the worker's arguments override. None: the deployment and the engine decide."""

    slots: int | None = None
    probe: tuple[Endpoint, ...] = ()
    """The endpoints that the deployment serves. An engine that calls an API tries one of them before it offers slots."""


EngineFactory = Callable[[Deployment, Overrides], Engine]
"""Makes an engine for a deployment. Raises: EngineConfigError, for options that the engine does not know."""

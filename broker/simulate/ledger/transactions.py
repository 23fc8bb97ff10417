"""One method of an area is one transaction, which changes all or nothing, with a gate before and behind it."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from broker.ports import Clock
from broker.simulate.ledger.tables import Tables
from broker.simulate.timers import Timers

P = ParamSpec("P")
T = TypeVar("T")


class Gate(Protocol):
    """What lies between a process and the ledger, of each process its own. `name` is that of an area of the ledger."""

    @property
    def troubles(self) -> float:
        """How often the process was failed by what it wanted to reach. Once it is gone, infinitely often."""

    async def before(self, name: str) -> None:
        """Wait for the transaction to begin. Whatever it raises, nothing is changed. Raises: Unavailable."""

    async def after(self, name: str) -> None:
        """Wait for the answer. Whatever it raises, the changes were made. Raises: Unavailable."""


class OpenGate:
    """A ledger that is always there, at once."""

    troubles = 0.0

    async def before(self, name: str) -> None: ...

    async def after(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """How one process reaches the tables that all share."""

    tables: Tables
    timers: Timers
    """The server's."""
    gate: Gate
    clock: Clock
    """The process's own, which may be wrong."""


class Area:
    """An area of the ledger, as one process has it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._tables = session.tables


A = TypeVar("A", bound=Area)


def transaction(method: Callable[Concatenate[A, P], T]) -> Callable[Concatenate[A, P], Coroutine[Any, Any, T]]:
    """Make a method of an area one transaction. Nothing is awaited in it, so no other comes between its steps."""
    name = method.__module__.rpartition(".")[2]

    @wraps(method)
    async def run(self: A, /, *args: P.args, **kwargs: P.kwargs) -> T:
        session = self._session
        await session.gate.before(name)
        with session.tables.transaction():
            answer = method(self, *args, **kwargs)
        await session.gate.after(name)
        return answer

    return run

"""The event loop of one simulated process: asyncio runs on it unchanged, a step at a time, as the world says.

Steps that are ready run in the order in which they became ready, as asyncio promises. Which process makes the next step, and
when it is, the world decides. There are no threads, sockets or signals.
"""

import asyncio
import contextvars
from asyncio import Future, Task
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Step:
    """A call that a process will make: what asyncio calls a handle."""

    __slots__ = ("_args", "_call", "_context", "_when", "is_cancelled")

    def __init__(
        self, call: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context | None, when: float
    ) -> None:
        self._call: Callable[..., object] | None = call
        self._args = args
        self._context = context or contextvars.copy_context()
        self._when = when
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True
        self._call, self._args = None, ()

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self._when

    def run(self) -> None:
        if self._call is not None:
            self._context.run(self._call, *self._args)

    def task(self) -> "Task[Any] | None":
        """Return the task of which it was a step."""
        owner = getattr(self._call, "__self__", None)
        return owner if isinstance(owner, Task) else None


class Alarms(Protocol):
    """What a loop needs of the world."""

    def monotonic(self) -> float: ...

    def ring(self, step: Step, when_s: float) -> None:
        """Make a step ready at a time of the loop's."""


class SimulatedTask(Task[T]):
    """A task whose hash does not depend on where it lies in memory, so that sets of tasks have the same order each time."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], *, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self._number


class SimulatedFuture(Future[T]):
    """As `SimulatedTask`."""

    def __init__(self, *, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class ProcessLoop(asyncio.AbstractEventLoop):
    def __init__(self, alarms: Alarms, failed: Callable[[str], None]) -> None:
        """`failed` is told of exceptions that nobody handles."""
        self._alarms = alarms
        self._failed = failed
        self._made = 0
        self.ready: deque[Step] = deque()

    def time(self) -> float:
        return self._alarms.monotonic()

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Step:
        step = Step(callback, args, context, 0.0)
        self.ready.append(step)
        return step

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Step:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Step:
        step = Step(callback, args, context, when)
        self._alarms.ring(step, when)
        return step

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: Any) -> Future[T]:  # type: ignore[override] # noqa: ARG002
        """Let what a thread would do be a step of the process."""
        future: Future[T] = self.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - whoever awaits it gets it
                future.set_exception(error)

        self.call_soon(work)
        return future

    def create_future(self) -> Future[Any]:
        self._made += 1
        return SimulatedFuture(number=self._made, loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> Task[T]:
        self._made += 1
        return SimulatedTask(coro, number=self._made, loop=self, name=name or f"task {self._made}", context=context)

    def close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Close a generator that nobody will go on with, as every event loop does."""
        self.call_soon(self.create_task, generator.aclose())

    def get_task_factory(self) -> None:
        """There is none, as anyio wants to know."""

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._failed(f"{context.get('message')}: {type(error).__name__}: {error}")

"""Holds the tasks that run beside a role, until it ends."""

import asyncio
from collections.abc import Coroutine


class Tasks:
    """Tasks that must not fail. A failure is a bug; the role raises it when it checks."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    def __repr__(self) -> str:
        return f"Tasks({len(self._running)})"

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            self._failure = self._failure or task.exception()

    def check(self) -> None:
        """Raise what a task has raised."""
        if self._failure is not None:
            raise self._failure

    async def finish(self, within_s: float) -> None:
        """Wait for the tasks that run, and cancel those that take longer."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=within_s)
            for task in late:
                task.cancel()

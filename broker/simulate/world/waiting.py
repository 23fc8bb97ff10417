"""Tells where tasks wait, in which of our files and at which lines."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).parents[3])
_OURS = ("broker/", "workers/", "schemas/")
_NOT_TRIED = "broker/simulate/"


def places(task: "asyncio.Task[Any]") -> Iterator[str]:
    """Yield where a task waits in code of ours, from its first call to its last, as `broker/roles/settle.py:120`."""
    waiting: Any = task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "ag_frame", None)
        if frame is not None and (file := _ours(frame.f_code.co_filename)):
            yield f"{file}:{frame.f_lineno}"
        waiting = _within(waiting)


def _within(waiting: Any) -> Any:
    """Return what a coroutine or a generator waits for in turn, if that is one too."""
    for kind in ("cr_await", "ag_await"):
        if hasattr(waiting, kind):
            return getattr(waiting, kind)
    # a step of an asynchronous generator does not say of which
    return next(
        (one for one in gc.get_referents(waiting) if hasattr(one, "cr_await") or hasattr(one, "ag_await")), None
    )


@cache
def _ours(file: str) -> str:
    """Return the path of a file of ours within the source; of others, nothing."""
    path = Path(file)
    within = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
    return within if within.startswith(_OURS) and not within.startswith(_NOT_TRIED) else ""


class Snare:
    """Notices when a task of a process waits at a place."""

    def __init__(self, place: str, times: int, caught: Callable[[], object]) -> None:
        """`caught` is called when a step has ended in a wait there for the so manyth time."""
        self.place = place
        self._left = times
        self._caught = caught

    def look(self, task: "asyncio.Task[Any]") -> None:
        """Look where a task waits that has just made a step."""
        if self._left > 0 and self.place in places(task):
            self._left -= 1
            if not self._left:
                self._caught()

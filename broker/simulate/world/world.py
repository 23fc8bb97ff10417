"""Runs the processes of a simulated world: says who makes the next step, and what time it is.

All comes from one seed. Time stands still while there is something to do, but for a moment that each step takes, and then
jumps to the next thing that is due.
"""

import asyncio
import heapq
import random
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import UUID

from broker.simulate.world.loop import ProcessLoop, Step
from broker.simulate.world.story import Story
from broker.simulate.world.waiting import Snare, places
from schemas.ids import uuid7
from schemas.units import Ms

STEP_S = 2e-6
"""How long a step of a process takes. A guess; it must be more than nothing, or what waits by looking again and again would
wait for ever."""
BEGAN_MS = Ms(1_800_000_000_000)
"""When every world begins, by its true clock."""


class Stuck(Exception):
    """Processes go on making steps and time does not come to what is waited for."""


class Timer:
    """A call of the world's own, at an instant."""

    __slots__ = ("args", "call")

    def __init__(self, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.call: Callable[..., None] | None = call
        self.args = args

    def cancel(self) -> None:
        self.call, self.args = None, ()


class Process:
    """A process of the world, with its own event loop and its own wrong clock."""

    def __init__(self, world: "World", name: str, number: int) -> None:
        self.world = world
        self.name = name
        self.number = number
        self.loop = ProcessLoop(self, self._failed)  # type: ignore[abstract] # what asyncio's own parts use is there
        self.random = world.chance(f"process {number} {name}")
        self.skew_ms = 0
        """How far its wall clock is ahead."""
        self.pace = 1.0
        """How often it makes a step compared with others."""
        self.is_stopped = False
        self.troubles = 0
        """How often Postgres or the store of files has failed it."""
        self.fuse: int | None = None
        """How many steps it still makes until it dies. None: it lives on."""
        self.snare: Snare | None = None
        self.is_dead = False
        self.is_over = False
        """Its main task has ended by itself."""
        self.on_death: list[Callable[[], None]] = []
        """What the world does when it dies: connections are cut."""
        self._main: asyncio.Task[object] | None = None
        self._kept: list[object] = []
        """Its tasks, after its death. While they are kept, no `finally` of theirs runs."""

    def __repr__(self) -> str:
        return self.name

    def monotonic(self) -> float:
        return self.world.now_s()

    def wall_ms(self) -> Ms:
        return Ms(BEGAN_MS + int(self.world.now_s() * 1000) + self.skew_ms)

    def new_id(self) -> UUID:
        """Make an id of this moment, by its wall clock."""
        return uuid7(self.wall_ms(), self.random.getrandbits(74))

    def steady_clock(self) -> Callable[[], Ms]:
        """Make a clock that shows what its wall clock shows now, and goes evenly from then on (`schemas.clock`)."""
        ahead_ms = self.skew_ms
        return lambda: Ms(self.wall_ms() - self.skew_ms + ahead_ms)

    def ring(self, step: Step, when_s: float) -> None:
        self.world.ring(self, step, when_s)

    def start(self, main: Coroutine[Any, Any, object]) -> None:
        """Run this as its main task. What it raises is a fault of the process."""
        self._main = self.loop.create_task(main, name="main")
        self._main.add_done_callback(self._ended)

    def call_soon(self, call: Callable[..., object], *args: object) -> None:
        """Have it make a call, from outside."""
        if not self.is_dead:
            self.loop.call_soon(call, *args)

    def _ended(self, task: "asyncio.Task[object]") -> None:
        self.is_over = True
        if not task.cancelled() and (error := task.exception()) is not None:
            self.world.failed(f"{self} ended: {_told(error)}")
        self._cut()

    def _failed(self, message: str) -> None:
        self.world.failed(f"{self}: {message}")

    def say(self, text: str) -> None:
        self.world.story.tell(f"{self} {text}")

    def leave(self) -> None:
        """End as somebody does who is asked to: by cancelling its main task."""
        if self._main is not None:
            self.call_soon(self._main.cancel)

    def die(self, why: str) -> None:
        """End at once, as by SIGKILL: nothing of it runs any more."""
        if self.is_dead or self.is_over:
            return
        self.say(f"dies: {why}")
        tasks = asyncio.all_tasks(self.loop)
        self.world.died_in(tasks)
        self.is_dead = True
        self._kept = [*tasks, self.loop.ready]
        self.world.forget(self)
        self._cut()

    def burn(self) -> None:
        """Let its fuse burn by a step."""
        assert self.fuse is not None  # noqa: S101 - or it is not called
        self.fuse -= 1
        if self.fuse <= 0:
            self.die("it is killed")

    def _cut(self) -> None:
        for call in self.on_death:
            call()
        self.on_death = []


def _told(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return f"{error.message}: " + "; ".join(_told(one) for one in error.exceptions)
    return f"{type(error).__name__}: {error}"


@dataclass(slots=True)
class Counts:
    """What a world has come to."""

    steps: int = 0
    timers: int = 0


class World:
    """Implements `broker.simulate.timers.Timers` for its servers."""

    def __init__(self, seed: int, story: Story) -> None:
        self.seed = seed
        self.story = story
        self.counts = Counts()
        self.processes: list[Process] = []
        self.current: Process | None = None
        self.failures: list[str] = []
        """What must not happen and did."""
        self.died: Counter[str] = Counter()
        """How often a process died while a task of it waited here, by file and line."""
        self.waited: set[str] | None = None
        """Where tasks have waited. None: nobody wants to know."""
        self._dead: list[Process] = []
        self._made = 0
        self._now = 0.0
        self._due: list[tuple[float, int, Process | None, Any]] = []
        self._order = count().__next__
        self._random = self.chance("turns")
        story.of(self)

    def chance(self, purpose: str) -> random.Random:
        """Return random numbers for one purpose, which do not depend on how many others were drawn."""
        return random.Random(f"{self.seed} {purpose}")  # noqa: S311 - repeatable is what it must be

    def now_s(self) -> float:
        return self._now

    def wall_ns(self) -> int:
        return BEGAN_MS * 1_000_000 + int(self._now * 1e9)

    def call_at(self, when_s: float, call: Callable[..., None], *args: object) -> Timer:
        timer = Timer(call, args)
        heapq.heappush(self._due, (max(when_s, self._now), self._order(), None, timer))
        return timer

    def ring(self, process: Process, step: Step, when_s: float) -> None:
        heapq.heappush(self._due, (max(when_s, self._now), self._order(), process, step))

    def process(self, name: str) -> Process:
        self._made += 1
        process = Process(self, name, self._made)
        self.processes.append(process)
        return process

    def forget(self, process: Process) -> None:
        """Let a process make no steps any more, and keep what it was."""
        self.processes.remove(process)
        self._dead.append(process)

    def failed(self, message: str) -> None:
        self.failures.append(message)
        self.story.tell(f"FAILED {message}")

    def died_in(self, tasks: "set[asyncio.Task[Any]]") -> None:
        for task in tasks:
            self.died.update(places(task))

    def run(self, until: Callable[[], bool], *, within_s: float, steps: int = 20_000_000) -> bool:
        """Go on until something holds, or for so much virtual time. Return whether it holds. Raises: Stuck."""
        end_s, most = self._now + within_s, self.counts.steps + steps
        hooks = sys.get_asyncgen_hooks()
        try:
            while not until():
                if self._now >= end_s or not self._turn(end_s):
                    return until()
                if self.counts.steps > most:
                    raise Stuck(f"{steps} steps within {within_s} s of virtual time")
        finally:
            sys.set_asyncgen_hooks(*hooks)
        return True

    def _turn(self, end_s: float) -> bool:
        """Let one process make a few steps, or time go on. False: nothing will ever happen."""
        due = self._due
        while due and due[0][0] <= self._now:
            self._ring(heapq.heappop(due))
        ready = [one for one in self.processes if one.loop.ready and not one.is_stopped]
        if ready:
            self._step(ready[0] if len(ready) == 1 else self._chosen(ready))
            return True
        if not due:
            self._now = end_s
            return False
        self._now = min(due[0][0], end_s)
        return True

    def _chosen(self, ready: list[Process]) -> Process:
        at = self._random.random() * sum(one.pace for one in ready)
        for one in ready:
            at -= one.pace
            if at < 0:
                return one
        return ready[-1]

    def _ring(self, due: tuple[float, int, Process | None, Any]) -> None:
        self.counts.timers += 1
        _, _, process, what = due
        if process is not None:
            if not what.is_cancelled:
                process.loop.ready.append(what)
        elif what.call is not None:
            what.call(*what.args)

    def _step(self, process: Process) -> None:
        """Let a process make its next step, or the few that are ready."""
        loop, self.current = process.loop, process
        sys.set_asyncgen_hooks(None, loop.close_generator)
        asyncio._set_running_loop(loop)  # noqa: SLF001 - for those who write event loops
        try:
            ready = loop.ready
            for _ in range(self._random.randint(1, 4)):
                if not ready or process.is_dead or process.is_stopped:
                    break
                self.counts.steps += 1
                self._now += STEP_S
                step = ready.popleft()
                step.run()
                if process.fuse is not None:
                    process.burn()
                if process.snare is not None and (task := step.task()) is not None:
                    process.snare.look(task)
                if self.waited is not None and (task := step.task()) is not None:
                    self.waited.update(places(task))
        except Exception as error:  # noqa: BLE001 - a callback that raises is a bug, as in asyncio
            self.failed(f"{process}: a callback raised {_told(error)}")
        finally:
            asyncio._set_running_loop(None)  # noqa: SLF001
            self.current = None

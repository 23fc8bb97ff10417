"""Runs seeds, each in a process of its own, so that all begin alike and none sees what another left behind."""

import gc
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial

import msgspec

from broker.doors.http.handlers import openapi_of
from broker.simulate.cast.brokers import VERSION
from broker.simulate.checks.leftovers import Idle, idle_system
from broker.simulate.faults.kinds import Fault
from broker.simulate.faults.waits import waits
from broker.simulate.run import Ended, Run
from broker.simulate.world.story import Story

LONGEST_RUN_S = 120.0
"""How long one seed may take."""
_ended = msgspec.msgpack.Decoder(Ended)


def run_apart(
    seed: int, *, faults: Sequence[Fault] | None = None, say: Callable[[str], object] | None = None
) -> Ended:
    """Run one seed in a process of its own. `say` is called there with each line of its story."""
    return next(iter(run_many([seed], processes=1, faults=faults, say=say)))


def run_many(
    seeds: Iterable[int],
    *,
    processes: int,
    faults: Sequence[Fault] | None = None,
    go_on: Callable[[], bool] = lambda: True,
    say: Callable[[str], object] | None = None,
) -> Iterator[Ended]:
    """Run seeds, so many at once, while `go_on` says so; yield each as it ends."""
    waits(), idle(), openapi_of(VERSION)  # worked out once, before the processes part
    running: dict[int, tuple[int, int]] = {}
    """The process and the seed, by the pipe in which it will tell its end."""
    left = iter(seeds)
    try:
        while True:
            while len(running) < processes and go_on() and (seed := next(left, None)) is not None:
                pid, pipe = _forked(partial(_run, seed, faults, say))
                running[pipe] = (pid, seed)
            if not running:
                return
            for pipe in select.select(list(running), [], [])[0]:
                pid, seed = running.pop(pipe)
                yield _awaited(pid, pipe, seed)
    finally:
        for pipe, (pid, _) in running.items():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(pipe)


@cache
def idle() -> Idle:
    """Return what an idle system holds."""
    return msgspec.msgpack.decode(told_by(lambda: msgspec.msgpack.encode(idle_system())), type=Idle)


def told_by(run: Callable[[], bytes]) -> bytes:
    """Run something in a process of its own, as a world must be that nobody tidies up. Return what it returns."""
    said, _ = _said(*_forked(run))
    return said


def _run(seed: int, faults: Sequence[Fault] | None, say: Callable[[str], object] | None) -> bytes:
    try:
        ended = Run(seed, Story() if say is None else Story(say), faults, idle=idle()).run()
    except BaseException as error:  # noqa: BLE001 - the parent must hear of it
        ended = _broken(seed, f"the simulation itself failed: {type(error).__name__}: {error}")
    return msgspec.msgpack.encode(ended)


def _forked(run: Callable[[], bytes]) -> tuple[int, int]:
    """Run something in a process of its own. Return its id, and the pipe in which it tells what came of it."""
    sys.stdout.flush()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    os.close(reading)
    signal.alarm(int(LONGEST_RUN_S))
    gc.disable()  # what collects garbage at any time would make `finally` blocks run at any time
    try:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(run())
    except BaseException:  # noqa: BLE001 - nothing of its parent may run on in it
        traceback.print_exc()
    os._exit(0)


def _awaited(pid: int, reading: int, seed: int) -> Ended:
    said, status = _said(pid, reading)
    return _ended.decode(said) if said else _broken(seed, f"the run ended without a word (status {status})")


def _said(pid: int, reading: int) -> tuple[bytes, int]:
    """Wait for a process to end. Return what it said, and its status."""
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    return said, os.waitpid(pid, 0)[1]


def _broken(seed: int, why: str) -> Ended:
    return Ended(
        seed=seed, failures=(why,), faults=(), digest="", steps=0, messages=0, transactions=0, virtual_s=0.0,
        quiet_s=0.0, jobs=0, replies=0, died={},
    )  # fmt: skip


def shrunk(seed: int, faults: Sequence[Fault], fails: Callable[[Ended], bool]) -> list[Fault]:
    """Leave out faults as long as the seed still fails."""
    left, size = list(faults), max(1, len(faults) // 2)
    while size:
        start = 0
        while start < len(left):
            fewer = left[:start] + left[start + size :]
            if fails(run_apart(seed, faults=fewer)):
                left = fewer
            else:
                start += size
        size //= 2
    return left

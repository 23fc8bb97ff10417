"""Virtual time, whose turn it is, and what a death leaves undone."""

import asyncio
import dis
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import cast

import pytest

from broker.bus.connect import connected
from broker.roles.tasks import Tasks
from broker.simulate.faults import waits
from broker.simulate.nats.connection import MemoryConnection
from broker.simulate.nats.server import Server
from broker.simulate.network import Wire
from broker.simulate.world.story import Story
from broker.simulate.world.waiting import ROOT, Snare, places
from broker.simulate.world.world import Process, Stuck, World
from schemas.jetstream.client import NatsClient

KEPT: list[World] = []
"""Worlds with tasks that never end, so that nobody tidies them up."""


def a_world(seed: int = 1) -> tuple[World, list[str]]:
    lines: list[str] = []
    return World(seed, Story(lines.append)), lines


async def worker(process: Process) -> None:
    try:
        for _ in range(20):
            await asyncio.sleep(process.random.random())
            process.say("works")
    finally:
        process.say("leaves")


_COROUTINE = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def waiting_lines(code: CodeType) -> set[int]:
    """Find the lines at which compiled coroutines wait."""
    found = {
        one.positions.lineno
        for one in dis.get_instructions(code)
        if code.co_flags & _COROUTINE
        and one.opname == "SEND"
        and one.positions is not None
        and one.positions.lineno is not None
    }
    return found.union(*(waiting_lines(one) for one in code.co_consts if isinstance(one, CodeType)))


def test_the_lines_at_which_code_may_wait_are_those_at_which_python_does() -> None:
    sources = {file: Path(ROOT, file).read_text() for file in waits.files()}

    found = {file: waits.lines(source) for file, source in sources.items()}

    assert found == {file: waiting_lines(compile(source, file, "exec")) for file, source in sources.items()}
    assert found["broker/roles/settle.py"]


def test_a_process_dies_as_soon_as_a_task_of_it_waits_at_a_place() -> None:
    """The place is asked for the second time."""
    world, lines = a_world()
    process = world.process("victim")
    tasks = Tasks()

    async def main() -> None:
        for _ in range(3):
            process.say("goes on")
            tasks.spawn(asyncio.sleep(1))
            await tasks.finish(5)

    at = inspect.getsourcelines(Tasks.finish)
    line = at[1] + next(number for number, text in enumerate(at[0]) if "await" in text)
    process.snare = Snare(f"broker/roles/tasks.py:{line}", 2, lambda: process.die("it is killed there"))
    process.start(main())
    world.run(lambda: process.is_dead, within_s=100)

    KEPT.append(world)
    assert [line.split(maxsplit=2)[2] for line in lines] == ["goes on", "goes on", "dies: it is killed there"]
    assert world.died == {f"broker/roles/tasks.py:{line}": 1}


def test_a_task_waits_in_what_its_generators_wait_for() -> None:
    world, _ = a_world()
    process = world.process("one")
    server = Server(world, unit=lambda: 0.0)
    server.is_away = True
    nc = MemoryConnection(server, Wire(process, world.chance("wire"), lambda: None), ids=lambda: "1")

    async def main() -> None:
        async with connected("memory://", name="one", client=cast(NatsClient, nc)):
            pass

    process.start(main())
    world.run(lambda: False, within_s=1)

    KEPT.append(world)
    (task,) = (one for one in asyncio.all_tasks(process.loop) if one.get_name() == "main")
    assert [place.partition(":")[0] for place in places(task)] == ["broker/bus/connect.py"]


def test_time_jumps_to_what_is_due_next() -> None:
    world, lines = a_world()
    process = world.process("sleeper")

    async def sleep() -> None:
        await asyncio.sleep(86_400)
        process.say("wakes")

    process.start(sleep())

    assert world.run(lambda: process.is_over, within_s=100_000)
    assert [line.partition(".")[0] for line in lines] == ["86400"]


def test_the_same_seed_makes_the_same_story_and_another_one_another() -> None:
    def story(seed: int) -> list[str]:
        world, lines = a_world(seed)
        for name in ("a", "b", "c"):
            process = world.process(name)
            process.start(worker(process))
        world.run(lambda: all(one.is_over for one in world.processes), within_s=100)
        return lines

    assert story(1) == story(1) != story(2)


def test_a_process_that_dies_makes_no_step_any_more_and_leaves_nothing_tidy() -> None:
    world, lines = a_world()
    process, other = world.process("victim"), world.process("other")
    process.start(worker(process))
    other.start(worker(other))
    world.call_at(3.0, process.die, "it is killed")

    world.run(lambda: other.is_over, within_s=100)

    after = lines[lines.index(next(line for line in lines if "victim dies" in line)) + 1 :]
    assert not [line for line in after if "victim" in line]
    assert any("other leaves" in line for line in after)


def test_a_stopped_process_goes_on_where_it_was_and_all_that_was_due_comes_at_once() -> None:
    world, lines = a_world()
    process = world.process("stopped")

    async def ticks() -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            process.say("ticks")

    process.start(ticks())
    world.call_at(0.5, setattr, process, "is_stopped", True)
    world.call_at(10.0, setattr, process, "is_stopped", False)

    world.run(lambda: process.is_over, within_s=100)

    assert [int(float(line.split()[0])) for line in lines] == [10, 11, 12]


def test_an_exception_that_nobody_handles_is_a_failure() -> None:
    world, _ = a_world()
    process = world.process("broken")

    async def fail() -> None:
        raise ValueError("so")

    process.start(fail())
    world.run(lambda: process.is_over, within_s=1)

    assert world.failures == ["broken ended: ValueError: so"]


def test_a_process_that_never_waits_for_time_is_noticed() -> None:
    world, _ = a_world()
    process = world.process("busy")

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    process.start(spin())

    with pytest.raises(Stuck, match="1000 steps"):
        world.run(lambda: False, within_s=1000, steps=1000)


@pytest.mark.parametrize("name", ["timeout", "group", "event", "gather", "queue"])
def test_asyncios_own_parts_work_as_on_any_loop(name: str) -> None:
    async def timeout() -> object:
        try:
            async with asyncio.timeout(1):
                await asyncio.sleep(5)
        except TimeoutError:
            return "late"
        return "in time"

    async def group() -> object:
        found: list[int] = []
        async with asyncio.TaskGroup() as tasks:
            for pause in (3, 1, 2):
                tasks.create_task(_after(pause, found.append, pause))
        return found

    async def event() -> object:
        rung = asyncio.Event()
        asyncio.get_running_loop().call_later(2, rung.set)
        return await rung.wait()

    async def gather() -> object:
        return await asyncio.gather(asyncio.sleep(2, "b"), asyncio.sleep(1, "a"))

    async def queue() -> object:
        waiting: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
        asyncio.get_running_loop().call_later(1, waiting.put_nowait, 7)
        return await asyncio.wait_for(waiting.get(), 5)

    answers: list[object] = []
    world, _ = a_world()
    process = world.process("one")

    async def main() -> None:
        answers.append(await locals_of[name]())

    locals_of = {"timeout": timeout, "group": group, "event": event, "gather": gather, "queue": queue}
    process.start(main())
    world.run(lambda: process.is_over, within_s=100)

    assert answers == [{"timeout": "late", "group": [1, 2, 3], "event": True, "gather": ["b", "a"], "queue": 7}[name]]
    assert world.failures == []


async def _after(pause_s: float, call: Callable[[int], None], with_: int) -> None:
    await asyncio.sleep(pause_s)
    call(with_)


def story_of(seed: int, hashes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "broker", "simulate", "faults", "--seed", str(seed), "--story", "--json"]
    environ = {**os.environ, "PYTHONHASHSEED": hashes}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("seed", [3, 5])
def test_a_seed_tells_the_same_story_byte_for_byte(seed: int) -> None:
    """The hashes of texts differ between processes unless the command sees to it."""
    first, second = story_of(seed, "random"), story_of(seed, "1")

    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-2000:]
    assert first.stdout == second.stdout
    assert "* all is healed" in first.stdout

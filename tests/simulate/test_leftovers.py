"""What simulated processes hold too much of once all is quiet."""

import asyncio

import msgspec

from broker.simulate.apart import idle, told_by
from broker.simulate.cast.brokers import SimulatedBroker
from broker.simulate.cast.workers import WorkerPlan
from broker.simulate.checks.leftovers import leftovers
from broker.simulate.system import Size, System
from broker.simulate.world.story import Story
from broker.simulate.world.world import World


def a_system() -> System:
    """Return one that has come to be idle."""
    size = Size(
        brokers=2,
        workers=(WorkerPlan("swift-0", "swift", 2),),
        callers=0,
        acts=0,
        file_acts=0,
        keeps_files_beside=False,
    )
    system = System(World(1, Story()), size)
    system.begin()
    system.world.run(lambda: False, within_s=10)
    return system


def test_nothing_is_left_in_an_idle_system() -> None:
    known = idle()

    assert told_by(lambda: msgspec.json.encode(leftovers(a_system(), known))) == b"[]"


def test_a_subscription_a_task_and_a_lock_that_stay_are_found() -> None:
    known = idle()

    def left() -> bytes:
        system = a_system()
        member = system.members["broker-1"]
        assert member.process is not None
        assert isinstance(member.life, SimulatedBroker)
        assert member.life.parts is not None

        async def leak() -> None:
            await member.life.parts.nc.subscribe("leaks.17.x")
            await asyncio.Event().wait()

        member.process.loop.create_task(leak())
        system.tables.locks._holders["jobs", 7] = object()  # type: ignore[assignment]
        system.world.run(lambda: False, within_s=1)
        return msgspec.json.encode(leftovers(system, known))

    found = msgspec.json.decode(told_by(left), type=list[str])

    assert [text.partition(" × ")[2].partition(",")[0].split(".<locals>")[-1] or text for text in found] == [
        "a transaction holds jobs 7",
        "subscription leaks.#.x",
        ".leak",
    ]

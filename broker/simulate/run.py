"""Runs one seed: a system under faults, then without, then compared with what it promised."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from broker.simulate.checks.files import broken_files
from broker.simulate.checks.leftovers import Idle, leftovers
from broker.simulate.checks.promises import broken, broken_now, what_is_open
from broker.simulate.faults.happening import Faults
from broker.simulate.faults.kinds import Fault
from broker.simulate.faults.schedule import draw
from broker.simulate.system import System, size_of
from broker.simulate.world.story import Story
from broker.simulate.world.world import Stuck, World

LONGEST_S = 600.0
"""How long callers and faults may take, in virtual time."""
QUIET_S = 180.0
"""How long a system may take to become quiet after the last fault and the last call. Time-outs of attempts, leases, runs
apart of suspects and back-off follow each other in it."""
_LOOK_S = 0.5


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a seed."""

    seed: int
    failures: tuple[str, ...]
    faults: tuple[Fault, ...]
    digest: str
    steps: int
    messages: int
    transactions: int
    virtual_s: float
    quiet_s: float
    """From the last fault and the last call until nothing was open."""
    jobs: int
    replies: int
    died: dict[str, int]
    """How often a process died while it waited somewhere, by file and line."""


@dataclass(slots=True)
class Run:
    seed: int
    story: Story = field(default_factory=Story)
    faults: Sequence[Fault] | None = None
    """None: drawn from the seed."""
    idle: Idle | None = None
    """What processes hold that never had anything to do. None: what they still hold at the end is not looked at."""
    waited: set[str] | None = None
    """Gathers where tasks wait, if anybody wants to know."""

    def run(self) -> Ended:
        """Run the seed, in a process that ends afterwards: what died in the world must never be tidied up in it."""
        gc.disable()  # what collects garbage at any time would make `finally` blocks run at any time
        self.story.listen()
        world = World(self.seed, self.story)
        world.waited = self.waited
        system = System(world, size_of(world.chance("size")))
        system.begin()
        schedule = draw(world.chance("faults"), system) if self.faults is None else self.faults
        faults = Faults(system)
        faults.begin(schedule)
        quiet_s = 0.0
        try:
            self._look(world, system)
            self._until_told(world, system, faults)
            quiet_s = self._until_quiet(world, system)
            self._compare(world, system)
        except Stuck as error:
            world.failed(str(error))
        return Ended(
            seed=self.seed,
            failures=tuple(dict.fromkeys(world.failures)),
            faults=tuple(schedule),
            digest=self.story.digest(),
            steps=world.counts.steps,
            messages=system.network.count,
            transactions=system.database.transactions,
            virtual_s=world.now_s(),
            quiet_s=quiet_s,
            jobs=len(system.tables.jobs),
            replies=len(system.told.replies),
            died=dict(world.died),
        )

    def _look(self, world: World, system: System) -> None:
        """Look again and again for what must never be."""
        for what in broken_now(system):
            world.failed(what)
        world.call_at(world.now_s() + _LOOK_S, self._look, world, system)

    def _until_told(self, world: World, system: System, faults: Faults) -> None:
        def is_over() -> bool:
            return world.now_s() > faults.last_s and all(one.is_over or one.is_dead for one in system.callers)

        if not world.run(is_over, within_s=LONGEST_S):
            open_ = [one.name for one in system.callers if not (one.is_over or one.is_dead)]
            world.failed(f"callers still try after {LONGEST_S:.0f} s: {', '.join(open_)}")

    def _until_quiet(self, world: World, system: System) -> float:
        began_s = world.now_s()
        world.story.tell("* all is healed")
        system.database.traps.clear()
        system.heal()

        def is_quiet() -> bool:
            return not (system.tables.running or system.tables.waiting) and not what_is_open(system)

        if not world.run(is_quiet, within_s=QUIET_S):
            world.failed(f"not quiet {QUIET_S:.0f} s after the last fault: {'; '.join(what_is_open(system))}")
        quiet_s = world.now_s() - began_s
        world.run(lambda: False, within_s=3.0)
        return quiet_s

    def _compare(self, world: World, system: System) -> None:
        for what in broken(system):
            world.failed(what)
        for what in broken_files(system):
            world.failed(what)
        for what in system.sums():
            world.failed(what)
        for what in () if self.idle is None else leftovers(system, self.idle):
            world.failed(what)

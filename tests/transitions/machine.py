"""The steps as a state machine of Hypothesis, over one ledger an example."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.builders import now
from tests.transitions import cancels, changes, controls, jobs, repeats
from tests.transitions.same_job import MEETINGS, Meet
from tests.transitions.world import Clock, Step, World, a_world

Make = Callable[[World, int, int, int], Coroutine[Any, Any, Step | None]]
STEPS: tuple[Make, ...] = (
    jobs.create_batch,
    jobs.seal_batch,
    jobs.submit,
    jobs.submit_keyed,
    jobs.submit_again,
    jobs.lead,
    jobs.read_controls,
    jobs.choose,
    jobs.dispatch,
    jobs.settle,
    jobs.succeed,
    jobs.decide_only,
    jobs.settle_decided,
    jobs.settle_again,
    jobs.expire,
    jobs.move_due,
    jobs.wait,
    controls.pause,
    controls.resume,
    controls.park,
    controls.unpark,
    controls.run_apart,
    controls.clear,
    cancels.cancel_jobs,
    cancels.rule_cancelled,
    cancels.cancel_batch,
    cancels.mark_batch,
    cancels.end_page,
    changes.change_job,
    changes.change_batch,
    repeats.retry,
    repeats.replay,
    repeats.requeue,
    repeats.carry_on,
    repeats.read_results,
)
OFTEN: tuple[Make, ...] = (jobs.submit, jobs.lead, *3 * (jobs.dispatch,), *2 * (jobs.settle,), jobs.succeed)
MIXES: tuple[tuple[Make, ...], ...] = (
    (*STEPS, *OFTEN, *OFTEN),
    (*STEPS, *OFTEN, *3 * (controls.pause, controls.resume, jobs.choose, jobs.dispatch)),
    (
        *STEPS,
        *OFTEN,
        *3
        * (
            cancels.cancel_jobs,
            cancels.cancel_batch,
            cancels.end_page,
            jobs.settle,
            jobs.decide_only,
            jobs.settle_decided,
        ),
    ),
    (*STEPS, *OFTEN, *3 * (repeats.retry, repeats.requeue, repeats.carry_on, repeats.carry_on, jobs.settle)),
    (*STEPS, *OFTEN, *3 * (jobs.suspect, controls.run_apart, controls.pause, controls.resume)),
)
"""A history is of one of them, so that what follows from one another comes often enough."""
NUMBERS = st.integers(0, 127)
MEET = st.sampled_from(MEETINGS)
HELD = (None, None, None, "running", "running", "waiting", "delayed", "jobs", "batches")
_NO_CUT = 8


class Transitions(RuleBasedStateMachine):
    """Each example has a ledger of its own."""

    url: ClassVar[str]
    runner: ClassVar[asyncio.Runner]
    tally: ClassVar[Counter[str]]
    """What steps were done."""

    def __init__(self) -> None:
        super().__init__()
        self._mix = MIXES[0]
        self._stack = AsyncExitStack()
        name = f"machine_{os.getpid()}_{os.urandom(4).hex()}"
        self._world = self._run(self._stack.enter_async_context(a_world(self.url, Clock(now()), name)))

    def teardown(self) -> None:
        try:
            self._run(self._world.check_all())
        finally:
            self._run(self._stack.aclose())

    @initialize(mix=st.sampled_from(MIXES), a=NUMBERS, b=NUMBERS)
    def begin(self, mix: tuple[Make, ...], a: int, b: int) -> None:
        """Most histories need a leader and some jobs."""
        self._mix = mix
        self._do(jobs.lead, 0, 1, 0)
        self._do(jobs.create_batch, a, b, 1)
        for n in range(3):
            self._do(jobs.submit, a + n, b, a + b + n)

    @rule(n=NUMBERS, a=NUMBERS, b=NUMBERS, c=NUMBERS, cut=st.integers(0, 4 * _NO_CUT))
    def step(self, n: int, a: int, b: int, c: int, cut: int) -> None:
        """One step; cut off after some statements, if `cut` is small."""
        self._do(jobs.pick(self._mix, n), a, b, c, None if cut >= _NO_CUT else 1 + cut)

    @rule(n=NUMBERS, a=NUMBERS, b=NUMBERS, c=NUMBERS)
    def usual(self, n: int, a: int, b: int, c: int) -> None:
        """What happens most."""
        self._do(jobs.pick(OFTEN, n), a, b, c)

    @rule(two=st.tuples(NUMBERS, NUMBERS), a=NUMBERS, b=NUMBERS, c=NUMBERS, held=st.sampled_from(HELD))
    def both(self, two: tuple[int, int], a: int, b: int, c: int, held: str | None) -> None:
        """Two steps at once, made by how things stand before both; one alone, more often."""
        if held is None:
            self._do(jobs.pick(self._mix, two[0]), a, b, c)
            return

        async def race() -> None:
            one = await jobs.pick(self._mix, two[0])(self._world, a, b, c)
            other = await jobs.pick(self._mix, two[1])(self._world, c, a, b)
            await self._meet(one, other, held)

        self._run(race())

    @rule(two=st.tuples(MEET, MEET), a=NUMBERS, held=st.sampled_from(HELD[3:]))
    def meet(self, two: tuple[Meet, Meet], a: int, held: str) -> None:
        """Two steps on one job, which runs or waits."""

        async def race() -> None:
            world = self._world
            found = sorted(world.open_jobs("running")) or sorted(world.open_jobs("waiting", "delayed", "suspect"))
            if found:
                job = jobs.pick(found if a % 4 else sorted(world.seen), a)
                await self._meet(await two[0](world, job), await two[1](world, job), held)

        self._run(race())

    async def _meet(self, one: Step | None, other: Step | None, held: str) -> None:
        if one is not None and other is not None:
            note(f"{self._world.steps}: {one.says} AND {other.says}, while {held} is held")
            self.tally["at once"] += 1
            await self._world.do_both(one, other, held)

    def _do(self, make: Make, a: int, b: int, c: int, cut: int | None = None) -> None:
        async def do() -> None:
            step = await make(self._world, a, b, c)
            if step is not None:
                cuts = "" if cut is None else f", cut off after {cut}"
                note(f"{self._world.steps}: {step.says}{cuts}")
                self.tally[make.__name__] += 1
                await self._world.do(step, cut)

        self._run(do())

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)


def run(
    url: str, runner: asyncio.Runner, *, examples: int, steps: int, of_seed: int | None = None, shrinks: bool = True
) -> Counter[str]:
    """Run so many examples of up to so many steps each. Raises: AssertionError, with the shortest history found."""
    tally: Counter[str] = Counter()
    machine: type[Transitions] = type("Machine", (Transitions,), {"url": url, "runner": runner, "tally": tally})
    if of_seed is not None:
        machine = seed(of_seed)(machine)
    bounds = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink] if shrinks else [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=bounds)
    return tally

"""A pool of workers in virtual time: jobs that end their worker, kills from outside, and the policy of suspects."""

import random
from collections import Counter
from dataclasses import dataclass, field
from uuid import UUID

from broker.core.suspects import FreeWorker, Involved, WaitingSuspect, judge, turns
from schemas.ruling import Suspicion
from schemas.subjects import WorkerId
from schemas.units import Ms
from tests.builders import a_catalog

STEP_MS = 200
NOTICED_MS = 3000
"""From a worker's death until its jobs are suspected."""
RESTART_MS = 1500
REST_MS = 2000
CATALOG = a_catalog()


@dataclass(eq=False)
class SimulatedJob:
    id: UUID
    run_ms: int
    """How long it runs; a culprit's worker dies at that age."""
    is_culprit: bool
    suspicion: Suspicion | None = None
    end: str | None = None
    deaths: int = 0


@dataclass(eq=False)
class SimulatedWorker:
    name: str
    slots: int
    running: dict[UUID, int] = field(default_factory=dict)
    """The jobs, each with its age."""
    is_apart: bool = False
    queued: tuple[UUID, ...] = ()
    """The group that waits until what runs is over."""
    down_ms: int = 0
    free_ms: int = 0
    """How long it has been up without suspects."""


class Simulation:
    """Runs until every job has ended."""

    def __init__(self, seed: int, *, jobs: int, culprits: int, workers: int, slots: int, kills_per_h: float) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - a simulation
        bad = set(self.chance.sample(range(jobs), culprits))
        self.jobs = {UUID(int=n): self._job(n, is_culprit=n in bad) for n in range(jobs)}
        self.backlog = list(self.jobs)
        self.chance.shuffle(self.backlog)
        self.workers = [SimulatedWorker(f"w{n}", slots) for n in range(workers)]
        self.noticed: list[tuple[int, list[Involved], list[tuple[UUID, int]]]] = []
        """Deaths: when they are noticed, what ran apart, and what ran among others."""
        self.kill = kills_per_h * STEP_MS / 3_600_000
        self.now = 0
        self.groups = 0
        self.deaths = 0
        self.largest = 0

    def _job(self, number: int, *, is_culprit: bool) -> SimulatedJob:
        run_ms = self.chance.randint(0, 1500) if is_culprit else self.chance.randint(200, 6000)
        return SimulatedJob(UUID(int=number), run_ms, is_culprit)

    def run(self) -> "Simulation":
        while any(job.end is None for job in self.jobs.values()):
            self.now += STEP_MS
            assert self.now < 3_600_000, "it does not end"
            for death in [one for one in self.noticed if one[0] <= self.now]:
                self.noticed.remove(death)
                self._blame(*death[1:])
            for worker in self.workers:
                self._step(worker)
            self._give_turns()
        return self

    @property
    def innocents_dead(self) -> int:
        return sum(job.end == "dead" and not job.is_culprit for job in self.jobs.values())

    @property
    def culprits_dead(self) -> int:
        return sum(job.end == "dead" and job.is_culprit for job in self.jobs.values())

    def _new_group(self) -> UUID:
        self.groups += 1
        return UUID(int=self.groups)

    def _blame(self, involved: list[Involved], others: list[tuple[UUID, int]]) -> None:
        self.largest = max(self.largest, len(others))
        for one in judge([involved], others, self._new_group)[0]:
            job = self.jobs[one.job]
            job.suspicion = one.suspicion
            if one.is_convicted:
                job.end = "dead"

    def _step(self, worker: SimulatedWorker) -> None:
        if worker.down_ms > 0:
            worker.down_ms -= STEP_MS
            return
        if not worker.running:
            worker.is_apart, worker.queued, start = bool(worker.queued), (), worker.queued
            worker.running = dict.fromkeys(start, 0)
        if not worker.is_apart and not worker.queued:
            worker.free_ms += STEP_MS
            while self.backlog and len(worker.running) < worker.slots:
                worker.running[self.backlog.pop()] = 0
        else:
            worker.free_ms = 0
        for job in list(worker.running):
            worker.running[job] += STEP_MS
            if worker.running[job] >= self.jobs[job].run_ms:
                if self.jobs[job].is_culprit:
                    self._die(worker)
                    return
                del worker.running[job]
                self.jobs[job].end = "succeeded"
        if self.chance.random() < self.kill:
            self._die(worker)

    def _die(self, worker: SimulatedWorker) -> None:
        self.deaths += 1
        apart = worker.running if worker.is_apart else {}
        involved = [self._involved(job, age, has_begun=True) for job, age in apart.items()]
        involved += [self._involved(job, 0, has_begun=False) for job in worker.queued]
        others = [] if worker.is_apart else [(job, 1) for job in worker.running]
        self.noticed.append((self.now + NOTICED_MS, involved, others))
        worker.running, worker.queued, worker.is_apart = {}, (), False
        worker.down_ms, worker.free_ms = RESTART_MS, 0

    def _involved(self, job: UUID, age: int, *, has_begun: bool) -> Involved:
        suspicion = self.jobs[job].suspicion
        assert suspicion is not None
        return Involved(job, 1, suspicion, has_begun, Ms(age // 1000 * 1000))

    def _give_turns(self) -> None:
        held = {job for worker in self.workers for job in (*worker.running, *worker.queued)}
        held |= {one.job for _, involved, _ in self.noticed for one in involved}
        held |= {job for _, _, others in self.noticed for job, _ in others}
        waiting = [
            WaitingSuspect(job.id, "m", (), job.suspicion)
            for job in self.jobs.values()
            if job.suspicion is not None and job.end is None and job.id not in held
        ]
        up = [worker for worker in self.workers if worker.down_ms <= 0]
        apart = [worker for worker in up if worker.is_apart or worker.queued]
        free = [
            FreeWorker(WorkerId(worker.name), "d", worker.slots, len(worker.running))
            for worker in up
            if worker not in apart and worker.free_ms >= REST_MS
        ]
        count, busy = Counter(d=len(up)), Counter(d=len(apart))
        for turn in turns(waiting, free, workers=count, apart=busy, catalog=CATALOG):
            next(worker for worker in up if worker.name == turn.worker).queued = turn.jobs

"""Rulings among workers' reports: the laws of settling, with the ledger's guarded row as a model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from broker.core.price import Prices
from broker.core.records import Final, Flow, Ignore, OpenJob, Requeue, Running, Verdict
from broker.core.ruling import stranded
from broker.core.settle import decide
from schemas.api import State
from schemas.catalog import Catalog, Route
from schemas.job import Attempt, Lane
from schemas.outcome import (
    BadRequest,
    Cancelled,
    Charge,
    EngineFault,
    Expired,
    Failed,
    Outcome,
    Released,
    Report,
    Throttled,
    WorkerLost,
)
from schemas.ruling import Convict, EndRequest, Expire, Lost, PutBack, Ruling, Suspect, Suspicion
from schemas.units import Ms, NanoUsd
from tests.builders import a_catalog, a_report, a_route, a_success, an_attempt, an_id, now

FLOW = Flow("m", Lane.BULK, "t")

PRICES = Prices(catalog=a_catalog(), source="catalog:3")
NOW = now()
JOBS = [UUID(int=n) for n in range(1, 4)]
FAULT = EngineFault("x")

SUSPICION = Suspicion(an_id(), 1)


def verdicts_on(*items: Report | Ruling, job: OpenJob | None = None) -> list[Verdict]:
    return decide(items, {} if job is None else {job.job: job}, prices=PRICES, alive=("d",), now=NOW, unit=0.5)


def transitions(*items: Report | Ruling, job: OpenJob | None = None) -> list[Final | Requeue | Ignore]:
    return [verdict.transition for verdict in verdicts_on(*items, job=job)]


def a_running_job(job: UUID, attempt: int = 1, state: State = State.RUNNING, tried: tuple[str, ...] = ()) -> OpenJob:
    return OpenJob(
        job=job,
        state=state,
        attempt=attempt,
        uncounted=0,
        max_attempts=3,
        deadline_ms=Ms(NOW + 3_600_000),
        tried=tried,
    )


def test_an_expiry_ends_its_job_whatever_attempt_it_is_at() -> None:
    [verdict] = verdicts_on(Expire(an_id()))

    assert verdict.transition == Final(State.EXPIRED, None, None)
    assert (verdict.attempt, verdict.executed, verdict.entry) == (None, None, None)


def test_an_attempt_that_is_put_back_waits_again_at_once_and_does_not_count() -> None:
    job = an_id()

    [verdict] = verdicts_on(PutBack(job, 2), job=a_running_job(job, 2, tried=("e",)))

    assert verdict.transition == Requeue(NOW, counted=False, tried=("e",))
    assert (verdict.attempt, verdict.executed) == (2, None)


@pytest.mark.parametrize(("attempt", "state"), [(2, State.RUNNING), (1, State.QUEUED), (None, None)])
def test_an_attempt_that_is_over_is_not_put_back(attempt: int | None, state: State | None) -> None:
    job = an_id()
    there = None if attempt is None or state is None else a_running_job(job, attempt, state)

    assert transitions(PutBack(job, 1), job=there) == [Ignore()]
    assert transitions(Suspect(job, 1, SUSPICION), job=there) == [Ignore()]
    assert transitions(Convict(job, 1, 2), job=there) == [Ignore()]


def test_a_suspected_job_waits_for_a_run_apart_and_its_attempt_does_not_count() -> None:
    job = an_id()

    assert transitions(Suspect(job, 2, SUSPICION), job=a_running_job(job, 2, tried=("e",))) == [
        Requeue(NOW, counted=False, tried=("e",), suspicion=SUSPICION)
    ]


def test_a_convicted_job_is_dead_and_says_why() -> None:
    job = an_id()

    assert transitions(Convict(job, 2, 2), job=a_running_job(job, 2)) == [Final(State.DEAD, None, WorkerLost(2))]


def test_a_suspect_that_is_put_back_stays_suspected_and_one_whose_run_ends_is_cleared() -> None:
    job = an_id()
    there = replace(a_running_job(job), suspicion=SUSPICION)
    put_back = Requeue(NOW, counted=False, suspicion=SUSPICION)

    assert transitions(PutBack(job, 1), job=there) == [put_back]
    assert transitions(a_report(Released(), job=job), job=there) == [put_back]
    [failed] = transitions(a_report(Failed(FAULT), job=job), job=there)
    assert isinstance(failed, Requeue)
    assert failed.suspicion is None


def test_a_suspicion_beside_a_lost_execution_counts() -> None:
    job = an_id()
    lost = Lost(job=job, attempt=1, deployment="d", execution=an_id(), worker="w", started_ms=NOW)

    made = transitions(lost, Suspect(job, 1, SUSPICION), job=a_running_job(job))

    assert made == [Ignore(), Requeue(NOW, counted=False, suspicion=SUSPICION)]


def test_a_report_of_an_attempt_clears_its_job_of_the_suspicion_beside_it() -> None:
    job = an_id()

    made = transitions(Suspect(job, 1, SUSPICION), a_report(Failed(FAULT), job=job), job=a_running_job(job))

    assert made[0] == Ignore()
    assert isinstance(made[1], Requeue)


def test_a_request_that_the_broker_gives_up_on_fails_and_brings_the_job_along() -> None:
    request = an_attempt(lane=Lane.INTERACTIVE, number=2, reply_to="x", key="k")

    [verdict] = verdicts_on(EndRequest(request, Failed(FAULT)))

    assert verdict.transition == Final(State.FAILED, None, FAULT)
    assert (verdict.job, verdict.attempt, verdict.executed) == (request.job, 2, None)
    assert verdict.entry is not None
    assert (verdict.entry.id, verdict.entry.body) == (request.job, request.body)


@pytest.mark.parametrize(("outcome", "state"), [(Expired(), State.EXPIRED), (Cancelled(), State.CANCELLED)])
def test_a_request_ends_as_its_relay_decided(outcome: Expired | Cancelled, state: State) -> None:
    assert transitions(EndRequest(an_attempt(reply_to="x"), outcome)) == [Final(state, None, None)]


def test_what_a_worker_says_of_an_attempt_counts_more_than_that_it_was_put_back() -> None:
    failed = a_report(Failed(BadRequest("x")))

    made = transitions(PutBack(failed.job, 1), failed, job=a_running_job(failed.job))

    assert made == [Ignore(), Final(State.FAILED, None, BadRequest("x"))]


def test_a_job_that_expired_is_not_put_back_or_tried_again() -> None:
    job = an_id()
    others = PutBack(job, 1), a_report(Failed(FAULT), job=job), a_report(Released(), job=job)

    made = transitions(*others, Expire(job), job=a_running_job(job))

    assert made == [Ignore(), Ignore(), Ignore(), Final(State.EXPIRED, None, None)]


def test_a_success_counts_more_than_any_ruling() -> None:
    job, request = an_id(), an_attempt(reply_to="x")
    succeeded = Final(State.SUCCEEDED, b'{"choices":[]}', None)

    assert transitions(Expire(job), a_report(job=job), PutBack(job, 2)) == [Ignore(), succeeded, Ignore()]
    assert transitions(EndRequest(request, Failed(FAULT)), a_report(job=request.job, interactive=request)) == [
        Ignore(),
        succeeded,
    ]


def test_a_ruling_on_a_request_decides_unless_a_report_says_more_precisely_how_it_ended() -> None:
    request = an_attempt(reply_to="x")
    ruling = EndRequest(request, Failed(FAULT))
    failed, ended = (
        a_report(Failed(failure), job=request.job, interactive=request) for failure in (Throttled(), BadRequest("y"))
    )

    assert transitions(failed, ruling) == [Ignore(), Final(State.FAILED, None, FAULT)]
    assert transitions(ruling, ended) == [Ignore(), Final(State.FAILED, None, BadRequest("y"))]


def test_a_ruling_on_a_job_leaves_a_request_of_its_id_alone() -> None:
    request = an_attempt(reply_to="x")

    made = transitions(Expire(request.job), EndRequest(request, Failed(FAULT)))

    assert made == [Final(State.EXPIRED, None, None), Final(State.FAILED, None, FAULT)]


def test_attempts_of_a_silent_deployment_are_stranded_while_another_could_run_them() -> None:
    there, gone = Running(an_id(), 1, "d", FLOW), Running(an_id(), 1, "e", FLOW)
    models = {there.job: "m", gone.job: "m"}
    route = a_route(Route("d"), Route("e"))

    def found(catalog: Catalog, *alive: str) -> list[Running]:
        return stranded([there, gone], models, catalog=catalog, alive=alive, silent={"e"})

    assert found(route, "d") == [gone]
    assert found(route) == []
    assert found(a_route(Route("d"))) == [gone]


def test_attempts_of_jobs_that_are_unknown_or_elsewhere_are_not_stranded() -> None:
    unknown, alive = Running(an_id(), 1, "e", FLOW), Running(an_id(), 1, "d", FLOW)
    route = a_route(Route("d"), Route("e"))

    found = stranded([unknown, alive], {alive.job: "m"}, catalog=route, alive={"d"}, silent={"e"})

    assert found == []


def test_a_job_whose_route_has_nobody_alive_stays_where_it_is() -> None:
    one = Running(an_id(), 1, "e", FLOW)

    assert stranded([one], {one.job: "m"}, catalog=a_route(Route("d"), Route("e")), alive=(), silent={"d", "e"}) == []


@dataclass
class Row:
    """What the ledger holds of a job, as its guarded statements change it."""

    state: State = State.RUNNING
    attempt: int = 1
    uncounted: int = 0
    tried: tuple[str, ...] = ()
    cost: int = 0
    ends: list[State] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        return self.state in {State.QUEUED, State.RUNNING}

    def change(self, verdict: Verdict) -> None:
        match verdict.transition:
            case Final(state, _, _) if self.is_open and (
                verdict.attempt in {None, self.attempt} or state is State.SUCCEEDED
            ):
                self.state = state
                self.ends.append(state)
            case Requeue(_, counted, tried) if (self.state, self.attempt) == (State.RUNNING, verdict.attempt):
                self.state, self.tried = State.QUEUED, tried
                self.uncounted += not counted

    def dispatch(self) -> None:
        if self.state is State.QUEUED:
            self.state, self.attempt = State.RUNNING, self.attempt + 1


class SmallLedger:
    """A ledger of three jobs that take all that is said of them in groups."""

    def __init__(self) -> None:
        self.rows = {job: Row() for job in JOBS}
        self.executions: dict[tuple[UUID, int, int], int] = {}

    def settle(self, items: Sequence[Report | Ruling]) -> None:
        looked_up = {
            job: OpenJob(
                job=job,
                state=row.state,
                attempt=row.attempt,
                uncounted=row.uncounted,
                max_attempts=3,
                deadline_ms=Ms(NOW + 3_600_000),
                tried=row.tried,
            )
            for job, row in self.rows.items()
            if row.is_open
        }
        for verdict in decide(items, looked_up, prices=PRICES, alive=("d",), now=NOW, unit=0.5):
            self._execute(verdict)
            self.rows[verdict.job].change(verdict)
        for row in self.rows.values():
            row.dispatch()

    def _execute(self, verdict: Verdict) -> None:
        executed = verdict.executed
        if executed is None:
            return
        key = verdict.job, executed.attempt, executed.delivery
        if key not in self.executions:
            self.executions[key] = executed.cost_nano_usd
            self.rows[verdict.job].cost += executed.cost_nano_usd


def a_charged(outcome: Outcome, cost: int) -> Outcome:
    charge = Charge(NanoUsd(cost), "provider")
    match outcome:
        case Failed(failure):
            return Failed(failure, charge=charge)
        case Expired() | Cancelled() | Released():
            return type(outcome)(charge=charge)
        case _:
            return a_success(charge=charge)


jobs, attempts, deliveries = st.sampled_from(JOBS), st.integers(1, 3), st.integers(1, 3)
outcomes = st.builds(
    a_charged,
    st.sampled_from(
        [
            a_success(),
            Failed(FAULT),
            Failed(Throttled()),
            Failed(BadRequest("x")),
            Expired(),
            Cancelled(),
            Released(),
        ]
    ),
    st.integers(0, 9),
)
reports = st.builds(
    lambda outcome, job, attempt, delivery: a_report(outcome, job=job, attempt=attempt, delivery=delivery),
    outcomes,
    jobs,
    attempts,
    deliveries,
)
rulings = st.one_of(
    st.builds(Expire, jobs),
    st.builds(PutBack, jobs, attempts),
    st.builds(Suspect, jobs, attempts, st.just(Suspicion(JOBS[0]))),
    st.builds(Convict, jobs, attempts, st.just(2)),
)
groups = st.lists(st.lists(st.one_of(reports, rulings), min_size=1, max_size=8), max_size=8)


@given(groups)
def test_any_reports_and_rulings_in_any_order_end_a_job_at_most_once(said: list[list[Report | Ruling]]) -> None:
    model = SmallLedger()

    for group in said:
        model.settle(group)

    for row in model.rows.values():
        assert len(row.ends) <= 1
        assert row.is_open == (not row.ends)


@given(groups)
def test_only_reports_make_executions_and_what_they_cost_is_what_the_jobs_cost(
    said: list[list[Report | Ruling]],
) -> None:
    model = SmallLedger()

    for group in said:
        model.settle(group)

    told = {(one.job, one.attempt, one.delivery) for group in said for one in group if isinstance(one, Report)}
    assert model.executions.keys() == told
    assert sum(model.executions.values()) == sum(row.cost for row in model.rows.values())


@given(groups, jobs)
def test_a_job_that_was_ruled_to_expire_ends_whatever_else_is_said(
    said: list[list[Report | Ruling]], job: UUID
) -> None:
    model = SmallLedger()
    for group in said:
        model.settle([*group, Expire(job)])

    assert not said or not model.rows[job].is_open


def a_request(job: UUID, number: int) -> Attempt:
    return an_attempt(job=job, number=number, lane=Lane.INTERACTIVE, reply_to="x", admitted_ms=NOW)


requests = st.builds(a_request, jobs, attempts)
of_requests = st.one_of(
    st.builds(
        lambda outcome, request: a_report(outcome, job=request.job, attempt=request.number, interactive=request),
        outcomes,
        requests,
    ),
    st.builds(EndRequest, requests, st.sampled_from([Failed(FAULT), Expired(), Cancelled()])),
)


def identity_of(item: Report | Ruling) -> tuple[str, Ms, bytes] | None:
    return (
        None
        if item.interactive is None
        else (item.interactive.tenant, item.interactive.admitted_ms, item.interactive.body)
    )


@given(st.lists(st.one_of(reports, rulings, of_requests), max_size=12))
def test_of_all_that_is_said_of_a_job_or_a_request_in_a_group_one_decides(said: list[Report | Ruling]) -> None:
    there = {job: a_running_job(job) for job in JOBS}

    verdicts = decide(said, there, prices=PRICES, alive=("d",), now=NOW, unit=0.5)

    assert [verdict.job for verdict in verdicts] == [one.job for one in said]
    executions = [(verdict.job, verdict.executed) for verdict in verdicts if verdict.executed is not None]
    assert {(job, one.attempt, one.delivery) for job, one in executions} == {
        (one.job, one.attempt, one.delivery) for one in said if isinstance(one, Report)
    }
    deciding = [
        (one.job, identity_of(one))
        for verdict, one in zip(verdicts, said, strict=True)
        if not isinstance(verdict.transition, Ignore)
    ]
    assert len(deciding) == len(set(deciding))

from collections.abc import Collection
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from broker.core.body import body_hash
from broker.core.price import Prices, price_nano_usd
from broker.core.records import Entry, Final, Ignore, OpenJob, Requeue, Verdict
from broker.core.settle import decide, needs_job, unrecordable
from schemas.api import State
from schemas.catalog import Catalog, Price, Retry, Route
from schemas.job import Lane
from schemas.outcome import (
    BadRequest,
    Cancelled,
    Charge,
    Denied,
    EngineFault,
    Expired,
    Failed,
    Failure,
    Outcome,
    Released,
    Report,
    Succeeded,
    Throttled,
    TimedOut,
    Unanswered,
    Usage,
)
from schemas.ruling import EndRequest, Expire, PutBack, Ruling
from schemas.units import Ms, NanoUsd
from tests.builders import a_catalog, a_report, a_route, a_success, an_attempt, an_id, now

PRICES = Prices(catalog=a_catalog(), source="catalog:3")


def an_open_job(report: Report | PutBack, **changes: Any) -> OpenJob:
    fields = {
        "state": State.RUNNING,
        "attempt": report.attempt,
        "uncounted": 0,
        "max_attempts": 3,
        "deadline_ms": now() + 3_600_000,
    }
    return OpenJob(job=report.job, **{**fields, **changes})


def verdict_on(
    item: Report | Ruling,
    job: OpenJob | None = None,
    *,
    at: int | None = None,
    catalog: Catalog = PRICES.catalog,
    alive: Collection[str] = ("d", "e"),
) -> Verdict:
    jobs = {} if job is None else {job.job: job}
    prices = Prices(catalog=catalog, source="catalog:3")
    [verdict] = decide([item], jobs, prices=prices, alive=alive, now=Ms(at or now()), unit=0.5)
    return verdict


def test_a_success_ends_the_job_with_its_body_and_its_price() -> None:
    verdict = verdict_on(a_report(a_success(usage=Usage(1000, 500))))

    assert verdict.transition == Final(State.SUCCEEDED, b'{"choices":[]}', None)
    assert verdict.executed is not None
    assert verdict.executed.cost_nano_usd == 1000 * 1000 + 500 * 2000
    assert verdict.executed.cost_source == "catalog:3"


def test_a_deployment_without_a_price_costs_nothing_and_says_so() -> None:
    verdict = verdict_on(a_report(deployment="unknown"))

    assert verdict.executed is not None
    assert (verdict.executed.cost_nano_usd, verdict.executed.cost_source) == (0, "none")


def test_a_failure_that_another_attempt_may_mend_waits_again() -> None:
    report = a_report(Failed(EngineFault("x")))

    transition = verdict_on(report, an_open_job(report)).transition

    assert isinstance(transition, Requeue)
    assert transition.counted


def test_a_failure_that_nothing_mends_is_final() -> None:
    report = a_report(Failed(BadRequest("x")))

    assert verdict_on(report, an_open_job(report)).transition == Final(State.FAILED, None, BadRequest("x"))


def test_out_of_attempts_is_dead() -> None:
    report = a_report(Failed(EngineFault("x")), attempt=3)

    assert verdict_on(report, an_open_job(report)).transition == Final(State.DEAD, None, EngineFault("x"))


def test_the_policy_of_its_model_says_what_ends_a_job_and_how_long_it_waits() -> None:
    base = a_route(Route("d"))
    policy = Retry(backoff_base_s=100, backoff_cap_s=100, attempts={"engine_fault": 2, "timed_out": 1})
    catalog = replace(base, models={"m": replace(base.models["m"], retry=policy)})
    at = now()
    first, second = a_report(Failed(EngineFault("x"))), a_report(Failed(EngineFault("x")), attempt=2)
    late = a_report(Failed(TimedOut(Ms(1), "attempt")))

    waits = verdict_on(first, an_open_job(first, model="m"), at=at, catalog=catalog).transition
    dead = verdict_on(second, an_open_job(second, model="m"), catalog=catalog).transition
    ended = verdict_on(late, an_open_job(late, model="m"), catalog=catalog).transition

    assert isinstance(waits, Requeue)
    assert 0 <= waits.not_before_ms - at < 100_000
    assert waits.not_before_ms - at > 500, "the default base"
    assert dead == Final(State.DEAD, None, EngineFault("x"))
    assert ended == Final(State.FAILED, None, TimedOut(Ms(1), "attempt"))


def test_attempts_that_were_put_back_do_not_count() -> None:
    report = a_report(Failed(EngineFault("x")), attempt=3)

    assert isinstance(verdict_on(report, an_open_job(report, uncounted=1)).transition, Requeue)


def test_a_retry_that_would_come_after_the_deadline_is_none() -> None:
    report = a_report(Failed(Throttled(Ms(60_000))))

    transition = verdict_on(report, an_open_job(report, deadline_ms=now() + 1000)).transition

    assert transition == Final(State.EXPIRED, None, Throttled(Ms(60_000)))


@pytest.mark.parametrize("failure", [Throttled(), Denied("the key was refused")])
def test_what_never_ran_does_not_use_up_attempts(failure: Failure) -> None:
    report = a_report(Failed(failure), attempt=30)

    transition = verdict_on(report, an_open_job(report, uncounted=29)).transition

    assert isinstance(transition, Requeue)
    assert not transition.counted


def test_a_route_is_tried_to_its_end_at_once_then_from_its_beginning_later() -> None:
    catalog = a_route(Route("d"), Route("e", 0))
    first, second = a_report(Failed(EngineFault("x"))), a_report(Failed(EngineFault("x")), attempt=2, deployment="e")

    at_once = verdict_on(first, an_open_job(first, model="m"), catalog=catalog).transition
    later = verdict_on(second, an_open_job(second, model="m", tried=("d",)), catalog=catalog).transition

    assert isinstance(at_once, Requeue)
    assert at_once.tried == ("d",)
    assert isinstance(later, Requeue)
    assert later.tried == ()
    assert later.not_before_ms > at_once.not_before_ms


@pytest.mark.parametrize("failure", [Throttled(Ms(60_000)), EngineFault("x")])
def test_while_the_rest_of_its_route_is_away_a_job_waits_and_leaves_it_to_them(failure: Failure) -> None:
    at = now()
    report = a_report(Failed(failure), attempt=2)

    again = verdict_on(
        report,
        an_open_job(report, model="m", tried=("d",)),
        at=at,
        catalog=a_route(Route("d"), Route("e")),
        alive=("d",),
    ).transition

    assert isinstance(again, Requeue)
    assert again.not_before_ms > at + (60_000 if isinstance(failure, Throttled) else 0)
    assert again.tried == ("d",)


def test_a_job_that_waits_for_another_deployment_is_out_of_attempts_in_time() -> None:
    report = a_report(Failed(EngineFault("x")), attempt=3)

    transition = verdict_on(
        report, an_open_job(report, model="m", tried=("d",)), catalog=a_route(Route("d"), Route("e")), alive=("d",)
    ).transition

    assert transition == Final(State.DEAD, None, EngineFault("x"))


def test_an_unanswered_request_is_repeated_if_its_deployment_says_so() -> None:
    repeated, ended = (a_report(Failed(Unanswered(Ms(5), "cut", repeat))) for repeat in (True, False))

    assert isinstance(verdict_on(repeated, an_open_job(repeated)).transition, Requeue)
    assert isinstance(verdict_on(ended, an_open_job(ended)).transition, Final)


def test_what_the_worker_knows_of_the_cost_counts_more_than_the_price() -> None:
    charged = verdict_on(a_report(Succeeded(b"{}", Usage(5, 5), Charge(NanoUsd(7), "provider"))))
    priced = verdict_on(a_report(Succeeded(b"{}", Usage(5, 5))))

    assert charged.executed
    assert (charged.executed.cost_nano_usd, charged.executed.cost_source) == (7, "provider")
    assert priced.executed
    assert priced.executed.cost_source == PRICES.source


@pytest.mark.parametrize("outcome", [Failed(EngineFault("x")), Released(), Cancelled()])
def test_a_report_after_which_the_relay_decides_is_not_the_end_of_a_request(outcome: Outcome) -> None:
    assert verdict_on(a_report(outcome, interactive=an_attempt(reply_to="x"))).transition == Ignore()


def test_a_failure_of_an_attempt_that_is_over_changes_nothing() -> None:
    report = a_report(Failed(EngineFault("x")))

    assert verdict_on(report, an_open_job(report, attempt=2)).transition == Ignore()
    assert verdict_on(report).transition == Ignore()


def test_what_was_cancelled_is_recorded_as_that() -> None:
    report = a_report(Cancelled())

    assert verdict_on(report, an_open_job(report)).transition == Final(State.CANCELLED, None, None)


def test_only_the_brokers_clock_makes_a_job_expired() -> None:
    at, report = now(), a_report(Expired())

    passed = verdict_on(report, an_open_job(report, deadline_ms=at), at=at)
    early = verdict_on(report, an_open_job(report, deadline_ms=Ms(at + 1)), at=at)

    assert passed.transition == Final(State.EXPIRED, None, None)
    assert early.transition == Requeue(Ms(at), counted=False)
    assert verdict_on(report).transition == Ignore()
    assert (
        verdict_on(a_report(Expired(), interactive=an_attempt(deadline_ms=Ms(at + 1))), at=at).transition == Ignore()
    )


def test_a_released_attempt_waits_again_at_once_and_uncounted() -> None:
    at = now()
    report = a_report(Released())

    assert verdict_on(report, an_open_job(report), at=at).transition == Requeue(Ms(at), counted=False)


def test_a_released_attempt_is_left_to_others_as_before() -> None:
    report = a_report(Released(), attempt=2)

    transition = verdict_on(report, an_open_job(report, tried=("e",))).transition

    assert isinstance(transition, Requeue)
    assert transition.tried == ("e",)


def test_what_a_worker_says_of_an_attempt_counts_more_than_its_release() -> None:
    failed = a_report(Failed(BadRequest("x")))
    put_back = PutBack(failed.job, 1)

    verdicts = decide([put_back, failed], {failed.job: an_open_job(failed)}, prices=PRICES, now=now(), unit=0.5)

    assert [verdict.transition for verdict in verdicts] == [Ignore(), Final(State.FAILED, None, BadRequest("x"))]


def test_a_failure_that_nothing_mends_ends_a_request_and_brings_the_job_along() -> None:
    attempt = an_attempt(reply_to="x", key="k")

    verdict = verdict_on(a_report(Failed(BadRequest("x")), job=attempt.job, interactive=attempt))

    assert verdict.transition == Final(State.FAILED, None, BadRequest("x"))
    assert verdict.entry is not None
    assert verdict.entry.id == attempt.job


def test_what_cannot_be_recorded_ends_without_its_cost() -> None:
    verdict = unrecordable(verdict_on(a_report(Succeeded(b"{}", Usage(10**9, 1)))))

    assert verdict.executed is not None
    assert (verdict.executed.usage, verdict.executed.cost_nano_usd) == (Usage(), 0)
    assert (verdict.executed.failure, verdict.executed.cost_source) == ("engine_fault", "unrecorded")
    assert isinstance(verdict.transition, Final)
    assert verdict.transition.state is State.FAILED
    assert verdict.transition.body is None


def test_what_cannot_be_recorded_and_changes_nothing_goes_on_changing_nothing() -> None:
    late = replace(verdict_on(a_report()), transition=Ignore())

    assert unrecordable(late).transition == Ignore()


outcomes = st.sampled_from([a_success(), Failed(EngineFault("x")), Failed(BadRequest("x")), Expired(), Released()])


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), outcomes), max_size=12))
def test_of_all_reports_of_a_job_one_decides(rows: list[tuple[int, int, int, Outcome]]) -> None:
    reports = [
        a_report(outcome, job=UUID(int=job), attempt=attempt, delivery=delivery)
        for job, attempt, delivery, outcome in rows
    ]
    jobs = {report.job: an_open_job(report) for report in reports}

    verdicts = decide(reports, jobs, prices=PRICES, now=now(), unit=0.1)

    assert [verdict.job for verdict in verdicts] == [report.job for report in reports]
    for job in jobs:
        deciding = [v.transition for v in verdicts if v.job == job and not isinstance(v.transition, Ignore)]
        assert len(deciding) <= 1
        succeeded = any(r.job == job and r.outcome == a_success() for r in reports)
        assert not succeeded or (isinstance(deciding[0], Final) and deciding[0].state is State.SUCCEEDED)


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.floats(0, 100), st.floats(0, 100))
def test_a_price_is_never_under_the_exact_one_and_less_than_a_nano_over(i: int, o: int, pi: float, po: float) -> None:
    price = Price(input=pi, output=po)

    cost = price_nano_usd(Usage(i, o), price)

    exact = i * round(pi * 10**9) + o * round(po * 10**9)
    assert 0 <= cost * 10**6 - exact < 10**6


def test_cached_tokens_have_their_own_price() -> None:
    usage = Usage(100, 0, 60)

    assert price_nano_usd(usage, Price(input=1.0, cached_input=0.1)) == 40 * 1000 + 60 * 100
    assert price_nano_usd(usage, Price(input=1.0)) == 100 * 1000


def transitions(*items: Report | Ruling, job: OpenJob | None = None) -> list[Final | Requeue | Ignore]:
    jobs = {} if job is None else {job.job: job}
    return [verdict.transition for verdict in decide(items, jobs, prices=PRICES, now=now(), unit=0.5)]


def test_only_what_depends_on_a_jobs_row_needs_a_look_at_it() -> None:
    failed = Failed(EngineFault("x"))

    looks: list[Report | Ruling] = [a_report(failed), a_report(Released()), PutBack(an_id(), 1), a_report(Expired())]
    others: list[Report | Ruling] = [
        a_report(),
        a_report(Cancelled()),
        a_report(failed, interactive=an_attempt()),
        a_report(Released(), interactive=an_attempt()),
        Expire(an_id()),
        EndRequest(an_attempt(), Failed(EngineFault("x"))),
    ]

    assert all(needs_job(item) for item in looks)
    assert not any(needs_job(item) for item in others)


def test_an_id_that_is_a_jobs_and_a_requests_is_decided_for_both() -> None:
    request = an_attempt(reply_to="x")
    reports = [a_report(job=request.job), a_report(job=request.job, interactive=request)]

    assert [type(transition) for transition in transitions(*reports)] == [Final, Final]


def test_requests_of_two_tenants_with_one_id_are_both_decided() -> None:
    ours = an_attempt(reply_to="x", tenant="ours")
    theirs = replace(ours, tenant="theirs")
    reports = [a_report(job=one.job, interactive=one) for one in (ours, theirs)]

    assert [type(transition) for transition in transitions(*reports)] == [Final, Final]


def test_of_two_successes_the_newest_attempts_first_delivery_decides() -> None:
    job = an_id()
    keys = [(1, 1), (2, 2), (2, 1), (1, 2)]
    reports = [a_report(job=job, attempt=attempt, delivery=delivery) for attempt, delivery in keys]

    deciding = [key for key, made in zip(keys, transitions(*reports), strict=True) if isinstance(made, Final)]

    assert deciding == [(2, 1)]


def test_a_report_that_comes_twice_in_a_group_is_one_execution() -> None:
    failed, other = a_report(Failed(EngineFault("x"))), a_report(delivery=2)
    reports = [failed, failed, other, replace(other, job=failed.job), replace(other, job=failed.job)]

    verdicts = decide(reports, {}, prices=PRICES, now=now(), unit=0.5)

    executed = [(verdict.job, verdict.executed.delivery) for verdict in verdicts if verdict.executed is not None]
    assert sorted(executed) == sorted([(failed.job, 1), (other.job, 2), (failed.job, 2)])
    assert [type(verdict.transition) for verdict in verdicts] == [Ignore, Ignore, Final, Final, Ignore]


def test_a_deployment_is_named_once_among_those_that_failed_a_job() -> None:
    report = a_report(Failed(EngineFault("x")), attempt=2)

    transition = verdict_on(
        report,
        an_open_job(report, model="m", tried=("e", "d")),
        catalog=a_route(Route("d"), Route("e"), Route("f")),
        alive=("f",),
    ).transition

    assert isinstance(transition, Requeue)
    assert transition.tried == ("e", "d")


def test_all_deployments_that_failed_a_job_leave_it_to_the_rest() -> None:
    report = a_report(Failed(EngineFault("x")), attempt=2)
    at = now()

    transition = verdict_on(
        report,
        an_open_job(report, model="m", tried=("e",)),
        at=at,
        catalog=a_route(Route("d"), Route("e"), Route("f")),
        alive=("d", "e", "f"),
    ).transition

    assert transition == Requeue(Ms(at), counted=True, tried=("e", "d"))


def test_jobs_that_failed_together_are_tried_again_apart() -> None:
    at = now()
    again = []
    for n in range(16):
        report = a_report(Failed(EngineFault("x")), job=UUID(int=n << 12))
        transition = verdict_on(report, an_open_job(report), at=at).transition
        assert isinstance(transition, Requeue)
        assert at <= transition.not_before_ms < at + 500
        again.append(transition.not_before_ms)

    assert len(set(again)) == 16


def test_what_never_ran_waits_on_also_when_all_attempts_are_used_up() -> None:
    report = a_report(Failed(Throttled()), attempt=4)

    assert isinstance(verdict_on(report, an_open_job(report)).transition, Requeue)


def waits_ms(failure: Failure, *, attempt: int, uncounted: int) -> int:
    report = a_report(Failed(failure), job=UUID(int=0), attempt=attempt)
    at = now()
    transition = verdict_on(report, an_open_job(report, uncounted=uncounted, max_attempts=99), at=at).transition
    assert isinstance(transition, Requeue)
    return transition.not_before_ms - at


def test_waits_grow_with_the_attempts_that_count_and_of_those_that_do_not_with_all() -> None:
    assert waits_ms(EngineFault("x"), attempt=4, uncounted=3) == waits_ms(EngineFault("x"), attempt=1, uncounted=0)
    assert waits_ms(Throttled(), attempt=4, uncounted=3) == 8 * waits_ms(Throttled(), attempt=1, uncounted=0)


@pytest.mark.parametrize(("failure", "state"), [(EngineFault("x"), State.DEAD), (Throttled(), State.EXPIRED)])
def test_a_try_at_the_deadline_is_too_late(failure: Failure, state: State) -> None:
    at = now()
    report = a_report(Failed(failure), job=UUID(int=0))
    deadline = Ms(at + waits_ms(failure, attempt=1, uncounted=0))

    too_late = verdict_on(report, an_open_job(report, deadline_ms=deadline), at=at).transition
    in_time = verdict_on(report, an_open_job(report, deadline_ms=Ms(deadline + 1)), at=at).transition

    assert too_late == Final(state, None, failure)
    assert isinstance(in_time, Requeue)


def test_an_execution_is_recorded_as_it_was_reported() -> None:
    report = a_report(Failed(BadRequest("x"), Usage(3, 2, 1)), delivery=4, deployment="e", worker="v")

    at = now()

    executed = verdict_on(report, at=at).executed

    assert executed is not None
    assert (executed.delivery, executed.deployment, executed.worker) == (4, "e", "v")
    assert (executed.outcome, executed.failure, executed.usage) == ("failed", "bad_request", Usage(3, 2, 1))
    timings = executed.started_ms, executed.queue_ms, executed.ttft_ms, executed.run_ms
    assert timings == (at - 50, 5, 10, 50)


def test_a_start_is_dated_by_when_its_report_came() -> None:
    """Not by the worker's clock, and not by when it is settled."""
    early, late = a_report(), a_report()
    received = [Ms(1_000_000), Ms(2_000_000)]

    verdicts = decide([early, late], {}, prices=PRICES, received=received, now=now(), unit=0.5)

    assert [one.executed and one.executed.started_ms for one in verdicts] == [1_000_000 - 50, 2_000_000 - 50]


def test_a_cost_says_where_it_is_from() -> None:
    free = verdict_on(a_report(Succeeded(b"{}", Usage(5, 5), Charge(NanoUsd(0), "provider")))).executed
    guessed = verdict_on(a_report(Succeeded(b"{}", Usage(5, 5, estimated=True)))).executed
    unpriced = verdict_on(a_report(), catalog=a_catalog(price=None)).executed

    assert free is not None
    assert (free.cost_nano_usd, free.cost_source) == (0, "provider")
    assert guessed is not None
    assert guessed.cost_source == "catalog:3:estimate"
    assert unpriced is not None
    assert (unpriced.cost_nano_usd, unpriced.cost_source) == (0, "none")


def test_an_interactive_job_is_recorded_as_it_was_asked() -> None:
    asked = an_attempt(
        lane=Lane.INTERACTIVE,
        key="k",
        custom_id="c",
        metadata={"m": "v"},
        traceparent="t",
        reply_to="x",
        tenant="bob",
    )

    entry = verdict_on(a_report(job=asked.job, interactive=asked)).entry

    assert entry == Entry(
        id=asked.job, tenant="bob", key="k", lane=Lane.INTERACTIVE, model="m", endpoint=asked.endpoint,
        body=asked.body, body_hash=body_hash(asked.endpoint, asked.body), admitted_ms=asked.admitted_ms,
        deadline_ms=asked.deadline_ms, max_attempts=1, custom_id="c", metadata={"m": "v"}, traceparent="t",
    )  # fmt: skip

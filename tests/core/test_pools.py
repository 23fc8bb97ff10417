"""What a deployment can take, and what holds it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from broker.core.limits import Account
from broker.core.pools import Pool, Silence, alive, holds, lookahead, snapshot, withheld
from schemas.api import Hold, HoldCode
from schemas.catalog import Catalog, Deployment, Model, Route
from schemas.units import Ms, NanoUsd
from schemas.worker import DENIED, THROTTLED, UPSTREAM_DOWN, Paused, WorkerBeat
from tests.builders import a_beat

NOON = Ms(1_800_014_400_000)
"""15 January 2027, 12:00 UTC."""
MIDNIGHT = Ms(NOON + 12 * 3600 * 1000)


def a_catalog(*routes: Route, **caps_usd: float) -> Catalog:
    """One model, and the daily caps of those of its deployments that have one."""
    routes = routes or (Route("d"),)
    names = [route.deployment for route in routes]
    deployments = {name: Deployment(engine="simulated", daily_cap_usd=caps_usd.get(name)) for name in names}
    return Catalog(models={"m": Model(route=routes)}, deployments=deployments)


def usd(amount: float) -> NanoUsd:
    return NanoUsd(round(amount * 10**9))


def an_account(used: float, *, limit: float = 20.0, estimate: float = 1.0, **more: Any) -> Account:
    """Each attempt costs 1 USD unless said."""
    return Account(limit=usd(limit), used=usd(used), estimate=usd(estimate), each=usd(estimate), **more)


def pools(*beats: WorkerBeat, catalog: Catalog | None = None, **more: Any) -> dict[str, Pool]:
    return snapshot(catalog or a_catalog(), beats, more.pop("accounts", {}), now=NOON, **more)


def pool(*beats: WorkerBeat, **more: Any) -> Pool:
    return pools(*beats, **more)["d"]


def paused(cause: str, detail: str, *, for_ms: int = 30_000) -> WorkerBeat:
    return a_beat(slots=0, reserve=0, paused=Paused(cause, detail, Ms(for_ms)))


def test_the_workers_of_a_deployment_are_taken_together() -> None:
    found = pool(
        a_beat(running=3, interactive=1), a_beat(running=1), a_beat(deployment="e", running=4), catalog=two_routes()
    )

    assert (found.workers, found.slots, found.reserve, found.running, found.interactive) == (2, 8, 2, 3, 1)


def two_routes() -> Catalog:
    return a_catalog(Route("d"), Route("e"))


def test_a_draining_worker_adds_nothing_and_fills_nobodys_slots() -> None:
    found = pool(a_beat(), a_beat(running=4, draining=True))

    assert (found.workers, found.slots, found.running, found.hold) == (2, 4, 0, None)


def test_the_room_is_what_is_left_of_the_slots_and_the_look_ahead() -> None:
    assert (pool(a_beat(), outstanding={}).credit, pool(a_beat(), outstanding={}).room) == (6, 6)
    assert pool(a_beat(), outstanding={"d": 5}).room == 1
    assert pool(a_beat(), outstanding={"d": 9}).room == 0
    assert pool(a_beat(), outstanding={}, per_s={"d": 400.0}).credit == 4 + 100


def test_under_a_cap_nothing_is_looked_ahead_to_and_no_more_starts_than_is_left() -> None:
    catalog, account = a_catalog(d=20.0), {"d": an_account(15)}

    def found(*beats: WorkerBeat, outstanding: int, jobs: float = 0.0) -> int:
        accounts = {"d": replace(account["d"], jobs=usd(jobs))}
        return pool(*beats, catalog=catalog, accounts=accounts, outstanding={"d": outstanding}).room

    assert (
        pool(a_beat(slots=64), catalog=catalog, accounts={"d": an_account(0, estimate=0)}, outstanding={}).room == 64
    )
    assert found(a_beat(slots=64), outstanding=0) == 5
    assert found(a_beat(slots=64), outstanding=1, jobs=1.0) == 4
    assert found(a_beat(slots=64, running=1, interactive=1), outstanding=1, jobs=1.0) == 3
    assert found(a_beat(slots=2), outstanding=1, jobs=1.0) == 1


def test_interactive_attempts_of_draining_workers_are_charged_too() -> None:
    catalog, accounts = a_catalog(d=20.0), {"d": an_account(15)}

    found = pool(
        a_beat(slots=64),
        a_beat(running=2, interactive=2, draining=True),
        catalog=catalog,
        accounts=accounts,
        outstanding={},
    )

    assert found.room == 3


def test_the_brokers_own_requests_count_as_they_were_reserved_and_others_as_one_more_does() -> None:
    catalog, beat = a_catalog(d=20.0), a_beat(slots=64, reserve=9, running=3, interactive=3)
    accounts = {"d": an_account(10, requests=usd(4.0))}

    alone = pool(beat, catalog=catalog, accounts=accounts, handed_out={"d": 3}, peak={"d": 3})
    beside = pool(beat, catalog=catalog, accounts=accounts, handed_out={"d": 1}, peak={"d": 1})

    assert (alone.left, beside.left) == (usd(6.0), usd(4.0))


def test_a_relay_counts_the_jobs_that_run_as_far_as_beats_tell_or_its_own_leader_reserved() -> None:
    catalog, beat = a_catalog(d=20.0), a_beat(slots=64, running=3)

    seen = pool(beat, catalog=catalog, accounts={"d": an_account(10)}, handed_out={}, peak={})
    known = pool(beat, catalog=catalog, accounts={"d": an_account(10, jobs=usd(5.0))}, handed_out={}, peak={})

    assert (seen.left, known.left) == (usd(7.0), usd(5.0))


def test_a_capped_deployment_of_which_nothing_is_known_is_held() -> None:
    found = pool(a_beat(), catalog=a_catalog(d=20.0), outstanding={})

    assert found.stop is not None
    assert (found.stop.code, found.room, found.left) == (HoldCode.SPEND_UNKNOWN, 0, 0)


def test_lookahead_covers_half_the_slots_or_a_quarter_second_of_work() -> None:
    assert lookahead(0, per_s=100.0) == 0
    assert lookahead(1, per_s=0.0) == 1
    assert lookahead(64, per_s=10.0) == 32
    assert lookahead(64, per_s=4000.0) == 1000


@pytest.mark.parametrize(
    ("beats", "code", "message"),
    [
        ([], HoldCode.NO_WORKER, "no worker serves d"),
        ([a_beat(draining=True)], HoldCode.DRAINING, "every worker of d is draining"),
        ([a_beat(slots=0)], HoldCode.NO_SLOTS, "the workers of d take no jobs now"),
        ([paused(DENIED, "401")], HoldCode.DENIED, "denied 401 on d, tried again at 12:00:30 UTC"),
        ([paused(THROTTLED, "429")], HoldCode.THROTTLED, "throttled 429 on d, tried again at 12:00:30 UTC"),
        (
            [paused(UPSTREAM_DOWN, "no connection")],
            HoldCode.UPSTREAM_DOWN,
            "the upstream of d is down (no connection), tried again at 12:00:30 UTC",
        ),
        (
            [paused("of_a_later_version", "x")],
            HoldCode.NO_SLOTS,
            "the workers of d pause (of_a_later_version x), tried again at 12:00:30 UTC",
        ),
        ([a_beat(running=4)], HoldCode.BUSY, "every worker of d is full"),
        ([a_beat(running=4), paused(DENIED, "401")], HoldCode.BUSY, "every worker of d is full"),
    ],
)
def test_it_says_why_nothing_starts(beats: list[WorkerBeat], code: HoldCode, message: str) -> None:
    hold = pool(*beats).hold

    assert hold is not None
    assert (hold.code, hold.message) == (code, message)


def test_a_worker_that_tries_its_provider_with_one_attempt_says_why() -> None:
    trying = a_beat(slots=1, paused=Paused(DENIED, "401", Ms(0)))

    assert pool(trying).hold is None
    assert pool(trying, outstanding={"d": 1}).hold == Hold(HoldCode.DENIED, "denied 401 on d, being tried again")


def test_of_several_pauses_the_one_that_ends_first_is_said() -> None:
    hold = pool(paused(DENIED, "401"), paused(THROTTLED, "429", for_ms=2_000)).hold

    assert hold is not None
    assert (hold.code, hold.until_ms) == (HoldCode.THROTTLED, NOON + 2_000)


def test_a_spent_cap_is_said_with_its_end() -> None:
    hold = pool(a_beat(), catalog=a_catalog(d=2.0), accounts={"d": an_account(2, limit=2)}).hold

    message = "daily cap of 2.00 USD spent on d, resumes 00:00 UTC"
    assert hold == Hold(HoldCode.DAILY_CAP, message, until_ms=MIDNIGHT)


def test_a_cap_that_what_runs_may_spend_is_said_to_be_so() -> None:
    hold = pool(a_beat(running=1), catalog=a_catalog(d=2.0), accounts={"d": an_account(1, limit=2.5)}).hold

    message = "what runs on d may spend the rest of its daily cap of 2.50 USD (1.00 spent, 1.00 reserved)"
    assert hold == Hold(HoldCode.DAILY_CAP, message)


def test_a_deployment_that_is_gone_from_the_catalog_is_said_to_be() -> None:
    found = pools(a_beat(deployment="gone"), outstanding={"lost": 1})

    holds_of = [hold for name in ("gone", "lost", "d") if (hold := found[name].hold) is not None]
    unknown = HoldCode.UNKNOWN_DEPLOYMENT
    assert [hold.code for hold in holds_of] == [unknown, unknown, HoldCode.NO_WORKER]


def test_a_deployment_that_is_withheld_is_named() -> None:
    catalog = a_catalog(Route("d"), Route("e"), Route("f"), Route("g"), e=1.0, f=1.0)

    found = pools(
        *(a_beat(deployment=name) for name in "def"), catalog=catalog, accounts={"e": an_account(1, limit=1)}
    )

    assert withheld(found) == {"e", "f"}


def test_a_full_deployment_is_alive_and_a_stopped_one_is_not() -> None:
    catalog = a_catalog(Route("d"), Route("e"), Route("f"), f=0.0)

    found = pools(
        a_beat(deployment="d", running=4),
        a_beat(deployment="e", draining=True),
        a_beat(deployment="f"),
        catalog=catalog,
    )

    assert alive(found) == {"d"}


@given(
    slots=st.integers(0, 64),
    outstanding=st.integers(0, 100),
    per_s=st.floats(0, 10_000),
    spent_usd=st.floats(0, 3),
    draining=st.booleans(),
    has_cap=st.booleans(),
)
def test_nothing_has_room_that_is_stopped_and_no_more_than_its_credit(
    *, slots: int, outstanding: int, per_s: float, spent_usd: float, draining: bool, has_cap: bool
) -> None:
    found = pool(
        a_beat(slots=slots, draining=draining),
        catalog=a_catalog(d=2.0) if has_cap else a_catalog(),
        accounts={"d": an_account(spent_usd, limit=2.0)},
        outstanding={"d": outstanding},
        per_s={"d": per_s},
    )

    assert 0 <= found.room <= max(0, found.credit - outstanding)
    if found.room:
        assert found.stop is None
    if found.stop is not None:
        assert found.hold == found.stop
        assert found.room == 0


# interactive requests


def test_the_reserve_is_shared_with_other_brokers_who_have_what_this_one_did_not_hand_out() -> None:
    full = a_beat(reserve=3, running=3, interactive=3)

    assert pool(full).interactive == 3
    assert pool(full, handed_out={"d": 0}, peak={"d": 3}).interactive == 0
    assert pool(full, handed_out={"d": 1}, peak={"d": 2}).interactive == 2
    assert pool(a_beat(), handed_out={"d": 4}, peak={"d": 4}).interactive == 4


def test_requests_that_were_just_handed_out_are_charged_too() -> None:
    catalog = a_catalog(d=2.0)

    def stop(requests: float) -> Hold | None:
        accounts = {"d": an_account(1, limit=2, requests=usd(requests))}
        return pool(a_beat(), catalog=catalog, accounts=accounts, handed_out={"d": 1}, peak={"d": 1}).stop

    assert stop(0.0) is None
    assert stop(0.5) is not None


@pytest.mark.parametrize(
    ("beats", "code", "message"),
    [
        ([a_beat(running=5, interactive=1)], HoldCode.BUSY, "every worker of d is full"),
        ([a_beat(reserve=0, running=4)], HoldCode.BUSY, "every worker of d is full"),
        ([a_beat(draining=True)], HoldCode.DRAINING, "every worker of d is draining"),
        ([paused(DENIED, "401")], HoldCode.DENIED, "denied 401 on d, tried again at 12:00:30 UTC"),
        (
            [a_beat(slots=1, running=2, interactive=1, paused=Paused(DENIED, "401", Ms(0)))],
            HoldCode.DENIED,
            "denied 401 on d, being tried again",
        ),
    ],
)
def test_it_says_why_a_request_would_not_start(beats: list[WorkerBeat], code: HoldCode, message: str) -> None:
    hold = pool(*beats).request_hold

    assert hold is not None
    assert (hold.code, hold.message) == (code, message)


def test_requests_take_slots_of_jobs_but_jobs_leave_the_reserve_to_requests() -> None:
    jobs, requests = pool(a_beat(running=4)), pool(a_beat(running=5, interactive=5))

    assert (jobs.hold is None, jobs.request_hold is None) == (False, True)
    assert (requests.hold is None, requests.request_hold is None) == (False, False)


def test_what_requests_have_borrowed_is_no_room_for_jobs_on_any_worker() -> None:
    idle, borrowed = a_beat("v"), a_beat(running=3, interactive=3)

    found = pool(idle, borrowed, outstanding={})

    assert (found.borrowed, found.credit, found.room) == (2, 6 + 4, 6 + 4)
    assert pool(a_beat(reserve=3, running=3, interactive=3), a_beat("v"), outstanding={}).borrowed == 0
    assert pool(idle, borrowed, outstanding={"d": 6}).hold is not None


def test_only_the_pools_that_are_asked_for_are_looked_at() -> None:
    assert set(pools(a_beat(deployment="d"), a_beat(deployment="e"), catalog=two_routes(), only=["e"])) == {"e"}


# a model's jobs


def test_a_job_waits_for_nothing_where_a_deployment_has_a_free_slot() -> None:
    assert holds("m", catalog=two_routes(), pools=pools(a_beat(deployment="e"), catalog=two_routes())) == ()


def test_a_job_that_waits_says_what_holds_each_of_its_deployments() -> None:
    catalog = a_catalog(Route("d"), Route("e"), e=1.0)
    found = pools(
        paused(DENIED, "401"), a_beat(deployment="e"), catalog=catalog, accounts={"e": an_account(1, limit=1)}
    )

    assert [hold.code for hold in holds("m", catalog=catalog, pools=found)] == [HoldCode.DENIED, HoldCode.DAILY_CAP]


def test_a_spare_that_is_free_takes_no_job_of_a_deployment_that_is_full() -> None:
    catalog = a_catalog(Route("d"), Route("e", 0))
    full = pools(a_beat(deployment="d", running=4), a_beat(deployment="e"), catalog=catalog)
    gone = pools(a_beat(deployment="e"), catalog=catalog)

    assert [hold.message for hold in holds("m", catalog=catalog, pools=full)] == ["every worker of d is full"]
    assert holds("m", catalog=catalog, pools=gone) == ()


def test_a_job_waits_for_those_that_have_not_failed_it() -> None:
    catalog = two_routes()
    full = pools(a_beat(deployment="d"), a_beat(deployment="e", running=4), catalog=catalog)
    gone = pools(a_beat(deployment="d"), catalog=catalog)

    assert [hold.message for hold in holds("m", catalog=catalog, pools=full, tried=("d",))] == [
        "every worker of e is full"
    ]
    assert holds("m", catalog=catalog, pools=gone, tried=("d",)) == ()


def test_a_job_whose_model_is_gone_says_so() -> None:
    [hold] = holds("n", catalog=a_catalog(), pools=pools(a_beat()))

    assert hold == Hold(HoldCode.UNKNOWN_MODEL, "the active catalog has no model n")


# silence


def test_only_a_deployment_without_any_worker_is_silent_and_a_beat_ends_it() -> None:
    silence, catalog = Silence(NOON), a_catalog(Route("d"), Route("e"))
    nobody, draining = (
        pools(a_beat(deployment="e"), catalog=catalog),
        pools(a_beat(deployment="e"), a_beat(draining=True), catalog=catalog),
    )

    silence.observe(nobody, Ms(NOON + 1_500))
    silence.observe(nobody, Ms(NOON + 3_000))
    silent = silence.longer_than(2_999), silence.longer_than(3_000)
    silence.observe(draining, Ms(NOON + 4_000))

    assert silent == ({"d"}, set())
    assert silence.longer_than(0) == set()


def test_one_look_counts_two_seconds_of_silence_at_most_and_none_if_nobody_is_heard() -> None:
    silence, catalog = Silence(NOON), a_catalog(Route("d"), Route("e"))

    silence.observe(pools(a_beat(deployment="e"), catalog=catalog), Ms(NOON + 60_000))
    silence.observe(pools(catalog=catalog), Ms(NOON + 61_000))

    assert silence.lasts_ms == {"d": 2_000, "e": 0}

"""A daily cap holds: from the first job, through a crash, and while nobody can say what was spent."""

from collections import Counter
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from broker.client import Client, RequestRefused
from broker.core.outstanding import Outstanding
from broker.core.records import EndedAttempt, Running
from broker.ports import Ledger
from broker.roles.daily_spend import UNKNOWN_AFTER_S, UNRECORDED_S, DailySpend
from schemas.api import HoldCode
from schemas.catalog import Catalog, Deployment, Model, Price, Route
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Attempt
from schemas.outcome import Charge
from schemas.units import Ms, NanoUsd
from tests.builders import a_report, a_success, an_entry, now
from tests.proxy import a_postgres_proxy
from tests.real.test_broker import a_broker
from tests.real.test_broker import a_worker as a_real_worker
from tests.real.test_dispatch import a_beat, a_leader, committed, running, spend
from tests.real.test_interactive import Door, a_door, worker_says
from tests.real.test_interactive import a_beat as a_worker
from tests.reporting import report
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
USD = 10**9
DEAR = Price(output=100_000.0)
"""A token of output costs 0.1 USD. The body of the builders asks for 8, which are 0.8 USD."""
SMALL = b'{"messages":[{"role":"user","content":"Say hello."}],"max_tokens":1}'
"""0.1 USD."""


def a_catalog(cap_usd: float, *, price: Price | None = DEAR, spare: bool = False) -> Catalog:
    routes = (Route("d"), Route("e", 0)) if spare else (Route("d"),)
    capped = Deployment(engine="simulated", price=price, daily_cap_usd=cap_usd)
    deployments = {"d": capped, "e": Deployment(engine="simulated")} if spare else {"d": capped}
    return Catalog(models={"m": Model(route=routes)}, deployments=deployments)


@dataclass
class Seconds:
    """A clock that the test moves."""

    at: float = 0.0

    def __call__(self) -> float:
        return self.at


async def ends(nc: Nats, ledger: Ledger, one: Running, cost: float) -> None:
    """The attempt succeeds, at this cost in USD."""
    charge = Charge(NanoUsd(round(cost * USD)), "provider")
    await report(nc, a_report(a_success(charge=charge), job=one.job, attempt=one.attempt, deployment=one.deployment))

    async def settled() -> bool:
        return all(other.job != one.job for other in await ledger.attempts.running())

    await until(settled, "it is settled")


async def stays(ledger: Ledger, count: int, leader: "Leader") -> None:
    """No more run, although the leader has looked again and again."""
    await leader.looks()
    assert len(await ledger.attempts.running()) == count


@dataclass
class Leader:
    """Counts the rounds of a leader by the times that it reads the clock."""

    reads: int = 0

    def clock(self) -> Ms:
        self.reads += 1
        return now()

    async def looks(self, times: int = 12) -> None:
        seen = self.reads

        async def looked() -> bool:
            return self.reads >= seen + times

        await until(looked, "the leader looked")


async def test_the_first_jobs_are_held_to_the_cap_before_anything_was_ever_recorded(nc: Nats, ledger: Ledger) -> None:
    await ledger.intake.admit([an_entry() for _ in range(64)])
    leader = Leader()

    async with a_leader(nc, ledger, a_catalog(2.0), a_beat("d", slots=32), clock=leader.clock):
        await running(ledger, at_least=2)

        await stays(ledger, 2, leader)


async def test_a_cap_that_cannot_pay_one_job_starts_none(nc: Nats, ledger: Ledger) -> None:
    await ledger.intake.admit([an_entry()])
    leader = Leader()

    async with a_leader(nc, ledger, a_catalog(0.5), a_beat("d"), clock=leader.clock):
        await stays(ledger, 0, leader)


async def test_a_cheaper_job_passes_one_that_the_rest_cannot_pay(nc: Nats, ledger: Ledger) -> None:
    dear, cheap = an_entry(), an_entry(body=SMALL)
    await ledger.intake.admit([dear])
    await ledger.intake.admit([cheap])

    async with a_leader(nc, ledger, a_catalog(0.5), a_beat("d", slots=1)):
        [found] = await running(ledger)

    assert found.job == cheap.id


async def test_a_spare_runs_what_the_rest_cannot_pay(nc: Nats, ledger: Ledger) -> None:
    dear, cheap = an_entry(), an_entry(body=SMALL)
    await ledger.intake.admit([dear, cheap])

    async with a_leader(nc, ledger, a_catalog(0.5, spare=True), a_beat("d"), a_beat("e")):
        found = await running(ledger, at_least=2)

    assert {one.job: one.deployment for one in found} == {dear.id: "e", cheap.id: "d"}


async def test_what_a_leader_before_has_started_is_reserved_for(nc: Nats, ledger: Ledger) -> None:
    for _ in range(2):
        await committed(ledger, an_entry(), "d")
    await ledger.intake.admit([an_entry() for _ in range(8)])
    leader = Leader()

    async with a_leader(nc, ledger, a_catalog(2.5), a_beat("d", slots=32), clock=leader.clock, sweep_s=60.0):
        await running(ledger, at_least=3)

        await stays(ledger, 3, leader)


async def test_what_a_job_really_cost_takes_the_place_of_its_estimate(nc: Nats, ledger: Ledger) -> None:
    await ledger.intake.admit([an_entry() for _ in range(8)])
    leader = Leader()

    async with a_leader(nc, ledger, a_catalog(1.7), a_beat("d", slots=32), clock=leader.clock):
        first, _ = await running(ledger, at_least=2)
        await ends(nc, ledger, first, cost=0.05)

        await running(ledger, at_least=2)
        await stays(ledger, 2, leader)


async def test_what_is_put_back_is_reserved_for_no_longer(ledger: Ledger) -> None:
    await committed(ledger, an_entry(), "d")
    outstanding, [one] = Outstanding(), await ledger.attempts.running()
    outstanding.dispatched([replace(one, reserved=NanoUsd(7))], now())
    daily_spend = DailySpend(ledger.spend, now)
    daily_spend.leads = outstanding
    await daily_spend.refresh()

    outstanding.settled([EndedAttempt(one.job, one.attempt, one.flow)], now())
    before = daily_spend.accounts(a_catalog(1.0))["d"].jobs
    await daily_spend.refresh()

    assert before == 7  # what was read may lack its cost
    assert daily_spend.accounts(a_catalog(1.0))["d"].jobs == 0


async def test_without_a_price_one_runs_at_a_time_until_costs_are_recorded(nc: Nats, ledger: Ledger) -> None:
    await ledger.intake.admit([an_entry() for _ in range(16)])
    leader = Leader()

    async with a_leader(nc, ledger, a_catalog(9.0, price=None), a_beat("d", slots=32), clock=leader.clock):
        [first] = await running(ledger)
        await stays(ledger, 1, leader)
        await ends(nc, ledger, first, cost=0.1)
        [second] = await running(ledger)
        await ends(nc, ledger, second, cost=0.1)

        await running(ledger, at_least=2)
        await stays(ledger, 2, leader)


async def test_a_price_of_nothing_holds_nothing(nc: Nats, ledger: Ledger) -> None:
    await ledger.intake.admit([an_entry() for _ in range(64)])

    async with a_leader(nc, ledger, a_catalog(0.001, price=Price()), a_beat("d", slots=32)):
        found = await running(ledger, at_least=32)

    assert Counter(one.deployment for one in found) == {"d": 32}


async def test_enough_recorded_costs_are_believed_more_than_the_price(nc: Nats, ledger: Ledger) -> None:
    await spend(ledger, 20, each=NanoUsd(USD // 100))
    await ledger.intake.admit([an_entry() for _ in range(64)])

    async with a_leader(nc, ledger, a_catalog(0.3), a_beat("d", slots=32)):
        found = await running(ledger, at_least=10)

    assert len(found) == 10


async def test_a_new_day_goes_by_the_costs_of_the_days_before(ledger: Ledger) -> None:
    await spend(ledger, 20, each=NanoUsd(USD // 100))
    tomorrow = Ms(now() + 24 * 3600 * 1000)
    daily_spend = DailySpend(ledger.spend, lambda: tomorrow)

    await daily_spend.refresh()

    account = daily_spend.accounts(a_catalog(1.0))["d"]
    assert (account.used, account.estimate) == (0, USD // 100)


async def test_a_mean_is_forgotten_after_a_week(ledger: Ledger) -> None:
    await spend(ledger, 20, each=NanoUsd(USD // 100))
    later = Ms(now() + 7 * 24 * 3600 * 1000)
    daily_spend = DailySpend(ledger.spend, lambda: later)

    await daily_spend.refresh()

    assert not daily_spend.has_mean("d")


# interactive requests


async def code(door: Door) -> str:
    """Why a request is refused."""
    return (await (await door.ask()).word()).code


async def answered(door: Door) -> Attempt:
    """A request is answered, and its outcome is not settled yet."""
    asker = await door.ask()
    taken = await door.taken()
    await taken.finish()
    await asker.kinds()
    return taken.attempt


async def test_the_first_requests_are_held_to_the_cap(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_worker("d"), catalog=a_catalog(2.0)) as door:
        for _ in range(2):
            await door.ask()
            await door.taken()

        assert await code(door) == "daily_cap"


async def test_a_request_counts_until_the_ledger_has_its_cost(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_worker("d"), catalog=a_catalog(1.0)) as door:
        attempt = await answered(door)
        await door.daily_spend.refresh()
        unrecorded = await code(door)

        await door.settle(worker_says(attempt, a_success(charge=Charge(NanoUsd(USD // 10), "provider"))))
        await door.daily_spend.refresh()

        assert unrecorded == "daily_cap"
        assert (await answered(door)).number == 1


async def test_a_request_whose_worker_never_reports_counts_a_minute(nc: Nats, ledger: Ledger) -> None:
    seconds = Seconds()
    async with a_door(nc, ledger, a_worker("d"), catalog=a_catalog(1.0), monotonic=seconds) as door:
        await answered(door)
        seconds.at += 1000.0  # nobody could read the ledger
        await door.daily_spend.refresh()
        after_an_outage = await code(door)

        for _ in range(int(UNRECORDED_S)):
            seconds.at += 1.0
            await door.daily_spend.refresh()

        assert after_an_outage == "daily_cap"
        await answered(door)


async def test_while_the_ledger_cannot_be_read_nothing_starts_under_a_cap(nc: Nats, ledger: Ledger) -> None:
    seconds = Seconds()
    async with a_door(nc, ledger, a_worker("d"), catalog=a_catalog(100.0), monotonic=seconds) as door:
        seconds.at += UNKNOWN_AFTER_S
        await answered(door)
        seconds.at += 0.1

        assert await code(door) == HoldCode.SPEND_UNKNOWN


async def test_while_the_ledger_cannot_be_read_a_deployment_without_a_cap_goes_on(nc: Nats, ledger: Ledger) -> None:
    seconds = Seconds()
    async with a_door(nc, ledger, a_worker("e"), catalog=a_catalog(1.0, spare=True), monotonic=seconds) as door:
        door.beats.append(a_worker("d"))
        seconds.at += 1000.0

        await door.ask()

        assert (await door.taken("e")).attempt.deployment == "e"


async def test_a_fallback_is_paid_beside_the_attempt_that_failed(nc: Nats, ledger: Ledger) -> None:
    catalog = a_catalog(1.0, spare=True)
    capped = replace(catalog.deployments["d"], daily_cap_usd=1.0)
    both = replace(catalog, deployments={"d": capped, "e": capped})
    async with a_door(nc, ledger, a_worker("d"), a_worker("e"), catalog=both) as door:
        await door.ask()
        await (await door.taken("d")).fail()
        await door.taken("e")

        assert await code(door) == "daily_cap"


async def test_two_brokers_pass_a_cap_by_what_one_of_them_may_start_unseen(nc: Nats, ledger: Ledger) -> None:
    """Neither knows what the other has started: no beat has told, and nothing is settled."""
    async with a_door(nc, ledger, a_worker("d", reserve=99), catalog=a_catalog(2.0), brokers=2, apart=True) as door:
        askers = [await door.ask() for _ in range(32)]

        async def all_are_taken_or_refused() -> bool:
            return door.untaken() + sum(asker.unread for asker in askers) == 32

        await until(all_are_taken_or_refused, "every request is taken or refused")
        assert door.untaken() == 4


# a whole broker


PRICED = """
[models.m]
[[models.m.route]]
deployment = "d"

[deployments.d]
engine = "simulated"
reserve = 4
price = { output = 1000.0 }
daily_cap_usd = 0.02
"""
"""A token of output costs 0.001 USD, so the cap pays for five requests of 4 tokens."""
ASKED = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


async def refusal(client: Client) -> str | None:
    """Why a request is refused. None: it is answered."""
    try:
        await client.infer("m", ASKED, timeout_s=10)
    except RequestRefused as refused:
        return refused.problem.code
    return None


async def test_requests_stay_within_the_cap_while_postgres_is_away_and_when_it_is_back(
    nats_url: str, ledger_url: str, nc: Nats, ledger: Ledger
) -> None:
    async with (
        a_postgres_proxy(ledger_url) as proxy,
        a_broker(nats_url, proxy.url, nc) as running,
        a_real_worker(nc),
    ):
        await running.client.apply_catalog(PRICED)
        await running.has_a_worker()
        assert await refusal(running.client) is None
        proxy.is_open = False
        proxy.cut()

        away = await until_refused(running.client)
        proxy.is_open = True

        async def all_is_recorded() -> bool:
            today = (await ledger.spend.read(now())).today
            return "d" in today and today["d"].executions == 1 + away

        await until(all_is_recorded, "the executions are recorded", within_s=30)
        back = await until_refused(running.client)
        spent = (await ledger.spend.read(now())).today["d"].cost_nano_usd

    assert away + 1 <= 5
    assert 1 + away + back <= 5
    assert spent <= 0.02 * USD


async def until_refused(client: Client) -> int:
    """Ask one request after the other; return how many were answered."""
    answered = 0
    while (why := await refusal(client)) is None:
        answered += 1
    assert why in {"daily_cap", "spend_unknown"}
    return answered

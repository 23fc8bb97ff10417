"""Interactive requests through a broker's door; the test is the client, and the workers too."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
import pytest
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from broker.bus.request_cancels import cancel_requests
from broker.bus.runs import Rulings
from broker.core.price import Prices
from broker.core.principal import Identify, Principal, open_door
from broker.core.seals import request_seal
from broker.core.settle import decide
from broker.doors.nats_infer import NatsInfer
from broker.doors.requests import Requests
from broker.ports import Ledger
from broker.roles.daily_spend import DailySpend
from broker.roles.relay import FINISH_S, Relay
from broker.roles.reserves import Reserves
from schemas import subjects
from schemas.accounts import Role
from schemas.api import JobShow, State
from schemas.catalog import Catalog, Deployment, Model, Price, Route
from schemas.codec import CHUNK, ERROR, FAILURE, FINAL, KEEPALIVE, KIND, SEQ, Bundle, jsoned, packed, unpacker
from schemas.endpoints import CHAT
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Attempt, Job, Lane
from schemas.outcome import (
    BadRequest,
    Cancelled,
    Charge,
    EngineFault,
    EngineLost,
    Failed,
    Failure,
    Outcome,
    Report,
    Usage,
)
from schemas.ruling import Ruling
from schemas.units import Ms, NanoUsd
from schemas.worker import WorkerBeat
from tests import builders
from tests.builders import SEAL_KEY, a_batch_id, a_job, a_report, a_success, an_attempt, an_id, now
from tests.declared import declare_streams
from tests.system import until
from workers.reply import problem_of

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
_attempts = unpacker(Attempt)
_rulings: Bundle[Ruling] = Bundle(Ruling)
FAULT = EngineFault("x")


class Clock:
    """It stands still until the test moves it."""

    def __init__(self) -> None:
        self._at = now()
        self.read = 0
        """How often."""

    def __call__(self) -> Ms:
        self.read += 1
        return self._at

    def advance(self, ms: int) -> None:
        self._at = Ms(self._at + ms)


@dataclass(frozen=True, slots=True)
class Word:
    """One message to a client."""

    kind: str
    data: bytes
    sequence: str | None
    job: str | None

    @property
    def code(self) -> str:
        """Of an error."""
        assert self.kind == ERROR, self
        return str(json.loads(self.data)["error"]["code"])


class Asker:
    """One request, and what comes back for it."""

    def __init__(self, subscription: Subscription, job: UUID | None) -> None:
        self._subscription = subscription
        self.job = job

    async def word(self) -> Word:
        message = await self._subscription.next_msg(timeout=10)
        headers = message.headers or {}
        return Word(headers.get(KIND, ""), message.data, headers.get(SEQ), headers.get("Infermq-Job"))

    async def kinds(self) -> list[str]:
        """Of all words up to the last."""
        kinds = [(await self.word()).kind]
        while kinds[-1] not in {FINAL, ERROR}:
            kinds.append((await self.word()).kind)
        return kinds

    @property
    def unread(self) -> int:
        return self._subscription.pending_msgs

    async def leave(self) -> None:
        await self._subscription.unsubscribe()


class Taken:
    """An attempt in the hands of a worker, which is the test."""

    def __init__(self, nc: Nats, attempt: Attempt, ack: str) -> None:
        self._nc = nc
        self.attempt = attempt
        self._ack = ack

    async def say(self, kind: str, data: bytes = b"", *, sequence: int | None = None, **headers: str) -> None:
        if sequence is not None:
            headers[SEQ] = str(sequence)
        assert self.attempt.reply_to is not None
        await self._nc.publish(self.attempt.reply_to, data, headers={KIND: kind, **headers})

    async def finish(self, data: bytes = b'{"choices":[]}') -> None:
        await self.say(FINAL, data, sequence=1)

    async def fail(self, failure: Failure = FAULT) -> None:
        """In a way that another deployment may not."""
        said = json.dumps(json.loads(jsoned(failure)))
        data = jsoned({"error": problem_of(Failed(failure))})
        await self.say(ERROR, data, sequence=1, **{FAILURE: said})

    async def turn_away(self) -> None:
        """What NATS says of it, where the test is NATS too."""
        await self._nc.publish(self._ack, b'{"error":{"err_code":10077,"description":"maximum messages exceeded"}}')


class Door:
    """Relays with their doors, their clients and their workers."""

    def __init__(
        self, nc: Nats, ledger: Ledger, catalog: Catalog, beats: Sequence[WorkerBeat], daily_spend: DailySpend
    ) -> None:
        self.nc = nc
        self.daily_spend = daily_spend
        self.ledger = ledger
        self.catalog = catalog
        self.beats = list(beats)
        self.clock = Clock()
        self._serving: list[asyncio.Task[None]] = []
        self._workers: list[Subscription] = []
        self._handed: dict[str, asyncio.Queue[Taken]] = {}
        self._rulings: asyncio.Queue[Ruling] = asyncio.Queue()
        self._attempts: dict[str, Attempt] = {}
        self._aborted: asyncio.Queue[Attempt] = asyncio.Queue()

    async def listen(self) -> None:
        for name in self.catalog.deployments:
            self._handed[name] = asyncio.Queue()
            self._workers.append(await self.nc.subscribe(subjects.now(name), cb=self._take))
            await self.nc.subscribe(subjects.abort_order(name), cb=self._abort)
        await self.nc.subscribe(subjects.RULING, cb=self._ruled)

    async def workers_leave(self) -> None:
        for worker in self._workers:
            await worker.unsubscribe()

    async def _take(self, message: Msg) -> None:
        attempt = _attempts.decode(message.data)
        self._attempts[str(attempt.reply_to)] = attempt
        self._handed[attempt.deployment].put_nowait(Taken(self.nc, attempt, message.reply))

    async def _abort(self, message: Msg) -> None:
        self._aborted.put_nowait(self._attempts[msgspec.msgpack.decode(message.data, type=str)])

    async def _ruled(self, message: Msg) -> None:
        for ruling in _rulings.unpack(message.data)[0]:
            self._rulings.put_nowait(ruling)

    async def ask(
        self,
        job: Job | None = None,
        *,
        data: bytes | None = None,
        model: str = "m",
        tenant: str = "default",
        **headers: str,
    ) -> Asker:
        job = job or a_job(id=an_id())
        inbox = f"{subjects.inbox_prefix(tenant)}.{an_id()}"
        subscription = await self.nc.subscribe(inbox)
        subject = subjects.infer(model, tenant, "default")
        await self.nc.publish(subject, packed(job) if data is None else data, inbox, headers=headers or None)
        return Asker(subscription, job.id)

    async def taken(self, deployment: str = "d") -> Taken:
        """The next attempt that a worker of it gets."""
        async with asyncio.timeout(10):
            return await self._handed[deployment].get()

    def untaken(self, deployment: str = "d") -> int:
        return self._handed[deployment].qsize()

    async def aborts(self) -> Attempt:
        async with asyncio.timeout(10):
            return await self._aborted.get()

    async def ruling(self) -> Ruling:
        """The broker's own decision on a request."""
        async with asyncio.timeout(10):
            return await self._rulings.get()

    async def settle(self, *items: Report | Ruling) -> JobShow | None:
        """What the ledger makes of the reports and rulings on a job."""
        for item in items:
            prices = Prices(catalog=self.catalog, source="catalog:1")
            await self.ledger.settlement.settle(decide([item], {}, prices=prices, now=now(), unit=0.5), now=now())
        return await self.ledger.jobs.find(items[0].job, "default")

    def serve(self, infer: NatsInfer) -> None:
        self._serving.append(asyncio.create_task(infer.serve()))

    def stop(self) -> None:
        for task in self._serving:
            task.cancel()

    async def stopped(self) -> None:
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def is_deaf(self) -> bool:
        """Whether no request is taken any more. In the moment in which a subscription ends, the server may lose one."""
        try:
            return not await is_answered(self.nc)
        except NatsTimeoutError:
            return False

    async def answers(self) -> None:
        """What was said before has been heard by now: a request of another model is answered."""
        assert (await (await self.ask(model="other")).word()).code == "unknown_model"


def a_beat(deployment: str, *, reserve: int = 4, interactive: int = 0, jobs: int = 0) -> WorkerBeat:
    fields = {"deployment": deployment, "slots": 4, "reserve": reserve, "interactive": interactive}
    return builders.a_beat(f"of-{deployment}", running=jobs + interactive, **fields)


def a_route(*routes: Route, model: str = "m", **caps_usd: float) -> Catalog:
    """One model, and the daily caps of those of its deployments that have one."""
    names = [route.deployment for route in routes]
    deployments = {
        name: Deployment(engine="simulated", price=Price(input=1000.0, output=0.0), daily_cap_usd=caps_usd.get(name))
        for name in names
    }
    return Catalog(models={model: Model(endpoints=(CHAT.path,), route=routes)}, deployments=deployments)


def worker_says(attempt: Attempt, outcome: Outcome) -> Report:
    return a_report(
        outcome, job=attempt.job, attempt=attempt.number, deployment=attempt.deployment, interactive=attempt
    )


async def ticks(door: Door, count: int = 2) -> None:
    """Wait until a relay has looked at the clock so often."""
    seen = door.clock.read

    async def looked() -> bool:
        return door.clock.read >= seen + count

    await until(looked, "a relay looked at the clock")


async def spend(ledger: Ledger, cost: NanoUsd) -> None:
    """As much as one request cost `d` today."""
    report = worker_says(an_attempt(lane=Lane.INTERACTIVE), a_success(charge=Charge(cost, "provider")))
    prices = Prices(catalog=Catalog(), source="catalog:1")
    await ledger.settlement.settle(decide([report], {}, prices=prices, now=now(), unit=0.5), now=now())


ONE = a_route(Route("d"))
TWO = a_route(Route("d"), Route("e", 0))
"""`e` is the spare."""


@asynccontextmanager
async def a_door(
    nc: Nats,
    ledger: Ledger,
    *beats: WorkerBeat,
    catalog: Catalog = ONE,
    brokers: int = 1,
    entropy: Callable[[], int] = lambda: secrets.randbits(80),
    finish_s: float = 0.05,
    identify: Identify = open_door,
    monotonic: Callable[[], float] | None = None,
    apart: bool = False,
) -> AsyncIterator[Door]:
    """`apart`: each broker knows only of its own money what is reserved."""
    await declare_streams(nc)
    door = Door(nc, ledger, catalog, beats, DailySpend(ledger.spend, now, monotonic=monotonic))
    await door.listen()
    await door.daily_spend.refresh()
    for number in range(brokers):
        daily_spend = DailySpend(ledger.spend, now) if apart else door.daily_spend
        await daily_spend.refresh()
        reserves = Reserves(
            catalog=lambda: door.catalog,
            beats=lambda: door.beats,
            daily_spend=daily_spend,
            clock=now,
            entropy=entropy,
        )
        relay = Relay(
            nc,
            name=f"b{number}",
            reserves=reserves,
            rulings=Rulings(nc, a_batch_id, lambda: SEAL_KEY),
            seal_key=lambda: SEAL_KEY,
            clock=door.clock,
            tick_s=0.02,
            finish_s=finish_s,
        )
        requests = Requests(relay=relay, catalog=lambda: door.catalog, clock=door.clock, entropy=entropy)
        infer = NatsInfer(nc, requests, identify=identify, clock=door.clock, entropy=entropy)
        door.serve(infer)
    await until(lambda: is_answered(nc), "the door is open")
    try:
        yield door
    finally:
        door.stop()
        await door.stopped()


async def is_answered(nc: Nats) -> bool:
    try:
        await nc.request(subjects.infer("other", "default", "default"), b"", timeout=2)
    except NoRespondersError:
        return False
    return True


# an answer


async def test_what_the_worker_says_reaches_the_client_as_it_was_said(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d")) as door:
        asker = await door.ask()
        worker = await door.taken()

        await worker.say(KEEPALIVE)
        await worker.say(CHUNK, b"one", sequence=1)
        await worker.say(CHUNK, b"two", sequence=2)
        await worker.say(FINAL, b"all", sequence=3)

        job = str(asker.job)
        assert [await asker.word() for _ in range(4)] == [
            Word(KEEPALIVE, b"", None, job),
            Word(CHUNK, b"one", "1", job),
            Word(CHUNK, b"two", "2", job),
            Word(FINAL, b"all", "3", job),
        ]


async def test_an_attempt_carries_what_its_record_needs(nc: Nats, ledger: Ledger) -> None:
    job = a_job(id=an_id(), custom_id="c", metadata={"k": "v"}, deadline_ms=now() + 60_000)
    async with a_door(nc, ledger, a_beat("d")) as door:
        await door.ask(job, traceparent="00-1-2-01")

        attempt = (await door.taken()).attempt

        assert attempt == an_attempt(
            job=job.id,
            lane=Lane.INTERACTIVE,
            endpoint=job.endpoint,
            body=job.body,
            key="default",
            custom_id="c",
            metadata={"k": "v"},
            deadline_ms=job.deadline_ms,
            traceparent="00-1-2-01",
            admitted_ms=attempt.admitted_ms,
            dispatched_ms=attempt.dispatched_ms,
            left_ms=(job.deadline_ms or 0) - attempt.dispatched_ms,
            reply_to=attempt.reply_to,
            seal=request_seal(attempt, SEAL_KEY),
        )


async def test_two_brokers_answer_a_request_once(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d"), brokers=2) as door:
        asker = await door.ask()
        await (await door.taken()).finish()

        assert await asker.kinds() == [FINAL]
        await door.answers()
        assert door.untaken() == 0


async def test_the_routes_weights_share_the_requests(nc: Nats, ledger: Ledger) -> None:
    shares = [0.0, 0.749, 0.751, 0.999]
    numbers = iter([int(share * (1 << 53)) + (token << 60) for share in shares for token in (1, 2, 3)])
    catalog = a_route(Route("d", 3), Route("e", 1))
    async with a_door(nc, ledger, a_beat("d"), a_beat("e"), catalog=catalog, entropy=lambda: next(numbers)) as door:
        for _ in range(4):
            await door.ask()

        for deployment in ("d", "d", "e", "e"):
            await door.taken(deployment)


# another deployment


async def test_what_one_deployment_fails_the_next_takes_and_the_client_hears_nothing_of_it(
    nc: Nats, ledger: Ledger
) -> None:
    async with a_door(nc, ledger, a_beat("d"), a_beat("e"), catalog=TWO) as door:
        asker = await door.ask()
        first = await door.taken("d")
        await first.say(KEEPALIVE)

        await first.fail()
        second = await door.taken("e")
        await second.finish()

        assert await asker.kinds() == [KEEPALIVE, FINAL]
        assert (first.attempt.number, second.attempt.number) == (1, 2)


async def test_once_something_was_streamed_no_other_deployment_takes_it_and_the_failure_is_recorded(
    nc: Nats, ledger: Ledger
) -> None:
    async with a_door(nc, ledger, a_beat("d"), a_beat("e"), catalog=TWO) as door:
        asker = await door.ask()
        worker = await door.taken("d")
        failed = worker_says(worker.attempt, Failed(FAULT, Usage(7, 1)))
        await worker.say(CHUNK, b"one", sequence=1)

        await worker.fail()

        assert await asker.kinds() == [CHUNK, ERROR]
        job = await door.settle(failed, await door.ruling())
        assert job is not None
        assert (job.state, job.failure) == (State.FAILED, FAULT)
        assert (job.cost_nano_usd, len(job.executions)) == (7_000_000, 1)
        assert door.untaken("e") == 0


async def test_what_every_deployment_fails_is_answered_and_recorded(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d"), a_beat("e"), catalog=TWO) as door:
        asker = await door.ask()
        await (await door.taken("d")).fail()

        await (await door.taken("e")).fail(EngineFault("both"))

        assert (await asker.word()).code == "engine_fault"
        job = await door.settle(await door.ruling())
        assert job is not None
        assert (job.state, job.failure) == (State.FAILED, EngineFault("both"))


async def test_a_failure_that_no_other_deployment_mends_is_passed_on(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d"), a_beat("e"), catalog=TWO) as door:
        asker = await door.ask()
        problem = problem_of(Failed(BadRequest("x")))

        await (await door.taken("d")).say(ERROR, jsoned({"error": problem}), sequence=1)

        assert (await asker.word()).code == "bad_request"
        await door.answers()
        assert door.untaken("e") == 0


async def test_a_deployment_that_came_after_a_request_takes_it_when_it_failed(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d"), catalog=TWO) as door:
        asker = await door.ask()
        first = await door.taken("d")
        door.beats.append(a_beat("e"))

        await first.fail()
        await (await door.taken("e")).finish()

        assert await asker.kinds() == [FINAL]


async def test_a_failure_of_a_kind_that_this_broker_does_not_know_ends_no_broker(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d"), a_beat("e"), catalog=TWO) as door:
        asker = await door.ask()
        news = {FAILURE: json.dumps({"type": "invented_tomorrow"})}
        error = jsoned({"error": {"code": "invented_tomorrow", "message": "x"}})
        await (await door.taken("d")).say(ERROR, error, sequence=1, **news)
        await (await door.taken("e")).say(ERROR, error, sequence=1, **news)

        assert (await asker.word()).code == "invented_tomorrow"
        job = await door.settle(await door.ruling())
        assert job is not None
        assert (job.state, type(job.failure)) == (State.FAILED, EngineLost)


async def test_an_error_that_cannot_be_read_ends_its_request(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d")) as door:
        asker = await door.ask()

        await (await door.taken("d")).say(ERROR, b"nope", sequence=1)

        assert (await asker.word()).code == "engine_fault"


async def test_what_an_earlier_attempt_still_says_is_not_passed_on(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d"), a_beat("e"), catalog=TWO) as door:
        asker = await door.ask()
        first = await door.taken("d")
        await first.fail()
        second = await door.taken("e")

        await first.say(CHUNK, b"late", sequence=1)
        await first.finish(b"late")
        await second.finish(b"right")

        assert (await asker.word()).data == b"right"
        assert asker.unread == 0


# giving up


async def test_at_its_deadline_a_request_is_answered_and_its_worker_stopped(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d"), a_beat("e"), catalog=TWO) as door:
        asker = await door.ask(a_job(id=an_id(), deadline_ms=door.clock() + 60_000))
        await (await door.taken("d")).say(KEEPALIVE)
        assert (await asker.word()).kind == KEEPALIVE

        door.clock.advance(60_000)

        assert (await asker.word()).code == "timed_out"
        assert (await door.aborts()).job == asker.job
        await door.answers()
        assert door.untaken("e") == 0


@pytest.mark.parametrize(
    ("is_taken", "after_ms", "code"),
    [(False, 10_000, "no_worker"), (True, 5_000, "worker_lost")],
    ids=["not taken", "silent"],
)
async def test_a_request_whose_worker_is_gone_is_answered_stopped_and_recorded(
    nc: Nats, ledger: Ledger, *, is_taken: bool, after_ms: int, code: str
) -> None:
    async with a_door(nc, ledger, a_beat("d")) as door:
        asker = await door.ask()
        worker = await door.taken()
        if is_taken:
            await worker.say(KEEPALIVE)
            assert (await asker.word()).kind == KEEPALIVE
        await ticks(door)

        door.clock.advance(after_ms)

        assert (await asker.word()).code == code
        assert (await door.aborts()).job == asker.job
        job = await door.settle(await door.ruling())
        assert job is not None
        assert (job.state, job.executions) == (State.FAILED, ())
        assert isinstance(job.failure, EngineLost)


@pytest.mark.parametrize(("is_taken", "after_ms"), [(False, 10_000), (True, 5_000)], ids=["not taken", "silent"])
async def test_another_deployment_takes_it_when_the_worker_is_gone_and_has_its_own_time(
    nc: Nats, ledger: Ledger, *, is_taken: bool, after_ms: int
) -> None:
    async with a_door(nc, ledger, a_beat("d"), a_beat("e"), catalog=TWO) as door:
        asker = await door.ask()
        worker = await door.taken("d")
        if is_taken:
            await worker.say(KEEPALIVE)
            assert (await asker.word()).kind == KEEPALIVE
        await ticks(door)

        door.clock.advance(after_ms)
        second = await door.taken("e")
        door.clock.advance(4_000)
        await ticks(door)
        await second.finish()

        assert (await door.aborts()).job == asker.job
        assert await asker.kinds() == [FINAL]


@pytest.mark.parametrize("says", ["nothing", "a failure"])
async def test_a_catalog_that_drops_the_model_of_a_request_ends_no_broker(
    nc: Nats, ledger: Ledger, says: str
) -> None:
    async with a_door(nc, ledger, a_beat("d"), a_beat("e"), catalog=TWO) as door:
        asker = await door.ask()
        worker = await door.taken("d")
        door.catalog = a_route(Route("d"), model="n")

        if says == "nothing":
            await ticks(door)
            door.clock.advance(10_000)
        else:
            await worker.fail()

        assert (await asker.word()).code == ("unknown_model" if says == "nothing" else "engine_fault")
        job = await door.settle(await door.ruling())
        assert job is not None
        assert job.state is State.FAILED
        assert (await (await door.ask()).word()).code == "unknown_model"
        other = await door.ask(model="n")
        await (await door.taken("d")).finish()
        assert await other.kinds() == [FINAL]


async def test_a_worker_that_goes_silent_in_its_answer_is_not_followed_by_another(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d"), a_beat("e"), catalog=TWO) as door:
        asker = await door.ask()
        await (await door.taken("d")).say(CHUNK, b"one", sequence=1)
        assert (await asker.word()).kind == CHUNK

        door.clock.advance(5_000)

        assert (await asker.word()).code == "worker_lost"
        assert door.untaken("e") == 0


async def test_a_worker_that_is_heard_now_and_then_is_not_given_up_on(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d")) as door:
        asker = await door.ask()
        worker = await door.taken()

        for _ in range(4):
            await worker.say(KEEPALIVE)
            assert (await asker.word()).kind == KEEPALIVE
            door.clock.advance(4_000)
            await ticks(door)
        await worker.finish()

        assert await asker.kinds() == [FINAL]


async def test_what_an_attempt_that_was_given_up_on_comes_to_ends_nothing(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d"), a_beat("e"), catalog=TWO) as door:
        asker = await door.ask()
        first = await door.taken("d")
        await ticks(door)
        door.clock.advance(10_000)
        second = await door.taken("e")
        late = worker_says(first.attempt, Cancelled(Usage(7, 1)))

        assert await door.settle(late) is None
        await second.finish()
        job = await door.settle(worker_says(second.attempt, a_success()))

        assert await asker.kinds() == [FINAL]
        assert job is not None
        assert (job.state, len(job.executions)) == (State.SUCCEEDED, 2)


async def test_a_client_that_left_has_its_request_recorded_as_cancelled(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d")) as door:
        leaving = await door.ask()
        worker = await door.taken()
        await leaving.leave()

        await worker.say(KEEPALIVE)

        job = await door.settle(await door.ruling())
        assert job is not None
        assert (job.state, job.executions) == (State.CANCELLED, ())


async def test_a_client_that_left_has_its_worker_stopped_and_its_slot_freed(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d", reserve=1, jobs=4)) as door:
        leaving = await door.ask()
        worker = await door.taken()
        await leaving.leave()

        await worker.say(KEEPALIVE)

        assert await door.aborts() == worker.attempt
        asker = await door.ask()
        await (await door.taken()).finish()
        assert await asker.kinds() == [FINAL]


async def test_a_request_that_is_cancelled_by_its_id_ends_and_its_worker_is_stopped(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d")) as door:
        asker = await door.ask()
        worker = await door.taken()
        jobs = [worker.attempt.job, an_id()]

        assert await cancel_requests(nc, jobs, "another", answer_s=0.1) == set()
        await nc.publish(subjects.CTL_CANCEL_REQUESTS, b"no request")
        assert await cancel_requests(nc, jobs, worker.attempt.tenant, answer_s=0.5) == {worker.attempt.job}

        assert (await asker.word()).code == "cancelled"
        assert await door.aborts() == worker.attempt
        job = await door.settle(await door.ruling())
        assert job is not None
        assert (job.state, job.executions) == (State.CANCELLED, ())
        assert await cancel_requests(nc, jobs, worker.attempt.tenant, answer_s=0.1) == set()


# what is refused


@pytest.mark.parametrize("why", ["away", "full"])
async def test_a_request_that_nats_does_not_take_is_answered_and_its_slot_freed(
    nc: Nats, ledger: Ledger, why: str
) -> None:
    async with a_door(nc, ledger, a_beat("d", reserve=1, jobs=4)) as door:
        js = nc.jetstream()
        if why == "away":
            await js.delete_stream(subjects.NOW)
            await door.workers_leave()
        else:
            info = await js.stream_info(subjects.NOW)
            info.config.max_msg_size = 10
            await js.update_stream(info.config)

        codes = []
        for _ in range(2):
            word = asyncio.create_task((await door.ask()).word())

            async def is_answered(word: "asyncio.Task[Word]" = word) -> bool:
                door.clock.advance(1_000)  # a stream that is away may only be without a leader, which is waited for
                return word.done()

            await until(is_answered, "it is answered")
            codes.append(word.result().code)

        assert codes == ["unavailable", "unavailable"]


async def test_nats_turning_an_attempt_away_late_does_no_harm_to_the_next(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d"), a_beat("e"), catalog=TWO) as door:
        await nc.jetstream().delete_stream(subjects.NOW)
        asker = await door.ask()
        first = await door.taken("d")
        await first.fail()
        second = await door.taken("e")

        await first.turn_away()
        await door.answers()
        await second.finish()

        assert await asker.kinds() == [FINAL]


async def test_nats_turning_away_what_a_worker_has_does_no_harm(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d")) as door:
        await nc.jetstream().delete_stream(subjects.NOW)
        asker = await door.ask()
        worker = await door.taken()
        await worker.say(KEEPALIVE)
        assert (await asker.word()).kind == KEEPALIVE

        await worker.turn_away()
        await door.answers()
        await worker.finish()

        assert await asker.kinds() == [FINAL]


async def test_an_id_that_another_tenants_request_has_is_free(nc: Nats, ledger: Ledger) -> None:
    job = a_job(id=an_id())
    async with a_door(nc, ledger, a_beat("d")) as door:
        theirs = await door.ask(job)
        first = await door.taken()
        mine = await door.ask(job, tenant="another")
        second = await door.taken()
        assert [one.attempt.tenant for one in (first, second)] == ["default", "another"]

        await mine.leave()
        await second.say(CHUNK, b"x", sequence=1)
        assert (await door.aborts()).tenant == "another"
        await first.finish()
        last = await theirs.word()

        assert (last.kind, last.job) == (FINAL, str(job.id))


async def test_a_request_is_called_by_the_id_that_its_tenant_chose(nc: Nats, ledger: Ledger) -> None:
    job = a_job(id=an_id())
    async with a_door(nc, ledger, a_beat("d")) as door:
        await door.ask(job)
        await door.taken()
        mine = await door.ask(job, tenant="another")

        await (await door.taken()).finish()

        last = await mine.word()
        assert (last.kind, last.job) == (FINAL, str(job.id))


async def test_an_id_is_refused_while_it_is_being_answered_and_taken_again_afterwards(
    nc: Nats, ledger: Ledger
) -> None:
    job = a_job(id=an_id())
    async with a_door(nc, ledger, a_beat("d")) as door:
        first = await door.ask(job)
        worker = await door.taken()

        second = await (await door.ask(job)).word()
        await worker.finish()

        assert (second.code, second.job) == ("id_in_use", str(job.id))
        assert await first.kinds() == [FINAL]
        again = await door.ask(job)
        await (await door.taken()).finish()
        assert await again.kinds() == [FINAL]


@pytest.mark.parametrize(
    ("beats", "changes", "code"),
    [
        ([], {}, "no_worker"),
        ([a_beat("d")], {"deadline_ms": 1}, "deadline_past"),
        ([a_beat("d")], {"endpoint": "/v1/embeddings"}, "endpoint_not_served"),
    ],
)
async def test_a_request_that_is_refused_is_told_why(
    nc: Nats, ledger: Ledger, beats: list[WorkerBeat], changes: dict[str, Any], code: str
) -> None:
    async with a_door(nc, ledger, *beats) as door:
        asker = await door.ask(a_job(id=an_id(), **changes))

        word = await asker.word()

        assert (word.code, word.job) == (code, str(asker.job))


async def test_a_request_for_a_model_that_its_key_may_not_use_is_refused(nc: Nats, ledger: Ledger) -> None:
    async def producer(tenant: str, key: str, _: Ms) -> Principal:
        return Principal(tenant=tenant, key=key, role=Role.PRODUCER, models=frozenset({"other"}))

    async with a_door(nc, ledger, a_beat("d"), identify=producer) as door:
        word = await (await door.ask()).word()

        assert word.code == "forbidden"
        assert door.untaken() == 0


async def test_bytes_that_are_no_request_are_told_so(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d")) as door:
        word = await (await door.ask(data=b"nope")).word()

        assert (word.code, word.job) == ("bad_request", None)


async def test_at_its_cap_a_deployment_takes_no_request(nc: Nats, ledger: Ledger) -> None:
    await spend(ledger, NanoUsd(1_000_000_000))
    async with a_door(nc, ledger, a_beat("d"), catalog=a_route(Route("d"), d=1.0)) as door:
        assert (await (await door.ask()).word()).code == "daily_cap"


async def test_what_is_under_way_counts_towards_the_cap(nc: Nats, ledger: Ledger) -> None:
    """A request costs 0.017 USD: a thousand dollars for a million tokens, of which it has 17."""
    await spend(ledger, NanoUsd(970_000_000))
    async with a_door(nc, ledger, a_beat("d"), catalog=a_route(Route("d"), d=1.0)) as door:
        await door.ask()
        await door.taken()

        assert (await (await door.ask()).word()).code == "daily_cap"


@pytest.mark.parametrize("reply", ["", "victim.inbox", "_INBOX_bob.x", "_INBOXx.y"])
async def test_a_request_that_may_not_be_answered_is_not_run(nc: Nats, ledger: Ledger, reply: str) -> None:
    victim = await nc.subscribe(reply or "nobody")
    async with a_door(nc, ledger, a_beat("d")) as door:
        await nc.publish(subjects.infer("m", "default", "default"), packed(a_job()), reply)

        await door.answers()

        assert door.untaken() == 0
        assert victim.pending_msgs == 0


# the reserve, which all brokers share


async def test_a_slot_that_came_free_is_given_again_before_the_worker_says_so(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d", reserve=1, jobs=4)) as door:
        first = await door.ask()
        worker = await door.taken()
        door.beats[:] = [a_beat("d", reserve=1, interactive=1, jobs=4)]
        await worker.finish()
        assert await first.kinds() == [FINAL]

        second = await door.ask()

        await (await door.taken()).finish()
        assert await second.kinds() == [FINAL]


async def test_a_slot_that_stays_taken_is_another_brokers_and_a_request_waits_for_it(
    nc: Nats, ledger: Ledger
) -> None:
    async with a_door(nc, ledger, a_beat("d", reserve=1, jobs=4)) as door:
        first = await door.ask()
        await (await door.taken()).finish()
        assert await first.kinds() == [FINAL]
        door.beats[:] = [a_beat("d", reserve=1, interactive=1, jobs=4)]
        await ticks(door, 10)

        waits = await door.ask()
        await door.answers()
        door.clock.advance(1000)

        assert (await waits.word()).kind == KEEPALIVE
        assert door.untaken() == 0


# a broker that stops


async def test_what_runs_may_finish_when_the_broker_stops_and_nothing_new_is_taken(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d"), finish_s=FINISH_S) as door:
        asker = await door.ask()
        worker = await door.taken()

        door.stop()
        await until(door.is_deaf, "nothing new is taken")
        await worker.say(CHUNK, b"one", sequence=1)
        await worker.finish()

        assert await asker.kinds() == [CHUNK, FINAL]
        async with asyncio.timeout(FINISH_S / 2):
            await door.stopped()


async def test_a_request_on_its_way_to_a_broker_that_stops_is_answered(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d"), finish_s=FINISH_S) as door:
        asker = await door.ask()
        door.stop()

        await (await door.taken()).finish()

        assert await asker.kinds() == [FINAL]


async def test_what_does_not_finish_in_time_is_answered_and_its_worker_stopped(nc: Nats, ledger: Ledger) -> None:
    async with a_door(nc, ledger, a_beat("d")) as door:
        asker = await door.ask()
        await door.taken()

        door.stop()

        assert (await asker.word()).code == "broker_stopped"
        assert (await door.aborts()).job == asker.job
        await door.stopped()

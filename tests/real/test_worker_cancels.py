"""A worker ends the leased attempts that brokers name, keeps what they came to, and starts none that was named before."""

from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec.structs import replace

from broker.bus.notices import announce_cancels
from broker.bus.runs import Runs
from broker.core.records import Marked
from schemas import subjects
from schemas.codec import ABORT, CANCEL, KIND, packed
from schemas.jetstream import Message, next_request, next_subject
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Attempt
from schemas.outcome import CANCELLED_REASON, Cancelled, Succeeded, Usage
from schemas.units import Ms
from schemas.worker import CancelNotice
from tests.builders import a_chat, an_attempt, an_id
from tests.declared import declare_pool
from tests.real.test_worker import HANG, SLOW, Bench, a_pool, an_ask
from tests.real.test_worker_ward import a_group, a_ward, send
from workers.cancels import Cancels

pytestmark = pytest.mark.real
PACE = {"decode_tokens_per_s": 50.0, "output_tokens": 1000}
_notice: msgspec.msgpack.Decoder[CancelNotice] = msgspec.msgpack.Decoder(CancelNotice)
BODY = b'{"messages":[{"role":"user","content":"Say much."}],"max_tokens":1000}'


async def tell(nc: Nats, *attempts: Attempt) -> None:
    await announce_cancels(nc, [Marked(one.job, one.number, one.deployment, Ms(0)) for one in attempts])


async def remembers(bench: Bench, attempt: Attempt) -> None:
    cancels = bench.worker._leased._cancels
    await bench.until(lambda: cancels.has(attempt.job, attempt.number, bench.worker._clock()))


async def test_a_running_attempt_ends_with_what_it_has_answered(nc: Nats) -> None:
    async with a_pool(nc, options=PACE, context_tokens=4096) as bench:
        goes, stays = an_attempt(body=BODY), an_attempt(body=BODY)
        assert await Runs(nc).publish([goes, stays])
        await bench.until(lambda: [one.first_ms is not None for one in bench.pool.held] == [True, True])

        await tell(nc, goes)
        report = await bench.report()

        assert report.job == goes.job
        assert isinstance(report.outcome, Cancelled)
        body = msgspec.json.decode(report.outcome.body or b"null")
        [choice] = body["choices"]
        words = choice["message"]["content"].split()
        assert choice["finish_reason"] == CANCELLED_REASON
        assert 0 < len(words) == body["usage"]["completion_tokens"] < 1000
        assert report.outcome.usage == Usage(body["usage"]["prompt_tokens"], len(words))
        await bench.until(lambda: [held.attempt.job for held in bench.pool.held] == [stays.job])
        await bench.holds(subjects.RUN, 1)


async def test_another_attempt_of_the_job_goes_on(nc: Nats) -> None:
    async with a_pool(nc, options={"decode_tokens_per_s": 20.0}) as bench:
        attempt = a_chat("x", number=2)
        assert await Runs(nc).publish([attempt])
        await bench.until(lambda: bench.pool.running == 1)

        await tell(nc, an_attempt(job=attempt.job, number=1))

        assert isinstance((await bench.report()).outcome, Succeeded)


async def test_an_interactive_request_of_the_same_id_goes_on(nc: Nats) -> None:
    async with a_pool(nc, reserve=1, options={"decode_tokens_per_s": 20.0}) as bench:
        ask = an_ask("x")
        await nc.jetstream().publish(subjects.now("d"), packed(ask))
        await bench.until(lambda: bench.pool.interactive.running == 1)

        await tell(nc, ask)

        assert isinstance((await bench.report()).outcome, Succeeded)


async def test_an_attempt_that_was_named_before_it_came_is_not_run(nc: Nats) -> None:
    async with a_ward(nc, options={"failures": [HANG]}) as bench:
        attempt = a_chat("hang")
        await tell(nc, attempt)
        await remembers(bench, attempt)

        assert await bench.outcome(attempt) == Cancelled()
        await bench.holds(subjects.RUN, 0)


async def test_an_attempt_that_waits_to_run_apart_is_reported_at_once(nc: Nats) -> None:
    async with a_ward(nc, options={"failures": [HANG]}) as bench:
        runs, [waits, other] = a_chat("hang"), a_group("hang", "hang")
        assert await Runs(nc).publish([runs])
        await bench.until(lambda: bench.pool.running == 1)
        await send(nc, waits, other)
        await bench.until(lambda: len(list(bench.worker._ward.held())) == 2)

        await tell(nc, waits)
        report = await bench.report()

        assert (report.job, report.outcome) == (waits.job, Cancelled())
        assert [held.job for held in bench.worker._ward.held()] == [other.job]


async def test_a_message_that_names_no_attempts_does_no_harm(nc: Nats) -> None:
    async with a_pool(nc, options=SLOW) as bench:
        attempt = a_chat("x")
        assert await Runs(nc).publish([attempt])
        await bench.until(lambda: bench.pool.running == 1)

        for broken in (b"", b"\xc1", packed([1, 2]), packed([(an_id(), 0)])):
            await nc.publish(subjects.cancel_order("d"), broken, headers={KIND: CANCEL})
        await tell(nc, attempt)

        assert isinstance((await bench.report()).outcome, Cancelled)


async def test_an_order_to_another_deployment_is_not_heard(nc: Nats) -> None:
    async with a_pool(nc, options={"decode_tokens_per_s": 20.0}) as bench:
        attempt = a_chat("x")
        assert await Runs(nc).publish([attempt])
        await bench.until(lambda: bench.pool.running == 1)

        await tell(nc, replace(attempt, deployment="e"))

        assert isinstance((await bench.report()).outcome, Succeeded)


async def test_what_the_server_answers_to_others_is_no_order(nc: Nats, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever may publish chooses where the server's answer goes, and NATS does not check that subject."""
    async with a_pool(nc, reserve=1, options={"decode_tokens_per_s": 20.0}) as bench:
        attempt, ask, other = a_chat("x"), an_ask("x"), a_chat("y", deployment="e")
        await declare_pool(nc, "e", slots=4)
        await nc.jetstream().publish(subjects.now("d"), packed(ask))
        assert await Runs(nc).publish([attempt, other])
        await bench.until(lambda: bench.pool.running == 2)

        pull = next_subject(subjects.RUN, subjects.pool_consumer("e"))
        for order in (subjects.cancel_order("d"), subjects.abort_order("d")):
            await nc.publish(subjects.outcome("e"), b"acknowledged", order)
            await nc.publish(pull, next_request(2, expires_ms=Ms(500), heartbeat_ms=Ms(100)), order)
            await nc.publish(order, packed([(attempt.job, attempt.number)]))
            await nc.publish(order, str(ask.reply_to).encode())
        await bench.until(lambda: caplog.text.count("ignored: no order") >= 9)
        reports = [await bench.report() for _ in range(2)]

        assert {report.job for report in reports} == {attempt.job, ask.job}
        assert all(isinstance(report.outcome, Succeeded) for report in reports)
        for what in ("acknowledged", str(other.job)):
            assert what not in caplog.text


@pytest.mark.parametrize("kind", [CANCEL, ABORT])
async def test_an_order_of_another_kind_is_none(nc: Nats, kind: str) -> None:
    async with a_pool(nc, reserve=1, options={"decode_tokens_per_s": 20.0}) as bench:
        attempt, ask = a_chat("x"), an_ask("x")
        await nc.jetstream().publish(subjects.now("d"), packed(ask))
        assert await Runs(nc).publish([attempt])
        await bench.until(lambda: bench.pool.running == 2)

        subject = subjects.abort_order("d") if kind == CANCEL else subjects.cancel_order("d")
        for said in ([(attempt.job, attempt.number)], ask.reply_to):
            await nc.publish(subject, packed(said), headers={KIND: kind})

        assert all([isinstance((await bench.report()).outcome, Succeeded) for _ in range(2)])


async def test_each_deployment_is_told_of_its_own_in_one_message(nc: Nats) -> None:
    heard: list[tuple[str, Any]] = []

    async def hear(message: Message) -> None:
        heard.append((message.subject, _notice.decode(message.data)))

    await nc.subscribe(subjects.cancel_order("d"), cb=hear)
    await nc.subscribe(subjects.cancel_order("e"), cb=hear)
    first, second, third = a_chat("x"), a_chat("y", deployment="e"), a_chat("z")

    await tell(nc, first, second, third)
    await nc.flush()

    assert sorted(heard) == [
        (subjects.cancel_order("d"), [(first.job, 1), (third.job, 1)]),
        (subjects.cancel_order("e"), [(second.job, 1)]),
    ]


def noted(cancels: Cancels, *jobs: UUID, at: int) -> None:
    for job in jobs:
        cancels.note(job, 1, Ms(at))


def test_what_was_named_is_remembered_for_a_while() -> None:
    cancels, job = Cancels(for_ms=Ms(100)), an_id()
    noted(cancels, job, at=0)

    known: dict[str, Any] = {
        "in time": cancels.has(job, 1, Ms(100)),
        "too late": cancels.has(job, 1, Ms(101)),
        "another attempt": cancels.has(job, 2, Ms(0)),
        "another job": cancels.has(an_id(), 1, Ms(0)),
    }

    assert [what for what, is_known in known.items() if is_known] == ["in time"]


def test_what_is_named_again_is_remembered_longer() -> None:
    cancels, job = Cancels(for_ms=Ms(100)), an_id()
    noted(cancels, job, at=0)
    noted(cancels, job, at=90)

    assert cancels.has(job, 1, Ms(150))


def test_no_more_than_so_many_are_remembered_the_latest() -> None:
    cancels, jobs = Cancels(most=3, for_ms=Ms(100)), [an_id() for _ in range(5)]
    noted(cancels, *jobs, at=0)

    assert [job for job in jobs if cancels.has(job, 1, Ms(0))] == jobs[2:]
    noted(cancels, an_id(), at=200)
    assert repr(cancels) == "Cancels(1)"

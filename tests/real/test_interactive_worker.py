"""What a worker does with interactive attempts; the test is their relay."""

import json
from typing import Any

import pytest

from broker.bus.notices import announce_abort, announce_wanted
from broker.bus.runs import Runs
from schemas import subjects
from schemas.codec import CHUNK, ERROR, FAILURE, FINAL, KIND, SEQ, packed
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Attempt, Lane
from schemas.outcome import Cancelled, Failed, RelayLost, Succeeded
from schemas.units import Ms
from tests.builders import a_chat, an_attempt, an_id
from tests.real.test_worker import HANG, SLOW, a_pool, an_ask, heard_by
from workers.reply import ASK_MS, Replier

pytestmark = pytest.mark.real
FAULT = {"match": "fault", "kind": "engine_fault"}
WRONG = {"match": "wrong", "kind": "bad_request"}


def asked(text: str, **changes: Any) -> Attempt:
    """One that is heard at a place of its own."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 5}
    fields = {"lane": Lane.INTERACTIVE, "reply_to": f"infermq.reply.d.b.{an_id().hex}", "key": "k"}
    return an_attempt(body=json.dumps(body).encode(), **{**fields, **changes})


@pytest.mark.parametrize(("text", "last"), [("x", FINAL), ("fault", ERROR)])
async def test_the_last_word_is_said_only_once_the_outcome_is_durable(nc: Nats, text: str, last: str) -> None:
    async with a_pool(nc, reserve=1, options={"failures": [FAULT]}):
        await nc.jetstream().delete_stream(subjects.OUTCOME)  # the test is the stream
        outcomes = await nc.subscribe(subjects.outcome("d"))
        ask = an_ask(text)
        words = await nc.subscribe(str(ask.reply_to))
        await nc.jetstream().publish(subjects.now("d"), packed(ask))

        outcome = await outcomes.next_msg(timeout=10)
        await nc.flush()
        before = [(await words.next_msg()).headers for _ in range(words.pending_msgs)]
        await nc.publish(outcome.reply, b'{"stream":"INFERMQ_OUTCOME","seq":1}')
        after = (await words.next_msg(timeout=10)).headers

        assert {(headers or {})[KIND] for headers in before} <= {CHUNK}
        assert (after or {})[KIND] == last


@pytest.mark.parametrize(
    ("text", "failure"), [("wrong", None), ("fault", "engine_fault")], ids=["the request's", "the engine's"]
)
async def test_only_a_failure_that_another_deployment_may_mend_is_said_to_be_one(
    nc: Nats, text: str, failure: str | None
) -> None:
    async with a_pool(nc, reserve=1, options={"failures": [FAULT, WRONG]}):
        [last] = await heard_by(nc, an_ask(text))

        said = (last.headers or {}).get(FAILURE)
        assert (None if said is None else json.loads(said)["type"]) == failure
        assert (last.headers or {})[SEQ] == "1"


async def test_a_request_that_a_stopping_worker_puts_back_may_go_elsewhere(nc: Nats) -> None:
    async with a_pool(nc, reserve=1, options=SLOW) as bench:
        ask = asked("x")
        words = await nc.subscribe(str(ask.reply_to))
        await nc.jetstream().publish(subjects.now("d"), packed(ask))
        await bench.until(lambda: bench.pool.interactive.running == 1)

        bench.pool.put_back()

        last = (await words.next_msg(timeout=10)).headers or {}
        assert (last[KIND], json.loads(last[FAILURE])["type"]) == (ERROR, "engine_lost")


async def test_an_aborted_request_stops_and_is_recorded_as_cancelled(nc: Nats) -> None:
    async with a_pool(nc, reserve=1, options=SLOW) as bench:
        ask = asked("x")
        await nc.jetstream().publish(subjects.now("d"), packed(ask))
        await bench.until(lambda: bench.pool.interactive.running == 1)

        await announce_abort(nc, "d", "infermq.reply.d.b.other")
        await announce_abort(nc, "d", str(ask.reply_to))

        report = await bench.report()
        assert (report.job, report.outcome, report.interactive) == (ask.job, Cancelled(), ask)
        assert bench.pool.interactive.running == 0


async def test_an_abort_ends_no_other_request(nc: Nats) -> None:
    async with a_pool(nc, reserve=2, options={"decode_tokens_per_s": 50.0}) as bench:
        stays, goes = asked("x"), asked("y")
        for ask in (stays, goes):
            await nc.jetstream().publish(subjects.now("d"), packed(ask))
        await bench.until(lambda: bench.pool.interactive.running == 2)

        await announce_abort(nc, "d", str(goes.reply_to))

        ends = {report.job: report.outcome for report in [await bench.report() for _ in range(2)]}
        assert ends[goes.job] == Cancelled()
        assert isinstance(ends[stays.job], Succeeded)


async def test_an_abort_ends_no_other_attempt_of_the_same_job(nc: Nats) -> None:
    """Two brokers may answer requests of one id."""
    async with a_pool(nc, reserve=2, options={"decode_tokens_per_s": 50.0}) as bench:
        goes = asked("x")
        stays = asked("x", job=goes.job)
        for ask in (stays, goes):
            await nc.jetstream().publish(subjects.now("d"), packed(ask))
        await bench.until(lambda: bench.pool.interactive.running == 2)

        await announce_abort(nc, "d", str(goes.reply_to))

        ends = {report.interactive: report.outcome for report in [await bench.report() for _ in range(2)]}
        assert ends[goes] == Cancelled()
        assert isinstance(ends[stays], Succeeded)


async def test_a_request_that_comes_twice_runs_once(nc: Nats) -> None:
    async with a_pool(nc, reserve=2, options={"failures": [HANG]}) as bench:
        ask = asked("hang")
        for _ in range(2):
            await nc.jetstream().publish(subjects.now("d"), packed(ask))

        heard = await heard_by(nc, asked("after"))

        assert (heard[-1].headers or {})[KIND] == FINAL
        assert bench.pool.interactive.running == 1


async def test_a_request_past_its_deadline_is_not_run(nc: Nats) -> None:
    async with a_pool(nc, reserve=1):
        [last] = await heard_by(nc, asked("x", left_ms=0))

        assert json.loads(last.data)["error"]["code"] == "expired"


async def test_the_reserve_is_for_requests_and_the_slots_for_jobs(nc: Nats) -> None:
    async with a_pool(nc, slots=1, reserve=2, options={"failures": [HANG]}) as bench:
        assert await Runs(nc).publish([a_chat("hang")])
        await bench.until(lambda: bench.pool.running == 1)
        assert (await heard_by(nc, asked("x")))[-1].headers
        assert await Runs(nc).publish([a_chat("waits")])
        for _ in range(2):
            await nc.jetstream().publish(subjects.now("d"), packed(asked("hang")))
        await bench.until(lambda: bench.pool.interactive.running == 2)

        info = await nc.jetstream().consumer_info(subjects.RUN, subjects.pool_consumer("d"))

        assert (info.num_ack_pending, info.num_pending) == (1, 1)


async def test_a_request_whose_relay_is_gone_is_ended_and_recorded(nc: Nats) -> None:
    async with a_pool(nc, reserve=1, options=SLOW) as bench:
        await nc.jetstream().publish(subjects.now("d"), packed(asked("x")))  # nobody listens to its reply

        report = await bench.report()

        assert isinstance(report.outcome, Failed)
        assert report.outcome.failure == RelayLost()
        assert report.timings.run_ms < 5_000
        await bench.until(lambda: bench.pool.held == [])


async def test_a_relay_is_lost_only_if_nobody_hears_several_questions_in_a_row(nc: Nats) -> None:
    at = Ms(0)
    reply = Replier(nc, "infermq.reply.d.b.1", clock=lambda: at, unheard_at="nobody")

    async def asks(*, heard: bool) -> bool:
        nonlocal at
        at = Ms(at + ASK_MS)
        await reply.keep_alive(at, every_ms=Ms(1))
        return False if heard else reply.unheard()

    assert [await asks(heard=False) for _ in range(2)] == [False, False]
    assert await asks(heard=True) is False
    assert [await asks(heard=False) for _ in range(3)] == [False, False, True]


async def test_jobs_leave_a_slot_to_each_request_that_waits(nc: Nats) -> None:
    async with a_pool(nc, slots=4, reserve=1, options={"failures": [HANG]}) as bench:
        await bench.asks(subjects.NOW, pulls=1)
        await announce_wanted(nc, "d", "b", 3)
        await bench.until(lambda: bench.worker.beat().wanted == 3)

        assert await Runs(nc).publish([a_chat("hang") for _ in range(4)])

        await bench.until(lambda: bench.pool.leased.running == 2)
        assert bench.worker.beat().wanted == 3
        assert (await nc.jetstream().consumer_info(subjects.RUN, subjects.pool_consumer("d"))).num_pending == 2
        await announce_wanted(nc, "d", "b", 0)
        await bench.until(lambda: bench.pool.leased.running == 4)


async def test_slots_are_kept_for_no_relay_that_is_silent(nc: Nats) -> None:
    async with a_pool(nc, slots=4, reserve=0, options={"failures": [HANG]}) as bench:
        await bench.asks(subjects.NOW, pulls=1)
        await announce_wanted(nc, "d", "b", 4)
        await bench.until(lambda: bench.worker.beat().wanted == 4)

        assert await Runs(nc).publish([a_chat("hang") for _ in range(4)])

        await bench.until(lambda: bench.pool.leased.running == 4)

"""The relay and its callers, whoever they are: the test calls, and is the workers too."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from msgspec.structs import replace
from nats.aio.msg import Msg

from broker.bus.runs import Rulings
from broker.core.relay import Answered, Erred, Streamed
from broker.ports import Ledger
from broker.roles.daily_spend import DailySpend
from broker.roles.relay import Relay
from broker.roles.reserves import Reserves
from schemas import subjects
from schemas.codec import CHUNK, FINAL, KEEPALIVE, KIND, SEQ, unpacker
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Attempt, Lane
from tests.builders import SEAL_KEY, a_batch_id, a_catalog, an_entry, now
from tests.declared import declare_streams
from tests.real.test_interactive import a_beat

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
_attempts = unpacker(Attempt)
PIECE = b"x" * 100


class Listener:
    """A caller that takes pieces only while its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.heard: list[str] = []
        self.ended: asyncio.Future[Answered | Erred] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        self.heard.append("start")

    async def piece(self, piece: Streamed) -> None:
        await self.gate.wait()
        self.heard.append(f"piece {piece.sequence}")

    async def alive(self) -> None:
        self.heard.append("alive")

    async def end(self, end: Answered | Erred) -> None:
        self.ended.set_result(end)


class Bench:
    def __init__(self, nc: Nats, relay: Relay) -> None:
        self._nc = nc
        self.relay = relay
        self._handed: asyncio.Queue[Attempt] = asyncio.Queue()
        self.aborted: asyncio.Queue[str] = asyncio.Queue()

    async def listen(self) -> None:
        await self._nc.subscribe(subjects.now("d"), cb=self._take)
        await self._nc.subscribe(subjects.abort_order("d"), cb=self._abort)

    async def _take(self, message: Msg) -> None:
        self._handed.put_nowait(_attempts.decode(message.data))

    async def _abort(self, message: Msg) -> None:
        self.aborted.put_nowait(msgspec.msgpack.decode(message.data, type=str))

    async def ask(self) -> tuple[Listener, Attempt]:
        listener = Listener()
        await self.relay.ask(an_entry(lane=Lane.INTERACTIVE), listener)
        async with asyncio.timeout(10):
            return listener, await self._handed.get()

    async def say(self, attempt: Attempt, kind: str, data: bytes = b"", sequence: int = 1) -> None:
        assert attempt.reply_to is not None
        await self._nc.publish(attempt.reply_to, data, headers={KIND: kind, SEQ: str(sequence)})


@asynccontextmanager
async def a_bench(nc: Nats, ledger: Ledger, *, buffer_bytes: int) -> AsyncIterator[Bench]:
    await declare_streams(nc)
    reserves = Reserves(
        catalog=a_catalog,
        beats=lambda: [a_beat("d", reserve=8)],
        daily_spend=DailySpend(ledger.spend, now),
        clock=now,
        entropy=iter(range(99)).__next__,
    )
    bench = Bench(
        nc,
        Relay(
            nc,
            name="b",
            reserves=reserves,
            rulings=Rulings(nc, a_batch_id, lambda: SEAL_KEY),
            seal_key=lambda: SEAL_KEY,
            clock=now,
            finish_s=0.05,
            buffer_bytes=buffer_bytes,
        ),
    )
    await bench.listen()
    async with bench.relay.open():
        yield bench


async def end_of(listener: Listener) -> Answered | Erred:
    async with asyncio.timeout(10):
        return await listener.ended


async def test_a_caller_is_told_that_the_answer_begins_before_its_first_piece(nc: Nats, ledger: Ledger) -> None:
    async with a_bench(nc, ledger, buffer_bytes=1000) as bench:
        listener, attempt = await bench.ask()
        listener.gate.set()

        await bench.say(attempt, KEEPALIVE)
        await bench.say(attempt, CHUNK, PIECE, 1)
        await bench.say(attempt, CHUNK, PIECE, 2)
        await bench.say(attempt, FINAL, b"all", 3)

        assert await end_of(listener) == Answered(b"all", "3")
        assert listener.heard == ["alive", "start", "piece 1", "piece 2"]


async def test_a_caller_that_reads_slowly_holds_up_no_other_and_misses_nothing(nc: Nats, ledger: Ledger) -> None:
    async with a_bench(nc, ledger, buffer_bytes=1000) as bench:
        slow, attempt = await bench.ask()
        for number in range(1, 11):
            await bench.say(attempt, CHUNK, PIECE, number)
        await bench.say(attempt, FINAL, b"all", 11)
        quick, other = await bench.ask()
        await bench.say(other, FINAL, b"other")
        assert await end_of(quick) == Answered(b"other", "1")
        assert not slow.ended.done()

        slow.gate.set()

        assert await end_of(slow) == Answered(b"all", "11")
        assert slow.heard == ["start", *(f"piece {number}" for number in range(1, 11))]


async def test_a_caller_that_stops_reading_is_given_up_on(nc: Nats, ledger: Ledger) -> None:
    async with a_bench(nc, ledger, buffer_bytes=1000) as bench:
        listener, attempt = await bench.ask()

        for number in range(1, 13):
            await bench.say(attempt, CHUNK, PIECE, number)

        async with asyncio.timeout(10):
            assert await bench.aborted.get() == attempt.reply_to
        listener.gate.set()
        end = await end_of(listener)
        assert isinstance(end, Erred)
        assert end.problem.code == "too_slow"


async def test_a_caller_that_left_while_it_took_a_piece_is_told_nothing_more(nc: Nats, ledger: Ledger) -> None:
    async with a_bench(nc, ledger, buffer_bytes=1000) as bench:
        listener, attempt = await bench.ask()
        await bench.say(attempt, CHUNK, PIECE)

        await bench.relay.caller_left(attempt.job)

        async with asyncio.timeout(10):
            assert await bench.aborted.get() == attempt.reply_to
        listener.gate.set()
        await bench.say(attempt, FINAL, b"late")
        await nc.flush()
        assert not listener.ended.done()


async def test_only_the_deployment_that_was_asked_answers(nc: Nats, ledger: Ledger) -> None:
    async with a_bench(nc, ledger, buffer_bytes=1000) as bench:
        listener, attempt = await bench.ask()
        _, _, _, relay, token = str(attempt.reply_to).split(".")

        await bench.say(replace(attempt, reply_to=f"infermq.reply.e.{relay}.{token}"), FINAL, b"forged")
        await bench.say(attempt, FINAL, b"true")

        assert await end_of(listener) == Answered(b"true", "1")


async def test_a_broker_hears_no_replies_to_another(nc: Nats, ledger: Ledger) -> None:
    async with a_bench(nc, ledger, buffer_bytes=1000) as bench:
        listener, attempt = await bench.ask()
        token = subjects.reply_token(str(attempt.reply_to))

        await nc.publish(subjects.reply(subjects.ReplyTo("d", "other", token)), b"wrong", headers={KIND: FINAL})
        await nc.publish("infermq.reply.d.b.no_token", b"wrong", headers={KIND: FINAL})
        await bench.say(attempt, FINAL, b"right")

        assert await end_of(listener) == Answered(b"right", "1")


async def test_a_worker_is_told_that_nobody_here_has_the_request(nc: Nats, ledger: Ledger) -> None:
    """As by a broker that has started under the name of one that was killed."""
    async with a_bench(nc, ledger, buffer_bytes=1000) as bench:
        listener, attempt = await bench.ask()
        asked = await nc.subscribe("unheard")
        other = subjects.reply(subjects.ReplyTo("d", "b", "f00"))

        await nc.publish(other, b"", headers={KIND: KEEPALIVE})
        await nc.publish(str(attempt.reply_to), b"", "unheard", headers={KIND: KEEPALIVE})
        await nc.publish(other, b"", "unheard", headers={KIND: KEEPALIVE})

        assert ((await asked.next_msg(timeout=10)).headers or {})["Status"] == "503"
        await nc.flush()
        assert asked.pending_msgs == 0
        await bench.say(attempt, FINAL, b"all")
        listener.gate.set()
        assert await end_of(listener) == Answered(b"all", "1")

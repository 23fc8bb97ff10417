"""Whatever is done to the memory server and to a real one, in any order: both come to the same."""

import asyncio
import itertools
import json
import os
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.simulate.nats.connection import MemoryConnection
from broker.simulate.nats.link import DirectLink
from schemas.jetstream import Message, NatsConnection, NatsTimeoutError, NoRespondersError
from schemas.jetstream.client import NatsClient
from tests.contract.nats.asking import Told, asked, consumer
from tests.contract.nats.conftest import memory_server

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]
LONG = 60 * 1_000_000_000
SOON_S = 5.0
SAME_S = float(os.environ.get("SAME_S", "2"))
"""How long a real server has to come to where the memory server is."""
CONSUMERS = ("a", "b")
RETENTIONS = ("workqueue", "interest", "limits")


@dataclass(frozen=True)
class Publish:
    subject: str
    size: int
    id: str | None
    last: int | None

    async def run(self, side: "Side") -> object:
        headers = {"Nats-Msg-Id": self.id} if self.id else {}
        if self.last is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(self.last)
        told = await side.nc.request(self.subject, b"x" * self.size, timeout=SOON_S, headers=headers or None)
        return json.loads(told.data)


@dataclass(frozen=True)
class PublishBatch:
    subjects: tuple[str, ...]
    id: str
    gap: bool

    async def run(self, side: "Side") -> object:
        answers = []
        for n, subject in enumerate(self.subjects, 1):
            headers = {
                "Nats-Batch-Id": f"{side.stream}-{self.id}",
                "Nats-Batch-Sequence": str(n + (self.gap and n > 1)),
            }
            if n == 1:
                headers["Nats-Msg-Id"] = self.id
            if n == len(self.subjects):
                headers["Nats-Batch-Commit"] = "1"
            told = await side.nc.request(subject, b"%d" % n, timeout=SOON_S, headers=headers)
            answers.append(json.loads(told.data) if told.data else None)
        return answers


@dataclass(frozen=True)
class Pull:
    consumer: str
    batch: int
    max_bytes: int
    no_wait: bool

    async def run(self, side: "Side") -> None:
        request = {"batch": self.batch, **({"no_wait": True} if self.no_wait else {"expires": LONG})}
        if self.max_bytes:
            request["max_bytes"] = self.max_bytes
        await side.pull(self.consumer, request)


@dataclass(frozen=True)
class Leave:
    """Stop listening for what comes of a pull."""

    which: int

    async def run(self, side: "Side") -> None:
        await side.leave(self.which)


@dataclass(frozen=True)
class Answer:
    which: int
    word: bytes

    async def run(self, side: "Side") -> object:
        """Answer a message that came, perhaps long ago. Return what the server makes of it."""
        if not side.held:
            return None
        message = side.held[self.which % len(side.held)]
        try:
            await side.nc.request(message.reply, self.word, timeout=0.25)
        except NatsTimeoutError:
            return "no answer"
        except NoRespondersError:
            return "nobody"
        return "taken"


@dataclass(frozen=True)
class MakeConsumer:
    """Make a consumer, or change it."""

    name: str
    most_leases: int
    most_deliveries: int

    async def run(self, side: "Side") -> object:
        config = {"max_ack_pending": self.most_leases, "max_deliver": self.most_deliveries}
        return (await side.make(self.name, **config)).get("error")


@dataclass(frozen=True)
class DeleteConsumer:
    name: str

    async def run(self, side: "Side") -> object:
        return (await side.ask("CONSUMER.DELETE", self.name)).get("error")


@dataclass(frozen=True)
class DeleteMessage:
    seq: int

    async def run(self, side: "Side") -> bool:
        """Return whether it was there: the error depends on how a store looks inside."""
        return "error" not in await side.ask("STREAM.MSG.DELETE", body={"seq": self.seq})


Step = Publish | PublishBatch | Pull | Leave | Answer | MakeConsumer | DeleteConsumer | DeleteMessage


@dataclass
class Side:
    """One of the two servers, and all that came from it."""

    nc: NatsConnection
    stream: str
    came: list[list[str]] = field(default_factory=list)
    """What came of each pull."""
    held: list[Message] = field(default_factory=list)
    inboxes: list[Any] = field(default_factory=list)

    async def ask(self, verb: str, name: str = "", body: Told | None = None) -> Told:
        return await asked(self.nc, ".".join([verb, self.stream, *([name] if name else [])]), body)

    async def make(self, name: str, **config: Any) -> Told:
        body = consumer(name, self.stream, filter_subject=f"s.{name}", ack_wait=LONG, **config)
        return await self.ask("CONSUMER.CREATE", name, body)

    async def pull(self, name: str, request: Told) -> None:
        inbox, told = self.nc.new_inbox(), list[str]()
        self.came.append(told)

        async def hear(message: Message) -> None:
            if message.reply:
                self.held.append(message)
                told.append(f"{message.subject} {len(message.data)} {_place(message.reply)}")
            else:
                told.append(" ".join(f"{text}" for text in (message.headers or {}).values()))

        self.inboxes.append(await self.nc.subscribe(inbox, cb=hear))
        await self.nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{name}", json.dumps(request).encode(), inbox)
        await self.nc.flush()

    async def leave(self, which: int) -> None:
        there = [n for n, inbox in enumerate(self.inboxes) if inbox is not None]
        if there:
            n = there[which % len(there)]
            await self.inboxes[n].unsubscribe()
            self.inboxes[n] = None
            await self.nc.flush()

    async def seen(self) -> Told:
        """Everything that can be seen of a server."""
        found = await self.ask("STREAM.INFO", body={"subjects_filter": ">"})
        state = {key: value for key, value in found["state"].items() if not key.endswith("_ts")}
        consumers: dict[str, Told] = {}
        for name in CONSUMERS:
            told = await self.ask("CONSUMER.INFO", name)
            numbers = {key: value for key, value in told.items() if key.startswith("num_")}
            floors: Told = {key: _pair(told[key]) for key in ("delivered", "ack_floor") if key in told}
            consumers[name] = {**numbers, **floors}
        return {"stream": state, "consumers": consumers, "came": [[*told] for told in self.came]}


def _place(reply: str) -> str:
    tokens = reply.split(".")
    return " ".join([*tokens[3:7], tokens[8]])


def _pair(told: Told) -> tuple[int, int]:
    return told["consumer_seq"], told["stream_seq"]


some_subjects = st.sampled_from(["s.a", "s.b"])
some_ids = st.sampled_from(["m1", "m2", "m3"])
publishes = st.builds(
    Publish,
    subject=some_subjects,
    size=st.sampled_from([0, 10, 100]),
    id=st.none() | some_ids,
    last=st.none() | st.integers(0, 4),
)
batches = st.builds(
    PublishBatch,
    subjects=st.lists(some_subjects, min_size=1, max_size=3).map(tuple),
    id=some_ids,
    gap=st.sampled_from([False, False, False, True]),
)
pulls = st.builds(
    Pull,
    consumer=st.sampled_from(CONSUMERS),
    batch=st.integers(1, 4),
    max_bytes=st.sampled_from([0, 0, 150, 400]),
    no_wait=st.booleans(),
)
answers = st.builds(
    Answer,
    which=st.integers(0, 20),
    word=st.sampled_from([b"+ACK", b"+ACK", b"+ACK", b"-NAK", b"-NAK", b"+WPI", b"+TERM"]),
)


makes = st.builds(
    MakeConsumer,
    name=st.sampled_from(CONSUMERS),
    most_leases=st.sampled_from([2, 1000]),
    most_deliveries=st.sampled_from([-1, 2]),
)
deletes = st.one_of(
    st.builds(DeleteConsumer, name=st.sampled_from(CONSUMERS)), st.builds(DeleteMessage, seq=st.integers(1, 4))
)
leaves = st.builds(Leave, which=st.integers(0, 5))
steps = st.lists(
    st.one_of(publishes, publishes, batches, pulls, pulls, answers, answers, answers, leaves, makes, deletes),
    min_size=1,
    max_size=25,
)
streams = st.fixed_dictionaries(
    {
        "retention": st.sampled_from(RETENTIONS),
        "storage": st.sampled_from(["file", "memory"]),
        "discard": st.sampled_from(["new", "old"]),
        "max_msgs": st.sampled_from([-1, -1, 4]),
        "max_msgs_per_subject": st.sampled_from([-1, -1, 1, 3]),
    }
)


numbered = itertools.count()


async def alike(url: str, made: Told, todo: list[Step]) -> None:
    """Each time with another stream: a real server finds on its disk what a deleted one of that name has left."""
    inboxes, stream = itertools.count(), f"S{next(numbered)}"
    memory = MemoryConnection(memory_server(), DirectLink(), ids=lambda: f"{next(inboxes):022d}")
    real = NatsClient()
    await memory.connect()
    await real.connect(url)
    sides = Side(memory, stream), Side(real, stream)
    try:
        for side in sides:
            wanted = {"name": stream, "subjects": ["s.*"], "allow_atomic": True, **made}
            assert "error" not in await side.ask("STREAM.CREATE", body=wanted)
            for name in CONSUMERS:
                assert "error" not in await side.make(name)
        for n, step in enumerate(todo):
            expected, found = [await step.run(side) for side in sides]
            assert found == expected, f"step {n}: {step}"
            await same(*sides, f"step {n}: {step}")
    finally:
        await sides[1].ask("STREAM.DELETE")
        await real.close()
        await memory.close()


async def same(memory: Side, real: Side, after: str) -> None:
    """Wait until a real server has come to where the memory server is."""
    await asyncio.sleep(0)
    expected, found = await memory.seen(), await real.seen()
    try:
        async with asyncio.timeout(SAME_S):
            while found != expected:
                await asyncio.sleep(0.005)
                expected, found = await memory.seen(), await real.seen()
    except TimeoutError:
        raise AssertionError(f"{after}: {differing(expected, found)}") from None


def differing(expected: object, found: object, path: str = "") -> list[str]:
    """Say where a real server is elsewhere."""
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = sorted({*expected, *found})
        return [one for key in keys for one in differing(expected.get(key), found.get(key), f"{path}.{key}")]
    return [] if expected == found else [f"{path}: memory {expected}, real {found}"]


@settings(max_examples=int(os.environ.get("EXAMPLES", "50")))
@given(made=streams, todo=steps)
def test_both_come_to_the_same(servers: tuple[str, str], made: Told, todo: list[Step]) -> None:
    asyncio.run(alike(servers[0], made, todo))

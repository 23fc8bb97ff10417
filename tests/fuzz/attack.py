"""Sends broken messages to a broker and a worker, and then asks whether they still do what they did before."""

import asyncio
import logging
import random
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import asyncpg
from nats.errors import Error as NatsError

from broker.core.seals import ruling_seal
from schemas import subjects
from schemas.api import State
from schemas.codec import SEAL, UNREADABLE, unpacker
from schemas.jetstream import Message, next_request
from schemas.jetstream.client import NatsClient
from schemas.job import Attempt, Lane
from schemas.units import Ms
from tests.builders import BODY, SEAL_KEY, a_beat, now
from tests.declared import declare_pool
from tests.fuzz.mutate import Broken, mutations
from tests.fuzz.targets import DEPLOYMENT, MODEL, Known, targets
from tests.real.test_broker import SCRIPT, Running, a_broker, a_worker
from tests.system import CATALOG, until
from workers.beat import publish_beat
from workers.worker import Worker

T = TypeVar("T")
_BURST = 50
_KEPT = 200
"""How many of each thing that was learnt are remembered."""
_TABLES = "select count(*) from pg_class where relnamespace = 'infermq'::regnamespace"
FUZZED = f"""
[models.{MODEL}]
[[models.{MODEL}.route]]
deployment = "{DEPLOYMENT}"
[deployments.{DEPLOYMENT}]
engine = "simulated"
attempt_timeout_s = 3.0
"""
_attempt = unpacker(Attempt)


@dataclass(slots=True)
class Tally:
    """What was sent, and what came of it."""

    sent: Counter[str] = field(default_factory=Counter)
    surprises: Counter[str] = field(default_factory=Counter)
    """Exceptions that nobody expected. A connection or a supervisor caught them."""
    attempts: int = 0
    """How many true attempts the attack had to report on."""
    seconds: float = 0.0

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.sent.items()))
        total = self.sent.total()
        return (
            f"{total} broken messages in {self.seconds:.0f} s ({kinds}), {self.attempts} true attempts; "
            f"{self.surprises.total()} unexpected exceptions {dict(self.surprises) or ''}"
        )


class _Surprises(logging.Handler):
    """Counts what nats-py, asyncio or a role says of exceptions that it did not expect."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(logging.WARNING)
        self._tally = tally

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        of_nats = record.name == "broker.bus.connect" and said.startswith("nats error=")
        if of_nats or (record.name == "broker.roles.restarting" and "unavailable" not in said):
            self._tally.surprises[said[:200]] += 1
        elif record.name == "broker.roles.settle" and "cannot be stored" in said and "no partition" not in said:
            self._tally.surprises[f"{said.partition(' job=')[0]}: {said.partition(' error=')[2][:150]}"] += 1
        elif record.exc_info and record.name.startswith(("broker", "asyncio")):
            self._tally.surprises[f"{record.name}: {said[:200]}: {_where(record)}"] += 1


def _where(record: logging.LogRecord) -> str:
    """The last lines of code that an exception came through."""
    error = record.exc_info[1] if record.exc_info else None
    frames = traceback.extract_tb(error.__traceback__)[-6:] if error else ()
    return f"{str(error)[:200]} at " + " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))


async def attack(
    nats_url: str,
    ledger_url: str,
    *,
    seed: int,
    number: int,
    say: Callable[[str], None] = lambda _: None,
) -> Tally:
    """Send `number` broken messages. Raises: AssertionError, if anything does not work any more."""
    tally = Tally()
    handler = _Surprises(tally)
    logging.getLogger().addHandler(handler)
    nc, of_worker = NatsClient(), NatsClient()

    async def note(error: Exception) -> None:
        tally.surprises[f"worker: {type(error).__name__}: {str(error)[:200]}"] += 1

    async def expect(_: Exception) -> None:
        """The server refuses some of what the attack does."""

    await nc.connect(nats_url, pending_size=64 * 1024 * 1024, error_cb=expect)
    await of_worker.connect(nats_url, error_cb=note, skip_subject_validation=True)
    try:
        async with a_broker(nats_url, ledger_url, nc) as running, a_worker(of_worker) as worker:
            await running.client.apply_catalog(CATALOG.format(slots=4, options=SCRIPT) + FUZZED)
            await running.has_a_worker()
            before = (await running.rows(_TABLES))[0]["count"]
            began = time.monotonic()
            async with _learning(nc, tally) as known:
                await _send(nc, running, known, tally, seed=seed, number=number, say=say)
            tally.seconds = time.monotonic() - began
            await _still_works(nc, running, worker, ledger_url)
            assert (await running.rows(_TABLES))[0]["count"] == before, "messages made tables"
    finally:
        logging.getLogger().removeHandler(handler)
        await nc.close()
        await of_worker.close()
    return tally


async def _send(
    nc: NatsClient,
    running: Running,
    known: Known,
    tally: Tally,
    *,
    seed: int,
    number: int,
    say: Callable[[str], None],
) -> None:
    draw = random.Random(seed)
    for n in range(number):
        broken = mutations(targets(known, draw), draw)
        tally.sent[broken.kind] += 1
        await _publish(nc, broken)
        if n % _BURST == 0:
            await nc.flush(timeout=30)
            await publish_beat(nc, a_beat("fuzz", deployment=DEPLOYMENT, slots=200, reserve=20))
            if len(known.attempts) < _KEPT // 2:
                await _more_attempts(nc, running)
        if n % 1000 == 999:
            say(f"{n + 1} sent, {tally.attempts} true attempts, {tally.surprises.total()} surprises")


async def _publish(nc: NatsClient, broken: Broken) -> None:
    """Write a message past all checks of the client, except what would end the attack's own connection.

    Rulings are sealed as a broker would, since an unsealed one is not even read.
    """
    subject = bytes(one for one in broken.subject if one > 0x20) or b"x"
    reply = "".join(broken.reply.split()).encode()
    headers = broken.headers
    if subject == subjects.RULING.encode():
        headers = {SEAL: ruling_seal(broken.payload, SEAL_KEY), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if "\n" not in value)
    head = f"NATS/1.0\r\n{lines}\r\n".encode("utf-8", "replace") if lines else b""
    payload = broken.payload[: nc.max_payload - len(head)]
    names = b" ".join(filter(None, (subject[:1000], reply[:1000])))
    if head:
        command = b"HPUB %b %d %d\r\n%b%b\r\n" % (names, len(head), len(head) + len(payload), head, payload)
    else:
        command = b"PUB %b %d\r\n%b\r\n" % (names, len(payload), payload)
    await nc.write(command)
    if nc.pending_data_size > 1024 * 1024:
        await nc.flush(timeout=30)


async def _more_attempts(nc: NatsClient, running: Running) -> None:
    """Have jobs and requests that the attack itself will report on."""
    for _ in range(60):
        await running.client.submit(MODEL, BODY_OF, lane=Lane.BULK)
    for _ in range(4):
        ask = b'{"endpoint": "/v1/chat/completions", "body": %b}' % BODY
        await nc.publish(
            subjects.infer(MODEL, "default", "default"),
            ask,
            "_INBOX.fuzz.x",
            headers={"Content-Type": "application/json"},
        )


BODY_OF = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
ANOTHER_BODY = {"messages": [{"role": "user", "content": "Are you there?"}], "max_tokens": 8}
"""The attack's own worker dies with requests of the first body again and again, so that one is suspected."""


@asynccontextmanager
async def _learning(nc: NatsClient, tally: Tally) -> AsyncIterator[Known]:
    """Listen to all that anybody may listen to, and take the attempts of a deployment as its worker would."""
    known = Known()
    await declare_pool(nc, DEPLOYMENT, slots=400)
    own = nc.new_inbox()

    async def pulled(message: Message) -> None:
        try:
            attempt = _attempt.decode(message.data)
        except UNREADABLE:
            return
        tally.attempts += 1
        known.attempts.append((attempt, message.reply if not attempt.reply_to else ""))
        if attempt.reply_to:
            _keep(known.relays, attempt.reply_to)

    async def asked(message: Message) -> None:
        if not message.reply.startswith(own):
            _keep(known.inboxes if ".MSG.NEXT." in message.subject else known.answers, message.reply)

    listening = [
        await nc.subscribe(own, cb=pulled),
        await nc.subscribe("$JS.API.>", cb=asked),
        await nc.subscribe("infermq.outcome.>", cb=asked),
        await nc.subscribe("infermq.now.>", cb=asked),
    ]
    pulling = asyncio.create_task(_pull(nc, own))
    try:
        yield known
    finally:
        pulling.cancel()
        await asyncio.gather(pulling, return_exceptions=True)
        for one in listening:
            await one.unsubscribe()


def _keep(names: list[str], name: str) -> None:
    if name and len(names) < _KEPT:
        names.append(name)
    elif name:
        names[hash(name) % _KEPT] = name


async def _pull(nc: NatsClient, inbox: str) -> None:
    """Ask for more attempts of the deployment, again and again."""
    ask = next_request(20, expires_ms=Ms(2000), heartbeat_ms=Ms(500))
    while True:
        for stream in (subjects.RUN, subjects.NOW):
            await nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{DEPLOYMENT}", ask, inbox)
        await asyncio.sleep(0.2)


async def _still_works(nc: NatsClient, running: Running, worker: Worker, ledger_url: str) -> None:
    """Everything that was sent is settled, all roles run, and a job and a request are answered as ever."""
    await running.client.apply_catalog(CATALOG.format(slots=4, options=SCRIPT))
    await until(lambda: _is_taken(nc, subjects.SUBMIT), "all that was submitted is taken in", within_s=120)
    await until(lambda: _is_taken(nc, subjects.OUTCOME), "all outcomes are settled", within_s=120)
    job = await _patiently(lambda: running.submit("hello"))
    shown = await running.ended(job)
    assert shown.state is State.SUCCEEDED, shown
    reply = await _patiently(lambda: running.client.infer("m", ANOTHER_BODY, timeout_s=10))
    assert reply is not None
    assert not worker.pool.died.is_set()
    connection = await asyncpg.connect(ledger_url)
    dead_letters = await connection.fetchval("select count(*) from infermq.dead_letters")
    await connection.close()
    assert dead_letters
    assert now()


async def _is_taken(nc: NatsClient, stream: str) -> bool:
    try:
        return not (await nc.jetstream().stream_info(stream)).state.messages
    except (NatsError, TimeoutError):
        return False


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """For half a minute: forged beats and catalogs are believed for some seconds."""
    end = time.monotonic() + 30
    while True:
        try:
            return await call()
        except Exception:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.5)

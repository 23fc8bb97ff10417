"""NATS asks brokers who may connect; what they say holds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.bus.callout import SUBJECT
from broker.bus.connections import Connections
from broker.core.accounts import Account
from broker.core.principal import Principal
from broker.roles.callout import MOST_REFUSED, Callout
from schemas.accounts import Role
from schemas.api import Problem
from schemas.api_keys import ApiKey
from schemas.jetstream import NatsError, NatsTimeoutError, NoServersError, is_refusal
from schemas.jetstream.client import reach
from tests.accounts.nats import KEYS, a_guarded_nats, as_broker, as_holder
from tests.builders import now

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
ANN = ApiKey("acme", "annannannann", b"a" * 32)
ADA = ApiKey("acme", "adaadaadaada", b"b" * 32)
BOB = ApiKey("bobs", "bobbobbobbob", b"c" * 32)
WORKER = ApiKey("acme", "workerworker", b"d" * 32)
KNOWN = {
    ANN.text(): Principal(tenant="acme", key=ANN.id, role=Role.PRODUCER),
    ADA.text(): Principal(tenant="acme", key=ADA.id, role=Role.TENANT_ADMIN),
    BOB.text(): Principal(tenant="bobs", key=BOB.id, role=Role.PRODUCER),
    WORKER.text(): Principal(tenant="acme", key=WORKER.id, role=Role.WORKER, deployments=frozenset({"d"})),
}


class Keys:
    """Who is known, and the broker's part that says so to the server."""

    def __init__(self) -> None:
        self.known = dict(KNOWN)
        self.callout: Callout

    async def identify(self, text: str) -> Principal | Problem:
        return self.known.get(text, Problem("unknown_key", "there is no such key"))


@asynccontextmanager
async def answering(url: str, *, refuse_s: float = 0.05) -> AsyncIterator[Keys]:
    keys = Keys()
    async with as_broker(url) as nc, as_broker(url, Account.SYSTEM) as system:
        keys.callout = Callout(
            nc=nc,
            connections=Connections(system),
            keys=KEYS,
            identify=keys.identify,
            clock=now,
            refuse_s=refuse_s,
            again_s=(0.0, 0.1),
        )
        serving = asyncio.create_task(keys.callout.serve())
        await nc.flush()
        await nc.flush()
        try:
            yield keys
        finally:
            serving.cancel()
            await asyncio.wait([serving])


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    async with a_guarded_nats(tmp_path) as guarded:
        yield guarded


async def refused(url: str, **options: Any) -> bool:
    try:
        await reach(url, **{"connect_timeout": 8, **options})
    except (NatsError, NoServersError) as error:
        return is_refusal(error)
    return False


async def test_a_key_opens_what_is_its_own_and_nothing_else(url: str) -> None:
    async with answering(url), as_holder(url, ANN) as ann:
        await ann.subscribe("_INBOX_annannannann.>")
        await ann.subscribe("infermq.result.acme.>")
        await ann.publish(f"infermq.api.batch-list.acme.{ANN.id}", b"")
        await ann.flush()
        assert ann.denied == []

        for subject in (">", "_INBOX.>", f"_INBOX_{ADA.id}.>", "infermq.result.*.>", "infermq.>", "$SYS.>"):
            await ann.subscribe(subject)
        for subject in (
            f"infermq.submit.bulk.m.bobs.{ANN.id}",
            f"infermq.submit.bulk.m.acme.{ADA.id}",
            f"infermq.api.batch-list.acme.{ADA.id}",
            f"infermq.api.key-create.acme.{ANN.id}",
            f"_INBOX_{ADA.id}.x",
            "infermq.outcome.d",
            "infermq.ctl.settled",
            "$JS.API.STREAM.LIST",
            "$JS.API.CONSUMER.MSG.NEXT.INFERMQ_RUN.d",
            "$KV.INFERMQ_CATALOG.active",
            "$SYS.REQ.SERVER.PING.CONNZ",
            SUBJECT,
        ):
            await ann.publish(subject, b"")
        await ann.flush()
        await ann.flush()  # nats-py writes the PING of the first in front of what still waits to be written
        assert len(ann.denied) == 6 + 12
        assert all("permissions violation" in one for one in ann.denied)


async def test_a_foreign_reply_reaches_nothing_of_the_brokers(url: str) -> None:
    async with answering(url), as_broker(url) as nc, as_holder(url, ANN) as ann:
        await nc.request("$JS.API.STREAM.CREATE.S", b'{"name":"S","subjects":["infermq.submit.>"]}')
        heard: list[str] = []

        async def note(message: Any) -> None:
            heard.append(message.subject)

        for subject in ("infermq.ctl.>", "infermq.outcome.>", "$KV.>", "infermq.reply.>", "infermq.run.>"):
            await nc.subscribe(subject, cb=note)
        await nc.flush()
        for reply in (
            "infermq.ctl.settled",
            "infermq.outcome.d",
            "$KV.INFERMQ_CATALOG.active",
            "infermq.reply.d.b.t",
        ):
            await ann.publish(f"infermq.submit.bulk.m.acme.{ANN.id}", b"", reply)
        answer = await ann.request(f"infermq.submit.bulk.m.acme.{ANN.id}", b"")
        await nc.flush()
        assert b'"seq":5' in answer.data, "all five were stored"
        assert heard == []


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"token": ""},
        {"token": "imq_acme_annannannann_" + "0" * 49},
        {"token": ANN.text()[:-1]},
        {"token": "x" * 3000},
        {"user": "acme", "password": "wrong"},
        {"nkeys_seed_str": "SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4"},
    ],
    ids=["none", "empty", "unknown", "cut off", "huge", "password", "a user's key that is no broker's"],
)
async def test_whoever_shows_no_key_that_is_known_is_refused(url: str, options: dict[str, Any]) -> None:
    async with answering(url):
        assert await refused(url, **options)
        async with as_holder(url, ANN) as ann:
            await ann.flush()


async def test_a_key_is_taken_as_a_password_too(url: str) -> None:
    async with answering(url):
        assert not await refused(url, user="anything", password=ANN.text())


async def test_while_no_broker_is_there_nobody_comes_in(url: str) -> None:
    assert await refused(url, token=ANN.text())


async def test_the_connections_of_a_key_end_at_once_and_no_others(url: str) -> None:
    async with (
        answering(url) as keys,
        as_holder(url, ANN) as first,
        as_holder(url, ANN) as second,
        as_holder(url, ADA) as ada,
    ):
        del keys.known[ANN.text()]
        keys.callout.end([ANN.id])
        async with asyncio.timeout(1):
            while not (first.is_closed and second.is_closed):
                await asyncio.sleep(0.005)
        assert await refused(url, token=ANN.text())
        await ada.flush()
        assert not ada.is_closed


async def test_wrong_keys_wait_and_hold_up_nobody(url: str) -> None:
    async with answering(url, refuse_s=0.5):
        loop = asyncio.get_running_loop()
        began = loop.time()
        guesses = [asyncio.create_task(refused(url, token=f"guess-{n}")) for n in range(MOST_REFUSED // 2)]
        async with as_holder(url, ANN) as ann:
            await ann.flush()
        assert not any(guess.done() for guess in guesses)
        assert all(await asyncio.gather(*guesses))
        assert loop.time() - began >= 0.5


async def test_another_broker_answers_when_one_is_gone(url: str) -> None:
    async with answering(url):
        async with answering(url):
            for _ in range(10):
                assert not await refused(url, token=ANN.text())
        for _ in range(10):
            assert not await refused(url, token=ANN.text())


async def test_what_is_no_question_of_a_server_is_left_alone(url: str) -> None:
    async with answering(url), as_broker(url) as nc:
        for data in (b"", b"xkv1", b"xkv1" + b"x" * 100, b"{}", b"a.b.c", b"x" * 100_000):
            with pytest.raises(NatsTimeoutError):
                await nc.request(SUBJECT, data, timeout=0.05)
            with pytest.raises(NatsTimeoutError):
                await nc.request(SUBJECT, data, timeout=0.05, headers={"Nats-Server-Xkey": KEYS.public_curve})
        assert not await refused(url, token=ANN.text())

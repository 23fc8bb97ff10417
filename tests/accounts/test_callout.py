"""NATS asks brokers who may connect; what they say holds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from broker.bus.callout import SUBJECT
from broker.bus.connections import Connections
from broker.client import Client, NoBroker, RequestRefused
from broker.core.accounts import Account
from broker.core.principal import Principal
from broker.roles.callout import MOST_REFUSED, Callout
from schemas.accounts import Role
from schemas.api import Problem
from schemas.api_keys import ApiKey
from schemas.jetstream import NatsError, NatsTimeoutError, NoServersError, is_refusal
from schemas.jetstream.client import pause_s, reach
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

    async def identify(self, text: str | None) -> Principal | Problem:
        return self.known.get(text or "", Problem("unknown_key", "there is no such key"))


@asynccontextmanager
async def answering(url: str, *, refuse_s: float = 0.05) -> AsyncIterator[Keys]:
    keys = Keys()
    async with (
        as_broker(url) as nc,
        as_broker(url, Account.TENANTS) as doors,
        as_broker(url, Account.SYSTEM) as system,
    ):
        keys.callout = Callout(
            nc=nc,
            doors=doors,
            connections=Connections(system),
            keys=KEYS,
            identify=keys.identify,
            clock=now,
            refuse_s=refuse_s,
            again_s=(0.0, 0.1),
        )
        serving = asyncio.create_task(keys.callout.serve())
        await keys.callout.listening.wait()
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
        keys.callout.end({("acme", ANN.id): Problem("key_revoked", "the key was revoked")})
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


async def test_who_shows_a_key_that_ends_is_told_and_tries_no_more(url: str) -> None:
    async with (
        answering(url) as keys,
        Client.connect(url, api_key=ANN.text()) as client,
        as_broker(url, Account.TENANTS) as doors,
    ):
        silent = await doors.subscribe(">")
        await doors.flush()
        await doors.flush()
        calls = [client.batches(), client.submit("m", {}), client.infer("m", {"messages": []})]
        waiting = [asyncio.create_task(call) for call in calls]
        for _ in calls:
            await silent.next_msg(5)
        del keys.known[ANN.text()]
        keys.callout.end({("acme", ANN.id): Problem("key_revoked", "the key was revoked")})
        for call in waiting:
            with pytest.raises(RequestRefused) as caught:
                await asyncio.wait_for(call, 2)
            assert caught.value.problem.code == "key_revoked"
        async with asyncio.timeout(5):
            while not client.nats.is_closed:
                await asyncio.sleep(0.005)
        for late in (client.batches(), client.submit("m", {}), client.infer("m", {"messages": []})):
            with pytest.raises(RequestRefused, match="was revoked"):
                await late


async def test_only_a_broker_can_say_that_a_key_has_ended(url: str) -> None:
    async with answering(url), Client.connect(url, api_key=ANN.text()) as client, as_broker(url) as nc:
        await nc.request("$JS.API.STREAM.CREATE.S", b'{"name":"S","subjects":["infermq.submit.>"]}')
        async with as_holder(url, BOB) as bob:
            await bob.publish(f"infermq.submit.bulk.m.bobs.{BOB.id}", b"{}", f"_INBOX_{ANN.id}.ended")
            await bob.publish(f"_INBOX_{ANN.id}.ended", b"{}")
            await bob.flush()
            await bob.flush()
        await client.nats.flush()
        with pytest.raises(NoBroker):
            await client.batches()
        assert client.nats.is_connected


async def test_who_is_refused_for_long_is_told_and_comes_back_when_brokers_do(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.client.nats_door.REFUSED_S", 1.0)
    async with answering(url) as keys, Client.connect(url, api_key=ANN.text()) as client:
        del keys.known[ANN.text()]
        await keys.callout.connections.end(ANN.id)
        async with asyncio.timeout(5):
            while await _is_connected(client):
                await asyncio.sleep(0.005)
        with pytest.raises(RequestRefused) as caught:
            await asyncio.wait_for(client.infer("m", {"messages": []}), 10)
        assert caught.value.problem.code == "unauthorized"
        assert "no broker runs that could check it" in str(caught.value)

        keys.known[ANN.text()] = KNOWN[ANN.text()]
        async with asyncio.timeout(10):
            while await _is_refused(client):
                await asyncio.sleep(0.01)


async def _is_refused(client: Client) -> bool:
    """Tell whether it is kept out. Let in, it finds no broker to answer it."""
    try:
        await client.batches()
    except RequestRefused:
        return True
    except NoBroker:
        return False
    raise AssertionError("a broker answered")


async def _is_connected(client: Client) -> bool:
    return client.nats.is_connected


async def test_whoever_is_in_comes_back_after_nats_and_brokers_were_away(tmp_path: Path) -> None:
    async with a_guarded_nats(tmp_path) as first:
        port = urlsplit(first).port
    assert port is not None
    async with AsyncExitStack() as stack:
        async with a_guarded_nats(tmp_path, port=port) as url, answering(url):
            connecting = [Client.connect(url, api_key=key.text()) for key in (ANN, BOB)]
            clients = [await stack.enter_async_context(one) for one in connecting]
        async with a_guarded_nats(tmp_path, port=port) as url:
            until = asyncio.get_running_loop().time() + 5
            while asyncio.get_running_loop().time() < until:
                await asyncio.sleep(0.05)
                assert not any(client.nats.is_connected for client in clients)
            assert not any(client.nats.is_closed for client in clients)
            async with answering(url), asyncio.timeout(20):
                while not all(client.nats.is_connected for client in clients):
                    await asyncio.sleep(0.01)


def test_a_key_that_is_refused_again_and_again_is_shown_less_and_less() -> None:
    pauses = [pause_s(refusals, 1) for refusals in range(12)]

    assert pauses == sorted(pauses)
    assert pauses[:6] == [1] * 6
    assert pauses[-1] == 15
    assert pause_s(10_000, 0.1) == 15

"""Every broker knows the keys, and lets none in that has ended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker.bus.directories import NatsDirectories
from broker.core.keys import Directory, KeyName, KeyRecord, hash_of
from broker.core.principal import Principal
from broker.core.records import Audited
from broker.errors import Unavailable
from broker.ledger import open_ledger
from broker.ports import Ledger
from broker.roles.key_watch import KeyWatch
from schemas import subjects
from schemas.accounts import Role
from schemas.api import Problem
from schemas.api_keys import ApiKey
from schemas.jetstream.client import NatsClient as Nats
from schemas.units import Ms
from tests.builders import an_id, now
from tests.declared import declare_streams
from tests.proxy import a_postgres_proxy
from tests.system import until

pytestmark = pytest.mark.real
NUMBERS = iter(range(1, 1000))


def by() -> Audited:
    return Audited(an_id(), now(), "default", "ops")


async def a_key(ledger: Ledger, *, tenant: str = "default", role: Role = Role.PRODUCER, **changes: object) -> ApiKey:
    number = next(NUMBERS)
    key = ApiKey(tenant, f"{number:012}", number.to_bytes(32))
    fields = {"id": key.id, "tenant": tenant, "role": role, "hash": hash_of(key.secret), "created_ms": now()}
    assert await ledger.api_keys.create(KeyRecord(**{**fields, **changes}), by()) is not None  # type: ignore[arg-type]
    return key


def a_watch(nc: Nats, ledger: Ledger, *, every_s: float = 60.0, clock: object = now) -> KeyWatch:
    return KeyWatch(nc, ledger.api_keys, NatsDirectories(nc), clock=clock, every_s=every_s)  # type: ignore[arg-type]


@asynccontextmanager
async def a_broker(nc: Nats, ledger: Ledger, *, every_s: float = 60.0) -> AsyncIterator[KeyWatch]:
    """One that has read the keys. It looks again only when it hears, or after `every_s`."""
    watch = a_watch(nc, ledger, every_s=every_s)
    await watch.learn()
    serving = asyncio.create_task(watch.serve())
    try:
        await nc.flush()
        yield watch
    finally:
        serving.cancel()
        await asyncio.wait([serving])


def code(caller: Principal | Problem) -> str | None:
    return caller.code if isinstance(caller, Problem) else None


async def shut_out(watch: KeyWatch, key: ApiKey) -> None:
    async def is_shut_out() -> bool:
        return ("default", key.id) not in watch.directory.let_in(now())

    await until(is_shut_out, "the key is shut out", within_s=10)


async def test_a_key_that_one_broker_revokes_is_refused_by_all(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    key = await a_key(ledger)
    heard: list[frozenset[KeyName]] = []
    async with a_broker(nc, ledger) as one, a_broker(nc, ledger) as other:
        other.shut_out = heard.append
        assert isinstance(await other.identify_text(key.text()), Principal)

        await ledger.api_keys.revoke("default", key.id, by(), force=False)
        await one.announce()

        await shut_out(other, key)
        for watch in (one, other):
            assert code(await watch.identify_text(key.text())) == "key_revoked"
            assert code(await watch.identify("default", key.id, now())) == "key_revoked"
        assert heard == [{("default", key.id)}]


async def test_a_revocation_whose_announcement_was_lost_is_found(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    key = await a_key(ledger)
    async with a_broker(nc, ledger, every_s=0.05) as watch:
        await ledger.api_keys.revoke("default", key.id, by(), force=False)

        await shut_out(watch, key)


async def test_a_key_that_was_just_made_is_known_to_a_broker_that_has_not_heard(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    async with a_broker(nc, ledger) as watch:
        key = await a_key(ledger)
        other = await a_key(ledger)

        assert isinstance(await watch.identify("default", key.id, now()), Principal)
        assert isinstance(await watch.identify_text(other.text()), Principal)


async def test_those_who_ask_together_share_a_look_and_none_misses_what_was_there(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    async with a_broker(nc, ledger) as watch:
        keys = [await a_key(ledger) for _ in range(3)]

        callers = await asyncio.gather(*(watch.identify_text(key.text()) for key in keys for _ in range(20)))

        assert all(isinstance(caller, Principal) for caller in callers)


async def test_a_job_stays_accepted_though_its_key_ended_afterwards(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    key = await a_key(ledger)
    accepted = now()
    watch = a_watch(nc, ledger)
    await asyncio.sleep(0.002)
    await ledger.api_keys.revoke("default", key.id, by(), force=False)
    await watch.learn()

    assert isinstance(await watch.identify("default", key.id, accepted), Principal)
    assert code(await watch.identify("default", key.id, now())) == "key_revoked"


async def test_a_key_that_expires_is_told_of_at_its_time(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    key = await a_key(ledger, expires_ms=now() + 300)
    heard: list[frozenset[KeyName]] = []
    async with a_broker(nc, ledger) as watch:
        watch.shut_out = heard.append

        await shut_out(watch, key)

        async def told() -> bool:
            return heard == [{("default", key.id)}]

        await until(told, "it is told", within_s=5)


async def test_a_disabled_tenant_is_let_in_again_when_it_is_enabled(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    await ledger.tenants.create("acme", None, by())
    key = await a_key(ledger, tenant="acme")
    async with a_broker(nc, ledger) as watch:
        await ledger.tenants.disable("acme", by(), force=False)
        await watch.announce()
        disabled = code(await watch.identify_text(key.text()))

        await ledger.tenants.enable("acme", by())
        await watch.announce()

        assert disabled == "tenant_disabled"
        assert isinstance(await watch.identify_text(key.text()), Principal)


async def test_a_broker_that_starts_without_postgres_knows_the_keys_of_the_copy(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    key, gone = await a_key(ledger), await a_key(ledger)
    await ledger.api_keys.revoke("default", gone.id, by(), force=False)
    async with a_broker(nc, ledger) as before:
        await before.announce()
    async with open_ledger("postgresql://nobody@127.0.0.1:1/none", clock=now) as away:
        watch = a_watch(nc, away)

        await watch.learn()

        assert watch.directory == before.directory
        assert isinstance(await watch.identify_text(key.text()), Principal)
        assert code(await watch.identify_text(gone.text())) == "key_revoked"
        with pytest.raises(Unavailable):
            await watch.identify_text(ApiKey("default", "z" * 12, bytes(32)).text())


async def test_what_is_known_goes_on_while_postgres_is_away(nc: Nats, ledger: Ledger, ledger_url: str) -> None:
    await declare_streams(nc)
    key = await a_key(ledger)
    async with a_postgres_proxy(ledger_url) as proxy, open_ledger(proxy.url, clock=now) as behind:
        watch = a_watch(nc, behind)
        await watch.learn()
        proxy.is_open = False
        proxy.cut()

        assert isinstance(await watch.identify_text(key.text()), Principal)
        with pytest.raises(Unavailable):
            await watch.refresh()
        assert isinstance(await watch.identify_text(key.text()), Principal)


async def test_a_ledger_that_began_anew_wins_over_the_copy(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    key = await a_key(ledger)
    copies = NatsDirectories(nc)
    real = await ledger.api_keys.directory(ended_since=Ms(0))
    await copies.write(Directory(real.version + 100, real.tenants, real.keys), instead_of=0)

    await a_watch(nc, ledger).learn()

    copied, _ = await copies.read()
    assert copied == real
    assert ("default", key.id) in real.keys


async def test_a_copy_that_another_broker_has_written_meanwhile_stays(nc: Nats) -> None:
    await declare_streams(nc)
    copies = NatsDirectories(nc)
    await copies.write(Directory(7), instead_of=0)

    with pytest.raises(Unavailable):
        await copies.write(Directory(6), instead_of=0)

    copied, _ = await copies.read()
    assert copied == Directory(7)


async def test_a_copy_that_cannot_be_read_is_replaced(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    await nc.jetstream().publish(f"$KV.{subjects.KEYS_BUCKET}.{subjects.DIRECTORY}", b"nonsense")

    await a_watch(nc, ledger).learn()

    copied, _ = await NatsDirectories(nc).read()
    assert copied == await ledger.api_keys.directory(ended_since=Ms(0))


async def test_the_last_use_of_a_key_is_recorded_in_groups(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    used, unused = await a_key(ledger), await a_key(ledger)
    watch = a_watch(nc, ledger)
    await watch.learn()
    for _ in range(3):
        await watch.identify_text(used.text())

    await watch.write_uses()

    shown, other = [await ledger.api_keys.find("default", key.id) for key in (used, unused)]
    assert shown is not None
    assert other is not None
    assert shown.used_ms is not None
    assert now() - 5_000 < shown.used_ms <= now()
    assert other.used_ms is None

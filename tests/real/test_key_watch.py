"""Every broker knows the keys, and lets none in that has ended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec
import pytest

from broker.bus.directories import NatsDirectories
from broker.core.keys import Directory, KeyName, KeyRecord, hash_of
from broker.core.principal import Principal
from broker.core.records import Audited
from broker.doors.nats_api import nats_api
from broker.errors import Unavailable
from broker.ledger import open_ledger
from broker.ports import KeyLedger, Ledger
from broker.roles.key_watch import KeyWatch
from broker.service import Services
from schemas import subjects
from schemas.accounts import Role
from schemas.api import ErrorBody, Nothing, Problem
from schemas.api_keys import ApiKey
from schemas.codec import ERROR, KIND
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Lane
from schemas.outcome import Refused
from schemas.subjects import Verb
from schemas.units import Ms
from tests.builders import a_job, an_id, now
from tests.calling import called
from tests.declared import declare_streams
from tests.proxy import a_postgres_proxy
from tests.real.test_interactive import a_beat, a_door
from tests.real.test_services import services  # noqa: F401 - a fixture
from tests.real.test_streams import an_intake
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
        assert isinstance(await watch.identify("default", key.id, now()), Principal)

        other = await a_key(ledger)
        assert isinstance(await watch.identify_text(other.text()), Principal)


async def test_those_who_ask_together_share_a_look_and_none_misses_what_was_there(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    async with a_broker(nc, ledger) as watch:
        keys = [await a_key(ledger) for _ in range(3)]

        callers = await asyncio.gather(*(watch.identify_text(key.text()) for key in keys for _ in range(20)))

        assert all(isinstance(caller, Principal) for caller in callers)


class SlowAnswers:
    """A ledger whose answers are long on their way, once it is told so."""

    def __init__(self, ledger: KeyLedger) -> None:
        self._ledger = ledger
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def version(self) -> int:
        version = await self._ledger.version()
        self.asked += 1
        await self.let_go.wait()
        return version


async def test_who_asks_while_somebody_looks_waits_for_another_look(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    slow = SlowAnswers(ledger.api_keys)
    watch = KeyWatch(nc, slow, NatsDirectories(nc), clock=now)
    await watch.learn()
    slow.let_go.clear()
    asked = slow.asked
    looking = asyncio.create_task(watch.identify("default", "nobody", now()))

    async def has_asked() -> bool:
        return slow.asked > asked

    await until(has_asked, "somebody has looked")
    key = await a_key(ledger)
    later = [asyncio.create_task(watch.identify("default", key.id, now())) for _ in range(5)]
    await asyncio.sleep(0)
    slow.let_go.set()

    assert all(isinstance(caller, Principal) for caller in await asyncio.gather(*later))
    assert code(await looking) == "unknown_key"
    assert slow.asked == asked + 2, "those who came later share a look"


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


@pytest.fixture
async def watch(nc: Nats, ledger: Ledger) -> KeyWatch:
    await declare_streams(nc)
    await ledger.tenants.create("acme", None, by())
    return a_watch(nc, ledger)


@asynccontextmanager
async def taking_in(nc: Nats, ledger: Ledger, watch: KeyWatch) -> AsyncIterator[None]:
    """An intake that asks for keys."""
    serving = asyncio.create_task(an_intake(nc, ledger, identify=watch.identify).serve())
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def job_of(nc: Nats, tenant: str, key: str) -> UUID:
    """Submit a job with a key."""
    job = a_job(id=an_id())
    source = subjects.Source(Lane.BULK, "m", tenant, key)
    await nc.jetstream().publish(subjects.submit(source), msgspec.msgpack.encode(job))
    assert job.id is not None
    return job.id


async def became(ledger: Ledger, job: UUID, tenant: str) -> str:
    """The state of a job that is in the ledger; of one that was refused, why."""

    async def is_there() -> bool:
        return await ledger.jobs.find(job, tenant) is not None

    await until(is_there, "the job is in the ledger")
    shown = await ledger.jobs.find(job, tenant)
    assert shown is not None
    return shown.failure.code if isinstance(shown.failure, Refused) else str(shown.state)


async def test_a_job_that_was_accepted_before_its_key_was_revoked_is_taken_in_and_later_ones_are_refused(
    nc: Nats, ledger: Ledger, watch: KeyWatch
) -> None:
    key = await a_key(ledger)
    before = await job_of(nc, "default", key.id)
    await asyncio.sleep(0.002)
    await ledger.api_keys.revoke("default", key.id, by(), force=False)
    await asyncio.sleep(0.002)
    after = await job_of(nc, "default", key.id)

    async with taking_in(nc, ledger, watch):
        assert await became(ledger, before, "default") == "queued"
        assert await became(ledger, after, "default") == "key_revoked"


async def test_a_job_of_a_key_that_was_never_there_or_of_a_disabled_tenant_is_refused_visibly(
    nc: Nats, ledger: Ledger, watch: KeyWatch
) -> None:
    key = await a_key(ledger, tenant="acme")
    accepted = await job_of(nc, "acme", key.id)
    await ledger.tenants.disable("acme", by(), force=False)
    unknown = await job_of(nc, "default", "nobody")
    of_nobody = await job_of(nc, "no such tenant", "nobody")

    async with taking_in(nc, ledger, watch):
        assert await became(ledger, unknown, "default") == "unknown_key"
        assert await became(ledger, of_nobody, "no such tenant") == "unknown_key"
        assert await became(ledger, accepted, "acme") == "tenant_disabled"


async def test_a_job_waits_for_intake_while_nobody_can_say_whose_key_it_is(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    key = await a_key(ledger)
    job = await job_of(nc, "default", key.id)
    real, asked = a_watch(nc, ledger), 0

    async def identify(tenant: str, name: str, at: Ms) -> Principal | Problem:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise Unavailable("Postgres")
        return await real.identify(tenant, name, at)

    serving = asyncio.create_task(an_intake(nc, ledger, identify=identify).serve())

    assert await became(ledger, job, "default") == "queued"
    assert asked == 2
    serving.cancel()
    await asyncio.wait([serving])


async def test_the_api_answers_a_key_with_its_rights_and_one_that_has_ended_with_why(
    nc: Nats,
    nats_url: str,
    ledger: Ledger,
    watch: KeyWatch,
    services: Services,  # noqa: F811
) -> None:
    key, gone = await a_key(ledger, role=Role.DEPLOYER), await a_key(ledger)
    await ledger.api_keys.revoke("default", gone.id, by(), force=False)
    told = {}
    async with nats_api(nats_url, services, name="b", connection=Nats, identify=watch.identify, clock=now):
        for name, verb in (
            (key.id, Verb.STATUS),
            (key.id, Verb.BATCH_LIST),
            (gone.id, Verb.STATUS),
            ("x", Verb.STATUS),
        ):
            answer = await called(nc, verb, "default", name, Nothing())
            is_error = (answer.headers or {}).get(KIND) == ERROR
            told[name, verb] = msgspec.json.decode(answer.data, type=ErrorBody).error.code if is_error else None

    assert list(told.values()) == [None, "forbidden", "key_revoked", "unknown_key"]


async def test_a_request_with_a_key_that_has_ended_is_refused(nc: Nats, ledger: Ledger, watch: KeyWatch) -> None:
    await ledger.api_keys.create(
        KeyRecord(id="default", tenant="default", role=Role.PRODUCER, hash=bytes(32), created_ms=now()), by()
    )
    await ledger.api_keys.revoke("default", "default", by(), force=False)
    async with a_door(nc, ledger, a_beat("d"), identify=watch.identify) as door:
        word = await (await door.ask()).word()

        assert word.code == "key_revoked"
        assert door.untaken() == 0

"""Tenants and keys: who may make, see and end them, and what is recorded."""

from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import Any

import pytest

from broker.core.keys import KeyRecord, key_id
from broker.core.principal import Principal
from broker.ports import Ledger
from broker.service import KeyService, TenantService
from broker.service.controls import audited
from broker.service.refusal import Refusal
from schemas.accounts import (
    KeyCreate,
    KeyList,
    KeyMade,
    KeyRef,
    KeyRevoke,
    KeyRotate,
    Role,
    TenantCreate,
    TenantDisable,
    TenantList,
    TenantRef,
)
from schemas.api import Problem
from schemas.api_keys import parse_key
from schemas.units import Ms
from tests.builders import an_entropy, now

_SECRETS = count(1)


class Accounts:
    """The use-cases, and how often they announced a change."""

    def __init__(self, ledger: Ledger, *, entropy: Callable[[], int] = an_entropy) -> None:
        self.announced = 0
        self.tenants = TenantService(ledger=ledger.tenants, announce=self._announce, clock=now, entropy=entropy)
        self.keys = KeyService(
            ledger=ledger.api_keys,
            announce=self._announce,
            clock=now,
            entropy=entropy,
            secret=lambda: next(_SECRETS).to_bytes(32),
        )

    async def _announce(self) -> None:
        self.announced += 1

    async def key(self, role: Role = Role.PRODUCER, *, tenant: str | None = None, **changes: Any) -> KeyMade:
        return await self.keys.create(OPERATOR, KeyCreate(role=role, tenant=tenant, **changes))


async def with_tenants(ledger: Ledger) -> Accounts:
    """Two tenants, of whom nothing was announced yet."""
    made = Accounts(ledger)
    for name in ("acme", "other"):
        await made.tenants.create(OPERATOR, TenantCreate(name))
    made.announced = 0
    return made


@pytest.fixture
async def accounts(ledger: Ledger) -> Accounts:
    return await with_tenants(ledger)


def a_principal(role: Role, tenant: str = "acme", key: str = "k", **changes: Any) -> Principal:
    return Principal(tenant=tenant, key=key, role=role, **changes)


OPERATOR = a_principal(Role.OPERATOR, "default", "ops")
ADMIN = a_principal(Role.TENANT_ADMIN)


async def refused(call: Awaitable[object]) -> Problem:
    with pytest.raises(Refusal) as refusal:
        await call
    return refusal.value.problem


async def test_each_change_is_audited_with_who_made_it_and_no_hash(accounts: Accounts, ledger: Ledger) -> None:
    made = await accounts.keys.create(ADMIN, KeyCreate(role=Role.PRODUCER))
    new = await accounts.keys.rotate(ADMIN, KeyRotate(made.key.id))
    await accounts.keys.revoke(ADMIN, KeyRevoke(made.key.id))
    await accounts.tenants.disable(OPERATOR, TenantDisable("other"))
    await accounts.tenants.enable(OPERATOR, TenantRef("other"))

    entries = await ledger.audit.page(None, 100, None)

    assert [(one.action, f"{one.tenant}/{one.key}") for one in reversed(entries)] == [
        ("tenant-create", "default/ops"),
        ("tenant-create", "default/ops"),
        ("key-create", "acme/k"),
        ("key-rotate", "acme/k"),
        ("key-revoke", "acme/k"),
        ("tenant-disable", "default/ops"),
        ("tenant-enable", "default/ops"),
    ]
    said = b"".join(bytes(raw) for one in entries for raw in (one.target, one.before, one.after))
    assert b"hash" not in said
    for text in (made.text, new.text):
        assert text[-49:].encode() not in said


@pytest.mark.parametrize("role", [Role.PRODUCER, Role.TENANT_ADMIN, Role.DEPLOYER])
async def test_another_tenants_key_is_answered_as_one_that_is_not_there(accounts: Accounts, role: Role) -> None:
    theirs = (await accounts.key(tenant="other")).key.id
    me = a_principal(role)

    for key in (theirs, "z" * 12):
        if role is Role.TENANT_ADMIN:
            for call in (
                accounts.keys.show(me, KeyRef(key)),
                accounts.keys.revoke(me, KeyRevoke(key)),
                accounts.keys.rotate(me, KeyRotate(key)),
            ):
                assert await refused(call) == Problem("unknown_key", f"there is no key {key}", "id")
        else:
            assert (await refused(accounts.keys.show(me, KeyRef(key)))).code == "forbidden"
    assert (await accounts.keys.show(OPERATOR, KeyRef(theirs, "other"))).revoked_ms is None


@pytest.mark.parametrize("tenant", ["other", "nobody"])
async def test_only_operators_name_another_tenant_whether_it_is_there_or_not(accounts: Accounts, tenant: str) -> None:
    key = (await accounts.key(tenant="other")).key.id
    problems = [
        await refused(call)
        for call in (
            accounts.keys.create(ADMIN, KeyCreate(role=Role.PRODUCER, tenant=tenant)),
            accounts.keys.list(ADMIN, KeyList(tenant=tenant)),
            accounts.keys.show(ADMIN, KeyRef(key, tenant)),
            accounts.keys.revoke(ADMIN, KeyRevoke(key, tenant)),
            accounts.keys.rotate(ADMIN, KeyRotate(key, tenant)),
            accounts.tenants.show(ADMIN, TenantRef(tenant)),
        )
    ]

    told = Problem("forbidden", "a key of the role tenant-admin reaches its own tenant only", "tenant")
    assert problems == [told] * 6


async def test_any_key_may_ask_about_itself(accounts: Accounts) -> None:
    made = (await accounts.key(tenant="acme")).key
    me = a_principal(Role.PRODUCER, key=made.id)

    assert await accounts.keys.show(me, KeyRef(made.id)) == made
    assert (await accounts.tenants.show(me, TenantRef("acme"))).keys == 1


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.WORKER, Role.DEPLOYER])
async def test_a_tenants_admin_touches_no_key_of_an_operator_worker_or_deployer(
    accounts: Accounts, role: Role
) -> None:
    deployments = ("d",) if role is Role.WORKER else None
    key = (await accounts.key(role, tenant="acme", deployments=deployments)).key

    for call in (
        accounts.keys.create(ADMIN, KeyCreate(role=role, deployments=deployments)),
        accounts.keys.rotate(ADMIN, KeyRotate(key.id)),
        accounts.keys.revoke(ADMIN, KeyRevoke(key.id)),
    ):
        assert (await refused(call)).code == "forbidden"
    assert await accounts.keys.show(ADMIN, KeyRef(key.id)) == key


async def test_a_rotated_key_lives_on_for_the_overlap(accounts: Accounts) -> None:
    old = (await accounts.keys.create(ADMIN, KeyCreate(role=Role.PRODUCER, models=("m",), label="ci"))).key
    before = now()

    made = await accounts.keys.rotate(ADMIN, KeyRotate(old.id, overlap_ms=Ms(60_000)))

    assert made.old is not None
    assert made.old.expires_ms is not None
    assert before + 60_000 <= made.old.expires_ms <= now() + 60_000
    assert (made.key.models, made.key.label, made.key.replaces, made.key.expires_ms) == (("m",), "ci", old.id, None)
    assert parse_key(made.text).id == made.key.id != old.id


async def test_a_rotation_lets_no_key_live_longer(accounts: Accounts) -> None:
    old = (await accounts.keys.create(ADMIN, KeyCreate(role=Role.PRODUCER, expires_in_ms=Ms(50_000)))).key

    made = await accounts.keys.rotate(ADMIN, KeyRotate(old.id, overlap_ms=Ms(3_600_000)))

    assert made.old == old


async def test_a_revoked_key_is_not_rotated(accounts: Accounts) -> None:
    key = (await accounts.keys.create(ADMIN, KeyCreate(role=Role.PRODUCER))).key.id
    first = await accounts.keys.revoke(ADMIN, KeyRevoke(key))
    again = await accounts.keys.revoke(ADMIN, KeyRevoke(key))

    assert (first.changed, again.changed) == (True, False)
    assert again.key == first.key
    assert (await refused(accounts.keys.rotate(ADMIN, KeyRotate(key)))).code == "key_revoked"
    assert (await accounts.keys.list(ADMIN, KeyList())).keys == ()
    assert [one.id for one in (await accounts.keys.list(ADMIN, KeyList(ended=True))).keys] == [key]


async def test_the_last_operator_is_not_lost_unless_it_is_forced(accounts: Accounts) -> None:
    one, two = [(await accounts.key(Role.OPERATOR, tenant=tenant)).key.id for tenant in ("acme", "other")]
    await accounts.keys.revoke(OPERATOR, KeyRevoke(two, "other"))

    for call in (
        accounts.keys.revoke(OPERATOR, KeyRevoke(one, "acme")),
        accounts.tenants.disable(OPERATOR, TenantDisable("acme")),
    ):
        assert (await refused(call)).code == "last_operator"
    assert (await accounts.tenants.disable(OPERATOR, TenantDisable("other"))).changed
    assert (await accounts.keys.revoke(OPERATOR, KeyRevoke(one, "acme", force=True))).changed


async def test_an_operator_of_a_disabled_tenant_or_past_its_end_counts_for_none(
    accounts: Accounts, ledger: Ledger
) -> None:
    me = (await accounts.key(Role.OPERATOR)).key.id
    await accounts.key(Role.OPERATOR, tenant="acme")
    await accounts.tenants.disable(OPERATOR, TenantDisable("acme"))
    assert (await refused(accounts.keys.revoke(OPERATOR, KeyRevoke(me)))).code == "last_operator"

    past = KeyRecord(
        id="p" * 12, tenant="default", role=Role.OPERATOR, hash=bytes(32), created_ms=Ms(0), expires_ms=Ms(1)
    )
    await ledger.api_keys.create(past, audited(OPERATOR, now, an_entropy))
    assert (await refused(accounts.keys.revoke(OPERATOR, KeyRevoke(me)))).code == "last_operator"


async def test_an_id_that_is_another_tenants_is_made_anew(ledger: Ledger) -> None:
    numbers = iter([1, 2, 3, 7, 4, 7, 8])
    again = Accounts(ledger, entropy=partial(next, numbers))
    await again.tenants.create(OPERATOR, TenantCreate("acme"))
    await again.tenants.create(OPERATOR, TenantCreate("other"))

    first = await again.keys.create(ADMIN, KeyCreate(role=Role.PRODUCER))
    second = await again.keys.create(a_principal(Role.TENANT_ADMIN, "other"), KeyCreate(role=Role.PRODUCER))

    assert [made.key.id for made in (first, second)] == [key_id(7), key_id(8)]


async def test_a_key_of_no_tenant_cannot_be_made(accounts: Accounts) -> None:
    problem = await refused(accounts.keys.create(OPERATOR, KeyCreate(role=Role.PRODUCER, tenant="nobody")))

    assert problem.code == "unknown_tenant"


async def test_tenants_and_keys_are_listed_a_page_at_a_time(accounts: Accounts) -> None:
    keys = sorted([(await accounts.keys.create(ADMIN, KeyCreate(role=Role.PRODUCER))).key.id for _ in range(3)])

    tenants = [(await accounts.tenants.list(OPERATOR, TenantList(2, after))).tenants for after in (None, "default")]
    pages = [(await accounts.keys.list(ADMIN, KeyList(limit=2, after=after))).keys for after in (None, keys[1])]

    assert [[one.name for one in page] for page in tenants] == [["acme", "default"], ["other"]]
    assert [[one.id for one in page] for page in pages] == [keys[:2], keys[2:]]
    assert tenants[0][0].keys == 3

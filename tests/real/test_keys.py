"""Tenants and keys: who may make, see and end them, and what is recorded."""

import asyncio

import asyncpg
import pytest

from broker.ledger import open_ledger
from broker.local.first_key import NoSuchTenant, OperatorThere, first_key
from broker.ports import Ledger
from schemas.accounts import (
    KeyCreate,
    KeyList,
    KeyRef,
    KeyRevoke,
    KeyRotate,
    Role,
    TenantDisable,
    TenantRef,
)
from schemas.api_keys import parse_key
from tests.builders import now
from tests.contract.ledger.test_keys import ADMIN, OPERATOR, Accounts, with_tenants
from tests.holding import a_hand

pytestmark = pytest.mark.real


@pytest.fixture
async def accounts(ledger: Ledger) -> Accounts:
    return await with_tenants(ledger)


async def test_a_key_is_shown_once_and_recorded_without_its_secret(accounts: Accounts, ledger_url: str) -> None:
    made = await accounts.keys.create(ADMIN, KeyCreate(role=Role.PRODUCER, models=("m",), label="ci"))

    shown = await accounts.keys.show(ADMIN, KeyRef(made.key.id))
    [listed] = (await accounts.keys.list(ADMIN, KeyList())).keys
    text = parse_key(made.text)
    assert (text.tenant, text.id) == ("acme", made.key.id)
    assert shown == listed == made.key
    assert (shown.role, shown.models, shown.label, shown.made_by) == (Role.PRODUCER, ("m",), "ci", "acme/k")
    assert accounts.announced == 1
    everything = await all_of(ledger_url)
    assert made.key.id in everything
    for secret in (made.text[-49:], text.secret.hex(), repr(text.secret)):
        assert secret not in everything


async def all_of(url: str) -> str:
    """All that the ledger holds of accounts and audits."""
    connection = await asyncpg.connect(url)
    found = await connection.fetch("""
        select to_jsonb(t)::text from infermq.tenants t union all select to_jsonb(k)::text from infermq.api_keys k
        union all select to_jsonb(u)::text from infermq.key_uses u union all select to_jsonb(a)::text from infermq.audit a
    """)
    await connection.close()
    return "\n".join(row[0] for row in found)


async def test_two_operators_who_revoke_each_other_at_once_leave_one(accounts: Accounts, ledger_url: str) -> None:
    keys = [(await accounts.key(Role.OPERATOR)).key.id for _ in range(2)]
    async with a_hand(ledger_url) as hand:
        await hand.hold("select from infermq.key_version for update")
        revoking = [asyncio.create_task(accounts.keys.revoke(OPERATOR, KeyRevoke(key))) for key in keys]
        await hand.until_waiting(2)
        await hand.let_go()

        ends = await asyncio.gather(*revoking, return_exceptions=True)

    assert sorted(type(end).__name__ for end in ends) == ["KeyChanged", "Refusal"]


async def test_the_first_key_is_made_without_one_and_only_while_there_is_none(
    accounts: Accounts, ledger_url: str
) -> None:
    made = await first_key(ledger_url, tenant="acme")

    assert (made.key.role, made.key.tenant) == (Role.OPERATOR, "acme")
    with pytest.raises(OperatorThere):
        await first_key(ledger_url, tenant="acme")
    with pytest.raises(NoSuchTenant):
        await first_key(ledger_url, tenant="nobody", force=True)
    assert (await first_key(ledger_url, tenant="acme", force=True)).key.id != made.key.id
    await accounts.keys.revoke(OPERATOR, KeyRevoke(made.key.id, "acme"))


async def test_each_change_makes_what_brokers_know_outdated(accounts: Accounts, ledger_url: str) -> None:
    async with open_ledger(ledger_url, clock=now) as ledger:
        versions = [await ledger.api_keys.version()]
        key = (await accounts.keys.create(ADMIN, KeyCreate(role=Role.PRODUCER))).key.id
        versions.append(await ledger.api_keys.version())
        await accounts.keys.rotate(ADMIN, KeyRotate(key))
        versions.append(await ledger.api_keys.version())
        await accounts.keys.revoke(ADMIN, KeyRevoke(key))
        versions.append(await ledger.api_keys.version())
        await accounts.tenants.disable(OPERATOR, TenantDisable("acme"))
        versions.append(await ledger.api_keys.version())
        await accounts.tenants.enable(OPERATOR, TenantRef("acme"))
        versions.append(await ledger.api_keys.version())
        await accounts.keys.revoke(ADMIN, KeyRevoke(key))

        assert versions == list(range(versions[0], versions[0] + 6))
        assert await ledger.api_keys.version() == versions[-1]

"""Use-cases of API keys. A tenant's admin reaches those of its tenant; an operator, all."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from broker.core.authorise import Action, may_grant
from broker.core.grants import Grant, granted, granted_again
from broker.core.keys import key_id
from broker.core.principal import Principal
from broker.errors import Conflict, LastOperator
from broker.ports import Clock, Entropy, KeyLedger
from broker.service.controls import audited
from broker.service.refusal import Refusal, authorise, tenant_of
from broker.service.tenants import LAST_OPERATOR
from schemas.accounts import (
    Key,
    KeyChanged,
    KeyCreate,
    KeyList,
    KeyMade,
    KeyRef,
    KeyRevoke,
    KeyRotate,
    Keys,
)
from schemas.api import Problem
from schemas.api_keys import ApiKey
from schemas.units import Ms

LONGEST_OVERLAP_MS = Ms(90 * 24 * 3_600_000)
_TRIES = 3
"""How often another id is tried, if one is taken. That happens once in 2^62 keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyService:
    """Each method raises Refusal, Unavailable or Conflict."""

    ledger: KeyLedger
    announce: Callable[[], Awaitable[None]]
    """Lets all brokers know that tenants or keys have changed."""
    clock: Clock
    entropy: Entropy
    secret: Callable[[], bytes]
    """Makes the secret of a key: 32 random bytes."""

    async def create(self, principal: Principal, ask: KeyCreate) -> KeyMade:
        """Make a key. Only this answer has its text."""
        authorise(principal, Action.MANAGE_KEYS)
        tenant = tenant_of(principal, ask.tenant)
        grant = _given(granted(principal, ask, self.clock()))
        text, made = await self._made(tenant, grant, principal)
        await self.announce()
        return KeyMade(made, text)

    async def list(self, principal: Principal, ask: KeyList) -> Keys:
        authorise(principal, Action.MANAGE_KEYS)
        tenant = tenant_of(principal, ask.tenant)
        return Keys(await self.ledger.page(tenant, ask.after, ended=ask.ended, now=self.clock(), limit=ask.limit))

    async def show(self, principal: Principal, ask: KeyRef) -> Key:
        """Show a key: any principal its own; who may manage keys, all of the tenant."""
        tenant = tenant_of(principal, ask.tenant)
        is_own = (tenant, ask.id) == (principal.tenant, principal.key)
        authorise(principal, Action.READ_OWN if is_own else Action.MANAGE_KEYS)
        return _found(await self.ledger.find(tenant, ask.id), ask.id)

    async def revoke(self, principal: Principal, ask: KeyRevoke) -> KeyChanged:
        """Let a key in no more. One that was revoked already stays so."""
        authorise(principal, Action.MANAGE_KEYS)
        tenant = tenant_of(principal, ask.tenant)
        _may_manage(principal, _found(await self.ledger.find(tenant, ask.id), ask.id))
        try:
            by = audited(principal, self.clock, self.entropy)
            answer = await self.ledger.revoke(tenant, ask.id, by, force=ask.force)
        except LastOperator as error:
            raise Refusal(LAST_OPERATOR) from error
        if answer is None:
            raise Refusal(_unknown(ask.id))
        await self.announce()
        return KeyChanged(*answer)

    async def rotate(self, principal: Principal, ask: KeyRotate) -> KeyMade:
        """Make a key in place of another, which lives on for the overlap."""
        authorise(principal, Action.MANAGE_KEYS)
        tenant, now = tenant_of(principal, ask.tenant), self.clock()
        if ask.overlap_ms > LONGEST_OVERLAP_MS:
            raise Refusal(Problem("bad_request", "an overlap is at most 90 days", "overlap_ms", LONGEST_OVERLAP_MS))
        old = _found(await self.ledger.find(tenant, ask.id), ask.id)
        _may_manage(principal, old)
        if old.revoked_ms is not None:
            raise Refusal(Problem("key_revoked", f"the key {ask.id} was revoked: make a new one", "id"))
        grant, by = _given(granted_again(principal, old, now)), audited(principal, self.clock, self.entropy)
        for _ in range(_TRIES):
            key = self._new(tenant)
            try:
                both = await self.ledger.rotate(ask.id, grant.record(key, now), by, until=Ms(now + ask.overlap_ms))
            except Conflict:
                continue
            if both is None:
                raise Refusal(_unknown(ask.id))
            await self.announce()
            return KeyMade(both[0], key.text(), both[1])
        raise Conflict("no free id was found for the key: try again")

    async def _made(self, tenant: str, grant: Grant, principal: Principal) -> tuple[str, Key]:
        by = audited(principal, self.clock, self.entropy)
        for _ in range(_TRIES):
            key = self._new(tenant)
            try:
                made = await self.ledger.create(grant.record(key, by.at_ms), by)
            except Conflict:
                continue
            if made is None:
                raise Refusal(
                    Problem(
                        "unknown_tenant", f"there is no tenant {tenant}: infermq tenant create {tenant}", "tenant"
                    )
                )
            return key.text(), made
        raise Conflict("no free id was found for the key: try again")

    def _new(self, tenant: str) -> ApiKey:
        return ApiKey(tenant, key_id(self.entropy()), self.secret())


def _given(grant: Grant | Problem) -> Grant:
    if isinstance(grant, Problem):
        raise Refusal(grant)
    return grant


def _may_manage(principal: Principal, key: Key) -> None:
    if (problem := may_grant(principal, key.role)) is not None:
        raise Refusal(problem)


def _found(key: Key | None, name: str) -> Key:
    if key is None:
        raise Refusal(_unknown(name))
    return key


def _unknown(name: str) -> Problem:
    return Problem("unknown_key", f"there is no key {name}", "id")

"""The keys of a simulated world: those that last, and those that are made and revoked while requests run."""

import random
from dataclasses import dataclass, field

from broker.core.keys import KeyRecord, hash_of, key_id
from broker.simulate.cast.told import TENANTS
from broker.simulate.checks.noted import Troubles
from broker.simulate.world.world import BEGAN_MS
from schemas.accounts import Role
from schemas.api_keys import SECRET_BYTES, ApiKey

_UNKNOWN = 401
_FIRST = 3
"""How many keys a tenant has from the beginning that may be revoked."""
_HEARD_S = 0.5
"""How long brokers may take to hear that a key was revoked."""
_LOOKS_S = 6.0
"""How long they may take if nobody tells them: they look every five seconds."""


@dataclass(slots=True)
class Revocable:
    """A key that somebody has made, and may revoke."""

    tenant: str
    id: str
    text: str = field(repr=False)
    model: str | None = None
    """The only model that it may use. None: all."""
    expires_s: float | None = None
    """When it expires, by a clock that is right. None: never."""
    is_ending: bool = False
    """Somebody has asked to revoke it."""
    revoked_s: float | None = None
    """When that was done, as whoever asked was told."""

    def ended_s(self, now_s: float) -> float | None:
        """Return when it was revoked or expired, whichever came first. None: it lives."""
        ends = [end for end in (self.revoked_s, self.expires_s) if end is not None and end <= now_s]
        return min(ends, default=None)


class Keyring:
    def __init__(self, chance: random.Random, troubles: Troubles) -> None:
        self._troubles = troubles
        self.lasting = {
            tenant: ApiKey(tenant, f"{tenant}{'0' * 12}"[:12], chance.randbytes(SECRET_BYTES)) for tenant in TENANTS
        }
        """Operators' keys, which nobody revokes."""
        first = [
            ApiKey(tenant, key_id(chance.getrandbits(64)), chance.randbytes(SECRET_BYTES))
            for tenant in TENANTS
            for _ in range(_FIRST)
        ]
        self.made = [Revocable(one.tenant, one.id, one.text()) for one in first]
        self.wrong: list[str] = []
        self.records = [
            *(_record(one, Role.OPERATOR) for one in self.lasting.values()),
            *(_record(one, Role.PRODUCER) for one in first),
        ]
        """Those that are there from the beginning."""

    def text(self, tenant: str) -> str:
        return self.lasting[tenant].text()

    def of(self, tenant: str) -> list[Revocable]:
        """Those that nobody has asked to revoke. They may have expired."""
        return [one for one in self.made if one.tenant == tenant and not one.is_ending]

    def ended(self, tenant: str, now_s: float) -> list[Revocable]:
        """Those that are revoked, or have expired."""
        return [one for one in self.made if one.tenant == tenant and one.ended_s(now_s) is not None]

    def alive(self, tenant: str, now_s: float, *, is_narrow: bool) -> list[Revocable]:
        """Those that nobody has asked to revoke, and that may use one model only if they are narrow."""
        return [one for one in self.of(tenant) if (one.model is not None) is is_narrow and one.ended_s(now_s) is None]

    def heard(self, key: Revocable, *, asked_s: float, told_s: float, status: int) -> None:
        """Compare what a broker said to whoever showed a key with what is known of it."""
        if status == _UNKNOWN and not key.is_ending and not self._may_have_expired(key, asked_s, told_s):
            self.wrong.append(f"key {key.id} was not let in, and nobody has revoked it")
        ended_s = key.ended_s(asked_s)
        if status < 400 and ended_s is not None and self._must_be_out(ended_s, asked_s):
            self.wrong.append(f"key {key.id} was let in {asked_s - ended_s:.1f} s after it was revoked or expired")

    def _may_have_expired(self, key: Revocable, asked_s: float, told_s: float) -> bool:
        return key.expires_s is not None and (
            told_s > key.expires_s - _HEARD_S or self._troubles.near(asked_s, told_s)
        )

    def _must_be_out(self, ended_s: float, asked_s: float) -> bool:
        """At once if all went well since, and once all went well for as long as brokers take to look."""
        if asked_s > ended_s + _HEARD_S and not self._troubles.near(ended_s, asked_s):
            return True
        return asked_s > ended_s + _LOOKS_S and not self._troubles.near(asked_s - _LOOKS_S, asked_s)


def _record(key: ApiKey, role: Role) -> KeyRecord:
    return KeyRecord(id=key.id, tenant=key.tenant, role=role, hash=hash_of(key.secret), created_ms=BEGAN_MS)

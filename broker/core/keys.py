"""Knows API keys: what is recorded of each, who shows one, and which are let in no more.

The secret of a key is in its text only (`schemas.api_keys`). The record has a hash, which needs no salt and no slow
function: the secret is random, so there is no list of likely ones to try.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from broker.core.principal import Principal
from schemas.accounts import Role
from schemas.api import Problem
from schemas.api_keys import ID_CHARACTERS, ID_LENGTH, BadKey, parse_key
from schemas.job import Lane
from schemas.units import Ms

KeyName = tuple[str, str]
"""The tenant and the id of a key."""
_NOBODYS = bytes(32)
"""No secret has this hash. What is compared with it takes as long as with any other."""


def hash_of(secret: bytes) -> bytes:
    """Return what is recorded of a secret."""
    return hashlib.sha256(secret).digest()


def key_id(random: int) -> str:
    """Make the id of a key out of at least 64 random bits."""
    found = []
    for _ in range(ID_LENGTH):
        random, place = divmod(random, len(ID_CHARACTERS))
        found.append(ID_CHARACTERS[place])
    return "".join(found)


class TenantRecord(msgspec.Struct, frozen=True):
    """What brokers must know of a tenant."""

    name: str
    disabled_ms: Ms | None = None
    """Since when its keys are not let in. None: they are."""


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What brokers must know of a key. It never changes but in when it ends."""

    id: str
    tenant: str
    role: Role
    hash: bytes
    """Of the secret. It is shown nowhere."""
    models: frozenset[str] | None = None
    """Those that it may use. None: all. So with the three below."""
    endpoints: frozenset[str] | None = None
    lanes: frozenset[Lane] | None = None
    deployments: frozenset[str] | None = None
    created_ms: Ms
    expires_ms: Ms | None = None
    revoked_ms: Ms | None = None
    label: str | None = None

    def __repr__(self) -> str:
        return f"KeyRecord({self.tenant}/{self.id}, {self.role})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("tenant", self.tenant), ("id", self.id), ("role", self.role)]

    @property
    def name(self) -> KeyName:
        return self.tenant, self.id

    @property
    def principal(self) -> Principal:
        return Principal(
            tenant=self.tenant,
            key=self.id,
            role=self.role,
            models=self.models,
            endpoints=self.endpoints,
            lanes=frozenset(Lane) if self.lanes is None else self.lanes,
            deployments=self.deployments,
            expires_ms=self.expires_ms,
        )

    def ended(self, at: Ms) -> Problem | None:
        """Say why it is let in no more at an instant. None: it is."""
        if self.revoked_ms is not None and self.revoked_ms <= at:
            return Problem("key_revoked", f"the key {self.id} was revoked")
        if self.expires_ms is not None and self.expires_ms <= at:
            return Problem("key_expired", f"the key {self.id} has expired: its tenant's admin can make another")
        return None


UNKNOWN = Problem("unknown_key", "there is no such key")
"""What is said of a key that is not there and of one with another secret alike."""


@dataclass(frozen=True, slots=True)
class Directory:
    """All tenants and keys, as the ledger had them at one moment."""

    version: int = 0
    """0: nothing was read yet. The ledger's count begins with 1."""
    tenants: Mapping[str, TenantRecord] = field(default_factory=dict, repr=False)
    keys: Mapping[KeyName, KeyRecord] = field(default_factory=dict, repr=False)
    _proven: dict[bytes, tuple[KeyRecord, Principal]] = field(default_factory=dict, repr=False, compare=False)
    """The keys whose texts were shown and found true, by the hashes of the texts. To check a text takes much longer."""

    @classmethod
    def of(cls, version: int, tenants: Iterable[TenantRecord], keys: Iterable[KeyRecord]) -> "Directory":
        return cls(version, {one.name: one for one in tenants}, {one.name: one for one in keys})

    def identify_text(self, text: str, now: Ms) -> Principal | Problem:
        """Say who shows the text of a key, or why nobody does. Whatever is wrong with the secret, the work is the same."""
        proof = hash_of(text.encode(errors="surrogatepass"))
        proven = self._proven.get(proof)
        if proven is None:
            try:
                shown = parse_key(text)
            except BadKey as error:
                return Problem("bad_key", f"this is no API key: {error}")
            record = self.keys.get((shown.tenant, shown.id))
            fits = hmac.compare_digest(hash_of(shown.secret), _NOBODYS if record is None else record.hash)
            if record is None or not fits:
                return UNKNOWN
            proven = self._proven[proof] = record, record.principal
        record, principal = proven
        return self._kept_out(record, now) or principal

    def identify(self, tenant: str, key: str, at: Ms) -> Principal | Problem:
        """Say whose key this is, which somebody has shown before, or why it is not let in at that instant."""
        record = self.keys.get((tenant, key))
        return UNKNOWN if record is None else self._kept_out(record, at) or record.principal

    def _kept_out(self, record: KeyRecord, at: Ms) -> Problem | None:
        """Say why a key is not let in at an instant. None: it is."""
        owner = self.tenants.get(record.tenant)
        if owner is None:
            return UNKNOWN
        if owner.disabled_ms is not None:
            return Problem("tenant_disabled", f"the tenant {owner.name} is disabled: ask the operator of this system")
        return record.ended(at)

    def let_in(self, at: Ms) -> frozenset[KeyName]:
        """Name the keys that are let in at an instant."""
        return frozenset(name for name, record in self.keys.items() if self._kept_out(record, at) is None)

    def next_end(self, now: Ms) -> Ms | None:
        """Return when the next key ends by itself."""
        ends = (key.expires_ms for key in self.keys.values() if key.expires_ms is not None and key.expires_ms > now)
        return min(ends, default=None)

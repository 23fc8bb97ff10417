"""Who makes, replaces and revokes the keys of a tenant in a simulated world."""

import contextlib

from broker.simulate.cast.acting import PASSING, Actor, Acts
from broker.simulate.cast.keys import Keyring, Revocable
from broker.simulate.cast.told import MODELS
from broker.simulate.world.world import BEGAN_MS
from schemas.accounts import KeyCreate, KeyMade, KeyRotate, Role
from schemas.units import Ms

_NARROW = 0.5
"""How many keys may use one model only."""
_EXPIRES = 0.5
"""How many keys expire."""
_LIVES_MS = (2_000, 20_000)
"""How long those live at least, and at most."""


class KeyMaker:
    def __init__(self, actor: Actor, keys: Keyring) -> None:
        self._actor = actor
        self._keys = keys

    def acts(self) -> Acts:
        return ((3, self.make_key), (1, self.rotate_key), (3, self.revoke_key))

    async def make_key(self) -> None:
        chance = self._actor.process.random
        model = chance.choice(MODELS) if chance.random() < _NARROW else None
        lives_ms = Ms(chance.randint(*_LIVES_MS)) if chance.random() < _EXPIRES else None
        with contextlib.suppress(*PASSING):
            ask = KeyCreate(role=Role.PRODUCER, models=None if model is None else (model,), expires_in_ms=lives_ms)
            self._made(await self._actor.client.create_key(ask), model)

    async def rotate_key(self) -> None:
        """Replace a key. The former one lives on for a day, unless it expires before."""
        if alive := self._keys.of(self._actor.tenant):
            key = self._actor.process.random.choice(alive)
            with contextlib.suppress(*PASSING):
                self._made(await self._actor.client.rotate_key(KeyRotate(key.id)), key.model)

    def _made(self, made: KeyMade, model: str | None) -> None:
        expires_ms = made.key.expires_ms
        expires_s = None if expires_ms is None else (expires_ms - BEGAN_MS) / 1000
        self._keys.made.append(Revocable(self._actor.tenant, made.key.id, made.text, model, expires_s))

    async def revoke_key(self) -> None:
        if alive := self._keys.of(self._actor.tenant):
            key = self._actor.process.random.choice(alive)
            key.is_ending = True
            changed = await self._actor.until_done(lambda: self._actor.client.revoke_key(key.id))
            key.revoked_s = self._actor.process.monotonic()
            if changed.key.revoked_ms is None:
                self._keys.wrong.append(f"key {key.id} was revoked, and is shown as if it were not")

"""Who makes, replaces and revokes the keys of a tenant in a simulated world."""

import contextlib

from broker.simulate.cast.acting import PASSING, Actor, Acts
from broker.simulate.cast.keys import Keyring, Revocable
from broker.simulate.cast.told import MODELS
from schemas.accounts import KeyCreate, KeyMade, KeyRotate, Role

_NARROW = 0.5
"""How many keys may use one model only."""


class KeyMaker:
    def __init__(self, actor: Actor, keys: Keyring) -> None:
        self._actor = actor
        self._keys = keys

    def acts(self) -> Acts:
        return ((3, self.make_key), (1, self.rotate_key), (3, self.revoke_key))

    async def make_key(self) -> None:
        chance = self._actor.process.random
        model = chance.choice(MODELS) if chance.random() < _NARROW else None
        with contextlib.suppress(*PASSING):
            ask = KeyCreate(role=Role.PRODUCER, models=None if model is None else (model,))
            self._made(await self._actor.client.create_key(ask), model)

    async def rotate_key(self) -> None:
        """Replace a key. The former one lives on for a day."""
        if alive := self._keys.of(self._actor.tenant, revoked=False):
            key = self._actor.process.random.choice(alive)
            with contextlib.suppress(*PASSING):
                self._made(await self._actor.client.rotate_key(KeyRotate(key.id)), key.model)

    def _made(self, made: KeyMade, model: str | None) -> None:
        self._keys.made.append(Revocable(self._actor.tenant, made.key.id, made.text, model))

    async def revoke_key(self) -> None:
        if alive := self._keys.of(self._actor.tenant, revoked=False):
            key = self._actor.process.random.choice(alive)
            key.is_ending = True
            changed = await self._actor.until_done(lambda: self._actor.client.revoke_key(key.id))
            key.revoked_s = self._actor.process.monotonic()
            if changed.key.revoked_ms is None:
                self._keys.wrong.append(f"key {key.id} was revoked, and is shown as if it were not")

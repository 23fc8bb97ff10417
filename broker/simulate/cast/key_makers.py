"""Who makes and revokes the keys of a tenant in a simulated world."""

import contextlib

from broker.simulate.cast.acting import PASSING, Actor, Acts
from broker.simulate.cast.keys import Keyring, Revocable
from schemas.accounts import KeyCreate, Role


class KeyMaker:
    def __init__(self, actor: Actor, keys: Keyring) -> None:
        self._actor = actor
        self._keys = keys

    def acts(self) -> Acts:
        return ((2, self.make_key), (3, self.revoke_key))

    async def make_key(self) -> None:
        with contextlib.suppress(*PASSING):
            made = await self._actor.client.create_key(KeyCreate(role=Role.PRODUCER))
            self._keys.made.append(Revocable(self._actor.tenant, made.key.id, made.text))

    async def revoke_key(self) -> None:
        if alive := self._keys.of(self._actor.tenant, revoked=False):
            key = self._actor.process.random.choice(alive)
            key.is_ending = True
            changed = await self._actor.until_done(lambda: self._actor.client.revoke_key(key.id))
            key.revoked_s = self._actor.process.monotonic()
            if changed.key.revoked_ms is None:
                self._keys.wrong.append(f"key {key.id} was revoked, and is shown as if it were not")

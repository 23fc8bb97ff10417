"""Knows the key that brokers seal attempts and rulings with.

The ledger keeps it. The first broker makes it; one that finds an empty ledger but a copy in NATS takes that, since attempts
sealed with it may be under way. Otherwise the ledger's holds, and the copy follows. A broker that starts while Postgres is
away seals with the copy.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from broker.errors import Unavailable
from broker.ports import SealKeyCopy, SealKeyLedger
from broker.retrying import until_available
from schemas.health import Part

log = logging.getLogger(__name__)
EVERY_S = 15.0


class SealKey:
    """The key, once it is known. It appears in no log and no text."""

    def __init__(
        self,
        *,
        ledger: SealKeyLedger,
        copy: SealKeyCopy,
        random_key: Callable[[], bytes],
        every_s: float = EVERY_S,
    ) -> None:
        self._ledger = ledger
        self._copy = copy
        self._random_key = random_key
        self._every_s = every_s
        self._key: bytes | None = None
        self._known = asyncio.Event()

    def __repr__(self) -> str:
        return f"SealKey({'known' if self.is_known else 'not known'})"

    @property
    def is_known(self) -> bool:
        return self._key is not None

    def __call__(self) -> bytes:
        """Return the key. Raises: Unavailable."""
        if self._key is None:
            raise Unavailable("Postgres", "the key for seals is not known yet")
        return self._key

    async def known(self) -> None:
        """Wait until the key is known."""
        await self._known.wait()

    async def serve(self) -> None:
        """Keep to the ledger's key, and the copy in NATS to it, until cancelled."""
        while True:
            await until_available(self.learn)
            await asyncio.sleep(self._every_s)

    async def learn(self) -> None:
        """Take the ledger's key, or give it one, and have the copy follow. Raises: Unavailable; the copy is known then."""
        copy = None
        with contextlib.suppress(Unavailable):
            copy = await self._copy.read()
        if self._key is None and copy is not None:
            self._use(copy)
        key = await self._ledger.agree(copy or self._key or self._random_key())
        self._use(key)
        if copy != key:
            with contextlib.suppress(Unavailable):  # written the next time
                await self._copy.write(key)

    def part(self) -> Part:
        """Say whether attempts can be sealed."""
        return Part(ok=True) if self.is_known else Part(ok=False, why="not known yet: it is kept in Postgres")

    def _use(self, key: bytes) -> None:
        if self._key is not None and key != self._key:
            log.warning("the ledger has another key for seals than NATS: what was sealed by the other is refused")
        self._key = key
        self._known.set()

"""Knows all tenants and keys, and says who calls.

They are kept in memory, as the ledger has them: it is read when a change was announced, every few seconds, and when somebody
shows a key that is not known here. So a key that was just made opens the doors of every broker, and one that was revoked
opens none. A copy in NATS serves brokers that start while Postgres is away.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from broker.core.keys import UNKNOWN, Directory, KeyName
from broker.core.principal import Principal
from broker.errors import Unavailable
from broker.ports import Clock, DirectoryCopy, KeyLedger
from schemas import subjects
from schemas.api import Problem
from schemas.health import Part
from schemas.jetstream import Message, NatsConnection, NatsError
from schemas.units import Ms

log = logging.getLogger(__name__)
EVERY_S = 5.0
"""How long it takes to know of a change whose announcement was lost."""
USES_EVERY_S = 60.0
_COMPARED_EVERY = 12
"""How often the copy in NATS is compared: one in so many looks at the ledger."""
_LEDGER_S = 2.0
"""How long the ledger may take to answer when a broker starts. A guess: it takes milliseconds."""
KEPT_MS = Ms(8 * 24 * 3_600_000)
"""How long a key that has ended is remembered: longer than a job that it submitted may wait for intake."""


NO_KEY = Problem("no_key", "no API key was shown: over HTTP it is sent as `Authorization: Bearer KEY`")


class KeyWatch:
    """The directory of keys."""

    def __init__(
        self,
        nc: NatsConnection,
        ledger: KeyLedger,
        copy: DirectoryCopy,
        *,
        clock: Clock,
        every_s: float = EVERY_S,
        uses_every_s: float = USES_EVERY_S,
    ) -> None:
        self._nc = nc
        self._ledger = ledger
        self._copy = copy
        self._clock = clock
        self._every_s = every_s
        self._uses_every_s = uses_every_s
        self._heard = asyncio.Event()
        self._looking = asyncio.Lock()
        self._begun = 0
        """How often the ledger was asked."""
        self._answered = 0
        """The last of these that was answered."""
        self._unchanged = 0
        """How often nothing had changed, one after the other."""
        self._uses: dict[str, Ms] = {}
        self._let_in: frozenset[KeyName] = frozenset()
        self.directory = Directory()
        """The newest that is known. While the ledger is away, what was known before goes on."""
        self.shut_out: Callable[[frozenset[KeyName]], object] = lambda _: None
        """Is called with the keys that were let in and are no more: revoked, expired, of a disabled tenant, or gone."""

    def __repr__(self) -> str:
        return f"KeyWatch(version {self.directory.version}, {len(self.directory.keys)} keys)"

    async def identify(self, tenant: str, key: str, at: Ms) -> Principal | Problem:
        """Say whose key this is, which somebody has shown before: an `Identify`. Raises: Unavailable."""
        caller = self.directory.identify(tenant, key, at)
        if caller == UNKNOWN:
            await self._look()
            caller = self.directory.identify(tenant, key, at)
        return self._noted(caller)

    async def identify_text(self, text: str | None) -> Principal | Problem:
        """Say who shows the text of a key; None: none is shown. Raises: Unavailable.

        A key that is not there and one with another secret are looked up alike, so that nobody can tell which it is.
        """
        if text is None:
            return NO_KEY
        caller = self.directory.identify_text(text, self._clock())
        if caller == UNKNOWN:
            await self._look()
            caller = self.directory.identify_text(text, self._clock())
        return self._noted(caller)

    async def learn(self) -> None:
        """Know the keys before anybody is answered: by the ledger, or while it is away by the copy. Raises: Unavailable."""
        try:
            async with asyncio.timeout(_LEDGER_S):
                await self.refresh()
        except (Unavailable, TimeoutError):
            found, _ = await self._copy.read()
            if found is None:
                return
            self._use(found)
            log.warning("keys: those of NATS are in force until Postgres is there: version %d", found.version)

    async def serve(self) -> None:
        """Follow the ledger until cancelled."""
        heard = await self._nc.subscribe(subjects.CTL_KEYS, cb=self._on_notice)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write_uses())
                while True:
                    with contextlib.suppress(Unavailable):
                        await self.refresh()
                    self._notice_ends()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._wait_s()):
                            await self._heard.wait()
                    self._heard.clear()
        finally:
            if not self._nc.is_closed:
                await heard.unsubscribe()

    async def refresh(self) -> None:
        """Read the keys if they have changed, and have the copy follow, which is compared now and then too.

        Raises: Unavailable.
        """
        is_new = await self._look()
        self._unchanged = 0 if is_new else self._unchanged + 1
        if self._unchanged % _COMPARED_EVERY == 0:
            with contextlib.suppress(Unavailable):  # another broker wrote it, or it is written the next time
                await self._copy_over()

    async def _copy_over(self) -> None:
        """Have the copy in NATS follow the ledger. Raises: Unavailable."""
        copy, sequence = await self._copy.read()
        await self._look()  # afterwards: the ledger is never behind what was copied from it
        if copy is None or copy.version != self.directory.version:
            await self._copy.write(self.directory, instead_of=sequence)

    async def announce(self) -> None:
        """Use the keys that were just changed, and let all other brokers read them. Raises: Unavailable."""
        try:
            await self.refresh()
        finally:
            try:
                await self._nc.publish(subjects.CTL_KEYS, b"")
            except NatsError as error:
                log.warning("not announced subject=%s error=%s", subjects.CTL_KEYS, error)

    def part(self) -> Part:
        """Say whether callers can be told apart."""
        is_known = self.directory.version > 0
        return Part(ok=True) if is_known else Part(ok=False, why="not known yet: they are kept in Postgres")

    async def _look(self) -> bool:
        """Ask the ledger for what has changed since this call, and say whether anything had. Raises: Unavailable.

        Who comes while somebody asks waits for one more answer, and shares it.
        """
        before = self._begun
        async with self._looking:
            if self._answered > before:
                return False
            self._begun += 1
            is_new = await self._ledger.version() != self.directory.version
            if is_new:
                self._use(await self._ledger.directory(ended_since=Ms(self._clock() - KEPT_MS)))
            self._answered = self._begun
            return is_new

    def _noted(self, caller: Principal | Problem) -> Principal | Problem:
        if isinstance(caller, Principal):
            self._uses[caller.key] = self._clock()
        return caller

    def _use(self, directory: Directory) -> None:
        self.directory = directory
        self._notice_ends()

    def _notice_ends(self) -> None:
        """Tell of the keys that are let in no more."""
        before, self._let_in = self._let_in, self.directory.let_in(self._clock())
        if gone := before - self._let_in:
            self.shut_out(gone)

    def _wait_s(self) -> float:
        """Return how long to wait for a notice: until the next look, or until a key expires."""
        now = self._clock()
        end = self.directory.next_end(now)
        return self._every_s if end is None else min(self._every_s, (end - now) / 1000)

    async def _write_uses(self) -> None:
        """Record now and then when keys were used."""
        while True:
            await asyncio.sleep(self._uses_every_s)
            await self.write_uses()

    async def write_uses(self) -> None:
        """Record when keys were used since the last time. While the ledger is away, they wait."""
        uses, self._uses = self._uses, {}
        try:
            if uses:
                await self._ledger.used(uses)
        except Unavailable:
            self._uses = {**uses, **self._uses}

    async def _on_notice(self, _: Message) -> None:
        self._heard.set()

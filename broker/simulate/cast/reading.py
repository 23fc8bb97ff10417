"""Readers of a simulated world: they read what batches come to, as it comes, leave, and go on where they were."""

import asyncio

from broker.simulate.cast.acting import PASSING, Actor, Acts
from broker.simulate.cast.told import Read

_LIVES_S = (0.5, 2.0, 20.0)
_LIVES = 3


class Reader:
    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._chance = actor.process.random

    def acts(self) -> Acts:
        return ((1.5, self.results),)

    async def results(self) -> None:
        """Read a batch; each result comes once, however often the reader leaves."""
        told = self._actor.told
        if not (own := self._actor.own(told.batches)):
            return
        read, cursor = Read(self._chance.choice(own)), list[str | None]([None])
        told.read.append(read)
        for _ in range(_LIVES):
            try:
                async with asyncio.timeout(self._chance.choice(_LIVES_S)):
                    await self._read_on(read, cursor)
            except PASSING as error:
                self._actor.process.say(f"stops reading: {str(error) or type(error).__name__}")
            else:
                read.is_complete = True
                return

    async def _read_on(self, read: Read, cursor: list[str | None]) -> None:
        async for page in self._actor.client.result_pages(read.batch, cursor=cursor[0], own=True):
            for result in page.results:
                if result.job in read.results:
                    self._actor.told.wrong.append(f"the result of job {result.job} was read twice")
                read.results[result.job] = result
            cursor[0] = page.cursor

"""What operators and tenants of a simulated world order: cancel, pause, change, retry, replay, requeue."""

import asyncio
import contextlib
from uuid import UUID

from broker.simulate.cast.acting import PASSING, Actor, Acts
from broker.simulate.cast.catalogs import catalog_of
from schemas.cancel import CancelChoice
from schemas.changes import Change
from schemas.control import PauseKind
from schemas.dead import DeadFilter, DeadRequeue
from schemas.listing import JobFilter
from schemas.repeats import ReplayChoice

_KEEPS_SPARE = 0.7


class Meddler:
    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._client = actor.client
        self._chance = actor.process.random
        self._told = actor.told

    def acts(self) -> Acts:
        return (
            (2, self.cancel_jobs), (1, self.cancel_batch), (1, self.cancel_many), (1, self.pause), (1, self.change),
            (1, self.retry), (1, self.replay), (1, self.requeue), (0.5, self.catalog),
        )  # fmt: skip

    async def cancel_jobs(self) -> None:
        own = self._actor.own(self._told.accepted)
        jobs = self._chance.sample(own, min(len(own), self._chance.randint(1, 5)))
        if jobs:
            self._told.meddled.update(jobs)
            await self._actor.until_done(lambda: self._client.cancel_jobs(*jobs))

    async def cancel_batch(self) -> None:
        if own := self._actor.own(self._told.batches):
            batch = self._chance.choice(own)
            self._told.meddled.add(batch)
            await self._actor.until_done(lambda: self._client.cancel_batch(batch))

    async def cancel_many(self) -> None:
        model = self._chance.choice(("quick", "flaky"))
        self._told.meddled_models.add((model, self._actor.tenant))
        choice = CancelChoice(model=model, tenant=self._actor.tenant)
        with contextlib.suppress(*PASSING):
            self._ordered((await self._client.cancel_many(choice)).id)
            self._told.did["cancel"] += 1

    async def pause(self) -> None:
        """Pause something, and let it go on later, whatever happens meanwhile."""
        things = [
            (PauseKind.MODEL, "flaky"),
            (PauseKind.LANE, "bulk"),
            (PauseKind.DEPLOYMENT, "swift"),
            (PauseKind.TENANT, self._actor.tenant),
            *((PauseKind.BATCH, str(batch)) for batch in self._actor.own(self._told.batches)[-1:]),
        ]
        kind, name = self._chance.choice(things)
        with contextlib.suppress(*PASSING):
            await self._client.pause(kind, name)
        await asyncio.sleep(self._chance.random() * 5)
        await self._actor.until_done(lambda: self._client.resume(kind, name))

    async def change(self) -> None:
        change = Change(priority=self._chance.randrange(-5, 6))
        own = self._actor.own(self._told.batches)
        with contextlib.suppress(*PASSING):
            if own and self._chance.random() < 0.5:
                self._ordered((await self._client.change_batch(self._chance.choice(own), change)).id)
            elif jobs := self._actor.own(self._told.accepted):
                await self._client.change_job(self._chance.choice(jobs), change)

    async def retry(self) -> None:
        if own := self._actor.own(self._told.batches):
            with contextlib.suppress(*PASSING):
                self._ordered((await self._client.retry(self._chance.choice(own))).id)
                self._told.did["retry"] += 1

    async def replay(self) -> None:
        if own := self._actor.own(self._told.batches):
            with contextlib.suppress(*PASSING):
                choice = ReplayChoice(filter=JobFilter(batch=self._chance.choice(own)))
                self._ordered((await self._client.replay(choice)).id)
                self._told.did["replay"] += 1

    async def requeue(self) -> None:
        with contextlib.suppress(*PASSING):
            await self._client.requeue(DeadRequeue(filter=DeadFilter(), limit=20))

    async def catalog(self) -> None:
        text = catalog_of(
            swift_weight=self._chance.choice((1, 1, 3)),
            input_price=self._chance.choice((1.0, 0.0, 5.0)),
            has_spare=self._chance.random() < _KEEPS_SPARE,
        )
        with contextlib.suppress(*PASSING):
            await self._client.apply_catalog(text)

    def _ordered(self, instruction: UUID) -> None:
        self._told.orders[instruction] = self._actor.tenant

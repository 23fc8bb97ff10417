"""Holds dispatch to the daily caps: which of the chosen jobs can be paid, and what is reserved for those that start."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import UUID

from msgspec.structs import replace

from broker.core import route
from broker.core.limits import affordable
from broker.core.outstanding import Outstanding
from broker.core.pools import Pool
from broker.core.records import Flow, Pick, Running
from broker.ports import AttemptLedger
from broker.retrying import until_available
from broker.roles.daily_spend import DailySpend
from schemas.catalog import Catalog
from schemas.job import Attempt
from schemas.units import NanoUsd

PASSED_MOST = 64
"""How many jobs that are too dear are passed over on a deployment, for cheaper ones behind them. A guess."""


class Caps:
    """The daily caps as the leader keeps them, during one term.

    Once enough costs are recorded, each job of a deployment is estimated at their mean, and the room says how many can be
    paid. Before that, each job has an estimate of its own, by its body, which is read before it starts.
    """

    def __init__(
        self,
        attempts: AttemptLedger,
        daily_spend: DailySpend,
        *,
        outstanding: Outstanding,
        catalog: Callable[[], Catalog],
    ) -> None:
        self._attempts = attempts
        self._daily_spend = daily_spend
        self._outstanding = outstanding
        self._catalog = catalog
        self._too_dear: dict[UUID, tuple[str, NanoUsd]] = {}
        """Waiting jobs that cost more than was left on a deployment, and their estimates."""

    def _capped(self) -> set[str]:
        return {name for name, one in self._catalog().deployments.items() if one.daily_cap_usd is not None}

    async def refresh(self, ready: Iterable[Flow]) -> None:
        """Read what was spent, if one of these flows may spend on a deployment with a cap."""
        if capped := self._capped():
            catalog = self._catalog()
            models = {flow.model for flow in ready}
            if any(entry.deployment in capped for model in models for entry in route.entries(model, catalog)):
                await self._daily_spend.refresh()  # a second is too old: thousands of jobs may run in it

    def room(self, pools: Mapping[str, Pool]) -> dict[str, int]:
        """Return the room of the deployments that have any, where each job is looked at no more than can be read."""
        room = {name: pool.room for name, pool in pools.items() if pool.room}
        if by_job := self._by_job(pools):
            passed = Counter([deployment for deployment, _ in self._too_dear.values()])
            room |= {name: min(room[name], max(0, PASSED_MOST - passed[name])) for name in by_job & room.keys()}
        return room

    def barred(self, pools: Mapping[str, Pool]) -> dict[UUID, str]:
        """Name the jobs that cost more than is left on a deployment, to be run by another or later."""
        if not self._too_dear:
            return {}
        dear = {job: (name, nano) for job, (name, nano) in self._too_dear.items() if nano > _left(pools, name)}
        self._too_dear = dear
        return {job: name for job, (name, _) in dear.items()}

    def forget(self) -> None:
        """Look anew at the jobs that were too dear: some may wait no more."""
        self._too_dear.clear()

    async def paid(self, picks: Sequence[Pick], pools: Mapping[str, Pool]) -> Sequence[Pick]:
        """Return the picks that can be paid. The others wait, and those that are too dear are barred from now on."""
        by_job = self._by_job(pools)
        jobs = [pick.place.job for pick in picks if pick.deployment in by_job]
        if not jobs:
            return picks
        asked = await until_available(lambda: self._attempts.requests_of(jobs))
        estimates = {
            pick.place.job: self._daily_spend.estimate(asked[pick.place.job], pick.deployment, self._catalog())
            for pick in picks
            if pick.place.job in asked and pools[pick.deployment].left is not None
        }
        paid, dear = affordable(picks, estimates=estimates, left={name: _left(pools, name) for name in pools})
        self._too_dear |= {pick.place.job: (pick.deployment, estimates[pick.place.job]) for pick in dear}
        return paid

    def reserved(self, running: Sequence[Running], attempts: Sequence[Attempt]) -> Sequence[Running]:
        """Reserve for attempts that start, if their deployments have a cap."""
        if not (capped := self._capped()):
            return running
        return [
            replace(one, reserved=self._daily_spend.estimate(attempt, one.deployment, self._catalog()))
            if one.deployment in capped
            else one
            for one, attempt in zip(running, attempts, strict=True)
        ]

    async def recounted(self, running: Sequence[Running]) -> Sequence[Running]:
        """Reserve for all that runs by the ledger: what was reserved before, else, as after a crash, an estimate now."""
        if not (capped := self._capped()):
            return running
        before = {one.job: self._outstanding.reserved_for(one) for one in running if one.deployment in capped}
        estimates = await self._estimates([one for one in running if one.job in before and before[one.job] is None])
        reserved = {job: estimates.get(job, NanoUsd(0)) if known is None else known for job, known in before.items()}
        return [replace(one, reserved=reserved[one.job]) if one.job in reserved else one for one in running]

    async def _estimates(self, running: Sequence[Running]) -> Mapping[UUID, NanoUsd]:
        if not running:
            return {}
        await self._daily_spend.refresh()
        asked = await until_available(lambda: self._attempts.requests_of([one.job for one in running]))
        return {
            one.job: self._daily_spend.estimate(asked[one.job], one.deployment, self._catalog())
            for one in running
            if one.job in asked
        }

    def _by_job(self, pools: Mapping[str, Pool]) -> set[str]:
        """Name the deployments on which each job is held to the cap by its own estimate."""
        return {
            name for name, pool in pools.items() if pool.left is not None and not self._daily_spend.has_mean(name)
        }


def _left(pools: Mapping[str, Pool], deployment: str) -> int:
    pool = pools.get(deployment)
    return 0 if pool is None or pool.left is None else pool.left

"""Knows what each deployment has cost today, and what this broker has reserved for its interactive requests.

Daily caps are held against both. An attempt is reserved for from its start until the ledger has its execution: if Postgres
is away, what has run meanwhile still counts.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from broker.core.estimate import (
    ENOUGH,
    TYPICAL_INPUT,
    estimated_nano_usd,
    most_output,
    most_output_on,
    request_tokens,
)
from broker.core.limits import Account, cap_of
from broker.core.outstanding import Outstanding
from broker.core.records import Entry, Request, Spend, SpendReading
from broker.ports import Clock, SpendLedger
from broker.retrying import until_available
from schemas.catalog import Catalog, Deployment
from schemas.job import Attempt
from schemas.outcome import Usage
from schemas.units import NanoUsd

_EVERY_S = 1.0
UNKNOWN_AFTER_S = 5.0
"""How old the reading may be that daily caps are held against. Longer than a pause of Postgres that is none of an outage."""
UNRECORDED_S = 60.0
"""How long the execution of an attempt that is over is looked for. Its worker was killed if there is none by then. Only the
time counts in which the ledger can be read."""
_NOTHING = Spend(NanoUsd(0), 0)


@dataclass(slots=True)
class _Reserved:
    """An interactive attempt of this broker, on a deployment with a daily cap."""

    attempt: Attempt
    nano_usd: NanoUsd
    is_over: bool = False
    looked_for_s: float = 0.0

    @property
    def key(self) -> tuple[UUID, int]:
        return self.attempt.job, self.attempt.number


class DailySpend:
    """What each deployment has cost since 00:00 UTC, about a second old, and what is reserved of its daily cap."""

    def __init__(self, ledger: SpendLedger, clock: Clock, *, monotonic: Callable[[], float] | None = None) -> None:
        """`monotonic`: seconds by which the age of a reading is known; by default the event loop's."""
        self._ledger = ledger
        self._clock = clock
        self._monotonic = monotonic or _loop_s
        self._reading = SpendReading({}, {})
        self._read_at: float | None = None
        self._requests: dict[str, _Reserved] = {}
        self._released: Mapping[str, int] = {}
        """What the leader's count had let go of when the last reading began."""
        self._is_reading = asyncio.Lock()
        self.leads: Outstanding | None = None
        """The leader's count of dispatched attempts, if this broker leads."""

    def __repr__(self) -> str:
        return f"DailySpend({dict(self._reading.today)}, requests={len(self._requests)})"

    async def serve(self) -> None:
        """Refresh once a second until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(_EVERY_S)

    async def refresh(self) -> None:
        """Read what was spent, and let go of the reservations whose cost is in it."""
        async with self._is_reading:  # an older reading never replaces a newer one
            await until_available(self._read)

    async def _read(self) -> None:
        over = {token: one for token, one in self._requests.items() if one.is_over}
        released = dict(self.leads.released) if self.leads is not None else {}
        began = self._monotonic()
        self._reading = await self._ledger.read(self._clock(), [one.key for one in over.values()])
        passed_s = min(_EVERY_S, began - self._read_at) if self._read_at is not None else 0.0
        self._read_at, self._released = began, released
        for token, one in over.items():
            one.looked_for_s += passed_s
            if one.key in self._reading.recorded or one.looked_for_s >= UNRECORDED_S:
                del self._requests[token]

    def reserve(self, token: str, attempt: Attempt, catalog: Catalog) -> None:
        """Reserve for an interactive attempt that starts, if its deployment has a daily cap."""
        deployment = catalog.deployments.get(attempt.deployment)
        if deployment is not None and deployment.daily_cap_usd is not None:
            self._requests[token] = _Reserved(attempt, self.estimate(attempt, attempt.deployment, catalog))

    def over(self, token: str) -> None:
        """The attempt is over: what is reserved for it is let go of once its execution is recorded."""
        if (one := self._requests.get(token)) is not None:
            one.is_over = True

    def accounts(
        self,
        catalog: Catalog,
        *,
        only: Iterable[str] | None = None,
        request: Entry | None = None,
        by_job: bool = False,
    ) -> dict[str, Account]:
        """Return the accounts of the deployments with a daily cap. `request` is what is to start next, if that is known.

        `by_job`: the caller checks each job by its own estimate (see `has_mean`).
        """
        names = catalog.deployments if only is None else only
        capped = {
            name: deployment
            for name in names
            if (deployment := catalog.deployments.get(name)) is not None and deployment.daily_cap_usd is not None
        }
        if not capped:
            return {}
        requests = Counter[str]()
        for one in self._requests.values():
            requests[one.attempt.deployment] += one.nano_usd
        return {
            name: self._account(name, deployment, catalog, request=request, requests=requests[name], by_job=by_job)
            for name, deployment in capped.items()
        }

    def _account(
        self,
        name: str,
        deployment: Deployment,
        catalog: Catalog,
        *,
        request: Entry | None,
        requests: int,
        by_job: bool,
    ) -> Account:
        recorded, price = self.recorded(name), deployment.price
        typical = Usage(TYPICAL_INPUT, most_output_on(name, catalog))
        each = estimated_nano_usd(typical, deployment, recorded)
        estimate = each if request is None else estimated_nano_usd(_tokens(request, catalog), deployment, recorded)
        is_known = self.has_mean(name) or price is not None
        return Account(
            limit=cap_of(deployment.daily_cap_usd or 0.0),
            used=self._used(name),
            jobs=NanoUsd(self._jobs(name)),
            requests=NanoUsd(requests),
            estimate=NanoUsd(0) if by_job and price is not None and not self.has_mean(name) else estimate,
            each=each or NanoUsd(0),
            at_once=None if is_known else max(1, recorded.executions),
        )

    def _jobs(self, deployment: str) -> int:
        """Return what the leader has reserved, and what it has let go of since the reading began that may lack its cost."""
        if self.leads is None:
            return 0
        released = self.leads.released.get(deployment, 0) - self._released.get(deployment, 0)
        return self.leads.reserved.get(deployment, 0) + released

    def estimate(self, one: Attempt | Entry | Request, deployment: str, catalog: Catalog) -> NanoUsd:
        """Estimate what a job costs on a deployment. 0 if nothing says so: then hardly any run at once."""
        tokens = Usage() if self.has_mean(deployment) else _tokens(one, catalog)
        found = estimated_nano_usd(tokens, catalog.deployments.get(deployment), self.recorded(deployment))
        return found or NanoUsd(0)

    def has_mean(self, deployment: str) -> bool:
        """Tell whether enough costs are recorded, so that every job of the deployment has one estimate: their mean."""
        return self.recorded(deployment).executions >= ENOUGH

    def recorded(self, deployment: str) -> Spend:
        """Return what estimates go by: the costs of today if they are `ENOUGH`, else those of the week."""
        today = self._reading.today.get(deployment, _NOTHING)
        return today if today.executions >= ENOUGH else self._reading.week.get(deployment, _NOTHING)

    def _used(self, deployment: str) -> NanoUsd | None:
        if self._read_at is None or self._monotonic() - self._read_at > UNKNOWN_AFTER_S:
            return None
        return self._reading.today.get(deployment, _NOTHING).cost_nano_usd


def _loop_s() -> float:
    return asyncio.get_running_loop().time()


def _tokens(one: Attempt | Entry | Request, catalog: Catalog) -> Usage:
    return request_tokens(one.body, one.endpoint, most_output=most_output(one.model, catalog))

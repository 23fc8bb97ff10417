"""Counts the reserved slots that this broker's relay uses, and chooses where the next interactive request goes."""

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import reduce
from operator import or_

from broker.core import route
from broker.core.controls import Controls
from broker.core.pools import Pool, snapshot
from broker.core.presence import QUIET_MS, Presence
from broker.core.records import Entry, Flow
from broker.core.request_suspects import RequestSuspects, request_key
from broker.core.reserve import SUSPECTED, NoRoom, NotPlaced, Placement, Poison, choose_deployment, choose_ward
from broker.core.retry import policy_of
from broker.core.suspects import DEATHS_ALONE
from broker.ports import Clock, Entropy
from broker.roles.daily_spend import DailySpend
from schemas.catalog import Catalog, Retry
from schemas.job import Attempt, Lane
from schemas.worker import WorkerBeat

_PEAK_TICKS = 8
"""Two beat intervals, in the relay's ticks: how stale a beat can be."""
_UNIT_BITS = 53
"""How many bits a float represents exactly."""


class Reserves:
    def __init__(
        self,
        *,
        catalog: Callable[[], Catalog],
        beats: Callable[[], Sequence[WorkerBeat]],
        daily_spend: DailySpend,
        clock: Clock,
        entropy: Entropy,
        suspects: RequestSuspects | None = None,
        presence: Presence | None = None,
        controls: Callable[[], Controls] = Controls,
    ) -> None:
        """`presence` knows a death earlier than the `beats` end."""
        self._catalog = catalog
        self._beats = beats
        self._daily_spend = daily_spend
        self._clock = clock
        self._entropy = entropy
        self._controls = controls
        self._presence = Presence() if presence is None else presence
        self.suspects = RequestSuspects() if suspects is None else suspects
        self._outstanding = Counter[str]()
        self._peaks = deque([Counter[str]()], maxlen=_PEAK_TICKS)
        """The most that was outstanding during each of the last ticks, by deployment."""
        self._peak = Counter[str]()
        """The most that was outstanding during any of them."""

    def __repr__(self) -> str:
        return f"Reserves(outstanding={dict(self._outstanding)})"

    def place(self, request: Entry, model: str, tried: Collection[str]) -> Placement | NotPlaced:
        """Choose a deployment for the next attempt of a request, with a new token; or say why there is none."""
        controls = self._controls()
        if controls.pauses and (held := controls.holds(Flow(model, Lane.INTERACTIVE, request.tenant), None)):
            return NoRoom(held)
        key = request_key(request.tenant, request.body_hash)
        deaths = self.suspects.deaths_alone(key, self._clock())
        if deaths is not None:
            return self._place_apart(request, model, key, deaths)
        where = choose_deployment(
            model,
            catalog=self._catalog(),
            pools=self._pools(request, model),
            unit=(self._entropy() & ((1 << _UNIT_BITS) - 1)) / (1 << _UNIT_BITS),
            tried=tried,
        )
        return Placement(where, f"{self._entropy():x}") if isinstance(where, str) else where

    def _place_apart(self, request: Entry, model: str, key: str, deaths: int) -> Placement | NotPlaced:
        """Choose a worker for a suspected request: one of its kind at a time, and one at a worker."""
        if deaths >= DEATHS_ALONE:
            return Poison(deaths)
        if self.suspects.is_apart(key):
            return NoRoom([SUSPECTED])
        beat = choose_ward(
            model,
            [one.beat for one in self._presence.here if one.silent_ms < QUIET_MS],
            catalog=self._catalog(),
            pools=self._pools(request, model),
            wards=self.suspects.wards,
        )
        if not isinstance(beat, WorkerBeat):
            return beat
        token = f"{self._entropy():x}"
        self.suspects.runs_apart(token, key, beat.id)
        return Placement(beat.deployment, token, beat.id)

    def with_limit(self, attempt: Attempt) -> Attempt:
        """Tell the workers of an attempt what the catalog does not tell them of its model."""
        return route.with_limit(attempt, self._catalog()) if "@" in attempt.model else attempt

    def policy(self, model: str) -> Retry:
        return policy_of(model, self._catalog())

    def take(self, token: str, attempt: Attempt) -> None:
        deployment = attempt.deployment
        self._daily_spend.reserve(token, attempt, self._catalog())
        self._outstanding[deployment] += 1
        outstanding = self._outstanding[deployment]
        for peak in (self._peaks[-1], self._peak):
            peak[deployment] = max(peak.get(deployment, 0), outstanding)

    def give_back(self, token: str, attempt: Attempt) -> None:
        self.suspects.is_over(token)
        self._daily_spend.over(token)
        self._outstanding[attempt.deployment] -= 1

    def tick(self) -> None:
        self._peaks.append(Counter(self._outstanding))
        self._peak = reduce(or_, self._peaks)

    def _pools(self, request: Entry, model: str) -> Mapping[str, Pool]:
        """Take a snapshot of the pools on the model's route, for this request."""
        catalog = self._catalog()
        only = [entry.deployment for entry in route.entries(model, catalog)]
        return snapshot(
            catalog,
            self._beats(),
            self._daily_spend.accounts(catalog, only=only, request=request),
            now=self._clock(),
            paused=self._controls().deployment,
            only=only,
            handed_out=self._outstanding,
            peak=self._peak,
        )

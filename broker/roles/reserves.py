"""Counts the slots that this broker's relay uses, and chooses where the next interactive request goes, or waits."""

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
from schemas.subjects import WorkerId
from schemas.units import Ms
from schemas.worker import BEAT_EVERY_MS, WorkerBeat

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
        pulled: Callable[[], Collection[str]] | None = None,
    ) -> None:
        """`presence` knows a death earlier than the `beats` end.

        The deployments that are `pulled` take requests out of NOW; the others only those for which they offer a slot. None:
        all are.
        """
        self._catalog = catalog
        self._beats = beats
        self._daily_spend = daily_spend
        self._clock = clock
        self._entropy = entropy
        self._controls = controls
        self._pulled = pulled
        self._presence = Presence() if presence is None else presence
        self.suspects = RequestSuspects() if suspects is None else suspects
        self._full_until: dict[str, Ms] = {}
        """Until when the deployments count as full that turned a request back, whatever their beats said before."""
        self._outstanding = Counter[str]()
        self._peaks = deque([Counter[str]()], maxlen=_PEAK_TICKS)
        """The most that was outstanding during each of the last ticks, by deployment."""
        self._peak = Counter[str]()
        """The most that was outstanding during any of them."""

    def __repr__(self) -> str:
        return f"Reserves(outstanding={dict(self._outstanding)})"

    def place(
        self, request: Entry, model: str, tried: Collection[str], *, wanted: Collection[str] = ()
    ) -> Placement | NotPlaced:
        """Choose a deployment for the next attempt of a request, with a new token; or say why there is none.

        Those that are `wanted` count as full: others wait for their slots.
        """
        if (special := self._special(request, model)) is not None:
            return special
        now = self._clock()
        pools = self._pools(request, model)
        pulled = pools if self._pulled is None else self._pulled()
        where = choose_deployment(
            model,
            catalog=self._catalog(),
            pools=pools,
            unit=(self._entropy() & ((1 << _UNIT_BITS) - 1)) / (1 << _UNIT_BITS),
            tried=tried,
            full={
                *wanted,
                *(name for name, until in self._full_until.items() if now < until),
                *(name for name in pools if name not in pulled),  # NOW would drop what is sent to them
            },
        )
        return Placement(where, self.token()) if isinstance(where, str) else where

    def place_offered(
        self, request: Entry, model: str, tried: Collection[str], *, deployment: str, worker: WorkerId
    ) -> Placement | NotPlaced:
        """Give a request a slot that a worker offers, unless something has come to hold it."""
        if (special := self._special(request, model)) is not None:
            return special
        where = choose_deployment(
            model,
            catalog=self._catalog(),
            pools=self._pools(request, model),
            unit=0.0,
            tried=tried,
            full=self._catalog().deployments,
            offered=deployment,
        )
        started_ms = self._presence.started_ms(worker)
        return Placement(where, self.token(), worker, started_ms=started_ms) if isinstance(where, str) else where

    def look_again(self, request: Entry, model: str, tried: Collection[str]) -> Placement | NotPlaced:
        """Say whose slots a request may take that waits, or what holds it now. What has become suspected is placed apart."""
        special = self._special(request, model)
        return self.without_room(request, model, tried) if special is None else special

    def without_room(self, request: Entry, model: str, tried: Collection[str]) -> Placement | NotPlaced:
        """Say for whose slots a request may wait, if no deployment has room."""
        catalog = self._catalog()
        where = choose_deployment(
            model,
            catalog=catalog,
            pools=self._pools(request, model),
            unit=0.0,
            tried=tried,
            full=catalog.deployments,
        )
        return Placement(where, self.token()) if isinstance(where, str) else where

    def turned_back(self, deployment: str) -> None:
        """Note that the worker of a deployment had no slot for a request: the beats were too old to know."""
        self._full_until[deployment] = Ms(self._clock() + BEAT_EVERY_MS)

    def token(self) -> str:
        """Make a token for an attempt."""
        return f"{self._entropy():x}"

    def _special(self, request: Entry, model: str) -> Placement | NotPlaced | None:
        """Hold what is paused, and place what is suspected. None: the request goes where there is room."""
        controls = self._controls()
        if controls.pauses and (held := controls.holds(Flow(model, Lane.INTERACTIVE, request.tenant), None)):
            return NoRoom(held)
        key = request_key(request.tenant, request.body_hash)
        deaths = self.suspects.deaths_alone(key, self._clock())
        return None if deaths is None else self._place_apart(request, model, key, deaths)

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
        token = self.token()
        self.suspects.runs_apart(token, key, beat.id)
        return Placement(beat.deployment, token, beat.id, is_apart=True, started_ms=beat.started_ms)

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

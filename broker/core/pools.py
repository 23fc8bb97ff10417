"""Takes a snapshot of what each deployment can take now, and of what holds it.

Dispatch reads the room; settle and the sweep, which deployments are alive; the relay, why it must refuse a request.
`status`, `doctor`, `job show` and the metrics read the hold, which is the reason in one line.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from broker.core import limits, route
from broker.core.limits import Account
from schemas.api import Hold, HoldCode
from schemas.catalog import Catalog, Deployment
from schemas.units import Ms
from schemas.worker import Paused, WorkerBeat

_LOOKAHEAD_S = 0.25
_LOOKAHEAD_MOST = 4096
_LONGEST_LOOK_MS = 2000
"""The most silence that one observation counts. A leader that was busy or cut off longer than this heard nobody."""


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """The workers of one deployment. Draining workers count in `workers` and `outstanding` only."""

    deployment: str
    workers: int
    slots: int
    """How many dispatched attempts the workers run at once."""
    reserve: int
    """How many more slots they have, which only interactive attempts may take."""
    running: int
    """How many dispatched attempts run in their engines."""
    interactive: int
    """How many interactive attempts they have: this broker's, and other brokers' as far as beats tell."""
    borrowed: int
    """How many of those are in slots beside the reserve, so that no dispatched attempt can be there."""
    outstanding: int
    """How many attempts are dispatched and not settled, if the caller counts them; else `running`."""
    credit: int
    """How many attempts may be outstanding: the slots that requests have not borrowed, and a look-ahead."""
    room: int
    """How many more attempts may be dispatched. With a daily cap there is no look-ahead, since what is started costs."""
    stop: Hold | None
    """Why nothing starts here, even in a free slot. None: the deployment is alive, though it may be full."""
    trying: Hold | None = None
    """Why each worker tries its provider with a single attempt only."""
    wanted: int = 0
    """How many interactive requests wait for a slot, at all relays, as far as the workers were told."""
    left: int | None = None
    """What its daily cap leaves to be reserved, in nano-USD. None: it has no cap."""

    @property
    def hold(self) -> Hold | None:
        """Why a dispatched job would not start here now; None if it would."""
        if self.stop is not None or self.outstanding < self.slots - self.borrowed:
            return self.stop
        return self.trying or all_full(self.deployment)

    @property
    def request_hold(self) -> Hold | None:
        """Why an interactive request would not start here now; None if it would."""
        if self.stop is not None or self.running + self.interactive < self.slots + self.reserve:
            return self.stop
        return self.trying or all_full(self.deployment)


def all_full(deployment: str) -> Hold:
    return Hold(HoldCode.BUSY, f"every worker of {deployment} is full")


def never_paused(_: str) -> None:
    """Say that no deployment is paused."""


def snapshot(
    catalog: Catalog,
    beats: Iterable[WorkerBeat],
    accounts: Mapping[str, Account],
    *,
    now: Ms,
    paused: Callable[[str], Hold | None] = never_paused,
    only: Iterable[str] | None = None,
    outstanding: Mapping[str, int] | None = None,
    per_s: Mapping[str, float] | None = None,
    handed_out: Mapping[str, int] | None = None,
    peak: Mapping[str, int] | None = None,
) -> dict[str, Pool]:
    """Take a snapshot of the pools of these deployments `only`, else of all that catalog, beats or attempts name.

    `accounts` has each deployment with a daily cap; for one that is missing, nobody can say what it has spent. `paused` says
    why nothing starts on a deployment, if somebody paused it. The leader
    passes what it knows better than the beats: how many attempts are `outstanding`, and how many each deployment settles
    `per_s`. A relay passes how many interactive attempts it has `handed_out`, and the `peak` of that number since the beats
    were sent: what the beats say beyond it is other brokers'.
    """
    workers: dict[str, _Workers] = defaultdict(_Workers)
    for beat in beats:
        workers[beat.deployment].add(beat)
    counted = outstanding or {}
    return {
        name: _pool(
            name,
            catalog.deployments.get(name),
            workers.get(name) or _Workers(),
            accounts.get(name),
            now=now,
            pause=paused(name),
            outstanding=None if outstanding is None else counted.get(name, 0),
            per_s=(per_s or {}).get(name, 0.0),
            handed_out=None if handed_out is None else handed_out.get(name, 0),
            peak=(peak or {}).get(name, 0),
        )
        for name in (only if only is not None else {**catalog.deployments, **workers, **counted})
    }


@dataclass(slots=True)
class _Workers:
    """The sum of a deployment's beats, with draining workers apart."""

    count: int = 0
    draining: int = 0
    slots: int = 0
    reserve: int = 0
    running: int = 0
    interactive: int = 0
    borrowed: int = 0
    wanted: int = 0
    draining_running: int = 0
    draining_interactive: int = 0
    pauses: list[Paused] = field(default_factory=list)

    def add(self, beat: WorkerBeat) -> None:
        self.count += 1
        if beat.draining:
            self.draining += 1
            self.draining_running += beat.running - beat.interactive
            self.draining_interactive += beat.interactive
            return
        self.slots += beat.slots
        self.reserve += beat.reserve
        self.running += beat.running - beat.interactive
        self.interactive += beat.interactive
        self.borrowed += max(0, min(beat.interactive - beat.reserve, beat.slots))
        self.wanted = max(self.wanted, beat.wanted)
        if beat.paused is not None:
            self.pauses.append(beat.paused)


def _pool(
    name: str,
    deployment: Deployment | None,
    workers: _Workers,
    account: Account | None,
    *,
    now: Ms,
    pause: Hold | None,
    outstanding: int | None,
    per_s: float,
    handed_out: int | None,
    peak: int,
) -> Pool:
    interactive = (handed_out or 0) + max(0, workers.interactive - peak)
    taken = workers.running if outstanding is None else outstanding
    trying = _paused(name, workers, now) if workers.pauses else None
    stop = None
    if deployment is None:
        stop = Hold(HoldCode.UNKNOWN_DEPLOYMENT, f"the active catalog has no deployment {name}")
    elif pause is not None:
        stop = pause
    elif not workers.slots:
        stop = trying or _without_slots(name, workers)
    slots = workers.slots - workers.borrowed
    credit = slots + lookahead(workers.slots, per_s=per_s)
    room, left = max(0, credit - taken), None
    if deployment is not None and deployment.daily_cap_usd is not None:
        account = account or Account(limit=limits.cap_of(deployment.daily_cap_usd), used=None)
        draining = workers.draining_interactive + (workers.draining_running if outstanding is None else 0)
        reserved = _reserved(account, workers, interactive, outstanding=outstanding, handed_out=handed_out)
        running = taken + interactive + draining
        stop = stop or limits.hold(name, account, reserved=reserved, running=running, now=now)
        room = limits.room(account, reserved=reserved, running=running, free=max(0, slots - taken))
        left = limits.left(account, reserved=reserved)
    return Pool(
        deployment=name,
        workers=workers.count,
        slots=workers.slots,
        reserve=workers.reserve,
        running=workers.running,
        interactive=interactive,
        borrowed=workers.borrowed,
        outstanding=taken,
        credit=credit,
        room=room if stop is None else 0,
        stop=stop,
        trying=trying,
        wanted=workers.wanted,
        left=left,
    )


def _reserved(
    account: Account, workers: _Workers, interactive: int, *, outstanding: int | None, handed_out: int | None
) -> int:
    """Add up what is reserved on a deployment, in nano-USD.

    The leader knows each dispatched attempt, and a relay each of its own requests. What others started is known by number
    from the beats, which are about a second old.
    """
    jobs = int(account.jobs)
    if outstanding is None:
        jobs = max(jobs, (workers.running + workers.draining_running) * account.each)
    at_work = (interactive + workers.draining_interactive) * account.each
    if handed_out is None:
        return jobs + max(account.requests, at_work)
    return jobs + account.requests + at_work - handed_out * account.each


def _without_slots(name: str, workers: _Workers) -> Hold:
    """Say why no worker offers a slot, when none says that it is paused."""
    if not workers.count:
        return Hold(HoldCode.NO_WORKER, f"no worker serves {name}")
    if workers.count == workers.draining:
        return Hold(HoldCode.DRAINING, f"every worker of {name} is draining")
    return Hold(HoldCode.NO_SLOTS, f"the workers of {name} take no jobs now")


def _paused(name: str, workers: _Workers, now: Ms) -> Hold | None:
    """Say why the workers are paused, in the words of the one that tries again first. None: some are not paused."""
    if len(workers.pauses) < workers.count - workers.draining:
        return None
    first = min(workers.pauses, key=lambda pause: pause.left_ms)
    until_ms = Ms(now + first.left_ms) if first.left_ms > 0 else None
    again = "being tried again" if until_ms is None else f"tried again at {clock_time(until_ms)}"
    match first.cause:
        case HoldCode.DENIED:
            return Hold(HoldCode.DENIED, f"denied {first.detail} on {name}, {again}", until_ms)
        case HoldCode.THROTTLED:
            return Hold(HoldCode.THROTTLED, f"throttled {first.detail} on {name}, {again}", until_ms)
        case HoldCode.UPSTREAM_DOWN:
            message = f"the upstream of {name} is down ({first.detail}), {again}"
            return Hold(HoldCode.UPSTREAM_DOWN, message, until_ms)
        case _:
            message = f"the workers of {name} pause ({first.cause} {first.detail}), {again}"
            return Hold(HoldCode.NO_SLOTS, message, until_ms)


def lookahead(slots: int, *, per_s: float) -> int:
    """Count the attempts to dispatch beyond the slots, so that no slot waits for the broker.

    Half the slots, or what the pool settles in a quarter of a second if that is more: several times as long as it takes
    from an outcome through settle to the next dispatch. A larger look-ahead would only fix the order of jobs too early.
    """
    return max(1, slots // 2, min(int(per_s * _LOOKAHEAD_S), _LOOKAHEAD_MOST)) if slots else 0


def clock_time(instant: Ms) -> str:
    return datetime.fromtimestamp(instant / 1000, UTC).strftime("%H:%M:%S UTC")


def alive(pools: Mapping[str, Pool]) -> set[str]:
    """Name the deployments that take jobs."""
    return {name for name, pool in pools.items() if pool.stop is None}


def withheld(pools: Mapping[str, Pool]) -> set[str]:
    """Name the deployments that a daily cap or a pause holds."""
    codes = {HoldCode.DAILY_CAP, HoldCode.SPEND_UNKNOWN, HoldCode.PAUSED}
    return {name for name, pool in pools.items() if pool.stop is not None and pool.stop.code in codes}


def holds(
    model: str, *, catalog: Catalog, pools: Mapping[str, Pool], tried: Collection[str] = ()
) -> tuple[Hold, ...]:
    """Say why a waiting job of this model does not start, in the order of its route. Empty: it would start now."""
    entries = route.entries(model, catalog)
    if not entries:
        return (Hold(HoldCode.UNKNOWN_MODEL, f"the active catalog has no model {model}"),)
    able = alive(pools)
    candidates = route.candidates(model, catalog=catalog, alive=able, tried=tried)
    for entry in candidates or route.candidates(model, catalog=catalog, alive=able):
        if pools[entry.deployment].hold is None:
            return ()
    return tuple(hold for entry in entries if (hold := pools[entry.deployment].hold) is not None)


@dataclass(slots=True)
class Silence:
    """How long each deployment has had no worker, not counting times in which no beat arrived at all."""

    looked_ms: Ms
    lasts_ms: dict[str, int] = field(default_factory=dict)

    def observe(self, pools: Mapping[str, Pool], now: Ms) -> None:
        is_deaf = not any(pool.workers for pool in pools.values())
        passed_ms = 0 if is_deaf else min(now - self.looked_ms, _LONGEST_LOOK_MS)
        self.looked_ms = now
        self.lasts_ms = {
            name: 0 if pool.workers else self.lasts_ms.get(name, 0) + passed_ms for name, pool in pools.items()
        }

    def longer_than(self, most_ms: int) -> set[str]:
        return {name for name, ms in self.lasts_ms.items() if ms > most_ms}

"""Decides what a deployment with a daily cap may still start: used + reserved + estimate ≤ limit.

used        what its executions of the day have cost, by the ledger
reserved    what the attempts under way are estimated to cost: taken from their start until their cost is recorded
estimate    what one more is estimated to cost (`core.estimate`)

A day thus costs at most its limit and the error of the estimates under way. What is not known holds: if nobody can say what
was used, nothing starts, and if nothing says what an execution costs, hardly any run at once.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec

from broker.core.records import Pick
from schemas.api import Hold, HoldCode
from schemas.catalog import Catalog
from schemas.units import Ms, NanoUsd

_NANO = 10**9
_DAY_MS = 24 * 3600 * 1000
_CENT = _NANO // 100


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker knows of the money of one deployment that has a daily cap."""

    limit: NanoUsd
    used: NanoUsd | None
    """None: nobody can say, since the ledger was not read lately."""
    jobs: NanoUsd = NanoUsd(0)
    """Reserved for dispatched attempts whose estimates this broker knows, as their leader."""
    requests: NanoUsd = NanoUsd(0)
    """Reserved for this broker's own interactive attempts, also for those that are over and not recorded yet."""
    estimate: NanoUsd | None = None
    """What one more costs. 0 for the leader while each job has an estimate of its own (see `affordable`). None: nothing
    says so."""
    each: NanoUsd = NanoUsd(0)
    """What an attempt is taken to cost of which this broker knows no more than that it runs."""
    at_once: int | None = None
    """How many may be under way at once while hardly anything says what they cost. None: as many as can be paid."""


def cap_of(usd: float) -> NanoUsd:
    return NanoUsd(round(usd * _NANO))


def left(account: Account, *, reserved: int) -> int:
    """Return what is left to be reserved. Nothing, if nobody can say what was used."""
    return 0 if account.used is None else max(0, account.limit - account.used - reserved)


def room(account: Account, *, reserved: int, running: int, free: int) -> int:
    """Count the free slots in which one more may start, each at the estimate."""
    if hold("", account, reserved=reserved, running=running, now=Ms(0)) is not None:
        return 0
    if account.at_once is not None:
        free = min(free, account.at_once - running)
    return min(free, left(account, reserved=reserved) // account.estimate) if account.estimate else free


def hold(name: str, account: Account, *, reserved: int, running: int, now: Ms) -> Hold | None:
    """Say why nothing more may start on this deployment, with the numbers. None: one may."""
    cap = f"daily cap of {usd(account.limit)} USD"
    if account.used is None:
        message = f"what {name} has spent today is not known, and its {cap} holds it until it is"
        return Hold(HoldCode.SPEND_UNKNOWN, message)
    tomorrow = Ms((now // _DAY_MS + 1) * _DAY_MS)
    if account.used >= account.limit:
        return Hold(HoldCode.DAILY_CAP, f"{cap} spent on {name}, resumes 00:00 UTC", tomorrow)
    if account.at_once is not None and running >= account.at_once:
        message = f"nothing says yet what {name} costs, so its {cap} lets {account.at_once} run at once"
        return Hold(HoldCode.DAILY_CAP, message)
    estimate = account.estimate or 0
    if 0 < left(account, reserved=reserved) >= estimate:
        return None
    if account.used + estimate <= account.limit:
        message = f"what runs on {name} may spend the rest of its {cap} ({_sum(account, reserved)})"
        return Hold(HoldCode.DAILY_CAP, message)
    message = f"{cap} on {name} cannot pay one more of about {usd(estimate)} ({_sum(account, reserved)})"
    if estimate > account.limit:
        return Hold(HoldCode.DAILY_CAP, f"{message}: raise it or ask for less")
    return Hold(HoldCode.DAILY_CAP, f"{message}, resumes 00:00 UTC", tomorrow)


def warnings(catalog: Catalog) -> tuple[str, ...]:
    """Say of deployments with a daily cap that nothing says what they cost, or that they cost nothing."""
    capped = {name: one for name, one in catalog.deployments.items() if one.daily_cap_usd is not None}
    unpriced = [
        f"deployments.{name}: daily_cap_usd without a price: one job runs at a time until a cost is recorded, and the cap "
        "is held by recorded costs only"
        for name, one in capped.items()
        if one.price is None
    ]
    free = [
        f"deployments.{name}: daily_cap_usd with a price of 0: the cap never holds unless the API says what it charges"
        for name, one in capped.items()
        if one.price is not None and not (one.price.input or one.price.output)
    ]
    return (*unpriced, *free)


def affordable(
    picks: Sequence[Pick], *, estimates: Mapping[UUID, NanoUsd], left: Mapping[str, int]
) -> tuple[list[Pick], list[Pick]]:
    """Choose the picks that can be paid, in their order, of what is `left` on each deployment; the others are too dear.

    A pick without an estimate costs nothing here. Of the others, those are too dear that cost more than all that is left;
    those that only come after others are in neither list: their turn may come.
    """
    rest, paid, dear = dict(left), list[Pick](), list[Pick]()
    for pick in picks:
        if not (estimate := estimates.get(pick.place.job, NanoUsd(0))):
            paid.append(pick)
        elif estimate <= rest[pick.deployment]:
            rest[pick.deployment] -= estimate
            paid.append(pick)
        elif estimate > left[pick.deployment]:
            dear.append(pick)
    return paid, dear


def usd(nano: int) -> str:
    """Write an amount of USD, with as many digits as it needs below a cent."""
    if nano >= _NANO or nano % _CENT == 0:
        return f"{nano / _NANO:.2f}"
    return f"{nano / _NANO:.9f}".rstrip("0")


def _sum(account: Account, reserved: int) -> str:
    return f"{usd(account.used or 0)} spent, {usd(reserved)} reserved"

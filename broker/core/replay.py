"""Decides which model a replayed job runs on, and estimates what replays cost, by what is recorded of the old jobs."""

from collections.abc import Sequence

from msgspec.structs import replace

from broker.core import route
from broker.core.price import price_nano_usd
from schemas.api import Problem, State
from schemas.catalog import Catalog, Price
from schemas.listing import JobFilter, JobLine
from schemas.outcome import Usage
from schemas.repeats import ReplayChoice, ReplayEstimate
from schemas.units import Ms, NanoUsd

SETTLED = (State.SUCCEEDED, State.FAILED, State.EXPIRED, State.CANCELLED, State.DEAD)


def target(ask: ReplayChoice, model: str, catalog: Catalog) -> str:
    """Return the name of the model for which a job is submitted again that was one for `model`."""
    if ask.deployment is None:
        return ask.model or model
    pin = catalog.pin(model)
    return f"{ask.model or (model if pin is None else pin[0])}@{ask.deployment}"


def chosen(ask: ReplayChoice, before: Ms) -> JobFilter:
    """Return the filter of the jobs to run again: only settled ones, and none that was submitted at `before` or later.

    The new jobs are dated when the replay was asked for, so none of them is chosen again.
    """
    until = before if ask.filter.until_ms is None else min(before, ask.filter.until_ms)
    return replace(ask.filter, states=ask.filter.states or SETTLED, until_ms=until)


def problem(ask: ReplayChoice, catalog: Catalog) -> Problem | None:
    """Say what is wrong with a replay; None if nothing is."""
    if ask.filter.is_everything and not ask.jobs:
        message = "say which jobs: by batch, model, state, failure, time, metadata, or their ids"
        return Problem("no_choice", message, "filter")
    if open_states := [state for state in ask.filter.states if state not in SETTLED]:
        message = f"only settled jobs are run again, not those that are {open_states[0]}"
        return Problem("bad_state", message, "filter.states")
    if ask.model is not None and catalog.model(ask.model) is None:
        known = ", ".join(sorted(catalog.models)[:8])
        return Problem("unknown_model", f"there is no model {ask.model[:200]!r}; known: {known or 'none'}", "model")
    if ask.deployment is not None and ask.deployment not in catalog.deployments:
        known = ", ".join(sorted(catalog.deployments)[:8])
        message = f"there is no deployment {ask.deployment[:200]!r}; known: {known or 'none'}"
        return Problem("unknown_deployment", message, "deployment")
    return None


def estimate(jobs: Sequence[JobLine], ask: ReplayChoice, catalog: Catalog) -> ReplayEstimate:
    """Estimate what running these jobs again costs: the recorded tokens of each at the price of where it would run."""
    total = ReplayEstimate(jobs=len(jobs))
    for job in jobs:
        model, usage = target(ask, job.model, catalog), _capped(job.usage, ask.max_tokens)
        cost = _cost(usage, prices(model, catalog))
        if usage.input_tokens + usage.output_tokens == 0:
            total = replace(total, unknown=total.unknown + 1)
        elif cost is not None:
            total = _more(total, usage, cost, by_price=1)
        elif model == job.model and usage == job.usage:
            total = _more(total, usage, job.cost_nano_usd, by_record=1)
        else:
            total = replace(total, unknown=total.unknown + 1)
    return total


def prices(model: str, catalog: Catalog) -> list[tuple[int, Price]]:
    """Return the weights and prices of the deployments that would run jobs of the model."""
    entries = route.entries(model, catalog)
    regular = [entry for entry in entries if entry.weight] or entries
    found = [(entry.weight or 1, catalog.deployments[entry.deployment].price) for entry in regular]
    return [(weight, price) for weight, price in found if price is not None]


def summed(one: ReplayEstimate, more: ReplayEstimate) -> ReplayEstimate:
    """Add up the estimates of two parts of the jobs."""
    return ReplayEstimate(
        jobs=one.jobs + more.jobs,
        by_price=one.by_price + more.by_price,
        by_record=one.by_record + more.by_record,
        unknown=one.unknown + more.unknown,
        usage=_plus(one.usage, more.usage),
        cost_nano_usd=NanoUsd(one.cost_nano_usd + more.cost_nano_usd),
        next=more.next,
    )


def _more(
    total: ReplayEstimate, usage: Usage, cost: NanoUsd, *, by_price: int = 0, by_record: int = 0
) -> ReplayEstimate:
    return replace(
        total,
        by_price=total.by_price + by_price,
        by_record=total.by_record + by_record,
        usage=_plus(total.usage, usage),
        cost_nano_usd=NanoUsd(total.cost_nano_usd + cost),
    )


def _cost(usage: Usage, found: Sequence[tuple[int, Price]]) -> NanoUsd | None:
    """Return the price of the tokens, averaged by the weights. None: no price is known."""
    weights = sum(weight for weight, _ in found)
    if not weights:
        return None
    return NanoUsd(sum(weight * price_nano_usd(usage, price) for weight, price in found) // weights)


def _capped(usage: Usage, most: int | None) -> Usage:
    return usage if most is None else replace(usage, output_tokens=min(usage.output_tokens, most))


def _plus(one: Usage, more: Usage) -> Usage:
    return Usage(
        one.input_tokens + more.input_tokens,
        one.output_tokens + more.output_tokens,
        one.cached_tokens + more.cached_tokens,
    )

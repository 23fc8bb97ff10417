"""Decides where a job may run. No other place reads a model's route.

Dispatch, the relay of interactive requests and settle all ask here. Room is another question: they choose by room among
the candidates that this module names.

A catalog may change while a job waits or runs, so a model that it has dropped has an empty route.
"""

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from schemas.catalog import Catalog, Route
from schemas.job import Attempt


def entries(model: str, catalog: Catalog) -> Sequence[Route]:
    """Return the model's route in its order. Empty: the catalog has no such model."""
    found = catalog.models.get(model) or catalog.model(model)
    return found.route if found is not None else ()


def with_limit(attempt: Attempt, catalog: Catalog) -> Attempt:
    """Add its limit of output to an attempt that is pinned to a deployment off its model's route.

    The workers there are told nothing of that model.
    """
    if (pin := catalog.pin(attempt.model)) is None:
        return attempt
    model = catalog.models[pin[0]]
    if any(entry.deployment == attempt.deployment for entry in model.route):
        return attempt
    return replace(attempt, max_output_tokens=model.max_output_tokens)


def untried(model: str, *, catalog: Catalog, tried: Collection[str]) -> Sequence[Route]:
    """Return the entries whose deployments have not failed the job, whether they are alive or away."""
    return [entry for entry in entries(model, catalog) if entry.deployment not in tried]


def candidates(
    model: str, *, catalog: Catalog, alive: Collection[str], tried: Collection[str] = ()
) -> Sequence[Route]:
    """Return the entries that may take the job now: those that are `alive` and have not failed it.

    Either all of them are regular (weighted) or all are spares. A spare gets work only when every regular deployment has
    failed the job or is away, not when they are merely full.
    """
    open_entries = [entry for entry in untried(model, catalog=catalog, tried=tried) if entry.deployment in alive]
    return [entry for entry in open_entries if entry.weight] or open_entries

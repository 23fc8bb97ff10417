"""Computes what an execution cost: usage times the deployment's price, unless its worker reported a charge."""

from dataclasses import dataclass
from functools import lru_cache

from schemas.catalog import Catalog, Price
from schemas.outcome import Report, Usage
from schemas.units import MOST_NANO_USD, NanoUsd

UNPRICED = "none"
"""The cost source of an execution whose deployment has no price."""
_NANO = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """The deployments' prices, and where they come from."""

    catalog: Catalog
    source: str
    """Recorded on every execution, such as `catalog:7`."""


def cost_of(report: Report, prices: Prices) -> tuple[NanoUsd, str]:
    """Return the cost of the reported execution, and the source of that figure."""
    if (charge := report.outcome.charge) is not None:
        return charge.nano_usd, charge.source
    deployment = prices.catalog.deployments.get(report.deployment)
    if deployment is None or deployment.price is None:
        return NanoUsd(0), UNPRICED
    usage = report.outcome.usage
    is_plain = not usage.estimated and not usage.adjusted
    return price_nano_usd(usage, deployment.price), prices.source if is_plain else f"{prices.source}{usage.mark}"


def price_nano_usd(usage: Usage, price: Price) -> NanoUsd:
    """Compute the price, rounded up to a nano-dollar, at most MOST_NANO_USD.

    Cached input tokens have a price of their own if one is set. There are never more of them than input tokens.
    """
    cached_price = price.input if price.cached_input is None else price.cached_input
    cached = min(usage.cached_tokens, usage.input_tokens)
    exact = (
        (usage.input_tokens - cached) * _per_mtok(price.input)
        + cached * _per_mtok(cached_price)
        + usage.output_tokens * _per_mtok(price.output)
    )
    return min(NanoUsd(-(-exact // 1_000_000)), MOST_NANO_USD)


@lru_cache(maxsize=1024)
def _per_mtok(usd: float) -> int:
    """Convert USD to integer nano-USD per million tokens, since sums are made of integers."""
    return round(usd * _NANO)

"""What an execution cost: usage times the deployment's price, unless its worker knows better."""

from dataclasses import dataclass

from schemas.catalog import Catalog, Price
from schemas.outcome import Report, Usage
from schemas.units import NanoUsd

UNPRICED = "none"
"""Cost source of an execution whose deployment names no price."""
_NANO = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """The deployments' prices, and where they are from."""

    catalog: Catalog
    source: str
    """Kept on every execution, such as `catalog:7`."""


def cost_of(report: Report, prices: Prices) -> tuple[NanoUsd, str]:
    """The cost of the reported execution, and who says so."""
    if (charge := report.outcome.charge) is not None:
        return charge.nano_usd, charge.source
    deployment = prices.catalog.deployments.get(report.deployment)
    if deployment is None or deployment.price is None:
        return NanoUsd(0), UNPRICED
    usage = report.outcome.usage
    return price_nano_usd(usage, deployment.price), f"{prices.source}:estimate" if usage.estimated else prices.source


def price_nano_usd(usage: Usage, price: Price) -> NanoUsd:
    """Rounded up to a nano-dollar. Cached input tokens have their own price, if the deployment names one."""
    cached_price = price.input if price.cached_input is None else price.cached_input
    fresh = usage.input_tokens - usage.cached_tokens
    exact = (
        fresh * _per_mtok(price.input)
        + usage.cached_tokens * _per_mtok(cached_price)
        + usage.output_tokens * _per_mtok(price.output)
    )
    return NanoUsd(-(-exact // 1_000_000))


def _per_mtok(usd: float) -> int:
    """Nano-USD per million tokens: prices are written in decimals of a dollar, sums are made of integers."""
    return round(usd * _NANO)

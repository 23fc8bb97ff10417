"""What an execution cost: usage times the deployment's price."""

from schemas.catalog import Price
from schemas.outcome import Usage
from schemas.units import NanoUsd

_NANO = 10**9


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

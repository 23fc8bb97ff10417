"""List prices, from the package genai-prices: the data that came with it, never fetched."""

import importlib.metadata
from decimal import ROUND_CEILING, Decimal

from genai_prices import Usage as Priced
from genai_prices import calc_price

from schemas.outcome import Charge, Usage
from schemas.units import NanoUsd

SOURCE = f"genai-prices:{importlib.metadata.version('genai-prices')}"


def list_price(usage: Usage, *, model: str, provider: str) -> Charge | None:
    """None, if the list does not know the model."""
    priced = Priced(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens or None,
    )
    try:
        price = calc_price(priced, model_ref=model, provider_id=provider)
    except (LookupError, ValueError):
        return None
    return Charge(nano_usd(price.total_price), SOURCE)


def nano_usd(usd: Decimal) -> NanoUsd:
    """Rounded up."""
    return NanoUsd(int((usd * 10**9).to_integral_value(ROUND_CEILING)))

"""Looks up list prices in the package genai-prices. It uses the data that came with it and fetches nothing."""

import importlib.metadata
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

from genai_prices import Usage as Priced
from genai_prices import calc_price

from schemas.outcome import Charge, Usage
from schemas.units import NanoUsd

SOURCE = f"genai-prices:{importlib.metadata.version('genai-prices')}"


def list_price(usage: Usage, *, model: str, provider: str) -> Charge | None:
    """Price a usage by the list; None if the list does not have the model.

    It is looked up each time, since some prices depend on the length of the prompt or the time of day.
    """
    usd = _usd(usage, model, provider) if is_listed(model, provider) else None
    return None if usd is None else Charge(nano_usd(usd), f"{SOURCE}{usage.mark}")


@lru_cache(maxsize=4096)
def is_listed(model: str, provider: str) -> bool:
    """Say whether the list has a price for the model."""
    return _usd(Usage(1, 1), model, provider) is not None


def _usd(usage: Usage, model: str, provider: str) -> Decimal | None:
    priced = Priced(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens or None,
    )
    try:
        return calc_price(priced, model_ref=model, provider_id=provider).total_price
    except (LookupError, ValueError):
        return None


def nano_usd(usd: Decimal) -> NanoUsd:
    """Convert to nano-dollars, rounded up."""
    return NanoUsd(int((usd * 10**9).to_integral_value(ROUND_CEILING)))

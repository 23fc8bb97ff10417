"""Keeps what an engine says within the bounds of the wire, since a broker reads nothing else."""

from typing import Any

from msgspec.structs import replace

from schemas.lenient import whole_characters
from schemas.outcome import Charge, Failed, Failure, Outcome, Usage
from schemas.units import LONGEST_NAME, LONGEST_TEXT, MOST_DEATHS, MOST_NANO_USD, MOST_TOKENS, NanoUsd

_MOST = 10**9
"""Of any other number in a failure: in milliseconds, eleven days."""

_WORDS = ("code", "stage", "field")
"""The fields of failures that hold a word, not a sentence."""


def within_bounds(outcome: Outcome) -> Outcome:
    """Return the outcome, with texts cut short, NULs and half characters replaced, and numbers brought into their range."""
    usage, charge = outcome.usage, outcome.charge
    tokens = (usage.input_tokens, usage.output_tokens, usage.cached_tokens)
    if not 0 <= min(tokens) <= max(tokens) <= MOST_TOKENS:
        outcome = replace(outcome, usage=_bounded_usage(usage))
    if charge is not None:
        outcome = replace(outcome, charge=_bounded_charge(charge))
    return replace(outcome, failure=_bounded_failure(outcome.failure)) if isinstance(outcome, Failed) else outcome


def _bounded_usage(usage: Usage) -> Usage:
    """The result is an estimate: nobody counted it so."""
    given = (usage.input_tokens, usage.output_tokens, usage.cached_tokens)
    fresh, output, cached = (max(0, min(tokens, MOST_TOKENS)) for tokens in given)
    return replace(usage, input_tokens=fresh, output_tokens=output, cached_tokens=cached, estimated=True)


def _bounded_charge(charge: Charge) -> Charge:
    cost = NanoUsd(max(0, min(charge.nano_usd, MOST_NANO_USD)))
    return Charge(cost, _text(charge.source, LONGEST_NAME) or "unknown")


def _bounded_failure(failure: Failure) -> Failure:
    changes: dict[str, Any] = {}
    for name in failure.__struct_fields__:
        match getattr(failure, name):
            case bool() | None:
                continue
            case int(number):
                changes[name] = max(0, min(number, MOST_DEATHS if name == "deaths" else _MOST))
            case str(text) if name in _WORDS:
                changes[name] = _text(text, LONGEST_NAME) or "unknown"
            case str(text):
                changes[name] = _text(text, LONGEST_TEXT)
    return replace(failure, **changes)


def _text(text: str, longest: int) -> str:
    return whole_characters(text).replace("\0", "\N{REPLACEMENT CHARACTER}")[:longest]

"""OpenAI bodies: fields set and read, everything else left as it was written."""

import json
from decimal import Decimal
from typing import Any

import msgspec

from schemas.codec import UNREADABLE
from schemas.endpoints import Endpoint
from schemas.outcome import Usage

MOST_TOKENS = 10**9
"""Of one request. No context is nearly as long, and at the catalog's highest price its cost still fits the ledger."""
MOST_USD = 9 * 10**6
"""Of one request: its nano-dollars are exact in JSON."""
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_parts = msgspec.json.Decoder(list[msgspec.Raw])
_any = msgspec.json.Decoder()
_json = msgspec.json.Encoder()


class BadBody(ValueError):
    """Not a JSON object."""


def fields_of(body: bytes) -> dict[str, msgspec.Raw]:
    """Raises: BadBody."""
    try:
        return _fields.decode(body)
    except UNREADABLE as error:
        raise BadBody(f"the body cannot be read: {error}") from error


def with_fields(fields: dict[str, msgspec.Raw], **changes: Any) -> bytes:
    """The body with these fields instead of its own; None takes one out."""
    kept: dict[str, Any] = {name: value for name, value in fields.items() if name not in changes}
    return _json.encode(kept | {name: value for name, value in changes.items() if value is not None})


def asks_for_length(fields: dict[str, msgspec.Raw], endpoint: Endpoint) -> bool:
    """Whether the body itself limits how many tokens are generated."""
    return any(bytes(fields.get(name, b"null")) != b"null" for name in endpoint.limits)


def has_parts(value: msgspec.Raw | None) -> bool:
    """It is a list, and not an empty one."""
    try:
        return value is not None and bool(_parts.decode(value))
    except UNREADABLE:
        return False


class _Streamed(msgspec.Struct, frozen=True):
    stream: bool | None = None


_streamed = msgspec.json.Decoder(_Streamed)


def asks_for_stream(body: bytes) -> bool:
    """A body that cannot be read asks for nothing; the engine says what is wrong with it."""
    try:
        return bool(_streamed.decode(body).stream)
    except UNREADABLE:
        return False


class Asked(msgspec.Struct, frozen=True):
    """What a request asks for."""

    choices: int
    output_tokens: int
    """The most that can be generated, for all choices together."""


def asked_of(body: bytes, endpoint: Endpoint, *, max_output_tokens: int) -> Asked:
    """`max_output_tokens` of a choice, where the body does not say. Raises: BadBody."""
    if not endpoint.limits:
        return Asked(1, 0)
    fields = fields_of(body)
    prompts = 1 if endpoint.prompts is None else _prompts(_value(fields, endpoint.prompts))
    n, best_of = _count(_value(fields, "n")) or 1, _count(_value(fields, "best_of")) or 1
    limits = [count for name in endpoint.limits if (count := _count(_value(fields, name))) is not None]
    output = prompts * max(n, best_of) * max(limits, default=max_output_tokens)
    return Asked(prompts * n, min(MOST_TOKENS, output))


def _value(fields: dict[str, msgspec.Raw], name: str) -> Any:
    """Raises: BadBody."""
    try:
        return _any.decode(fields[name]) if name in fields else None
    except UNREADABLE as error:
        raise BadBody(f"the body cannot be read: {error}") from error


def _prompts(prompt: Any) -> int:
    """A list of numbers is one prompt, in tokens."""
    is_many = isinstance(prompt, list) and not all(isinstance(part, int) for part in prompt)
    return len(prompt) if is_many else 1


class _Response(msgspec.Struct, frozen=True):
    usage: msgspec.Raw = msgspec.Raw(b"null")
    model: msgspec.Raw = msgspec.Raw(b"null")


_response = msgspec.json.Decoder(_Response)


class Spent(msgspec.Struct, frozen=True):
    """What a response says of itself. None: nothing, or nothing that can be meant."""

    usage: Usage | None
    cost_usd: Decimal | None
    """What was charged: OpenRouter's word, with what the provider behind it charges to a key of one's own."""
    model: str | None


def spent_of(response: bytes) -> Spent:
    """Raises: BadBody, when it is no JSON object."""
    try:
        said = _response.decode(response)
        usage, model = json.loads(bytes(said.usage)), json.loads(bytes(said.model))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadBody(f"the response cannot be read: {error}") from error
    used = _dict(usage)
    return Spent(_usage(used), _cost_usd(used), model if isinstance(model, str) else None)


def _usage(used: dict[str, Any]) -> Usage | None:
    told = [used.get("prompt_tokens"), used.get("completion_tokens")]
    counts = [_count(value) for value in told if value is not None]
    if not counts or None in counts:
        return None
    prompt, output = (_count(value) or 0 for value in told)
    cached = _count(_dict(used.get("prompt_tokens_details")).get("cached_tokens")) or 0
    return Usage(prompt, output, min(prompt, cached))


def _cost_usd(used: dict[str, Any]) -> Decimal | None:
    cost = usd_of(used.get("cost"))
    if cost is None or not used.get("is_byok"):
        return cost
    upstream = usd_of(_dict(used.get("cost_details")).get("upstream_inference_cost"))
    return None if upstream is None else cost + upstream


def usd_of(value: Any) -> Decimal | None:
    return _number(value, most=MOST_USD)


def _count(value: Any) -> int | None:
    number = _number(value, most=MOST_TOKENS)
    return None if number is None else int(number)


def _number(value: Any, *, most: int) -> Decimal | None:
    """APIs write numbers as 10, 10.0 and "10"; None: missing, or none that can be meant."""
    try:
        number = Decimal(str(value))
    except ArithmeticError:
        return None
    return number if number.is_finite() and 0 <= number <= most else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

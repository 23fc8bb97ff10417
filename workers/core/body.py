"""OpenAI bodies: fields set and read, everything else left as it was written."""

from typing import Any

import msgspec

from schemas.outcome import Usage

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_json = msgspec.json.Encoder()


class BadBody(ValueError):
    """Not a JSON object."""


def fields_of(body: bytes) -> dict[str, msgspec.Raw]:
    """Raises: BadBody."""
    try:
        return _fields.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadBody(f"the body cannot be read: {error}") from error


def with_fields(fields: dict[str, msgspec.Raw], **changes: Any) -> bytes:
    """The body with these fields instead of its own; None takes one out."""
    kept: dict[str, Any] = {name: value for name, value in fields.items() if name not in changes}
    return _json.encode(kept | {name: value for name, value in changes.items() if value is not None})


def asks_for_length(fields: dict[str, msgspec.Raw]) -> bool:
    return any(bytes(fields.get(name, b"null")) != b"null" for name in ("max_tokens", "max_completion_tokens"))


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Used(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    cost: float | None = None
    """In US dollars: what OpenRouter charged."""


class _Response(msgspec.Struct, frozen=True):
    usage: _Used | None = None
    model: str | None = None


_response = msgspec.json.Decoder(_Response)


class Spent(msgspec.Struct, frozen=True):
    """What a response says of itself."""

    usage: Usage | None
    cost_usd: float | None
    model: str | None


def spent_of(response: bytes) -> Spent:
    """Raises: BadBody, when it is no JSON object or its usage is not made of numbers."""
    try:
        said = _response.decode(response)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadBody(f"the response cannot be read: {error}") from error
    used = said.usage
    if used is None or used.prompt_tokens is used.completion_tokens is None:
        return Spent(None, used.cost if used else None, said.model)
    cached = used.prompt_tokens_details.cached_tokens if used.prompt_tokens_details else 0
    prompt = max(0, used.prompt_tokens or 0)
    usage = Usage(prompt, max(0, used.completion_tokens or 0), min(prompt, max(0, cached or 0)))
    return Spent(usage, used.cost, said.model)

"""Sets and reads fields of OpenAI requests; everything else stays as it was written."""

from decimal import Decimal
from typing import Any

import msgspec

from schemas import lenient
from schemas.codec import UNREADABLE
from schemas.endpoints import Endpoint

MOST_TOKENS = 10**9
"""The most tokens one request can use: longer than any context; at the highest price its cost still fits the ledger."""
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_parts = msgspec.json.Decoder(list[msgspec.Raw])
_any = msgspec.json.Decoder()
_json = msgspec.json.Encoder()


class BadBody(ValueError):
    """A body is not a JSON object."""


def fields_of(body: bytes) -> dict[str, msgspec.Raw]:
    """Split a body into its fields, whose values stay unparsed. Raises: BadBody."""
    try:
        return _fields.decode(body)
    except UNREADABLE as error:
        raise BadBody(f"the body cannot be read: {error}") from error


def sound(response: bytes) -> tuple[bytes, bool]:
    """Return a response as JSON that every decoder takes, and whether it had to be mended. Raises: BadBody."""
    try:
        _any.decode(response)
    except UNREADABLE:
        pass
    else:
        return response, False
    try:
        return lenient.mended(response), True
    except ValueError as error:
        raise BadBody(f"the response cannot be read: {error}") from error


def with_fields(fields: dict[str, msgspec.Raw], **changes: Any) -> bytes:
    """Build a body in which these values replace the fields' own; None removes a field."""
    kept: dict[str, Any] = {name: value for name, value in fields.items() if name not in changes}
    return _json.encode(kept | {name: value for name, value in changes.items() if value is not None})


def asks_for_length(fields: dict[str, msgspec.Raw], endpoint: Endpoint) -> bool:
    """Say whether the body itself limits how many tokens are generated."""
    return any(bytes(fields.get(name, b"null")) != b"null" for name in endpoint.limits)


def has_parts(value: msgspec.Raw | None) -> bool:
    """Say whether a field holds a list that is not empty."""
    try:
        return value is not None and bool(_parts.decode(value))
    except UNREADABLE:
        return False


class _Streamed(msgspec.Struct, frozen=True):
    stream: bool | None = None


_streamed = msgspec.json.Decoder(_Streamed)


def asks_for_stream(body: bytes) -> bool:
    """Say whether the body asks for a stream. One that cannot be read does not; the engine says what is wrong with it."""
    try:
        return bool(_streamed.decode(body).stream)
    except UNREADABLE:
        return False


class RequestedOutput(msgspec.Struct, frozen=True):
    """How much output a request asks for."""

    choices: int
    output_tokens: int
    """The most that can be generated, for all choices together."""


def requested_output(body: bytes, endpoint: Endpoint, *, max_output_tokens: int) -> RequestedOutput:
    """Read how much output a body asks for. `max_output_tokens` limits a choice if the body does not. Raises: BadBody."""
    if not endpoint.limits:
        return RequestedOutput(1, 0)
    fields = fields_of(body)
    prompts = 1 if endpoint.prompts is None else _prompts(_value(fields, endpoint.prompts))
    n, best_of = count_of(_value(fields, "n")) or 1, count_of(_value(fields, "best_of")) or 1
    limits = [count for name in endpoint.limits if (count := count_of(_value(fields, name))) is not None]
    output = prompts * max(n, best_of) * max(limits, default=max_output_tokens)
    return RequestedOutput(prompts * n, min(MOST_TOKENS, output))


def _value(fields: dict[str, msgspec.Raw], name: str) -> Any:
    """Parse one field; None if it is missing. Raises: BadBody."""
    try:
        return _any.decode(fields[name]) if name in fields else None
    except UNREADABLE as error:
        raise BadBody(f"the body cannot be read: {error}") from error


def _prompts(prompt: Any) -> int:
    """Count the prompts in a field. A list of numbers is one prompt, given as tokens."""
    is_many = isinstance(prompt, list) and not all(isinstance(part, int) for part in prompt)
    return len(prompt) if is_many else 1


def count_of(value: Any) -> int | None:
    """Parse a number of tokens or choices. None: it is missing or makes no sense."""
    if type(value) is int and 0 <= value <= MOST_TOKENS:
        return value
    number = number_of(value, most=MOST_TOKENS)
    return None if number is None else int(number)


def number_of(value: Any, *, most: int) -> Decimal | None:
    """Parse a number, which APIs write as 10, 10.0 or "10". None: it is missing, negative, too large or not a number."""
    try:
        number = Decimal(str(value))
    except ArithmeticError:
        return None
    return number if number.is_finite() and 0 <= number <= most else None

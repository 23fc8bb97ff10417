"""Decides on webhooks: what a message says, how it is signed, and when it is sent again (Standard Webhooks 1.0)."""

import base64
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from uuid import UUID

import msgspec
from standardwebhooks import Webhook as Signer

from schemas.units import Ms
from schemas.webhooks import Try

SECRET_BYTES: Final = 32
PREFIX: Final = "whsec_"
AGAIN_MS: Final = tuple(Ms(s * 1000) for s in (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400))
"""After each attempt that fails: how long until the next. Three days in all, as Standard Webhooks proposes."""
LONGEST_MS: Final = Ms(86_400_000)
"""The longest that an endpoint can ask to be left alone."""
ANSWER_CHARACTERS: Final = 300
"""How much of an answer is kept. A guess: a line that says what is wrong."""
GONE: Final = 410
TOO_LONG: Final = "it took too long"


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is to be sent now."""

    id: UUID
    webhook: UUID
    event: UUID
    type: str
    data: bytes
    """JSON."""
    made_ms: Ms
    attempt: int
    url: str
    secrets: tuple[bytes, ...]
    """The newest first."""

    def __repr__(self) -> str:
        return f"Due({self.id}, attempt={self.attempt})"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of sending a message. There is a status or an error."""

    status: int | None = None
    body: bytes = b""
    """The first of it."""
    retry_after: str | None = None
    """That header."""
    error: str | None = None


class Came(msgspec.Struct, frozen=True, kw_only=True):
    """What is recorded of an attempt."""

    tried: Try
    next_ms: Ms | None
    """When it is sent again. None: it is not."""
    is_delivered: bool = False
    is_gone: bool = False
    """Whether the endpoint said that it wants no more."""


def event_id(event: UUID) -> str:
    return f"evt_{event.hex}"


def secret_text(secret: bytes) -> str:
    """Write a secret as libraries of Standard Webhooks read it."""
    return PREFIX + base64.b64encode(secret).decode()


def message(due: Due) -> bytes:
    """Write the body: OpenAI's object of an event, with the timestamp of Standard Webhooks. It is the same each time."""
    made = datetime.fromtimestamp(due.made_ms / 1000, UTC)
    return msgspec.json.encode(
        {
            "id": event_id(due.event),
            "object": "event",
            "created_at": due.made_ms // 1000,
            "timestamp": made.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "type": due.type,
            "data": msgspec.Raw(due.data),
        }
    )


def headers(due: Due, body: bytes, *, now: Ms) -> dict[str, str]:
    """Sign a message as it is sent now, with each secret that the endpoint may check it by."""
    name, at = event_id(due.event), datetime.fromtimestamp(now // 1000, UTC)
    signatures = [Signer(secret).sign(name, at, body.decode()) for secret in due.secrets]
    return {
        "content-type": "application/json",
        "webhook-id": name,
        "webhook-timestamp": str(now // 1000),
        "webhook-signature": " ".join(signatures),
    }


def came(due: Due, answer: Answer, *, began_ms: Ms, now: Ms, unit: float) -> Came:
    """Decide what an answer means. `unit` is uniform in [0, 1)."""
    is_delivered = answer.status is not None and 200 <= answer.status < 300
    is_gone = answer.status == GONE
    tried = Try(
        at_ms=began_ms,
        took_ms=Ms(max(0, now - began_ms)),
        status=answer.status,
        answer=_text(answer.body),
        error=answer.error or _why(answer.status),
    )
    over = is_delivered or is_gone
    next_ms = None if over else again_ms(due.attempt, _asked_ms(answer, now), now=now, unit=unit)
    return Came(tried=tried, next_ms=next_ms, is_delivered=is_delivered, is_gone=is_gone)


def again_ms(attempt: int, asked_ms: Ms, *, now: Ms, unit: float) -> Ms | None:
    """Return when to send a message again that failed for the `attempt`th time, not before it was asked for.

    None: never. Up to a tenth is added, so that what failed together does not come back together.
    """
    if attempt > len(AGAIN_MS):
        return None
    wait = AGAIN_MS[attempt - 1]
    return Ms(now + max(int(wait * (1 + unit / 10)), min(asked_ms, LONGEST_MS)))


def _asked_ms(answer: Answer, now: Ms) -> Ms:
    """Read Retry-After: seconds, or a date. 0: it says nothing that can be read."""
    text = (answer.retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return Ms(min(int(text[:9]) * 1000, LONGEST_MS))
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return Ms(0)
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return Ms(max(0, int(at.timestamp() * 1000) - now))


def _why(status: int | None) -> str | None:
    """Say why an answer is no success, where its status does not say what to do."""
    if status is not None and 300 <= status < 400:
        return "it redirects: give the URL that it leads to"
    return "it wants no more" if status == GONE else None


def _text(body: bytes) -> str | None:
    text = body.decode(errors="replace").replace("\x00", "\N{REPLACEMENT CHARACTER}")[:ANSWER_CHARACTERS]
    return text or None

"""Writes chunks of a stream out of a whole answer: all of it for engines that do not stream, or what it used."""

from typing import Any

import msgspec

from schemas.codec import UNREADABLE
from schemas.endpoints import Endpoint, Shape

_answer = msgspec.json.Decoder(dict[str, Any])


def chunk_of(body: bytes, endpoint: Endpoint) -> bytes | None:
    """Return the chunk that says what the answer says. None: it cannot be told."""
    try:
        answer = _answer.decode(body)
    except UNREADABLE:
        return None
    choices = answer.get("choices")
    if endpoint.chunk is None or not isinstance(choices, list):
        return None
    if endpoint.shape is Shape.CHAT:
        choices = [_streamed(choice) for choice in choices if isinstance(choice, dict)]
    return msgspec.json.encode({**answer, "object": endpoint.chunk, "choices": choices})


def usage_chunk_of(body: bytes, endpoint: Endpoint) -> bytes | None:
    """Return the chunk that says only what the answer used, as OpenAI writes it. None: it cannot be told."""
    try:
        answer = _answer.decode(body)
    except UNREADABLE:
        return None
    if endpoint.chunk is None or not isinstance(answer.get("usage"), dict):
        return None
    head = {name: answer[name] for name in ("id", "created", "model") if name in answer}
    return msgspec.json.encode({**head, "object": endpoint.chunk, "choices": [], "usage": answer["usage"]})


def _streamed(choice: dict[str, Any]) -> dict[str, Any]:
    """Return the choice of a chat as one of a chunk. In a stream each call of a tool says which it is."""
    delta = dict(choice.get("message") or {})
    if isinstance(calls := delta.get("tool_calls"), list):
        numbered = enumerate(calls)
        delta["tool_calls"] = [{"index": n, **call} if isinstance(call, dict) else call for n, call in numbered]
    return {**{name: value for name, value in choice.items() if name != "message"}, "delta": delta}

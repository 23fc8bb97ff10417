"""Breaks valid messages: a field of another type or size, bytes cut off, headers and subjects that nobody can mean."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import msgspec

from schemas.codec import CONTENT_TYPE, FAILURE, JOB, JSON, KIND, MSGPACK, SEQ, TRACEPARENT
from schemas.ids import uuid7
from schemas.units import Ms

_INJECTION = "a 1\r\nb\r\nPUB evil 1\r\nx\r\nPUB c"
EXTREMES: tuple[Any, ...] = (
    *(-1, 0, 1, 2**31 - 1, 2**31, 2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63)),
    *(10**30, 1.5, 1e308, -1e308, float("nan"), float("inf")),
    *(
        "",
        "\0",
        "a\0b",
        "x" * 201,
        "x" * 5000,
        "\N{GRINNING FACE}" * 300,
        "a.b",
        "*",
        ">",
        "a b",
        "1",
        "null",
        _INJECTION,
    ),
    *(b"", b"\0", b"\xff\xfe", b"x" * 15, b"x" * 17, b"\0" * 5000),
    *(None, True, False, [], {}, [None], {"": ""}, {"a\0": "b\0"}, {"type": "of_tomorrow"}),
    *(UUID(int=0).bytes, UUID(int=2**128 - 1).bytes, uuid7(Ms(281_474_976_710_000), 1).bytes, str(UUID(int=7))),
    *("$JS.ACK.INFERMQ_RUN.d.a.b.c.d.e", "$JS.ACK.INFERMQ_SUBMIT.intake-bulk.1.1.1.1.0", "2026-11-26T00:00:00Z"),
)
_HEADERS = (CONTENT_TYPE, KIND, SEQ, FAILURE, JOB, TRACEPARENT, "Status", "KV-Operation", "Nats-Sequence", "Nats-TTL")
_HEADER_VALUES = (
    *("", "x", "-1", "9" * 40, "é", "\x7f", "a" * 5000, "503", "408", "100", "DEL", JSON, MSGPACK, "text/plain"),
    *("chunk", "final", "error", "keepalive", "{", '{"type": "throttled", "retry_after_ms": -1}', "a\tb", "\0"),
)
_TOKENS = ("x", "_0_", "_d800_", "_", "_2E_", "a" * 300, "\xff", "é", "default", "interactive", "live", "-", "*")
_REPLIES = ("_INBOX.fuzz.x", "_INBOX.*", "_INBOX.>", "infermq.ctl.abort", "$JS.ACK.S.c.a.b.c.d.e", "x..y", "é")
_DEEPEST = 20
_RAW = (
    b"",
    b"\xc1",
    b"\xff" * 9,
    b"[" * 100_000,
    b"\x91" * 100_000,
    b'{"a":' * 50_000,
    b"1" * 5000,
    b"\xdd\xff\xff\xff\xff",
)


@dataclass(frozen=True, slots=True)
class Broken:
    """A message to send, as it is."""

    kind: str
    subject: bytes
    payload: bytes
    headers: dict[str, str] = field(default_factory=dict)
    reply: str = ""


@dataclass(frozen=True, slots=True)
class Valid:
    """A valid message. `value` is what it holds, in builtin types; bytes are sent as they are."""

    kind: str
    subject: str
    value: Any
    headers: dict[str, str] = field(default_factory=dict)
    reply: str = ""
    is_json: bool = False


def mutations(valid: Valid, draw: random.Random) -> Broken:
    """Break a message, mostly in what it holds."""
    changed, headers, reply = valid, dict(valid.headers), valid.reply
    part = draw.random()
    if part < 0.75 and not isinstance(valid.value, bytes):
        for _ in range(1 if draw.random() < 0.8 else draw.randint(2, 5)):
            changed = replace(changed, value=_changed(changed.value, draw))
    payload = encoded(changed.value, draw, is_json=valid.is_json)
    subject = valid.subject.encode()
    if 0.7 < part < 0.9:
        payload = _raw(payload, draw)
    elif 0.9 <= part < 0.95:
        headers[draw.choice(_HEADERS)] = draw.choice(_HEADER_VALUES)
    elif part >= 0.95:
        subject, reply = _other_names(valid, draw)
    return Broken(valid.kind, subject, payload, headers, reply)


def _changed(value: Any, draw: random.Random) -> Any:
    """Change one place of a value."""
    places = list(_places(value, ()))
    return _at(value, draw.choice(places), draw.choice(_CHANGES), draw)


def _places(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield path
    if len(path) == _DEEPEST:
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _at(value: Any, path: tuple[Any, ...], change: Callable[[Any, random.Random], Any], draw: random.Random) -> Any:
    if not path:
        return change(value, draw)
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _at(copy[path[0]], path[1:], change, draw)
    return copy


def _extreme(value: Any, draw: random.Random) -> Any:
    """Mostly one of the same type, since another is refused sooner."""
    alike = [one for one in EXTREMES if type(one) is type(value)]
    return draw.choice(alike if alike and draw.random() < 0.7 else EXTREMES)


def _nested(value: Any, draw: random.Random) -> Any:
    for _ in range(draw.choice((1, 3, 200, 900))):
        value = [value] if draw.random() < 0.5 else {"a": value}
    return value


def _without(value: Any, draw: random.Random) -> Any:
    if isinstance(value, dict) and value:
        gone = draw.choice(list(value))
        return {key: inner for key, inner in value.items() if key != gone}
    return None


def _with_more(value: Any, draw: random.Random) -> Any:
    if isinstance(value, dict):
        return {**value, draw.choice(("unknown", "", "type", "job", "\0")): draw.choice(EXTREMES)}
    return [value] * draw.choice((0, 2, 3000)) if not isinstance(value, list) else value * draw.choice((0, 2, 300))


def _renamed(value: Any, draw: random.Random) -> Any:
    if isinstance(value, dict) and value:
        key = draw.choice(list(value))
        return {(f"{key}_" if name == key else name): inner for name, inner in value.items()}
    return "renamed"


def _nudged(value: Any, draw: random.Random) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value + draw.choice((-1, 1, 2**20, -(2**20), 10**12))
        case str():
            return value + draw.choice(("\0", "\n", " ", "x", "é"))
        case bytes():
            return value + draw.choice((b"\0", b"x")) if draw.random() < 0.5 else value[:-1]
        case _:
            return draw.choice(EXTREMES)


_CHANGES = (_extreme, _extreme, _extreme, _extreme, _nested, _without, _with_more, _renamed, _nudged)


def encoded(value: Any, draw: random.Random, *, is_json: bool) -> bytes:
    """Encode a value, now and then in the other encoding."""
    if isinstance(value, bytes):
        return value
    try:
        return _encoded(value, draw, is_json=is_json)
    except RecursionError:  # nested more deeply than can be encoded here
        return b"[" * 5000 + b"]" * 5000


def _encoded(value: Any, draw: random.Random, *, is_json: bool) -> bytes:
    if is_json != (draw.random() < 0.02):
        text = json.dumps(value, default=lambda other: other.decode("latin-1"), ensure_ascii=draw.random() < 0.5)
        if draw.random() < 0.03 and text.startswith("{") and len(text) > 2:
            text = text[:-1] + "," + text[1:]  # each key twice
        return text.encode(draw.choice(("utf-16", "latin-1")) if draw.random() < 0.02 else "utf-8", "replace")
    try:
        return msgspec.msgpack.encode(value)
    except OverflowError:
        return msgspec.msgpack.encode(str(value))


def _raw(payload: bytes, draw: random.Random) -> bytes:
    """Break bytes."""
    kind = draw.random()
    if kind < 0.3:
        return payload[: draw.randint(0, len(payload))]
    if kind < 0.7 and payload:
        broken = bytearray(payload)
        for _ in range(draw.randint(1, 4)):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        return bytes(broken)
    if kind < 0.8:
        return payload + bytes(draw.randrange(256) for _ in range(draw.randint(1, 20)))
    return draw.choice(_RAW)


def _other_names(valid: Valid, draw: random.Random) -> tuple[bytes, str]:
    """Change a token of the subject, or the reply subject."""
    if valid.reply and draw.random() < 0.5:
        return valid.subject.encode(), draw.choice(_REPLIES)
    tokens = valid.subject.split(".")
    tokens[draw.randrange(1, len(tokens))] = draw.choice(_TOKENS)
    return ".".join(tokens).encode("latin-1", "replace"), valid.reply

"""Writes and reads messages as they are on the wire: headers, status lines, and the commands that publish."""

import re
from collections.abc import Iterator, Mapping

LINE = b"NATS/1.0"
_END = b"\r\n"
_NAME = re.compile(r"[!-9;-~]+").fullmatch
_BREAKS = str.maketrans({"\r": " ", "\n": " "})
_PUB, _HPUB = b"PUB", b"HPUB"
_ODD = "backslashreplace"
"""What becomes of a subject that is not UTF-8: the server lets one through."""
Published = tuple[str, str, bytes, bytes]
"""The subject, the subject for an answer, the headers, and the payload of a message."""


class BadCommand(Exception):
    """The server does not understand what a client wrote, and ends the connection."""


def head_of(headers: Mapping[str, str]) -> bytes:
    """Write headers as nats-py does: a line break becomes a space. Raises: ValueError, for a name that cannot be one."""
    lines: list[str] = []
    for name, text in headers.items():
        if not (key := name.strip()):
            continue
        if _NAME(key) is None:
            raise ValueError(key)
        lines.append(f"{key}: {text.strip().translate(_BREAKS)}\r\n")
    return f"NATS/1.0\r\n{''.join(lines)}\r\n".encode()


def with_lines(head: bytes, lines: Mapping[str, object]) -> bytes:
    """Add headers to those that a message has."""
    added = "".join([f"{name}: {text}\r\n" for name, text in lines.items()]).encode()
    return (head[: -len(_END)] if head else LINE + _END) + added + _END


def status(code: int, description: str = "", lines: Mapping[str, object] | None = None) -> bytes:
    """Write the headers of a message that only tells how something went."""
    first = f"NATS/1.0 {code} {description}".rstrip()
    added = "".join([f"{name}: {text}\r\n" for name, text in (lines or {}).items()])
    return f"{first}\r\n{added}\r\n".encode()


def header(head: bytes, name: bytes) -> str | None:
    """Find one header as the server does: by its exact name, the first of that name. An empty one is none."""
    at = head.find(b"\r\n" + name + b":")
    if at < 0:
        return None
    start = at + len(name) + 3
    text = head[start : head.find(_END, start)].strip(b" ")
    return text.decode(errors="replace") or None


def without(head: bytes, name: bytes) -> bytes:
    """Take one header away."""
    at = head.find(b"\r\n" + name + b":")
    if at < 0:
        return head
    left = head[: at + 2] + head[head.find(_END, at + 2) + 2 :]
    return b"" if left == LINE + _END + _END else left


def parsed(head: bytes) -> dict[str, str] | None:
    """Read headers as nats-py does: a status and its description under the names `Status` and `Description`."""
    if not head.startswith(LINE):
        return None
    first, _, rest = head[len(LINE) :].partition(_END)
    found: dict[str, str] = {}
    if first[:1] == b" ":
        code, _, description = first[1:].partition(b" ")
        if code.isdigit():
            found["Status"] = code.decode()
        if not description and len(rest) > len(_END):
            description = b"\n" + rest[: -2 * len(_END)]  # nats-py (2.16.0) takes the line after it for one
        if description:
            found["Description"] = description.decode(errors="replace")
    for line in rest.split(_END):
        name, colon, text = line.partition(b":")
        if colon and (name := name.strip()).isascii():
            key = name.decode()
            if "".join(key.split()) == key:
                found[key] = text.strip().decode(errors="replace")
    return found or None


def commands(written: bytes) -> Iterator[Published]:
    """Read the commands `PUB` and `HPUB` of a buffer. Raises: BadCommand."""
    at, end = 0, len(written)
    while at < end:
        start = written.find(_END, at) + 2
        words = written[at : start - 2].split()
        try:
            head, size = _sizes(words)
        except (ValueError, IndexError) as error:
            raise BadCommand from error
        if start < 2 or start + size > end:
            raise BadCommand
        at = start + size + 2
        subject = words[1].decode(errors=_ODD)
        reply = words[2].decode(errors=_ODD) if len(words) == (5 if head else 4) else ""
        if head:
            yield subject, reply, written[start : start + head], written[start + head : start + size]
        else:
            yield subject, reply, b"", written[start : start + size]


def _sizes(words: list[bytes]) -> tuple[int, int]:
    """Return the size of the headers and of everything. Raises: ValueError, IndexError."""
    kind, count = words[0], len(words)
    if kind == _PUB and 3 <= count <= 4:
        return 0, int(words[-1])
    if kind == _HPUB and 4 <= count <= 5:
        return int(words[-2]), int(words[-1])
    raise ValueError(words[0])

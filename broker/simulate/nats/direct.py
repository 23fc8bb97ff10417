"""Answers direct gets: a message by its sequence or subject, or many in a page (ADR-31)."""

from typing import TYPE_CHECKING, Any

import msgspec

from broker.simulate.nats.refusals import NotSimulated
from broker.simulate.nats.store import ALL, Filter, Stored
from broker.simulate.nats.times import instant
from broker.simulate.nats.wire import status, with_lines

if TYPE_CHECKING:
    from broker.simulate.nats.server import Server
    from broker.simulate.nats.stream import Stream

_MAX_BYTES = 256 * 1024 * 1024
_BEYOND = ("multi_last", "start_time", "up_to_seq", "up_to_time")


class Direct:
    def __init__(self, server: "Server") -> None:
        self._server = server

    def answer(self, path: str, reply: str, request: bytes) -> bool:
        """Answer `DIRECT.GET.<stream>` and `DIRECT.GET.<stream>.<subject>`. False: nobody would hear it."""
        name, _, subject = path.partition(".")
        stream = self._server.streams.get(name)
        if stream is None or not stream.settings["allow_direct"]:
            return False
        if not reply:
            return True
        if subject:
            self._one(stream, reply, stream.store.last_of(subject))
        elif not request:
            self._say(reply, status(408, "Empty Request"))
        else:
            self._asked(stream, reply, request)
        return True

    def _asked(self, stream: "Stream", reply: str, request: bytes) -> None:
        try:
            asked = msgspec.json.decode(request, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._say(reply, status(408, "Malformed Request"))
            return
        if any(asked.get(name) for name in _BEYOND):
            raise NotSimulated(str(sorted(asked)))
        seq, next_of, last_of = asked.get("seq", 0), asked.get("next_by_subj"), asked.get("last_by_subj")
        if not (seq or next_of or last_of):
            self._say(reply, status(408, "Empty Request"))
        elif last_of and (seq or next_of or asked.get("batch")):
            self._say(reply, status(408, "Bad Request"))
        elif asked.get("batch"):
            self._many(stream, reply, asked)
        elif last_of:
            self._one(stream, reply, stream.store.last_of(last_of))
        elif next_of:
            self._one(stream, reply, stream.store.next(seq, Filter((next_of,))))
        else:
            self._one(stream, reply, stream.store.messages.get(seq))

    def _one(self, stream: "Stream", reply: str, found: Stored | None) -> None:
        if found is None:
            self._say(reply, status(404, "Message Not Found"))
        else:
            self._send(reply, with_lines(found.head, _place(stream, found)), found)

    def _many(self, stream: "Stream", reply: str, asked: dict[str, Any]) -> None:
        wanted = Filter((asked["next_by_subj"],)) if asked.get("next_by_subj") else ALL
        left, most_bytes = asked["batch"], asked.get("max_bytes") or _MAX_BYTES
        pending, last, sent = stream.store.count(asked.get("seq", 0), wanted), 0, 0
        for found in stream.store.from_on(asked.get("seq", 0), wanted):
            pending -= 1
            lines = {**_place(stream, found), "Nats-Num-Pending": pending, "Nats-Last-Sequence": last}
            self._send(reply, with_lines(found.head, lines), found)
            last, left = found.seq, left - 1
            sent += len(found.subject) + len(found.head) + len(found.data)
            if left <= 0 or sent >= most_bytes:
                break
        if last:
            self._say(reply, status(204, "EOB", {"Nats-Num-Pending": pending, "Nats-Last-Sequence": last}))
        else:
            self._say(reply, status(404, "Message Not Found"))

    def _send(self, reply: str, head: bytes, found: Stored) -> None:
        self._server.deliver(reply, reply, "", head, found.data)

    def _say(self, reply: str, head: bytes) -> None:
        self._server.deliver(reply, reply, "", head, b"")


def _place(stream: "Stream", found: Stored) -> dict[str, object]:
    return {
        "Nats-Stream": stream.name,
        "Nats-Subject": found.subject,
        "Nats-Sequence": found.seq,
        "Nats-Time-Stamp": instant(found.at_ns),
    }

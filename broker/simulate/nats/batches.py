"""Atomic batches: the messages of each that has begun, until it is committed, abandoned or incomplete (ADR-50)."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.simulate.nats.refusals import (
    BAD_BATCH_ID,
    BAD_COMMIT,
    BATCH_TOO_LARGE,
    INCOMPLETE,
    NO_ATOMIC,
    NO_BATCH_SEQUENCE,
    TOO_MANY_BATCHES,
    Refused,
)
from broker.simulate.nats.wire import header
from broker.simulate.timers import Handle

if TYPE_CHECKING:
    from broker.simulate.nats.stream import Stream

_IDLE_S = 10.0
"""How long a batch may wait for its next message."""
_MOST = 1000
_MOST_OPEN = 50
_LONGEST_ID = 64
Message = tuple[str, bytes, bytes]
"""The subject, the headers and the payload."""


@dataclass(slots=True, eq=False)
class _Open:
    messages: list[Message] = field(default_factory=list)
    idle: Handle | None = None


class Batches:
    """Those of one stream."""

    def __init__(self, stream: "Stream") -> None:
        self._stream = stream
        self._timers = stream.server.timers
        self._open: dict[str, _Open] = {}

    def take(self, batch_id: str, message: Message) -> list[Message] | None:
        """Take a message of a batch. Return all of them if it is the last; None: there are more to come.

        Raises: Refused.
        """
        head = message[1]
        sequence = self._sequence(batch_id, head)
        commit = header(head, b"Nats-Batch-Commit")
        batch = self._begun(batch_id, sequence, is_end=commit == "eob")
        if commit not in (None, "1", "eob"):
            self._close(batch_id)
            raise Refused(*BAD_COMMIT)
        if sequence != len(batch.messages) + 1 or (sequence == 1 and commit == "eob"):
            self._close(batch_id)
            raise Refused(*INCOMPLETE)
        if sequence - (commit == "eob") > _MOST:
            self._close(batch_id)
            raise Refused(*BATCH_TOO_LARGE)
        if commit is None:
            batch.messages.append(message)
            self._wait(batch_id, batch)
            return None
        self._close(batch_id)
        return batch.messages if commit == "eob" else [*batch.messages, message]

    def clear(self) -> None:
        for batch_id in list(self._open):
            self._close(batch_id)

    def _sequence(self, batch_id: str, head: bytes) -> int:
        if not self._stream.settings["allow_atomic"]:
            raise Refused(*NO_ATOMIC)
        if len(batch_id) > _LONGEST_ID:
            raise Refused(*BAD_BATCH_ID)
        text = header(head, b"Nats-Batch-Sequence") or ""
        if not text.isdigit():
            raise Refused(*NO_BATCH_SEQUENCE)
        return int(text)

    def _begun(self, batch_id: str, sequence: int, *, is_end: bool) -> _Open:
        batch = self._open.get(batch_id)
        if batch is None:
            if sequence != 1:
                raise Refused(*(BATCH_TOO_LARGE if sequence - is_end > _MOST else INCOMPLETE))
            if len(self._open) >= _MOST_OPEN:
                raise Refused(*TOO_MANY_BATCHES)
            batch = self._open[batch_id] = _Open()
        return batch

    def _wait(self, batch_id: str, batch: _Open) -> None:
        if batch.idle is not None:
            batch.idle.cancel()
        batch.idle = self._timers.call_at(self._timers.now_s() + _IDLE_S, self._close, batch_id)

    def _close(self, batch_id: str) -> None:
        batch = self._open.pop(batch_id, None)
        if batch is not None and batch.idle is not None:
            batch.idle.cancel()

"""The pulls that wait at a consumer: who gets the next message, and what they are told when it does not come."""

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from broker.simulate.nats.wire import status

_S_OF_NS = 1e-9
SLACK_S = 1e-6
"""How much too early a timer may be."""


class _Asked(msgspec.Struct, frozen=True):
    batch: int = 0
    max_bytes: int = 0
    expires: int = 0
    no_wait: bool = False
    idle_heartbeat: int = 0


_asked = msgspec.json.Decoder(_Asked)


@dataclass(slots=True, eq=False)
class Pull:
    reply: str
    left: int
    """How many messages it still wants."""
    bytes: int = 0
    """How many bytes it still takes; 0: any."""
    no_wait: bool = False
    expires_s: float | None = None
    heartbeat_s: float = 0.0
    next_beat_s: float | None = None
    given: int = 0

    def pending(self) -> dict[str, int]:
        return {"Nats-Pending-Messages": self.left, "Nats-Pending-Bytes": self.bytes}

    def is_over(self, now_s: float) -> bool:
        return self.expires_s is not None and self.expires_s <= now_s + SLACK_S


class BadPull(Exception):
    """The message says why the request is none."""


def pull_of(request: bytes, reply: str, now_s: float) -> Pull:
    """Read a request for messages. Raises: BadPull."""
    text = request.strip()
    if not text.startswith(b"{"):
        return Pull(reply, int(text) if re.fullmatch(rb"[+-]?\d+", text) else 1)
    try:
        asked = _asked.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadPull(str(error)) from error
    expires, beat = asked.expires, asked.idle_heartbeat
    if beat and 2 * beat > expires:
        raise BadPull("heartbeat value too large")
    return Pull(
        reply,
        asked.batch,
        asked.max_bytes,
        asked.no_wait,
        now_s + expires * _S_OF_NS if expires else None,
        beat * _S_OF_NS,
        now_s + beat * _S_OF_NS if beat else None,
    )


class Waiting:
    """The pulls in the order in which they are served: one message for each in turn."""

    def __init__(self, most: int, *, has_interest: Callable[[str], bool], say: Callable[[str, bytes], None]) -> None:
        """`say` sends a status to the inbox of a pull."""
        self.most = most
        self._has_interest = has_interest
        self._say = say
        self._queue: deque[Pull] = deque()
        self.has_hasty = False
        """Whether one of them is not to wait when there is nothing for it."""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def wanted(self) -> int:
        return sum(one.left for one in self._queue)

    @property
    def is_full(self) -> bool:
        return len(self._queue) == self.most

    def add(self, pull: Pull) -> None:
        self._queue.append(pull)
        self.has_hasty = self.has_hasty or pull.no_wait

    def take(self, size: int, now_s: float) -> Pull | None:
        """Return whose turn it is for a message of this size, one message less wanted; None: nobody can have it."""
        queue = self._queue
        while queue:
            pull = queue[0]
            if pull.is_over(now_s):
                self._say(pull.reply, status(408, "Request Timeout", pull.pending()))
            elif pull.bytes and size > pull.bytes:
                self._say(pull.reply, status(409, "Message Size Exceeds MaxBytes", pull.pending()))
            else:
                if pull.bytes:
                    pull.bytes -= size
                    if not pull.bytes:
                        pull.left = 1
                if self._has_interest(pull.reply):
                    return self._served(pull)
            queue.popleft()
        return None

    def _served(self, pull: Pull) -> Pull:
        pull.given += 1
        pull.left -= 1
        if pull.left <= 0:
            self._queue.popleft()
        elif len(self._queue) > 1:
            self._queue.rotate(-1)
        return pull

    def look(self, now_s: float, *, at_end: bool) -> float | None:
        """End what is over or nobody hears, send heartbeats, and return when to look again.

        `at_end`: there is no message for them at the moment.
        """
        kept: deque[Pull] = deque()
        next_s: float | None = None
        for pull in self._queue:
            if pull.is_over(now_s):
                self._say(pull.reply, status(408, "Request Timeout", pull.pending()))
            elif at_end and pull.no_wait and (pull.expires_s is None or pull.given):
                self._say(pull.reply, status(404, "No Messages"))
            elif self._has_interest(pull.reply):
                kept.append(pull)
                next_s = _earliest(next_s, pull.expires_s)
        self._queue = kept
        self.has_hasty = any(one.no_wait for one in kept)
        return next_s

    def beat(self, now_s: float, lines: dict[str, int]) -> float | None:
        """Send the heartbeats that are due, and return when the next one is."""
        next_s: float | None = None
        for pull in self._queue:
            if pull.next_beat_s is None:
                continue
            if pull.next_beat_s <= now_s + SLACK_S:
                self._say(pull.reply, status(100, "Idle Heartbeat", lines))
                pull.next_beat_s = now_s + pull.heartbeat_s
            next_s = _earliest(next_s, pull.next_beat_s)
        return next_s

    def end(self, code: int, words: str, *, with_pending: bool) -> None:
        """Tell all that they are over."""
        queue, self._queue = self._queue, deque()
        for pull in queue:
            self._say(pull.reply, status(code, words, pull.pending() if with_pending else None))

    def forget(self) -> None:
        self._queue.clear()


def _earliest(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)

"""A NATS server in memory, with JetStream: one machine of state whose calls end at once. All waiting is in the links.

It does what nats-server 2.15 does as a single node, as far as infermq relies on it; what it cannot do raises NotSimulated.
"""

from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from broker.simulate.nats.api import Api
from broker.simulate.nats.consumer import Consumer
from broker.simulate.nats.interest import Interest, matches
from broker.simulate.nats.link import Link
from broker.simulate.nats.session import Client, Session
from broker.simulate.nats.stream import Stream
from broker.simulate.nats.times import instant
from broker.simulate.nats.wire import header
from broker.simulate.timers import Timers

_ACK, _API = "$JS.ACK.", "$JS.API."
_ACK_TOKENS, _ACK_TOKENS_2 = 9, 11
MAX_PAYLOAD = 8 * 1024 * 1024


class Server:
    def __init__(
        self,
        timers: Timers,
        *,
        unit: Callable[[], float],
        max_payload: int = MAX_PAYLOAD,
        store_bytes: int | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        """`unit` is chance, uniform in [0, 1): it decides, for one, which member of a queue group gets a message.

        Streams may reserve up to `store_bytes` on disk and `memory_bytes` in memory. None: as much as they like.
        """
        self.timers = timers
        self.max_payload = max_payload
        self.room = {"file": store_bytes, "memory": memory_bytes}
        self.interest = Interest()
        self.streams: dict[str, Stream] = {}
        self.sessions: dict[Session, None] = {}
        self.is_away = False
        self.unit = unit
        self.watch: Callable[[str, str, bool], object] = lambda *_: None
        """Called with each message that has an id and was published to a stream: whether it is stored there."""
        self._api = Api(self)
        self._stream_of: dict[str, Stream | None] = {}
        self._due: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._is_running_due = False
        self._advisories = 0

    def __repr__(self) -> str:
        return f"Server(streams={len(self.streams)}, sessions={len(self.sessions)}, away={self.is_away})"

    # connections

    def accept(self, client: Client, link: Link, name: str) -> None:
        """Take a connection, or let it find nobody."""
        if client.is_gone:
            return
        if self.is_away:
            link.to_client(client.refused)
            return
        session = Session(self, client, link, name=name)
        self.sessions[session] = None
        link.to_client(client.accepted, session)

    def hung_up(self, client: Client) -> None:
        """Forget the connections of a client that is gone, also one that it does not know of yet."""
        for session in [one for one in self.sessions if one.client is client]:
            session.close()

    def left(self, session: Session) -> None:
        self.sessions.pop(session, None)

    # messages

    def took(self, stream: str, head: bytes, *, is_stored: bool) -> None:
        """Let whoever watches know what became of a message."""
        if head and (message_id := header(head, b"Nats-Msg-Id")) is not None:
            self.watch(stream, message_id, is_stored)

    def publish(self, subject: str, reply: str, head: bytes, data: bytes) -> bool:
        """Bring a message to all that hear it. False: nobody does."""
        is_heard = self._tell(subject, subject, reply, head, data)
        if subject.startswith(_ACK):
            is_heard = self._answered(subject, reply, data) or is_heard
        elif subject.startswith(_API):
            is_heard = self._api.answer(subject[len(_API) :], reply, data) or is_heard
        elif (stream := self.stream_of(subject)) is not None:
            stream.take(subject, reply, head, data)
            is_heard = True
        if self._due:
            self.run_due()
        return is_heard

    def deliver(self, to: str, subject: str, reply: str, head: bytes, data: bytes) -> None:
        """Bring a message to those that hear `to`, under its own subject."""
        self._tell(to, subject, reply, head, data)
        if (stream := self.stream_of(to)) is not None:
            stream.take(to, reply, head, data)

    def answer(self, reply: str, data: bytes) -> None:
        self.deliver(reply, reply, "", b"", data)

    def advise(self, subject: str, facts: Mapping[str, object]) -> None:
        """Tell what happened to a message, soon."""
        self._advisories += 1
        event = {**facts, "id": f"{self._advisories:022d}", "timestamp": instant(self.timers.wall_ns())}
        self.due(self.answer, subject, msgspec.json.encode(event))

    def _tell(self, to: str, subject: str, reply: str, head: bytes, data: bytes) -> bool:
        heard = self.interest.heard(to)
        if heard is None:
            return False
        message = (subject, reply, head, data)
        for one in heard.plain:
            one.session.send(one, message)
        for members in heard.groups.values():
            one = members[int(self.unit() * len(members))] if len(members) > 1 else members[0]
            one.session.send(one, message)
        return True

    def _answered(self, subject: str, reply: str, data: bytes) -> bool:
        tokens = subject.split(".")
        at = 2 if len(tokens) == _ACK_TOKENS else 4
        if len(tokens) != _ACK_TOKENS and len(tokens) < _ACK_TOKENS_2:
            return False
        stream = self.streams.get(tokens[at])
        consumer = None if stream is None else stream.consumers.get(tokens[at + 1])
        if consumer is None:
            return False
        facts = (_number(tokens[at + 2]), _number(tokens[at + 3]), _number(tokens[at + 4]))
        consumer.answered(data, facts, reply)
        return True

    # streams

    def stream_of(self, subject: str) -> Stream | None:
        """Return the stream that takes a subject."""
        if subject.startswith("_INBOX."):
            return None
        if subject in self._stream_of:
            return self._stream_of[subject]
        for stream in self.streams.values():
            if any(matches(subject, pattern) for pattern in stream.settings["subjects"]):
                break
        else:
            stream = None
        if len(self._stream_of) > _REMEMBERED:
            self._stream_of.clear()
        self._stream_of[subject] = stream
        return stream

    def reassign(self) -> None:
        """Note that streams came, went or take other subjects."""
        self._stream_of.clear()

    def consumer(self, stream: str, name: str) -> Consumer:
        """Raises: KeyError."""
        return self.streams[stream].consumers[name]

    # what is to be done next

    def due(self, call: Callable[..., object], *args: object) -> None:
        """Do something once what is being done is over: nothing is done in the middle of something else."""
        self._due.append((call, args))

    def run_due(self) -> None:
        if self._is_running_due:
            return
        self._is_running_due = True
        try:
            while self._due:
                call, args = self._due.popleft()
                call(*args)
        finally:
            self._is_running_due = False


_REMEMBERED = 10_000


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else -1

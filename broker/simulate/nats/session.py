"""The server's end of one connection, from its handshake until it is lost or closed."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from broker.simulate.nats.interest import Subscriber
from broker.simulate.nats.link import Link
from broker.simulate.nats.wire import BadCommand, Published, commands, status

if TYPE_CHECKING:
    from broker.simulate.nats.server import Server


class Client(Protocol):
    """The other end. Each call comes over the link, and may come from a session that is over."""

    is_gone: bool

    def accepted(self, session: "Session") -> None: ...

    def refused(self) -> None:
        """Nobody listens at the server's address."""

    def take(self, session: "Session", sid: int, message: Published) -> None: ...

    def ponged(self, session: "Session") -> None: ...

    def lost(self, session: "Session", why: str) -> None: ...


class Command(Protocol):
    """Something that a connection tells the server to do."""

    def run(self, session: "Session") -> None: ...


class Session:
    def __init__(self, server: "Server", client: Client, link: Link, *, name: str) -> None:
        self._server = server
        self.client = client
        self._link = link
        self.name = name
        self.is_open = True
        self.is_stalled = False
        """Nothing is read from it and nothing is sent to it, though it is not closed."""
        self._subscribers: dict[int, Subscriber] = {}
        self._held: list[Sequence[bytes | Command]] = []
        self._unsent: list[tuple[Callable[..., None], tuple[object, ...]]] = []

    def __repr__(self) -> str:
        return f"Session({self.name}, open={self.is_open})"

    def subjects(self) -> list[str]:
        """List what it has subscribed to."""
        return [one.subject for one in self._subscribers.values()]

    # what the connection tells

    def run(self, written: Sequence[bytes | Command]) -> None:
        """Do what the connection has written, in its order."""
        if self.is_stalled:
            self._held.append(written)
            return
        for one in written:
            if not self.is_open:
                return
            if isinstance(one, bytes):
                self._run_bytes(one)
            else:
                one.run(self)

    def _run_bytes(self, written: bytes) -> None:
        try:
            for subject, reply, head, data in commands(written):
                self.publish(subject, reply, head, data)
                if not self.is_open:
                    return
        except BadCommand:
            self.end("Unknown Protocol Operation")

    def publish(self, subject: str, reply: str, head: bytes, data: bytes) -> None:
        if len(head) + len(data) > self._server.max_payload:
            self.end("maximum payload violation")
            return
        if not self._server.publish(subject, reply, head, data) and reply:
            self._say_nobody_hears(subject, reply)

    def subscribe(self, sid: int, subject: str, queue: str) -> None:
        if sid not in self._subscribers:
            one = self._subscribers[sid] = Subscriber(self, sid, subject, queue)
            self._server.interest.add(one)

    def unsubscribe(self, sid: int, after: int) -> None:
        """End a subscription, after so many messages more, or at once."""
        if (one := self._subscribers.get(sid)) is not None:
            if after:
                one.left = after
            else:
                self._drop(one)

    def ping(self) -> None:
        self._to_client(self.client.ponged, self)

    def _say_nobody_hears(self, subject: str, reply: str) -> None:
        heard = self._server.interest.heard(reply)
        for one in heard.plain if heard else ():
            if one.session is self:
                self.send(one, (reply, "", status(503, "", {"Nats-Subject": subject}), b""))
                return

    # what it is told

    def send(self, one: Subscriber, message: Published) -> None:
        self._to_client(self.client.take, self, one.sid, message)
        if one.left is not None:
            one.left -= 1
            if one.left <= 0:
                self._drop(one)

    def close(self) -> None:
        """Forget the connection: it has left."""
        if self.is_open:
            self.is_open = False
            for one in self._subscribers.values():
                self._server.interest.remove(one)
            self._subscribers.clear()
            self._held.clear()
            self._unsent.clear()
            self._server.left(self)

    def end(self, why: str) -> None:
        """End the connection. What is on its way is lost."""
        if self.is_open:
            self.close()
            self._link.to_client(self.client.lost, self, why)

    def stall(self) -> None:
        """Carry nothing more, either way, until it goes on."""
        self.is_stalled = True

    def go_on(self) -> None:
        self.is_stalled = False
        unsent, self._unsent = self._unsent, []
        for call, args in unsent:
            self._link.to_client(call, *args)
        held, self._held = self._held, []
        for written in held:
            self.run(written)

    def _to_client(self, call: Callable[..., None], *args: object) -> None:
        if self.is_stalled:
            self._unsent.append((call, args))
        else:
            self._link.to_client(call, *args)

    def _drop(self, one: Subscriber) -> None:
        self._subscribers.pop(one.sid, None)
        self._server.interest.remove(one)

"""Adapts nats-py for broker, workers and producers."""

import asyncio
import re
from collections.abc import Coroutine, Sequence
from typing import Any

from nats.aio.client import Client
from nats.errors import BadSubjectError, Error, NoServersError

from schemas.jetstream.connection import is_refusal
from schemas.jetstream.fixes import ClientFixes, QuietTransport
from schemas.jetstream.trust import ENDED, BadTrust, Trust
from schemas.units import SUBJECT

_is_subject = re.compile(SUBJECT).match
"""As `subjects.is_subject`, with a call less for each message."""
_ENCRYPTED = "tls://"
_AS_SOON = 5
"""So many refusals in a row change nothing yet: brokers may be away for some seconds."""
_LONGEST_PAUSE_S = 15.0
_PING_S = 4
"""How often to ask the server whether it is there. After two pings without an answer the client goes to another node: a
machine that lost its power does not close its connections.
"""


def urls_of(servers: str | Sequence[str]) -> list[str]:
    """Return the URLs of one or several nodes. A text may hold several, with commas between them."""
    texts = [servers] if isinstance(servers, str) else servers
    return [url.strip() for text in texts for url in text.split(",") if url.strip()]


class NatsClient(ClientFixes, Client):
    """Implements `NatsConnection`; `close` is nats-py's."""

    _must_encrypt = False
    _refusals = 0
    """How often the key was refused since the last connection."""
    _pause_s: float = 1
    _is_gathering = False
    """Messages are pending, and will be written in a moment."""

    async def connect(  # type: ignore[override]
        self, servers: str | Sequence[str], *, trust: Trust | None = None, **options: Any
    ) -> None:
        """Connect to one of several nodes of a cluster, and to another whenever it is lost.

        With `trust`, or with a URL that begins with `tls://`, nothing is sent without TLS. Other options are nats-py's.
        Raises: BadTrust, and as nats-py.
        """
        urls = urls_of(servers)
        self._must_encrypt = trust is not None or any(url.startswith(_ENCRYPTED) for url in urls)
        try:
            tls = {} if trust is None else {"tls": trust.context()}
        except BadTrust:
            self._status = self.CLOSED
            raise
        self._pause_s = options.get("reconnect_time_wait", 1)
        await super().connect(urls, **{"ping_interval": _PING_S, "reconnect_time_wait": 1, **tls, **options})

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002
        """Refuse a server that offers no TLS, before a key is shown: nats-py (2.16) takes its word for it.

        Raises: NatsError.
        """
        if initial_connection and self._must_encrypt and not info.get("tls_required"):
            raise Error("it does not ask for TLS, which its URL or a certificate of ours demands")
        await super()._process_info(info, initial_connection)

    async def _process_connect_init(self) -> None:
        """Say what an end of the connection means that comes once TLS is agreed on, and try a refused key less and less.

        Raises: NatsError, OSError.
        """
        try:
            await super()._process_connect_init()
        except Error as error:
            if is_refusal(error):
                self._refusals += 1
                self.options["reconnect_time_wait"] = pause_s(self._refusals, self._pause_s)
            raise
        except ConnectionError as error:
            if self._server_info.get("tls_required"):
                raise BadTrust(ENDED) from error
            raise
        self._refusals = 0
        self.options["reconnect_time_wait"] = self._pause_s

    async def _connect_to_server(self, server: Any) -> None:
        if self._transport is None and not server.uri.scheme.startswith("ws"):
            self._transport = QuietTransport()
        await super()._connect_to_server(server)

    @property
    def reconnects(self) -> int:
        return self.stats["reconnects"]

    def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> Coroutine[Any, Any, None]:
        """Publish. Raises: BadSubjectError, for a subject that would end the command or reach several subjects.

        It is the last net: subjects from outside are checked where they come in. nats-py's own check, which is slower and
        lets wildcards through, can be left out. What it does besides is left to it where it matters: when the connection
        is lost or closing, for what is too large, and for headers that it would change.
        """
        if _is_subject(subject) is None or (reply and _is_subject(reply) is None):
            raise BadSubjectError
        head = _head(headers) if headers else b""
        if self._status != self.CONNECTED or head is None or len(head) + len(payload) > self._max_payload:
            return super().publish(subject, payload, reply, headers)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(payload)
        to = f"{subject} {reply}" if reply else subject
        if head:
            sizes = f"HPUB {to} {len(head)} {len(head) + len(payload)}\r\n"
            return self._publish(b"%b%b%b\r\n" % (sizes.encode(), head, payload))
        return self._publish(b"%b%b\r\n" % (f"PUB {to} {len(payload)}\r\n".encode(), payload))

    async def _publish(self, command: bytes) -> None:
        """Have a command written in a turn of the event loop, together with those of the next turn.

        Messages that leave together cost less here, at the server and at whoever gets them. nats-py waits for one turn only,
        with a future for each.
        """
        await self._send_command(command)
        if not self._is_gathering:
            self._is_gathering = True
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._flush_gathered)

    async def flush(self, timeout: int = 10) -> None:  # noqa: ASYNC109 - nats-py's own
        """Wait until the server has all that was published. nats-py (2.16.0) sends its PING ahead of what is pending."""
        if self._status == self.CONNECTED:
            await self._flush_pending(force_flush=True)
        await super().flush(timeout)

    def _flush_gathered(self) -> None:
        """Wake nats-py's task that writes. While the connection is lost, what is pending waits for the next one."""
        self._is_gathering = False
        if self._status == self.CONNECTED and self._flush_queue is not None and self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())

    async def write(self, commands: bytes) -> None:
        """Skip nats-py's own publish (2.16.0), which costs several times as much as everything else about a message."""
        await self._send_command(commands)


def _head(headers: dict[str, str]) -> bytes | None:
    """Write headers. None: a line break is in one of them, of which nats-py makes a space."""
    lines = "".join([f"{name}: {text}\r\n" for name, text in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        return None
    return f"NATS/1.0\r\n{lines}\r\n".encode()


def pause_s(refusals: int, first_s: float) -> float:
    """Return how long to wait before a key that was refused so often is shown again.

    At first it is as soon as after any loss: perhaps no broker runs that could check it. A key that was revoked is refused
    for ever, and must not keep brokers busy.
    """
    return min(max(first_s, _LONGEST_PAUSE_S), first_s * 2.0 ** min(10, max(0, refusals - _AS_SOON)))


async def reach(servers: str | Sequence[str], **options: Any) -> None:
    """Connect once to the first node that takes a connection, and leave. Raises: the error of the last one."""
    is_connecting = True

    async def fail(error: Exception) -> None:
        """Raise it while connecting: otherwise nats-py would keep trying."""
        if is_connecting:
            raise error

    errors: list[Exception] = []
    for node in urls_of(servers):
        probe, is_connecting = NatsClient(), True
        try:
            await probe.connect(node, **{"connect_timeout": 1, **options}, allow_reconnect=False, error_cb=fail)
        except (OSError, NoServersError, Error, TimeoutError) as error:
            errors.append(error)
        else:
            return
        finally:
            is_connecting = False
            await probe.close()
    raise errors[-1] if errors else NoServersError

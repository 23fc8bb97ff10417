"""Sends messages to the endpoints of webhooks, and only where they may go.

A host is resolved once for each message. Every address that it leads to is checked, then that very address is connected to,
and it is checked again as the socket is made: an answer of DNS that changes meanwhile changes nothing. Redirects are not
followed, and no proxy is used.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from broker.core.targets import Targets
from broker.core.webhooks import ANSWER_CHARACTERS, TOO_LONG, Answer

TOTAL_S = 15.0
"""How long an endpoint may take to answer. Standard Webhooks proposes 15 to 30 s."""
_CONNECT_S = 5.0
_READ_BYTES = 4 * ANSWER_CHARACTERS
"""As many bytes as so many characters of UTF-8 can have."""
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Finds the addresses of a host, for a port. Raises: OSError."""


class NotAllowed(OSError):
    """A message may not go where its host leads. The text says why."""


async def addresses(host: str, port: int) -> Sequence[str]:
    """Ask the system for the addresses of a host. Raises: OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


class Posting:
    """Sends messages over connections that are kept for the next ones. Made by `opened`."""

    def __init__(self, targets: Targets, http: aiohttp.ClientSession, *, agent: str) -> None:
        self._targets = targets
        self._http = http
        self._agent = agent

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        targets: Targets,
        *,
        agent: str,
        resolve: Resolve = addresses,
        trusted: ssl.SSLContext | None = None,
        total_s: float = TOTAL_S,
    ) -> "AsyncIterator[Posting]":
        """`trusted`: the certificates to trust; None: the system's."""
        connector = aiohttp.TCPConnector(
            limit=0,
            use_dns_cache=False,
            resolver=_CheckedResolver(targets, resolve),
            socket_factory=_checked_sockets(targets),
            ssl=True if trusted is None else trusted,
        )
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=total_s, sock_connect=_CONNECT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        ) as http:
            yield cls(targets, http, agent=agent)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a message once. Raises nothing: what fails is in the answer."""
        if (why := self._targets.why_not(url)) is not None:
            return Answer(error=why)
        named = {**headers, "user-agent": self._agent, "accept-encoding": "identity"}
        try:
            target = URL(url)
            _host.set(target.raw_host or "")
            async with self._http.post(target, data=body, headers=named, allow_redirects=False) as response:
                first = await self._first(response)
                return Answer(status=response.status, body=first, retry_after=response.headers.get("retry-after"))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(error=_why(error))

    async def _first(self, response: aiohttp.ClientResponse) -> bytes:
        """Read the first of an answer. Its status counts even if the rest does not come."""
        first = b""
        try:
            while len(first) < _READ_BYTES and (more := await response.content.read(_READ_BYTES - len(first))):
                first += more
        except (aiohttp.ClientError, OSError):
            pass
        if not response.content.at_eof():
            response.close()  # what is left is not read
        return first


_host: ContextVar[str] = ContextVar("host")
"""The host of the message that this task sends."""


class _CheckedResolver(AbstractResolver):
    """Resolves hosts to addresses that messages may go to."""

    def __init__(self, targets: Targets, resolve: Resolve) -> None:
        self._targets = targets
        self._resolve = resolve

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises: NotAllowed, if one of them is not allowed; OSError."""
        found = [one for one in await self._resolve(host, port) if family in {socket.AF_UNSPEC, _family(one)}]
        if not found:
            raise OSError("it has no address")  # else aiohttp would fail on an assertion
        for address in found:
            if (why := self._targets.why_not_address(address, host)) is not None:
                raise NotAllowed(why)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=_family(address),
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in found
        ]

    async def close(self) -> None:
        """There is nothing to close."""


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _checked_sockets(targets: Targets) -> Callable[[Any], socket.socket]:
    """Return what makes the socket to an address, if messages may go there. It raises NotAllowed otherwise."""

    def make(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        if (why := targets.why_not_address(str(address[0]), _host.get(""))) is not None:
            raise NotAllowed(why)
        return socket.socket(family, kind, protocol)

    return make


def _why(error: Exception) -> str:
    """Say in words why there is no answer, without the URL, which may hold a secret."""
    cause: BaseException = error
    while not isinstance(cause, NotAllowed) and (inner := cause.__cause__ or getattr(cause, "os_error", None)):
        cause = inner
    if isinstance(cause, NotAllowed):
        return str(cause)
    if isinstance(error, TimeoutError):
        return TOO_LONG
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its host has no address"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return f"it cannot be connected to: {os.strerror(number) if number else type(error.os_error).__name__}"
    return f"the connection broke: {type(error).__name__}"

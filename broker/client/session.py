"""Connects to NATS on behalf of a tenant and a key, and calls the broker's API."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self, TypeVar

import msgspec

from broker.client.encode import check_name, json_of
from broker.client.errors import NoBroker, RequestRefused, refusal_of
from broker.errors import Unavailable
from schemas import subjects
from schemas.api import Problem
from schemas.codec import ERROR, KIND
from schemas.jetstream import (
    BATCH_BYTES,
    MaxPayloadError,
    NatsError,
    NatsTimeoutError,
    NoRespondersError,
    NoServersError,
)
from schemas.jetstream.client import NatsClient, urls_of
from schemas.subjects import DEFAULT, Verb
from schemas.urls import public

T = TypeVar("T")
_ACK_S = 5.0
"""How long a stream may take to acknowledge a message."""
_PATIENCE_S = 20.0
"""How long to try to store a message. A cluster takes up to ten seconds to elect leaders after a node was killed."""
_CALL_S = 10.0
_POLL_S = 2.0
"""Between two requests for results, in case the notices that announce them are lost."""
_SILENCE_S = 12.0
"""How long the relay may be silent. It passes on a keepalive each second."""


class Session:
    """A connection for a tenant and a key; each part of the client adds its methods."""

    def __init__(
        self,
        nc: NatsClient,
        *,
        tenant: str,
        key: str,
        ack_s: float = _ACK_S,
        patience_s: float = _PATIENCE_S,
        call_s: float = _CALL_S,
        poll_s: float = _POLL_S,
        silence_s: float = _SILENCE_S,
    ) -> None:
        self._nc = nc
        self._tenant = tenant
        self._key = key
        self._ack_s = ack_s
        self._patience_s = patience_s
        self._call_s = call_s
        self._poll_s = poll_s
        self._silence_s = silence_s

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, *, tenant: str = DEFAULT, key: str = DEFAULT) -> AsyncIterator[Self]:
        """Connect on behalf of a tenant. Once connected, a connection that is lost comes back by itself.

        Raises: Unavailable, if NATS is not there; RequestRefused, for a bad name.
        """
        check_name("tenant", tenant)
        check_name("key", key)
        nc = await _connected(url, tenant)
        try:
            yield cls(nc, tenant=tenant, key=key)
        finally:
            await nc.close()

    @property
    def nats(self) -> NatsClient:
        """The NATS connection itself."""
        return self._nc

    async def _call(self, verb: Verb, ask: msgspec.Struct, answer: type[T], *, within_s: float | None = None) -> T:
        """Ask a broker and wait for its answer. Raises: RequestRefused, NoBroker, Unavailable."""
        within_s = self._call_s if within_s is None else within_s
        subject = subjects.api(verb, self._tenant, self._key)
        try:
            message = await self._nc.request(subject, json_of(ask, "bad_request"), timeout=within_s)
        except MaxPayloadError as error:
            what = "what is asked is larger than a message of this NATS server may be"
            raise RequestRefused(Problem("too_large", what, limit=self._nc.max_payload)) from error
        except NoRespondersError as error:
            raise NoBroker from error
        except NatsTimeoutError as error:
            raise Unavailable("infermq", f"no answer to {verb} within {within_s:.0f} s") from error
        except NatsError as error:
            raise Unavailable("NATS", str(error) or type(error).__name__) from error
        if (message.headers or {}).get(KIND) == ERROR:
            raise refusal_of(message.data)
        return msgspec.json.decode(message.data, type=answer)

    async def _has_broker(self) -> bool:
        """Say whether some broker listens, even if it does not answer now."""
        try:
            await self._nc.request(subjects.api(Verb.CATALOG_SHOW, self._tenant, self._key), b"", timeout=self._ack_s)
        except NoRespondersError:
            return False
        except NatsError:
            return True
        return True


async def _connected(url: str, tenant: str) -> NatsClient:
    async def ignore(_: Exception) -> None:
        """Log nothing: errors that matter are raised to the caller."""

    try:
        async with asyncio.timeout(5):
            await _reach(url)
        nc = NatsClient()
        await nc.connect(
            url,
            name="infermq-client",
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            inbox_prefix=subjects.inbox_prefix(tenant),
            error_cb=ignore,
            pending_size=2 * BATCH_BYTES,
        )
    except (OSError, NoServersError, NatsError, TimeoutError) as error:
        raise Unavailable("NATS", public(f"{url}: {str(error) or type(error).__name__}")) from error
    return nc


async def _reach(url: str) -> None:
    """Connect once to the first node that takes a connection. Raises: the error of the last one."""

    async def fail(error: Exception) -> None:
        """Raise it: otherwise nats-py would keep trying."""
        raise error

    errors: list[Exception] = []
    for node in urls_of(url):
        probe = NatsClient()
        try:
            await probe.connect(node, allow_reconnect=False, error_cb=fail, connect_timeout=1)
        except (OSError, NoServersError, NatsError, TimeoutError) as error:
            errors.append(error)
        else:
            return
        finally:
            await probe.close()
    raise errors[-1] if errors else NoServersError

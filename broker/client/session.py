"""Connects to a broker on behalf of a tenant and a key, and calls its API. The base class of all parts of the client."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Self, TypeVar
from uuid import UUID

import msgspec

from broker.client.door import Door
from broker.client.encode import check_name, json_of, read_key
from broker.client.ids import new_id
from broker.client.nats_door import NatsDoor
from broker.config import find
from schemas.api_keys import shown_key
from schemas.jetstream.client import NatsClient
from schemas.jetstream.trust import Trust, shown_trust
from schemas.subjects import DEFAULT, Verb
from schemas.urls import is_http

T = TypeVar("T")
_CALL_S = 10.0
_POLL_S = 2.0
"""Between two requests for results, in case the notices that announce them are lost."""
_PATIENCE_S = 20.0
"""How long to try to store a message. A cluster takes up to ten seconds to elect leaders after a node was killed."""


class Session:
    """A connection for a tenant and a key, through either door; each part of the client adds its methods."""

    def __init__(
        self,
        door: Door,
        *,
        call_s: float = _CALL_S,
        poll_s: float = _POLL_S,
        patience_s: float = _PATIENCE_S,
        ids: Callable[[], UUID] = new_id,
    ) -> None:
        self._door = door
        self._new_id = ids
        self._call_s = call_s
        self._poll_s = poll_s
        self._patience_s = patience_s

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str | None = None,
        *,
        api_key: str | None = None,
        trust: Trust | None = None,
        tenant: str = DEFAULT,
        key: str = DEFAULT,
    ) -> AsyncIterator[Self]:
        """Connect with an API key, which says for whom: to NATS (`nats://…`), or to a broker's API over HTTP (`http://…`,
        `https://…`). Once connected, a connection that is lost comes back by itself.

        Without a URL it is that of the environment (INFERMQ_URL, INFERMQ_NATS_URL) or of an `infermq up` in this folder or
        above; so for the key (INFERMQ_API_KEY, INFERMQ_API_KEY_FILE) and for the certificates (INFERMQ_NATS_CA,
        INFERMQ_NATS_CERT, INFERMQ_NATS_CERT_KEY). Where brokers ask for no keys, `tenant` and `key` say on whose behalf, but
        over HTTP everybody is the default tenant. Once a broker says that the key has ended, calls end with that, and it is
        tried no more.

        Raises: Unavailable, if NATS or the broker is not there; RequestRefused, for a bad name, and if the key is refused;
        NotFound, if no URL is known.
        """
        if url is None:
            place = find(environ=os.environ, folder=Path.cwd())
            url, api_key, trust = place.url, api_key or place.api_key, trust or place.trust
        elif api_key is None:
            api_key = shown_key(os.environ)
        if api_key is not None:
            shown = read_key(api_key)
            tenant, key = shown.tenant, shown.id
        check_name("tenant", tenant)
        check_name("key", key)
        trust = trust or shown_trust(os.environ)
        async with _opened(url, api_key=api_key, trust=trust, tenant=tenant, key=key) as door:
            yield cls(door)

    @property
    def nats(self) -> NatsClient:
        """The NATS connection itself. Raises: TypeError, over HTTP, where there is none."""
        if not isinstance(self._door, NatsDoor):
            raise TypeError("over HTTP there is no connection to NATS")
        return self._door.nc

    async def _call(
        self, verb: Verb, ask: msgspec.Struct, answer: type[T], *, within_s: float | None = None, held_s: float = 0.0
    ) -> T:
        """Ask a broker and wait for its answer. Raises: RequestRefused, NoBroker, Unavailable."""
        within_s = self._call_s if within_s is None else within_s
        said = await self._door.call(verb, json_of(ask, "bad_request"), within_s=within_s + held_s, held_s=held_s)
        return msgspec.json.decode(said, type=answer)


def _opened(
    url: str, *, api_key: str | None, trust: Trust | None, tenant: str, key: str
) -> AbstractAsyncContextManager[Door]:
    if not is_http(url):
        return NatsDoor.connect(url, api_key=api_key, trust=trust, tenant=tenant, key=key)
    from broker.client.http_door import HttpDoor  # noqa: PLC0415 - who asks over NATS does without an HTTP client

    return HttpDoor.connect(url, api_key=api_key, trust=trust, tenant=tenant, key=key)

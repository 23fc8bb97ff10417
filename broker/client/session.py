"""Connects to NATS on behalf of a tenant and a key, and calls the broker's API."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from broker.client.denials import Denials, Denied
from broker.client.encode import check_name, json_of
from broker.client.entry import Entry
from broker.client.errors import NoBroker, RequestRefused, refusal_of
from broker.config import find
from broker.errors import Unavailable
from schemas import subjects
from schemas.api import Problem
from schemas.api_keys import ApiKey, BadKey, parse_key, shown_key
from schemas.codec import ERROR, KIND
from schemas.jetstream import (
    BATCH_BYTES,
    MaxPayloadError,
    NatsError,
    NatsTimeoutError,
    NoRespondersError,
    NoServersError,
    is_refusal,
)
from schemas.jetstream.client import NatsClient, reach
from schemas.jetstream.trust import Trust, shown_trust, why
from schemas.subjects import DEFAULT, Verb
from schemas.urls import public

T = TypeVar("T")
_CONNECT_S = 5.0
_LET_IN_S = 4.0
"""How long a node may take to let us in. It refuses a key after a second, or after two if no broker answers it."""
REFUSED_S = 6.0
"""How long a connection that was lost may be refused before the calls on it end. While no broker runs a server refuses
everybody, and a broker that is started again is there after some seconds."""
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
        denials: Denials | None = None,
        entry: Entry | None = None,
        ack_s: float = _ACK_S,
        patience_s: float = _PATIENCE_S,
        call_s: float = _CALL_S,
        poll_s: float = _POLL_S,
        silence_s: float = _SILENCE_S,
    ) -> None:
        self._nc = nc
        self._tenant = tenant
        self._key = key
        self._denials = Denials() if denials is None else denials
        self._entry = entry or Entry(_refused(None), within_s=REFUSED_S)
        self._ack_s = ack_s
        self._patience_s = patience_s
        self._call_s = call_s
        self._poll_s = poll_s
        self._silence_s = silence_s

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
        """Connect with an API key, which says for whom. Once connected, a connection that is lost comes back by itself.

        Without a URL it is that of the environment (INFERMQ_NATS_URL) or of an `infermq up` in this folder or above; so
        for the key (INFERMQ_API_KEY, INFERMQ_API_KEY_FILE) and for the certificates (INFERMQ_NATS_CA, INFERMQ_NATS_CERT,
        INFERMQ_NATS_CERT_KEY). Where brokers ask for no keys, `tenant` and `key` say on whose behalf. Once a broker says
        that the key has ended, calls end with that, and it is tried no more.

        Raises: Unavailable, if NATS is not there; RequestRefused, for a bad name, and if the key is refused; NotFound, if
        no URL is known.
        """
        if url is None:
            place = find(environ=os.environ, folder=Path.cwd())
            url, api_key, trust = place.nats_url, api_key or place.api_key, trust or place.trust
        elif api_key is None:
            api_key = shown_key(os.environ)
        if api_key is not None:
            shown = _read(api_key)
            tenant, key = shown.tenant, shown.id
        trust = trust or shown_trust(os.environ)
        check_name("tenant", tenant)
        check_name("key", key)
        denials, entry = Denials(), Entry(_refused(api_key), within_s=REFUSED_S)
        inbox_prefix = subjects.inbox_prefix(tenant, key)
        nc = await _connected(url, api_key, trust, inbox_prefix=inbox_prefix, denials=denials, entry=entry)
        try:
            if api_key is not None:
                entry.ended = partial(_try_no_more, nc)
                await nc.subscribe(subjects.key_ended(tenant, key), cb=entry.on_notice)
            yield cls(nc, tenant=tenant, key=key, denials=denials, entry=entry)
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
            async with self._entry.held():
                asking = self._nc.request(subject, json_of(ask, "bad_request"), timeout=within_s)
                message = await self._denials.unless_denied(subject, asking)
        except Denied as error:
            what = f"a key of this role may not call {verb}: `infermq key show {self._key}` says what it may"
            raise RequestRefused(Problem("forbidden", what)) from error
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


def _read(api_key: str) -> ApiKey:
    """Raises: RequestRefused."""
    try:
        return parse_key(api_key.strip())
    except BadKey as error:
        raise RequestRefused(Problem("bad_key", f"this is no API key: {error}")) from error


def _try_no_more(nc: NatsClient) -> None:
    """Let a connection end for good when the server ends it, since its key will never be let in again."""
    nc.options["allow_reconnect"] = False


async def _connected(
    url: str, api_key: str | None, trust: Trust | None, *, inbox_prefix: str, denials: Denials, entry: Entry
) -> NatsClient:
    token = None if api_key is None else api_key.strip()

    async def on_error(error: Exception) -> None:
        """Log nothing: errors that matter are raised to the caller."""
        await denials.heard(error)
        await entry.on_error(error)

    try:
        async with asyncio.timeout(_CONNECT_S):
            await reach(url, token=token, trust=trust, connect_timeout=_LET_IN_S)
        nc = NatsClient()
        await nc.connect(
            url,
            name="infermq-client",
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            inbox_prefix=inbox_prefix,
            token=token,
            trust=trust,
            error_cb=on_error,
            reconnected_cb=entry.on_back,
            pending_size=2 * BATCH_BYTES,
        )
    except (OSError, NoServersError, NatsError, TimeoutError) as error:
        if is_refusal(error):
            raise RequestRefused(_refused(api_key)) from error
        raise Unavailable("NATS", f"{public(url)}: {why(error)}") from error
    return nc


def _refused(api_key: str | None) -> Problem:
    if api_key is None:
        return Problem("no_key", "NATS asks for an API key: set INFERMQ_API_KEY, or INFERMQ_API_KEY_FILE")
    name = _read(api_key).id
    why = "it is unknown, expired or revoked, or no broker runs that could check it"
    return Problem("unauthorized", f"NATS refuses the key {name}: {why}")

"""Keeps every stream, bucket and consumer of infermq as `desired` says. Nothing else declares any, FastStream least of all.

Each request has its own time-out, and one that fails does not stop the others.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from broker.bus.desired import Found, Mend, Settings, Stream, desired, difference
from broker.core.records import Kept
from schemas import subjects
from schemas.jetstream import ApiRefused, Kind, NatsConnection, NatsError, ask, call

_PAGE = 256
"""How many consumers the server lists in one answer."""
_PROBE = "INFERMQ_ROOM"
"""A stream that exists for a moment, to see how much room there is."""
_HALVINGS = 9
_LIST_S = 6.0
"""A cluster collects a list from the leaders of all consumers, and gives up on those that are silent after 4 s."""
T = TypeVar("T")


class _StreamInfo(msgspec.Struct, frozen=True):
    config: dict[str, Any]
    created: str


class _ConsumerInfo(msgspec.Struct, frozen=True):
    name: str
    config: dict[str, Any]


class _ConsumerPage(msgspec.Struct, frozen=True):
    total: int
    consumers: list[_ConsumerInfo] | None = None
    missing: list[str] | None = None
    """Those whose leader does not answer."""


class NatsStreams:
    """Implements `broker.ports.StreamAdmin`."""

    def __init__(self, nc: NatsConnection, *, replicas: int = 1, store_bytes: int | None = None) -> None:
        self._nc = nc
        self._replicas = replicas
        self._store_bytes = store_bytes
        self.kept = Kept()
        self._reconnects = nc.reconnects
        """How often NATS had been away before `kept` was compared."""

    @property
    def pulled(self) -> Collection[str]:
        return self.kept.pulled if self._nc.reconnects == self._reconnects else ()

    async def keep(self, pools: Mapping[str, int], *, lease_s: float) -> Kept:
        wanted = desired(pools, lease_s=lease_s, replicas=self._replicas, store_bytes=self._store_bytes)
        last, reconnects = self.pulled, self._nc.reconnects
        self.kept = await keep(self._nc, wanted, pulled=last)
        self._reconnects = reconnects
        return self.kept


async def keep(nc: NatsConnection, wanted: Sequence[Stream], *, pulled: Iterable[str] = ()) -> Kept:
    """Compare what there is with what there should be, and mend the difference. Raises nothing.

    The deployments that were `pulled` still are, where that cannot be read.
    """
    found, wrong = await find(nc, wanted)
    short: dict[str, str] = {}
    created = {name: one.created for name, one in found.items() if one is not None}
    mends = [mend for mend in difference(wanted, found) if mend.consumer is None]
    mends = await _limited(nc, mends)
    mended = await _apply(nc, [mend for mend in mends if not mend.is_short], wrong)
    mended += await _apply(nc, [mend for mend in mends if mend.is_short], short)
    if any(mend.wrong for mend in mends):
        found, _ = await find(nc, wanted)  # a stream that was made anew has lost its consumers
    mended += await _apply(nc, [mend for mend in difference(wanted, found) if mend.consumer is not None], wrong)
    return Kept(
        tuple(str(mend) for mend in mended),
        wrong,
        short,
        created,
        _pulled(found[subjects.NOW], mended) if subjects.NOW in found else frozenset(pulled),
    )


def _pulled(found: Found | None, mended: Iterable[Mend]) -> frozenset[str]:
    """Name the consumers of NOW that there are: those that were found, and those that were made."""
    made = {mend.consumer for mend in mended if mend.stream == subjects.NOW and mend.consumer is not None}
    return frozenset(made if found is None else made | found.consumers.keys())


async def _limited(nc: NatsConnection, mends: Sequence[Mend]) -> list[Mend]:
    """Give each stream without a limit as much room as the server has for all of them."""
    limited: list[Mend] = []
    for storage in ("file", "memory"):
        theirs = [mend for mend in mends if mend.settings["storage"] == storage]
        needed = sum(mend.bytes for mend in theirs)
        room = await _room(nc, storage, needed) if needed else 0
        for mend in theirs:
            share = {"max_bytes": mend.bytes * room // needed} if mend.bytes else {}
            limited.append(replace(mend, settings={**mend.settings, **share}))
    return limited


async def _room(nc: NatsConnection, storage: str, most: int) -> int:
    """Return how many bytes the server would keep for new streams: up to `most`, else its half, its quarter and so on.

    No call tells that to a client. But the server refuses a stream whose limit it has no room for.
    """
    probe = {"name": _PROBE, "subjects": ["infermq.room"], "storage": storage, "num_replicas": 1}
    for halved in range(_HALVINGS):
        try:
            await call(nc, f"STREAM.CREATE.{_PROBE}", {**probe, "max_bytes": most >> halved})
        except ApiRefused as error:
            if error.kind is not Kind.NO_ROOM:
                break
        except NatsError:
            break
        else:
            break
        finally:
            with contextlib.suppress(NatsError):
                await call(nc, f"STREAM.DELETE.{_PROBE}")
    return most >> halved


async def _apply(nc: NatsConnection, mends: Sequence[Mend], wrong: dict[str, str]) -> list[Mend]:
    """Mend all at once. Return what was mended, and note in `wrong` what was not.

    What fails is tried once more: a server (2.15) that still removes what was deleted a moment ago, as the probe for room
    was, may remove the account's folder under the first new stream.
    """
    mended: list[Mend] = []
    failures = await _all(_mend(nc, mend) for mend in mends)
    again = [n for n, failure in enumerate(failures) if failure is not None]
    for n, failure in zip(again, await _all(_mend(nc, mends[n]) for n in again), strict=True):
        failures[n] = failure
    for mend, failure in zip(mends, failures, strict=True):
        if failure is None:
            mended.append(mend)
        else:
            wrong[str(mend)] = _said(failure)
    return mended


async def find(
    nc: NatsConnection, wanted: Sequence[Stream], *, within_s: float = _LIST_S
) -> tuple[dict[str, Found | None], dict[str, str]]:
    """Read the streams and their consumers as they are, and say of each that could not be read why. None: it is missing."""
    answers = await _all(_found(nc, stream, within_s) for stream in wanted)
    found: dict[str, Found | None] = {}
    wrong: dict[str, str] = {}
    for stream, answer in zip(wanted, answers, strict=True):
        if isinstance(answer, Exception):
            wrong[f"stream {stream.name}"] = _said(answer)
        else:
            found[stream.name] = answer
    return found, wrong


async def _found(nc: NatsConnection, stream: Stream, within_s: float) -> Found | None:
    try:
        info = await ask(nc, f"STREAM.INFO.{stream.name}", _StreamInfo, within_s=within_s)
        consumers = await _consumers(nc, stream.name, within_s) if stream.consumers else {}
    except ApiRefused as error:
        if error.kind is Kind.MISSING:
            return None
        raise
    return Found(info.config, consumers, info.created)


async def _consumers(nc: NatsConnection, stream: str, within_s: float) -> dict[str, Settings]:
    """Read the settings of a stream's consumers, a page at a time. Raises: NatsError, if some of them do not answer."""
    consumers: dict[str, Settings] = {}
    total, offset = 1, 0
    while offset < total:
        page = await ask(nc, f"CONSUMER.LIST.{stream}", _ConsumerPage, {"offset": offset}, within_s=within_s)
        if page.missing:
            raise NatsError(f"{len(page.missing)} consumers do not answer")
        consumers |= {one.name: one.config for one in page.consumers or ()}
        total, offset = page.total, offset + _PAGE
    return consumers


async def _mend(nc: NatsConnection, mend: Mend) -> None:
    """Make or change a stream or consumer. Raises: ApiRefused, NatsError."""
    if mend.consumer is not None:
        await _mend_consumer(nc, mend)
    elif mend.wrong:
        await _change_stream(nc, mend)
    else:
        await _make_stream(nc, mend)


async def _make_stream(nc: NatsConnection, mend: Mend) -> None:
    """Make a stream, with one replica if there are too few nodes now: a later look raises that."""
    try:
        await call(nc, f"STREAM.CREATE.{mend.stream}", mend.settings)
    except ApiRefused as error:
        if error.kind is not Kind.NO_ROOM or mend.settings["num_replicas"] == 1:
            raise
        await call(nc, f"STREAM.CREATE.{mend.stream}", {**mend.settings, "num_replicas": 1})


async def _change_stream(nc: NatsConnection, mend: Mend) -> None:
    try:
        await call(nc, f"STREAM.UPDATE.{mend.stream}", mend.settings)
    except ApiRefused as error:
        if mend.settings["storage"] != "memory" or error.kind in _PASSING:
            raise
        # its messages would be gone in seconds anyway
        await call(nc, f"STREAM.DELETE.{mend.stream}")
        await call(nc, f"STREAM.CREATE.{mend.stream}", mend.settings)


async def _mend_consumer(nc: NatsConnection, mend: Mend) -> None:
    """Make or change a consumer; make it anew if the server cannot change it: what it had delivered comes again."""
    path = f"{mend.stream}.{mend.consumer}"
    request = {"stream_name": mend.stream, "config": mend.settings}
    try:
        await call(nc, f"CONSUMER.CREATE.{path}", request)
    except ApiRefused as error:
        if not mend.wrong or error.kind in _PASSING:
            raise
        await call(nc, f"CONSUMER.DELETE.{path}")
        await call(nc, f"CONSUMER.CREATE.{path}", request)


_PASSING = frozenset({Kind.BUSY, Kind.OFF, Kind.NO_ROOM, Kind.FULL, Kind.MISSING})


async def _all(works: Iterable[Awaitable[T]]) -> list[T | Exception]:
    """Do all at once, and return the answer or the error of each. Raises what is no error of NATS: a bug."""
    answers = await asyncio.gather(*works, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, (NatsError, OSError)):
            raise answer
    return answers  # type: ignore[return-value] # only errors of NATS are left


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__

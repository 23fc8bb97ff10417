"""Says which streams, buckets and consumers there should be and with which settings, and compares that with what there is.

All of it is pure. Settings are in the words and units of the server's JSON: durations are nanoseconds. What is not named
here is the operator's: a description, a placement or a pause stays as it is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from broker.core.relay import PICK_UP_MS
from broker.core.request_suspects import LIFETIME_MS
from schemas import subjects
from schemas.job import Lane
from schemas.worker import BEAT_LIFETIME_MS

Settings = Mapping[str, Any]
BACKLOG_MESSAGES = 1_000_000
"""How many messages of one (lane, model, tenant, key) may wait for intake. The server refuses more."""
LARGEST_MESSAGE = 8 * 1024 * 1024
"""In bytes. The server's max_payload must be as large, since one message carries a whole response body."""
ADVISED = "brokers"
"""The consumer of the advisories, shared by all brokers."""
STORE_BYTES = 16 * 1024**3
"""How much the streams may hold on the disk of a NATS node, unless it is set or the server has less room. A guess."""
_MEMORY_BYTES = 512 * 1024**2
"""How much the streams in memory may hold. A guess: interactive attempts stay for ten seconds, beats are a few kB."""
GROUP_ACK_WAIT_S = 4.0
"""How long messages that a broker pulled stay with it without a sign of life: then another broker gets them. What a broker
holds for longer it extends (`groups`), so this is how long the messages of a killed broker wait.
"""
_MAX_WAITING = 8192
"""How many pulls may wait at one consumer. It cannot be changed later, so it is high from the start."""
_LEAST_ACK_PENDING = 4096
_S = 1_000_000_000
"""Nanoseconds."""
_AT_LEAST: Final = {"num_replicas", "max_ack_pending"}
"""Settings that are only ever raised: brokers that see different pools, or have different settings while they are replaced
one by one, would otherwise undo each other's changes for ever."""


@dataclass(frozen=True, slots=True)
class Consumer:
    name: str
    settings: Settings


@dataclass(frozen=True, slots=True)
class Stream:
    name: str
    settings: Settings
    consumers: tuple[Consumer, ...] = ()
    bytes: int = 0
    """How much it may hold if nobody has set a limit. The server keeps that room for it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A stream as the server has it."""

    settings: Settings
    consumers: Mapping[str, Settings] = field(default_factory=dict)
    created: str = ""
    """When it was made, as the server writes it: another time is another stream, without the messages of the first."""


@dataclass(frozen=True, slots=True)
class Mend:
    """What to do about one stream or consumer."""

    stream: str
    consumer: str | None
    settings: Settings
    """All settings, those that only the server or the operator has set included."""
    wrong: tuple[str, ...]
    """The names of the settings that differ; empty if it is missing."""
    bytes: int = 0
    """How much it may hold, as far as the server has room. 0: that is set already."""

    @property
    def is_short(self) -> bool:
        """It only has too few replicas, so it works."""
        return self.wrong == ("num_replicas",)

    def __str__(self) -> str:
        name = f"stream {self.stream}" if self.consumer is None else f"consumer {self.consumer} of {self.stream}"
        return f"{name}: {', '.join(self.wrong) or 'missing'}"


def desired(
    pools: Mapping[str, int], *, lease_s: float, replicas: int = 1, store_bytes: int | None = None
) -> tuple[Stream, ...]:
    """Return all that should exist. `pools` are the slots of each deployment's workers, added up.

    With `store_bytes`, the streams on disk may hold so much together. Without it they have limits that fit the server.
    """
    run, now = _STREAMS[subjects.RUN], _STREAMS[subjects.NOW]
    consumers = {
        subjects.SUBMIT: tuple(
            _consumer(subjects.intake_consumer(lane), filter_subject=subjects.submit_lane(lane)) for lane in Lane
        ),
        subjects.OUTCOME: (_consumer(subjects.SETTLE_CONSUMER),),
        subjects.ADVISORY: (_consumer(ADVISED),),
        run["name"]: tuple(_leased(deployment, slots, lease_s) for deployment, slots in sorted(pools.items())),
        now["name"]: tuple(_interactive(deployment) for deployment in sorted(pools)),
    }
    return tuple(
        Stream(
            name,
            {**settings, "num_replicas": replicas, **_limit(name, store_bytes)},
            consumers.get(name, ()),
            _share(name, STORE_BYTES),
        )
        for name, settings in _STREAMS.items()
    )


def _limit(name: str, store_bytes: int | None) -> Settings:
    is_set = store_bytes is not None and _STREAMS[name]["storage"] == "file"
    return {"max_bytes": _share(name, store_bytes or 0)} if is_set else {}


def _share(name: str, store_bytes: int) -> int:
    """Return a stream's part of the room. What SUBMIT fills while Postgres is away is no room of OUTCOME's."""
    whole = store_bytes if _STREAMS[name]["storage"] == "file" else _MEMORY_BYTES
    return int(_SHARES[name] * whole)


def difference(wanted: Iterable[Stream], found: Mapping[str, Found | None]) -> tuple[Mend, ...]:
    """Return what to do, each stream before its consumers. A stream that is not in `found` could not be read: it is left.

    None in `found` is a stream that is missing.
    """
    mends: list[Mend] = []
    for stream in wanted:
        if stream.name not in found:
            continue
        seen = found[stream.name] or Found({})
        missing_limit = 0 if stream.settings.get("max_bytes") or _is_limited(seen) else stream.bytes
        if found[stream.name] is None or missing_limit or _wrong(stream.settings, seen.settings):
            mends.append(_mend(stream.name, None, stream.settings, seen.settings, missing_limit))
        for one in stream.consumers:
            there = seen.consumers.get(one.name)
            if there is None or _wrong(one.settings, there):
                mends.append(_mend(stream.name, one.name, one.settings, there or {}))
    return tuple(mends)


def _is_limited(found: Found) -> bool:
    return bool(found.settings.get("max_bytes", -1) > 0)


def _mend(stream: str, consumer: str | None, wanted: Settings, there: Settings, limit: int = 0) -> Mend:
    wrong = _wrong(wanted, there) if there else ()
    if there and limit:
        wrong = (*wrong, "max_bytes")
    kept = {name: there[name] for name in _AT_LEAST & there.keys() if name not in wrong}
    return Mend(stream, consumer, {**there, **wanted, **kept}, wrong, limit)


def _wrong(wanted: Settings, there: Settings) -> tuple[str, ...]:
    return tuple(name for name, value in wanted.items() if not _is_as_wanted(name, value, there.get(name)))


def _is_as_wanted(name: str, wanted: Any, there: Any) -> bool:
    """Compare one setting. The server leaves out what is false, zero or empty."""
    if name in _AT_LEAST:
        return isinstance(there, int) and (there >= wanted or there < 0)  # a negative limit is none
    if name == "subjects":
        return sorted(wanted) == sorted(there or ())
    return bool(wanted == there) or (not wanted and not there)


def ack_pending(slots: int) -> int:
    """Return how many leases a pool may hold: twice its slots, rounded up to a power of two so that it seldom changes."""
    return max(_LEAST_ACK_PENDING, 1 << (2 * slots).bit_length())


def _consumer(name: str, **settings: Any) -> Consumer:
    pulled = {
        "durable_name": name,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": int(GROUP_ACK_WAIT_S * _S),
        "max_deliver": -1,
        "max_waiting": _MAX_WAITING,
        "max_ack_pending": 20_000,
        "replay_policy": "instant",
    }
    return Consumer(name, {key: value for key, value in {**pulled, **settings}.items() if value is not None})


def _leased(deployment: str, slots: int, lease_s: float) -> Consumer:
    return _consumer(
        subjects.pool_consumer(deployment),
        filter_subject=subjects.run(deployment),
        ack_wait=int(lease_s * _S),
        max_ack_pending=ack_pending(slots),
    )


def _interactive(deployment: str) -> Consumer:
    return _consumer(
        subjects.pool_consumer(deployment),
        filter_subject=subjects.now(deployment),
        ack_policy="none",
        ack_wait=None,
        max_ack_pending=None,
    )


_WORK_QUEUE: Final[Settings] = {
    "retention": "workqueue",
    "storage": "file",
    "discard": "new",
    "duplicate_window": 120 * _S,
    "max_msg_size": LARGEST_MESSAGE,
    "allow_atomic": True,
    "allow_direct": True,
    "compression": "none",  # messages stay for a moment only, which is not worth compressing them for
}
_BUCKET: Final[Settings] = {
    "retention": "limits",
    "max_msgs_per_subject": 1,
    "allow_rollup_hdrs": True,
    "allow_direct": True,
    "discard": "new",
}
_BEAT_LIFETIME: Final = BEAT_LIFETIME_MS * 1_000_000
_LONGEST_WAIT: Final = PICK_UP_MS * 1_000_000
"""How long an interactive attempt stays in NOW. By then the relay has ended it, or assigned it to another deployment."""
_ALL: Final[tuple[Settings, ...]] = (
    # OUTCOME comes first, so that it gets its room
    {**_WORK_QUEUE, "name": subjects.OUTCOME, "subjects": ["infermq.outcome.*", subjects.RULING]},
    {**_WORK_QUEUE, "name": subjects.RUN, "subjects": ["infermq.run.*"]},
    {
        **_WORK_QUEUE,
        "name": subjects.SUBMIT,
        "subjects": [subjects.submit_lane(lane) for lane in Lane],  # any other lane is refused
        "discard_new_per_subject": True,
        "max_msgs_per_subject": BACKLOG_MESSAGES,
        "compression": "s2",
    },
    {
        **_WORK_QUEUE,
        "name": subjects.NOW,
        "subjects": ["infermq.now.*"],
        "retention": "interest",
        "storage": "memory",
        "duplicate_window": _LONGEST_WAIT,
        "max_age": _LONGEST_WAIT,
    },
    {
        "name": subjects.ADVISORY,
        "subjects": [
            "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>",
            "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>",
        ],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_msgs": 100_000,
        "max_age": 7 * 24 * 3600 * _S,
        "duplicate_window": 120 * _S,
    },
    {
        **_BUCKET,
        "name": f"KV_{subjects.WORKERS_BUCKET}",
        "subjects": [f"$KV.{subjects.WORKERS_BUCKET}.>"],
        "storage": "memory",
        "max_age": _BEAT_LIFETIME,
        "duplicate_window": _BEAT_LIFETIME,
        # a worker may write its own beat; by headers it could else delete those of all others, or leave one for ever
        "allow_rollup_hdrs": False,
        "allow_msg_ttl": False,
    },
    {
        **_BUCKET,
        "name": f"KV_{subjects.SUSPECTS_BUCKET}",
        "subjects": [subjects.suspected_request("*")],
        "storage": "memory",
        "max_age": LIFETIME_MS // 1000 * _S,
        "duplicate_window": 120 * _S,
    },
    {
        **_BUCKET,
        "name": f"KV_{subjects.CATALOG_BUCKET}",
        "subjects": [f"$KV.{subjects.CATALOG_BUCKET}.>"],
        "storage": "file",
        "allow_atomic": True,
        "duplicate_window": 120 * _S,
    },
    {
        **_BUCKET,
        "name": f"KV_{subjects.BROKERS_BUCKET}",
        "subjects": [f"$KV.{subjects.BROKERS_BUCKET}.>"],
        "storage": "file",
        "duplicate_window": 120 * _S,
    },
    {
        **_BUCKET,
        "name": f"KV_{subjects.KEYS_BUCKET}",
        "subjects": [f"$KV.{subjects.KEYS_BUCKET}.>"],
        "storage": "file",
        "duplicate_window": 120 * _S,
    },
)
_SHARES: Final[Mapping[str, float]] = {
    subjects.OUTCOME: 6 / 16,
    subjects.RUN: 1 / 16,
    subjects.SUBMIT: 8 / 16,
    subjects.ADVISORY: 1 / 64,
    f"KV_{subjects.CATALOG_BUCKET}": 1 / 64,
    f"KV_{subjects.BROKERS_BUCKET}": 1 / 64,
    f"KV_{subjects.KEYS_BUCKET}": 1 / 64,
    subjects.NOW: 11 / 16,
    f"KV_{subjects.WORKERS_BUCKET}": 1 / 4,
    f"KV_{subjects.SUSPECTS_BUCKET}": 1 / 16,
}
_STREAMS: Final[Mapping[str, Settings]] = {str(one["name"]): one for one in _ALL}
NAMES: Final = tuple(_STREAMS)
"""All streams, buckets included."""

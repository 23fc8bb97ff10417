"""Declares every stream, bucket and consumer of infermq. Nothing else declares any, FastStream least of all.

Declaring is idempotent: settings that the server lets change are changed, others raise `Conflict`.
"""

from dataclasses import replace

from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StoreCompression,
    StreamConfig,
)
from nats.js.errors import APIError, BadRequestError, NotFoundError, ServiceUnavailableError

from broker.config import LEASE_S
from broker.core.relay import PICK_UP_MS
from broker.errors import Conflict
from schemas import subjects
from schemas.jetstream.client import NatsClient
from schemas.job import Lane
from schemas.worker import BEAT_LIFETIME_MS

LONGEST_WAIT_S = PICK_UP_MS / 1000
"""How long an interactive attempt stays in NOW. By then the relay has ended it, or assigned it to another deployment."""
BACKLOG_MESSAGES = 1_000_000
"""How many messages of one (lane, model, tenant, key) may wait for intake. The server refuses more."""
LARGEST_MESSAGE = 8 * 1024 * 1024
"""In bytes. The server's max_payload must be as large, since one message carries a whole response body."""
ADVISED = "brokers"
"""The consumer of the advisories, shared by all brokers."""
_MAX_WAITING = 8192
"""How many pulls may wait at one consumer. It cannot be changed later, so it is high from the start."""
_LEAST_ACK_PENDING = 4096
_IN_USE = 10058
_WORK_QUEUE = StreamConfig(
    retention=RetentionPolicy.WORK_QUEUE,
    storage=StorageType.FILE,
    discard=DiscardPolicy.NEW,
    duplicate_window=120,
    max_msg_size=LARGEST_MESSAGE,
    allow_atomic=True,
    compression=StoreCompression.S2,
    allow_direct=True,
)

STREAMS = (
    replace(
        _WORK_QUEUE,
        name=subjects.SUBMIT,
        subjects=[subjects.submit_lane(lane) for lane in Lane],  # any other lane is refused
        discard_new_per_subject=True,
        max_msgs_per_subject=BACKLOG_MESSAGES,
    ),
    # Messages stay in the next two for a moment only, which is not worth compressing them for.
    replace(_WORK_QUEUE, name=subjects.RUN, subjects=["infermq.run.*"], compression=StoreCompression.NONE),
    replace(
        _WORK_QUEUE,
        name=subjects.OUTCOME,
        subjects=["infermq.outcome.*", subjects.RULING],
        compression=StoreCompression.NONE,
    ),
    replace(
        _WORK_QUEUE,
        name=subjects.NOW,
        subjects=["infermq.now.*"],
        retention=RetentionPolicy.INTEREST,
        storage=StorageType.MEMORY,
        compression=StoreCompression.NONE,
        duplicate_window=LONGEST_WAIT_S,
        max_age=LONGEST_WAIT_S,
    ),
    StreamConfig(
        name=subjects.ADVISORY,
        subjects=[
            "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>",
            "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>",
        ],
        max_msgs=100_000,
        max_age=7 * 24 * 3600,
        duplicate_window=120,
    ),
    StreamConfig(
        name=f"KV_{subjects.WORKERS_BUCKET}",
        subjects=[f"$KV.{subjects.WORKERS_BUCKET}.>"],
        storage=StorageType.MEMORY,
        max_msgs_per_subject=1,
        max_age=BEAT_LIFETIME_MS / 1000,
        duplicate_window=BEAT_LIFETIME_MS / 1000,
        allow_rollup_hdrs=True,
        allow_msg_ttl=True,
        subject_delete_marker_ttl=BEAT_LIFETIME_MS / 1000,
        allow_direct=True,
        discard=DiscardPolicy.NEW,
    ),
    StreamConfig(
        name=f"KV_{subjects.CATALOG_BUCKET}",
        subjects=[f"$KV.{subjects.CATALOG_BUCKET}.>"],
        max_msgs_per_subject=1,
        duplicate_window=120,
        allow_rollup_hdrs=True,
        allow_direct=True,
        discard=DiscardPolicy.NEW,
    ),
)

_PULL = ConsumerConfig(
    deliver_policy=DeliverPolicy.ALL,
    ack_policy=AckPolicy.EXPLICIT,
    ack_wait=60,
    max_deliver=-1,
    max_waiting=_MAX_WAITING,
    max_ack_pending=20_000,
)


class NatsStreams:
    """Implements `broker.ports.StreamAdmin`."""

    def __init__(self, nc: NatsClient) -> None:
        self._nc = nc

    async def declare(self) -> None:
        await declare_streams(self._nc)

    async def declare_pool(self, deployment: str, *, slots: int, lease_s: float) -> None:
        await declare_pool(self._nc, deployment, slots=slots, lease_s=lease_s)


async def declare_streams(nc: NatsClient) -> None:
    """Declare all streams and buckets, and the consumers that brokers share. Raises: Conflict."""
    js = nc.jetstream()
    for stream in STREAMS:
        await _declare_stream(js, stream)
    for lane in Lane:
        consumer = replace(
            _PULL, durable_name=subjects.intake_consumer(lane), filter_subject=subjects.submit_lane(lane)
        )
        await _declare_consumer(js, subjects.SUBMIT, consumer)
    await _declare_consumer(js, subjects.OUTCOME, replace(_PULL, durable_name=subjects.SETTLE_CONSUMER))
    await _declare_consumer(js, subjects.ADVISORY, replace(_PULL, durable_name=ADVISED))


async def declare_pool(nc: NatsClient, deployment: str, *, slots: int, lease_s: float = LEASE_S) -> None:
    """Declare the two consumers that a deployment's workers share. `slots` is the sum of theirs. Raises: Conflict."""
    js = nc.jetstream()
    name = subjects.pool_consumer(deployment)
    leased = replace(
        _PULL,
        durable_name=name,
        filter_subject=subjects.run(deployment),
        ack_wait=lease_s,
        max_ack_pending=ack_pending(slots),
    )
    await _declare_consumer(js, subjects.RUN, leased)
    interactive = replace(
        _PULL,
        durable_name=name,
        filter_subject=subjects.now(deployment),
        ack_policy=AckPolicy.NONE,
        ack_wait=None,
        max_ack_pending=None,
    )
    await _declare_consumer(js, subjects.NOW, interactive)


def ack_pending(slots: int) -> int:
    """Return how many leases a pool may hold: twice its slots, rounded up to a power of two so that it seldom changes."""
    return max(_LEAST_ACK_PENDING, 1 << (2 * slots).bit_length())


async def _declare_stream(js: JetStreamContext, config: StreamConfig) -> None:
    try:
        await js.add_stream(config)
    except BadRequestError as error:
        if error.err_code != _IN_USE:
            raise
        await _change_stream(js, config)


async def _change_stream(js: JetStreamContext, config: StreamConfig) -> None:
    try:
        await js.update_stream(config)
    except ServiceUnavailableError:
        raise
    except APIError as error:
        if config.storage is StorageType.MEMORY:  # its messages would be gone in seconds anyway
            await js.delete_stream(str(config.name))
            await js.add_stream(config)
            return
        raise Conflict(f"stream {config.name} exists and cannot be changed: {error.description}") from error


async def _declare_consumer(js: JetStreamContext, stream: str, config: ConsumerConfig) -> None:
    try:
        await js.add_consumer(stream, config)
    except (NotFoundError, ServiceUnavailableError):
        raise
    except APIError as error:
        raise Conflict(f"consumer {config.durable_name} of {stream}: {error.description}") from error

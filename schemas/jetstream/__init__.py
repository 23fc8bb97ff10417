"""Connects broker and workers to NATS and JetStream.

connection  the seam: NatsConnection, Message, Subscription and the errors
client      NatsClient, the one adapter to nats-py
connection_log  logs that the connection is waited for, lost, or back
fixes       works around bugs of nats-py
trust       by which certificates both ends know each other
pull        raw pulls, and the facts in the subject of an acknowledgement
api         calls JetStream's API
errors      says what each of the server's error codes means
lookup      reads the state of streams and consumers
publish     publishes into streams: one message, several in order, all or none; and acknowledges

Only `client`, `fixes` and `connection` know nats-py.
"""

from schemas.jetstream.api import ask, call
from schemas.jetstream.connection import (
    MaxPayloadError,
    Message,
    NatsConnection,
    NatsError,
    NatsTimeoutError,
    NoRespondersError,
    NoServersError,
    Subscription,
    is_refusal,
)
from schemas.jetstream.errors import ApiRefused, Kind, NotStored
from schemas.jetstream.lookup import (
    Progress,
    content_of,
    direct_last,
    last_message,
    last_sequence,
    last_stored,
    oldest_ms,
    progress_of,
)
from schemas.jetstream.publish import (
    ACK,
    BATCH_BYTES,
    BATCH_MESSAGES,
    EXTEND,
    LAST_SEQUENCE,
    NAK,
    TERM,
    Outgoing,
    acknowledged,
    answer_all,
    publish_atomically,
    publish_in_order,
    publish_one,
)
from schemas.jetstream.pull import (
    Delivered,
    Heartbeat,
    PullEnded,
    ack_subject,
    acknowledges,
    delivered,
    deliveries,
    header_number,
    next_request,
    next_subject,
    pull_status,
)

__all__ = [
    "ACK",
    "BATCH_BYTES",
    "BATCH_MESSAGES",
    "EXTEND",
    "LAST_SEQUENCE",
    "NAK",
    "TERM",
    "ApiRefused",
    "Delivered",
    "Heartbeat",
    "Kind",
    "MaxPayloadError",
    "Message",
    "NatsConnection",
    "NatsError",
    "NatsTimeoutError",
    "NoRespondersError",
    "NoServersError",
    "NotStored",
    "Outgoing",
    "Progress",
    "PullEnded",
    "Subscription",
    "ack_subject",
    "acknowledged",
    "acknowledges",
    "answer_all",
    "ask",
    "call",
    "content_of",
    "delivered",
    "deliveries",
    "direct_last",
    "header_number",
    "is_refusal",
    "last_message",
    "last_sequence",
    "last_stored",
    "next_request",
    "next_subject",
    "oldest_ms",
    "progress_of",
    "publish_atomically",
    "publish_in_order",
    "publish_one",
    "pull_status",
]

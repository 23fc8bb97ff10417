"""Connects broker and workers to NATS and JetStream.

connection  the seam: NatsConnection, Message, Subscription and the errors
client      NatsClient, the one adapter to nats-py
fixes       works around bugs of nats-py
pull        raw pulls, and the facts in the subject of an acknowledgement
lookup      reads the state of streams and consumers
publish     publishes into streams: one message, several in order, all or none; and acknowledges

Only `client`, `fixes` and `connection` know nats-py.
"""

from schemas.jetstream.connection import (
    MaxPayloadError,
    Message,
    NatsConnection,
    NatsError,
    NatsTimeoutError,
    NoRespondersError,
    NoServersError,
    Subscription,
)
from schemas.jetstream.lookup import LookupRefused, ack_wait_s, last_message, last_sequence, last_stored
from schemas.jetstream.publish import (
    ACK,
    BATCH_BYTES,
    BATCH_MESSAGES,
    EXTEND,
    TERM,
    NotStored,
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
    "TERM",
    "Delivered",
    "Heartbeat",
    "LookupRefused",
    "MaxPayloadError",
    "Message",
    "NatsConnection",
    "NatsError",
    "NatsTimeoutError",
    "NoRespondersError",
    "NoServersError",
    "NotStored",
    "Outgoing",
    "PullEnded",
    "Subscription",
    "ack_wait_s",
    "acknowledged",
    "acknowledges",
    "answer_all",
    "delivered",
    "deliveries",
    "header_number",
    "last_message",
    "last_sequence",
    "last_stored",
    "next_request",
    "next_subject",
    "publish_atomically",
    "publish_in_order",
    "publish_one",
    "pull_status",
]

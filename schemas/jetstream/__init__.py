"""NATS and JetStream, as broker and workers use them.

connection  the seam: NatsConnection, Message, Subscription and the errors
client      NatsClient, the one adapter to nats-py
sturdy      what nats-py does not survive
pull        raw pulls, and what an acknowledgement's subject tells
lookup      what a stream or a consumer says of itself
publish     into streams: one, in order, all or none; acknowledgements

Only `client`, `sturdy` and `connection` know nats-py.
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
from schemas.jetstream.lookup import ack_wait_s, last_message, last_sequence
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
    Ended,
    Heartbeat,
    delivered,
    deliveries,
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
    "Ended",
    "Heartbeat",
    "MaxPayloadError",
    "Message",
    "NatsConnection",
    "NatsError",
    "NatsTimeoutError",
    "NoRespondersError",
    "NoServersError",
    "NotStored",
    "Outgoing",
    "Subscription",
    "ack_wait_s",
    "acknowledged",
    "answer_all",
    "delivered",
    "deliveries",
    "last_message",
    "last_sequence",
    "next_request",
    "next_subject",
    "publish_atomically",
    "publish_in_order",
    "publish_one",
    "pull_status",
]

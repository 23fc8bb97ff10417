"""Says what each error code of JetStream means for whoever asked: the only table of them.

The codes are those of nats-server 2.15 (`server/errors.json`). A code that is not in the table is taken by the status of its
answer, as HTTP's: 429 and 503 pass, others do not.
"""

from enum import StrEnum

import msgspec

from schemas.jetstream.connection import NatsError


class Kind(StrEnum):
    FULL = "full"
    """There is no room for a message: it passes when messages leave, or when the limit is raised."""
    NO_ROOM = "no room"
    """There is no room to make or change a stream of this size or with so many replicas."""
    BUSY = "busy"
    """The server cannot answer now: a leader is being elected, or there are too many requests. Ask again."""
    MISSING = "missing"
    """There is no such stream, consumer or message."""
    KNOWN = "known"
    """The message was stored before."""
    OVERTAKEN = "overtaken"
    """Another message came first: the subject's newest is not the expected one."""
    DIFFERENT = "different"
    """The name is taken by a stream or consumer with other settings."""
    OFF = "off"
    """JetStream is not enabled on the server or for the account."""
    REFUSED = "refused"
    """The server will never accept this."""


_KINDS = {
    10002: Kind.FULL,  # resource limits exceeded for account
    10023: Kind.FULL,  # insufficient resources: max_file_store or max_memory_store is used up
    10077: Kind.FULL,  # a limit of the stream: maximum bytes, messages, or messages per subject; or the disk failed
    10005: Kind.NO_ROOM,  # no suitable peers for placement
    10028: Kind.NO_ROOM,  # insufficient memory resources available
    10047: Kind.NO_ROOM,  # insufficient storage resources available
    10074: Kind.NO_ROOM,  # replicas > 1 not supported in non-clustered mode
    10122: Kind.NO_ROOM,  # stream max bytes exceeds account limit max stream bytes
    10004: Kind.BUSY,  # incomplete results
    10006: Kind.BUSY,  # JetStream not in clustered mode
    10007: Kind.BUSY,  # JetStream cluster not assigned to this server
    10008: Kind.BUSY,  # JetStream system temporarily unavailable
    10009: Kind.BUSY,  # JetStream cluster can not handle request
    10118: Kind.BUSY,  # stream is offline
    10119: Kind.BUSY,  # consumer is offline
    10124: Kind.BUSY,  # stream move already in progress
    10158: Kind.BUSY,  # duplicate message id is in process
    10167: Kind.BUSY,  # too many requests
    10194: Kind.BUSY,  # stream is offline, with a reason
    10195: Kind.BUSY,  # consumer is offline, with a reason
    10202: Kind.BUSY,  # cluster member change is in progress
    10210: Kind.BUSY,  # atomic publish too many inflight
    10226: Kind.BUSY,  # stream reconfiguration already in progress
    10014: Kind.MISSING,  # consumer not found
    10037: Kind.MISSING,  # no message found
    10059: Kind.MISSING,  # stream not found
    10149: Kind.MISSING,  # consumer does not exist
    10201: Kind.KNOWN,  # atomic publish batch contains duplicate message id
    10071: Kind.OVERTAKEN,  # wrong last sequence
    10164: Kind.OVERTAKEN,  # wrong last sequence, without its number
    10013: Kind.DIFFERENT,  # consumer name already in use
    10058: Kind.DIFFERENT,  # stream name already in use with a different configuration
    10148: Kind.DIFFERENT,  # consumer already exists
    10039: Kind.OFF,  # JetStream not enabled for account
    10076: Kind.OFF,  # JetStream not enabled
}
_PASSING = frozenset({429, 503})


class ServerError(msgspec.Struct, frozen=True):
    """The `error` of an answer."""

    code: int = 0
    err_code: int = 0
    description: str = "refused"

    def __str__(self) -> str:
        return f"{self.description} ({self.err_code})"

    @property
    def kind(self) -> Kind:
        return _KINDS.get(self.err_code, Kind.BUSY if self.code in _PASSING else Kind.REFUSED)


class NotStored(Exception):
    """A stream answered a publish with an error."""

    def __init__(self, error: ServerError) -> None:
        super().__init__(str(error))
        self.code = error.err_code
        self.kind = error.kind


class ApiRefused(NatsError):
    """The server answered a request to JetStream's API with an error."""

    def __init__(self, error: ServerError) -> None:
        super().__init__(str(error))
        self.kind = error.kind

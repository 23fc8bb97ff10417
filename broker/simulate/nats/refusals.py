"""Names the errors of JetStream's API that the memory server answers with, by the server's own codes and words."""


class Refused(Exception):
    """The API's answer is an error."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(description)
        self.error = {"code": code, "err_code": err_code, "description": description}


class NotSimulated(NotImplementedError):
    """NATS can do this and the memory server cannot. Nothing of infermq needs it."""


def bad_request() -> Refused:
    return Refused(400, 10003, "bad request")


def consumer_not_found() -> Refused:
    return Refused(404, 10014, "consumer not found")


def invalid_json(why: str) -> Refused:
    return Refused(400, 10025, f"invalid JSON: {why}")


def no_message() -> Refused:
    return Refused(404, 10037, "no message found")


def stream_not_found() -> Refused:
    return Refused(404, 10059, "stream not found")


def invalid_stream(why: str) -> Refused:
    return Refused(500, 10052, why)


def not_stored(why: str) -> Refused:
    return Refused(503, 10077, why)


def wrong_last_sequence(seq: int) -> Refused:
    return Refused(400, 10071, f"wrong last sequence: {seq}")


STREAM_EXISTS = (400, 10058, "stream name already in use with a different configuration")
OVERLAP = (400, 10065, "subjects overlap with an existing stream")
REPLICAS = (500, 10074, "replicas > 1 not supported in non-clustered mode")
NO_MEMORY = (500, 10028, "insufficient memory resources available")
NO_STORAGE = (500, 10047, "insufficient storage resources available")
TOO_LARGE = (400, 10054, "message size exceeds maximum allowed")
OTHER_STREAM = (400, 10060, "expected stream does not match")
TTL_OFF = (400, 10166, "per-message TTL is disabled")
BAD_TTL = (400, 10165, "invalid per-message TTL")
OVERTAKEN = (400, 10164, "wrong last sequence")
NO_ATOMIC = (400, 10174, "atomic publish is disabled")
NO_BATCH_SEQUENCE = (400, 10175, "atomic publish sequence is missing")
INCOMPLETE = (400, 10176, "atomic publish batch is incomplete")
BAD_BATCH_ID = (400, 10179, "atomic publish batch ID is invalid")
BAD_COMMIT = (400, 10200, "atomic publish batch commit is invalid")
BATCH_TOO_LARGE = (400, 10199, "atomic publish batch is too large: 1000")
REPEATED = (400, 10201, "atomic publish batch contains duplicate message id")
TOO_MANY_BATCHES = (429, 10210, "atomic publish too many inflight")
NAME_MISMATCH = (400, 10056, "stream name in subject does not match request")
CONSUMER_EXISTS = (400, 10148, "consumer already exists")
CONSUMER_ABSENT = (400, 10149, "consumer does not exist")
NOT_UNIQUE = (400, 10100, "filtered consumer not unique on workqueue stream")
UNFILTERED = (400, 10099, "multiple non-filtered consumers not allowed on workqueue stream")
NEEDS_EXPLICIT = (400, 10098, "workqueue stream requires explicit ack")
NOT_ALL = (400, 10101, "consumer must be deliver all on workqueue stream")
PULL_NEEDS_ACK = (400, 10084, "consumer in pull mode requires explicit ack policy on workqueue stream")
NO_CONSUMER_CONFIG = (400, 10078, "consumer config required")

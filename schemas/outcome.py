"""What a worker says an attempt came to. A report, not a verdict: settle decides."""

from typing import assert_never
from uuid import UUID

import msgspec

from schemas.job import Attempt
from schemas.units import Ms, NanoUsd


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens of one execution, as the engine counts them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """The part of input_tokens that came from a prefix cache."""
    estimated: bool = False
    """Nobody counted them."""


class Charge(msgspec.Struct, frozen=True):
    """What the worker knows an execution to have cost; settle prices those that come without."""

    nano_usd: NanoUsd
    source: str
    """`provider`: its own word; `genai-prices:VERSION`: its list price; `…:estimate`: nobody counted the tokens."""


class Timings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The worker's own clock; `queue_ms` is against the broker's and clamped at 0."""

    started_ms: Ms
    """Instant at which the engine was given the job."""
    queue_ms: Ms
    """Admitted to leased."""
    run_ms: Ms
    """Leased to outcome."""
    ttft_ms: Ms | None = None
    """Leased to first token. None: none came, or the engine does not say."""


class Refused(msgspec.Struct, frozen=True, tag="refused", omit_defaults=True):
    """Not admitted. `field` and `limit` name what was wrong and what is allowed."""

    code: str
    message: str
    field: str | None = None
    limit: int | None = None


class BadRequest(msgspec.Struct, frozen=True, tag="bad_request"):
    """The engine cannot run this body."""

    message: str


class ContextTooLong(msgspec.Struct, frozen=True, tag="context_too_long"):
    message: str
    context_tokens: int


class Filtered(msgspec.Struct, frozen=True, tag="filtered"):
    """A content filter stopped it."""

    message: str


class ResponseTooLarge(msgspec.Struct, frozen=True, tag="response_too_large"):
    size_bytes: int
    limit_bytes: int


class Throttled(msgspec.Struct, frozen=True, tag="throttled"):
    """The engine, or the provider behind it, asks for patience."""

    retry_after_ms: Ms | None = None


class Denied(msgspec.Struct, frozen=True, tag="denied"):
    """The provider refuses the deployment's key or account: the operator's to mend, not the job's fault."""

    message: str


class EngineFault(msgspec.Struct, frozen=True, tag="engine_fault"):
    """The engine failed on this attempt and goes on."""

    message: str


class EngineLost(msgspec.Struct, frozen=True, tag="engine_lost", omit_defaults=True):
    """The engine died, or could not be reached."""

    message: str
    sent: bool = True
    """False: the engine never had this request."""


class TimedOut(msgspec.Struct, frozen=True, tag="timed_out"):
    after_ms: Ms
    stage: str
    """`attempt`: the whole took too long; `progress`: nothing came for too long."""


class Unanswered(msgspec.Struct, frozen=True, tag="unanswered"):
    """It was sent, and no whole answer came: it may have run, and may have been billed."""

    after_ms: Ms
    message: str
    repeat: bool = True
    """The deployment's setting: whether running it twice is better than not at all."""


class WorkerLost(msgspec.Struct, frozen=True, tag="worker_lost"):
    """The attempt was delivered too often without an outcome: it takes its workers down."""

    deliveries: int


Failure = (
    Refused
    | BadRequest
    | ContextTooLong
    | Filtered
    | ResponseTooLarge
    | Throttled
    | Denied
    | EngineFault
    | EngineLost
    | TimedOut
    | Unanswered
    | WorkerLost
)


def failure_kind(failure: Failure) -> str:
    """The tag: what metrics, ledger and API call it."""
    return str(failure.__struct_config__.tag)


def retryable(failure: Failure) -> bool:
    """Whether another attempt can help. A new kind of failure is a type error here until it is decided."""
    match failure:
        case Throttled() | Denied() | EngineFault() | EngineLost() | TimedOut():
            return True
        case Unanswered(repeat=repeat):
            return repeat
        case Refused() | BadRequest() | ContextTooLong() | Filtered() | ResponseTooLarge() | WorkerLost():
            return False
        case _:
            assert_never(failure)


def counts(failure: Failure) -> bool:
    """Whether it uses up one of the job's attempts. One that the provider never ran waits until its deadline."""
    match failure:
        case Throttled() | Denied() | EngineLost(sent=False):
            return False
        case _:
            return True


def public_message(failure: Failure) -> str:
    """What a producer is told: what was wrong, the limit, what to do. Never a prompt or a key."""
    match failure:
        case Refused(_, message, field):
            return f"{field}: {message}" if field else message
        case BadRequest() | ContextTooLong() | Filtered():
            return failure.message
        case Denied() | EngineFault() | EngineLost():
            return f"{_WHAT[type(failure)]}: {failure.message}"
        case TimedOut() | Unanswered():
            return _too_late(failure)
        case ResponseTooLarge(size, limit):
            return f"the response is {size} bytes, the limit is {limit}: ask for fewer tokens or no logprobs"
        case Throttled(retry_after):
            wait = "" if retry_after is None else f"; it asks to wait {retry_after} ms"
            return f"the engine is throttling{wait}"
        case WorkerLost(deliveries):
            return f"delivered {deliveries} times without an outcome: it seems to take its workers down"
        case _:
            assert_never(failure)


_WHAT = {
    Denied: "the provider refuses this deployment",
    EngineFault: "the engine failed",
    EngineLost: "the engine was lost",
}


def _too_late(failure: TimedOut | Unanswered) -> str:
    match failure:
        case TimedOut(after_ms, "progress"):
            return f"the engine made no progress for {after_ms} ms"
        case TimedOut(after_ms, _):
            return f"the attempt was ended after {after_ms} ms"
        case Unanswered(after_ms, message):
            return f"no whole answer within {after_ms} ms ({message}): it may have run"


class Succeeded(msgspec.Struct, frozen=True, tag="succeeded", omit_defaults=True):
    body: bytes
    """The OpenAI response, as the engine gave it."""
    usage: Usage
    charge: Charge | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed", omit_defaults=True):
    failure: Failure
    usage: Usage = Usage()
    """What was spent before it failed."""
    charge: Charge | None = None


class Expired(msgspec.Struct, frozen=True, tag="expired", omit_defaults=True):
    """Its deadline had passed when it was leased, or passed while it ran."""

    usage: Usage = Usage()
    charge: Charge | None = None


class Cancelled(msgspec.Struct, frozen=True, tag="cancelled", omit_defaults=True):
    """Its caller left or read too slowly, or its broker stopped. It ends interactive requests only."""

    usage: Usage = Usage()
    charge: Charge | None = None


class Released(msgspec.Struct, frozen=True, tag="released", omit_defaults=True):
    """Put back by its worker (drain, pre-emption): not the job's fault, not counted as an attempt."""

    usage: Usage = Usage()
    charge: Charge | None = None


Outcome = Succeeded | Failed | Expired | Cancelled | Released


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One execution and what it came to. OUTCOME holds arrays of them."""

    job: UUID
    attempt: int
    delivery: int
    """From 1: NATS's count of how often this attempt was handed out."""
    deployment: str
    worker: str
    outcome: Outcome
    timings: Timings
    run_ack: str | None = None
    """The ack subject of the RUN message. The broker acks it if the worker died before it could."""
    interactive: Attempt | None = None
    """Interactive: the whole attempt, since this is the first that the ledger hears of the job."""

"""Defines the outcome of an attempt as its worker reports it. It is no verdict: settle decides."""

from typing import Annotated, assert_never, get_args
from uuid import UUID

import msgspec
from msgspec import Meta

from schemas.job import Attempt
from schemas.units import (
    AttemptNumber,
    ByteCount,
    Cost,
    DeathCount,
    DeliveryCount,
    DurationMs,
    Instant,
    Name,
    RunAck,
    Seal,
    Text,
    Tokens,
)

LARGEST_RESPONSE = 8 * 1024 * 1024
"""In bytes. A message holds no more."""


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """The tokens of one execution, as the engine counts them."""

    input_tokens: Tokens = 0
    output_tokens: Tokens = 0
    cached_tokens: Tokens = 0
    """How many of the input tokens came from a prefix cache."""
    estimated: bool = False
    """Whether the tokens are an estimate because nobody counted them."""
    adjusted: bool = False
    """Whether the counts of an API did not add up to its total. What is missing counts as output."""

    @property
    def mark(self) -> str:
        """What is added to the source of a cost that is computed from this usage."""
        return ":estimate" if self.estimated else ":adjusted" if self.adjusted else ""


class Charge(msgspec.Struct, frozen=True):
    """What an execution cost, if the worker knows it. Settle prices an execution without a charge."""

    nano_usd: Cost
    source: Name
    """`provider`: it said so itself; `genai-prices:VERSION`: its list price; `…:estimate`, `…:adjusted`: see Usage."""


class Timings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The times of an execution. The worker's durations are counted on a steady clock; `queue_ms` is between two instants of
    brokers, and never below 0.
    """

    started_ms: Instant
    """When the worker got the attempt, by its own clock, which may be wrong: only to tell its processes apart."""
    queue_ms: DurationMs
    """The time from admitted to dispatched."""
    run_ms: DurationMs
    """The time from leased to outcome."""
    ttft_ms: DurationMs | None = None
    """The time from leased to the first token. None: no token came, or the engine does not say."""


class Refused(msgspec.Struct, frozen=True, tag="refused", omit_defaults=True):
    """The broker did not admit the job. `field` and `limit` name what was wrong and what is allowed."""

    code: Name
    message: Text
    field: Text | None = None
    limit: Annotated[int, Meta(ge=0, le=10**15)] | None = None


class BadRequest(msgspec.Struct, frozen=True, tag="bad_request"):
    """The engine cannot run this body."""

    message: Text


class ContextTooLong(msgspec.Struct, frozen=True, tag="context_too_long"):
    message: Text
    context_tokens: Tokens


class Filtered(msgspec.Struct, frozen=True, tag="filtered"):
    """A content filter stopped the request."""

    message: Text


class ResponseTooLarge(msgspec.Struct, frozen=True, tag="response_too_large"):
    size_bytes: ByteCount
    limit_bytes: ByteCount


class Throttled(msgspec.Struct, frozen=True, tag="throttled"):
    """The engine, or the provider behind it, asks for fewer requests."""

    retry_after_ms: DurationMs | None = None


class Denied(msgspec.Struct, frozen=True, tag="denied"):
    """The provider refuses the deployment's key or account, which its operator must mend. It is not the job's fault."""

    message: Text


class EngineFault(msgspec.Struct, frozen=True, tag="engine_fault"):
    """The engine failed on this attempt, and can run others."""

    message: Text


class EngineLost(msgspec.Struct, frozen=True, tag="engine_lost", omit_defaults=True):
    """The engine died, or could not be reached."""

    message: Text
    sent: bool = True
    """Whether the engine may have had the request."""


class TimedOut(msgspec.Struct, frozen=True, tag="timed_out"):
    """The worker ended the attempt because it took too long."""

    after_ms: DurationMs
    stage: Name
    """`attempt`: it ran too long; `progress`: it made no progress for too long."""


class Unanswered(msgspec.Struct, frozen=True, tag="unanswered"):
    """The request was sent and no complete answer came: it may have run, and may have been billed."""

    after_ms: DurationMs
    message: Text
    repeat: bool = True
    """Whether to run it again although it may have run: a setting of the deployment."""


class ConstraintViolated(msgspec.Struct, frozen=True, tag="constraint_violated", omit_defaults=True):
    """The answer is not what the request demanded: JSON, JSON of a schema, or a call of a tool."""

    message: Text
    repeat: bool = True
    """Whether another try may give another answer."""


class CutWhileReasoning(msgspec.Struct, frozen=True, kw_only=True, tag="cut_while_reasoning", omit_defaults=True):
    """The model reasoned until its token limit was reached, and had none left to answer."""

    output_tokens: Tokens
    """What it generated."""
    reasoning_tokens: Tokens = 0
    """How many of them were counted as reasoning. 0: nobody counted them."""
    field: Name | None = None
    """The field of the body that set the limit. None: the body says nothing, so it was the most that the model allows."""
    limit_tokens: Tokens
    most_tokens: Tokens
    """The most that the model allows: `max_output_tokens` of the catalog."""


class WorkerLost(msgspec.Struct, frozen=True, tag="worker_lost"):
    """Its worker died each time that it ran alone: the job probably ends its workers."""

    deaths: DeathCount


class RelayLost(msgspec.Struct, frozen=True, tag="relay_lost"):
    """The broker that relayed the interactive request is gone, so nobody reads the answer any more."""


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
    | ConstraintViolated
    | CutWhileReasoning
    | WorkerLost
    | RelayLost
)
FAILURE_KINDS = frozenset(str(kind.__struct_config__.tag) for kind in get_args(Failure))
ON_REQUEST = frozenset({"filtered", "response_too_large", "cut_while_reasoning"})
"""Failures that are not tried again, unless the policy of the model says so: another answer may be another one."""
UNCOUNTED = frozenset({"throttled", "denied"})
"""Failures that never use up an attempt."""
ALWAYS_FINAL = frozenset({"refused", "bad_request", "context_too_long", "worker_lost", "relay_lost"})
"""Failures that the same body would meet again, or after which nobody waits."""


def failure_kind(failure: Failure) -> str:
    """Return the tag of a failure, by which metrics, ledger and API name it."""
    return str(failure.__struct_config__.tag)


def retryable(failure: Failure) -> bool:
    """Say whether another attempt can help, as long as the model's policy says nothing else (`broker.core.retry`).

    A new kind of failure is a type error here until it is decided.
    """
    match failure:
        case Throttled() | Denied() | EngineFault() | EngineLost() | TimedOut():
            return True
        case Unanswered(repeat=repeat) | ConstraintViolated(repeat=repeat):
            return repeat
        case Refused() | BadRequest() | ContextTooLong() | Filtered() | ResponseTooLarge():
            return False
        case CutWhileReasoning() | WorkerLost() | RelayLost():
            return False
        case _:
            assert_never(failure)


def counts(failure: Failure) -> bool:
    """Say whether a failure uses up one of the job's attempts. One that the provider never ran does not."""
    match failure:
        case Throttled() | Denied() | EngineLost(sent=False):
            return False
        case _:
            return True


def public_message(failure: Failure) -> str:
    """Tell the producer what was wrong, the limit, and what to do. The message never holds a prompt or a key."""
    match failure:
        case Refused(_, message, field):
            return f"{field}: {message}" if field else message
        case BadRequest() | ContextTooLong() | Filtered():
            return failure.message
        case Denied() | ConstraintViolated() | EngineFault() | EngineLost():
            return f"{_PREFIX[type(failure)]}: {failure.message}"
        case TimedOut() | Unanswered():
            return _time_message(failure)
        case ResponseTooLarge(size, limit):
            return f"the response is {size} bytes, the limit is {limit}: ask for fewer tokens or no logprobs"
        case Throttled(retry_after):
            wait = "" if retry_after is None else f"; it asks to wait {retry_after} ms"
            return f"the engine is throttling{wait}"
        case CutWhileReasoning():
            return _reasoning_message(failure)
        case WorkerLost() | RelayLost():
            return _lost_message(failure)
        case _:
            assert_never(failure)


_PREFIX = {
    Denied: "the provider refuses this deployment",
    ConstraintViolated: "the answer is not what was demanded",
    EngineFault: "the engine failed",
    EngineLost: "the engine was lost",
}


def _lost_message(failure: WorkerLost | RelayLost) -> str:
    match failure:
        case WorkerLost(deaths):
            return f"its worker died each of the {deaths} times that it ran alone: it probably ends its workers"
        case RelayLost():
            return "the broker that answered the request was lost, so nobody could read the answer: send it again"
        case _:
            assert_never(failure)


def _time_message(failure: TimedOut | Unanswered) -> str:
    match failure:
        case TimedOut(after_ms, "progress"):
            return f"the engine made no progress for {after_ms} ms"
        case TimedOut(after_ms, _):
            return f"the attempt was ended after {after_ms} ms"
        case Unanswered(after_ms, message):
            return f"no complete answer within {after_ms} ms ({message}): it may have run"


def _reasoning_message(cut: CutWhileReasoning) -> str:
    counted = f", {cut.reasoning_tokens} of them counted as reasoning" if cut.reasoning_tokens else ""
    less = "ask for less reasoning (reasoning_effort)"
    if cut.output_tokens < cut.limit_tokens:
        said = f"it was cut after {cut.output_tokens} tokens{counted}, below its limit of {cut.limit_tokens}"
        why = "prompt and output fill the context, or the provider has a limit of its own"
        return f"the model still reasoned when {said}, and answered nothing: {why}. Shorten the prompt, or {less}"
    limit = f"its limit of {cut.limit_tokens} tokens ({cut.field or 'max_output_tokens of the model'}) was reached"
    said = f"the model still reasoned when {limit}{counted}, and answered nothing"
    if cut.field is not None and cut.limit_tokens < cut.most_tokens:
        return f"{said}: set {cut.field} higher (this model allows {cut.most_tokens}), or {less}"
    return f"{said}: {less}, or have max_output_tokens of the model raised in the catalog"


class Succeeded(msgspec.Struct, frozen=True, tag="succeeded", omit_defaults=True):
    """The engine answered."""

    body: Annotated[bytes, Meta(max_length=LARGEST_RESPONSE)]
    """The OpenAI response, as the engine gave it."""
    usage: Usage
    charge: Charge | None = None
    mended: bool = False
    """Whether the response held what is no JSON (a byte that is no UTF-8, half a character, NaN), which was replaced."""


class Failed(msgspec.Struct, frozen=True, tag="failed", omit_defaults=True):
    """The attempt failed."""

    failure: Failure
    usage: Usage = Usage()
    """What it had used when it failed."""
    charge: Charge | None = None


class Expired(msgspec.Struct, frozen=True, tag="expired", omit_defaults=True):
    """The time that was left at dispatch had run out. Whether the deadline has passed, brokers say, by their own clocks."""

    usage: Usage = Usage()
    charge: Charge | None = None


class Cancelled(msgspec.Struct, frozen=True, tag="cancelled", omit_defaults=True):
    """Somebody cancelled the job; or the caller of an interactive request left or read too slowly, or its broker stopped."""

    usage: Usage = Usage()
    charge: Charge | None = None
    body: Annotated[bytes, Meta(max_length=LARGEST_RESPONSE)] | None = None
    """What it had answered so far, as an OpenAI response with the finish reason `cancelled`. None: nothing, or unknown."""


class Released(msgspec.Struct, frozen=True, tag="released", omit_defaults=True):
    """The worker put the attempt back (drain, pre-emption). That is not the job's fault, so the attempt does not count."""

    usage: Usage = Usage()
    charge: Charge | None = None


CANCELLED_REASON = "cancelled"
"""The finish reason of an answer that was cut off by a cancel."""
LOST = "lost"
"""What the ledger calls the outcome of an execution whose worker died: nobody reports it."""
Outcome = Succeeded | Failed | Expired | Cancelled | Released


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The report of one execution and its outcome. OUTCOME holds arrays of reports."""

    job: UUID
    attempt: AttemptNumber
    execution: UUID
    """The execution's own id, a UUIDv7 that its worker made when it started. A report that comes twice has the same."""
    delivery: DeliveryCount
    """NATS's count, from 1, of how often this attempt was delivered. It starts again when the stream loses its state."""
    deployment: Name
    worker: Name
    outcome: Outcome
    timings: Timings
    run_ack: RunAck | None = None
    """The ack subject of the RUN message. The broker acks it if the worker died before it could."""
    interactive: Attempt | None = None
    """The complete attempt of an interactive request, since the ledger does not have the job yet; else None."""
    seal: Seal = b""
    """The seal of the attempt. Settle believes no report without it."""

"""What a failure means for its job: the last column of the table of answers in docs/engines.md."""

from typing import get_args

import pytest

from schemas.outcome import (
    BadRequest,
    ConstraintViolated,
    ContextTooLong,
    CutWhileReasoning,
    Denied,
    EngineFault,
    EngineLost,
    Failure,
    Filtered,
    Refused,
    RelayLost,
    ResponseTooLarge,
    Throttled,
    TimedOut,
    Unanswered,
    WorkerLost,
    counts,
    failure_kind,
    public_message,
    retryable,
)
from schemas.units import Ms

TABLE: list[tuple[Failure, str, bool, bool]] = [
    # failure, its name, whether another attempt can help, whether it uses up an attempt
    (Refused("unknown_model", "words"), "refused", False, True),
    (BadRequest("words"), "bad_request", False, True),
    (ContextTooLong("words", 512), "context_too_long", False, True),
    (Filtered("words"), "filtered", False, True),
    (ResponseTooLarge(9, 7), "response_too_large", False, True),
    (CutWhileReasoning(output_tokens=8, limit_tokens=8, most_tokens=9), "cut_while_reasoning", False, True),
    (WorkerLost(2), "worker_lost", False, True),
    (RelayLost(), "relay_lost", False, True),
    (Throttled(), "throttled", True, False),
    (Denied("words"), "denied", True, False),
    (EngineLost("words", sent=False), "engine_lost", True, False),
    (EngineLost("words"), "engine_lost", True, True),
    (EngineFault("words"), "engine_fault", True, True),
    (TimedOut(Ms(5), "attempt"), "timed_out", True, True),
    (Unanswered(Ms(5), "words"), "unanswered", True, True),
    (Unanswered(Ms(5), "words", repeat=False), "unanswered", False, True),
    (ConstraintViolated("words"), "constraint_violated", True, True),
    (ConstraintViolated("words", repeat=False), "constraint_violated", False, True),
]


@pytest.mark.parametrize(("failure", "name", "again", "counted"), TABLE)
def test_a_failure_is_tried_again_and_counted_as_documented(
    failure: Failure, name: str, *, again: bool, counted: bool
) -> None:
    assert (failure_kind(failure), retryable(failure), counts(failure)) == (name, again, counted)


def test_no_failure_is_left_out() -> None:
    assert {type(failure) for failure, *_ in TABLE} == set(get_args(Failure))


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (Refused("bad_id", "words", "id"), "id: words"),
        (Refused("busy", "words"), "words"),
        (BadRequest("words"), "words"),
        (Denied("words"), "the provider refuses this deployment: words"),
        (EngineFault("words"), "the engine failed: words"),
        (EngineLost("words"), "the engine was lost: words"),
        (TimedOut(Ms(5), "progress"), "the engine made no progress for 5 ms"),
        (TimedOut(Ms(5), "attempt"), "the attempt was ended after 5 ms"),
        (Unanswered(Ms(5), "words"), "no complete answer within 5 ms (words): it may have run"),
        (ConstraintViolated("words"), "the answer is not what was demanded: words"),
        (Throttled(), "the engine is throttling"),
        (Throttled(Ms(5)), "the engine is throttling; it asks to wait 5 ms"),
        (ResponseTooLarge(9, 7), "the response is 9 bytes, the limit is 7: ask for fewer tokens or no logprobs"),
    ],
)
def test_a_producer_is_told_what_was_wrong(failure: Failure, told: str) -> None:
    assert public_message(failure) == told

"""Whether a failed job is tried again is data of its model."""

import pytest

from broker.core.retry import DEFAULT, end_after, may_help, policy_of
from schemas.api import State
from schemas.catalog import Catalog, Model, Retry, Route
from schemas.outcome import (
    BadRequest,
    ConstraintViolated,
    CutWhileReasoning,
    Denied,
    EngineFault,
    EngineLost,
    Failure,
    Filtered,
    ResponseTooLarge,
    Throttled,
    TimedOut,
    Unanswered,
)
from schemas.units import Ms

FAULT = EngineFault("x")
CUT = CutWhileReasoning(output_tokens=8, limit_tokens=8, most_tokens=9)


def ends(failure: Failure, *, spent: int, policy: Retry = DEFAULT, own: int = 3) -> State | None:
    return end_after(failure, policy, spent=spent, max_attempts=own)


def test_without_a_word_a_job_has_the_attempts_that_it_says_and_its_class_decides() -> None:
    assert [ends(FAULT, spent=spent) for spent in (1, 2, 3)] == [None, None, State.DEAD]
    assert ends(FAULT, spent=3, own=20) is None
    assert ends(Throttled(), spent=20) is None
    assert ends(BadRequest("x"), spent=1) is State.FAILED
    assert ends(CUT, spent=1) is State.FAILED


@pytest.mark.parametrize(
    "failure", [FAULT, TimedOut(Ms(1), "attempt"), Denied("x"), Throttled(), ConstraintViolated("x"), EngineLost("x")]
)
def test_a_class_with_one_attempt_is_never_tried_again(failure: Failure) -> None:
    policy = Retry(attempts={str(failure.__struct_config__.tag): 1})

    assert ends(failure, spent=1, policy=policy) is State.FAILED


def test_an_engine_that_was_lost_before_it_had_the_request_may_always_be_tried_again() -> None:
    assert may_help(EngineLost("x", sent=False), Retry(attempts={"engine_lost": 1}))


def test_a_class_can_have_fewer_attempts_than_the_job_and_never_more() -> None:
    policy = Retry(attempts={"engine_fault": 2})

    assert [ends(FAULT, spent=spent, policy=policy, own=5) for spent in (1, 2)] == [None, State.DEAD]
    assert ends(TimedOut(Ms(1), "attempt"), spent=4, policy=policy, own=5) is None
    assert ends(FAULT, spent=1, policy=Retry(attempts={"engine_fault": 9}), own=1) is State.DEAD


@pytest.mark.parametrize("failure", [CUT, Filtered("x"), ResponseTooLarge(9, 8)])
def test_a_class_that_is_final_by_default_can_be_tried_again_if_the_policy_says_so(failure: Failure) -> None:
    policy = Retry(attempts={str(failure.__struct_config__.tag): 2})

    assert [ends(failure, spent=spent, policy=policy) for spent in (1, 2)] == [None, State.DEAD]


@pytest.mark.parametrize(
    "failure", [Unanswered(Ms(1), "x", repeat=False), ConstraintViolated("x", repeat=False), BadRequest("x")]
)
def test_a_failure_that_says_that_it_is_final_is_so_whatever_the_policy_says(failure: Failure) -> None:
    policy = Retry(attempts={str(failure.__struct_config__.tag): 5})

    assert ends(failure, spent=1, policy=policy) is State.FAILED


def test_a_model_that_the_catalog_has_dropped_has_the_default_policy() -> None:
    own = Retry(max_attempts=7)
    catalog = Catalog(models={"m": Model(route=(Route("d"),), retry=own)})

    assert policy_of("m", catalog) == own
    assert policy_of("gone", catalog) == DEFAULT == Retry()

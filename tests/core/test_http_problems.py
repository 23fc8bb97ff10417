"""Every error that anybody is shown has a status over HTTP that was thought about."""

import re
from pathlib import Path

import pytest

from broker.doors.http.problems import KINDS, kind_of, retry_headers
from schemas.api import HoldCode, Problem
from schemas.outcome import FAILURE_KINDS

ROOT = Path(__file__).parents[2]
BAD_REQUESTS = {
    *(
        "bad_catalog",
        "bad_cursor",
        "bad_id",
        "bad_input",
        "bad_job",
        "bad_name",
        "bad_patch",
        "bad_request",
        "bad_target",
    ),
    *(
        "bad_text",
        "bad_timeout",
        "bad_url",
        "bad_digest",
        "bad_deadline",
        "bad_window",
        "wrong_purpose",
        "body_not_json",
        "body_shape",
        "context_too_long",
        "deadline_past",
    ),
    *("deadline_too_far", "endpoint_not_served", "logprobs_out_of_range", "max_tokens_out_of_range", "media_url"),
    *("n_out_of_range", "no_choice", "nul_character", "poison", "stream_not_allowed", "two_deadlines"),
    *("unreadable_job", "unstorable", "wrong_lane", "wrong_purpose", "too_slow"),
    *("filtered", "cut_while_reasoning", "refused", "backing_off", "cancelling"),
}
"""What is simply a bad request, or never the answer to one."""


def codes() -> set[str]:
    """All codes of errors in the code."""
    named = re.compile(r"\b(?:Problem|Refused)\(\s*\"([a-z_]+)\"")
    files = [file for package in ("broker", "workers", "schemas") for file in (ROOT / package).rglob("*.py")]
    found = {code for file in files for code in named.findall(file.read_text())}
    return {*found, *map(str, HoldCode), *FAILURE_KINDS}


@pytest.mark.parametrize("code", sorted(codes()))
def test_every_code_has_a_kind(code: str) -> None:
    assert (code in KINDS) != (code in BAD_REQUESTS)
    assert (kind_of(Problem(code, "")).status == 400) == (code not in KINDS)


def test_a_client_is_told_when_to_try_again() -> None:
    told = dict(retry_headers(Problem("busy", "", retry_after_ms=2300)))

    assert told == {b"x-should-retry": b"true", b"retry-after": b"3", b"retry-after-ms": b"2300"}


def test_a_client_is_told_not_to_try_again_where_that_would_not_help_or_cost_twice() -> None:
    for code in ("expired", "engine_fault", "internal", "cancelled"):
        assert dict(retry_headers(Problem(code, ""))) == {b"x-should-retry": b"false"}
    assert retry_headers(Problem("unknown_model", "")) == []

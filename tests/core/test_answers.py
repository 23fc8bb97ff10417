"""What each answer of an API becomes: the table of docs/engines.md."""

import contextlib
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.outcome import BadRequest, ContextTooLong, Denied, EngineFault, Failure, Filtered, Throttled
from schemas.units import Ms
from workers.core.answers import failure_of, retry_after_ms
from workers.core.api_error import error_in
from workers.core.body import BadBody
from workers.core.usage import reported_usage

NOW = Ms(1_800_000_000_000)
DENIED = ("insufficient_quota",)


def of(status: int, body: object = None, **headers: str) -> Failure:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return failure_of(status, error_in(raw), named, denied=DENIED, context_tokens=512, now=NOW)


def an_error(message: str = "words", **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


class Answered(NamedTuple):
    """An answer of an API, to be judged in the test."""

    status: int
    body: object
    headers: dict[str, str]


def answered(status: int, body: object = None, **headers: str) -> Answered:
    return Answered(status, body, headers)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (answered(400, an_error()), BadRequest),
        (answered(400, an_error(code="context_length_exceeded")), ContextTooLong),
        (answered(400, an_error("This model's maximum context length is 512 tokens")), ContextTooLong),
        (answered(400, an_error(type="exceed_context_size_error", code=400)), ContextTooLong),
        (answered(400, an_error(code="content_filter")), Filtered),
        (answered(403, an_error(code=403, metadata={"reasons": ["violence"]})), Filtered),
        (answered(403, an_error()), Denied),
        (answered(401, an_error(code="invalid_api_key")), Denied),
        (answered(402, an_error(code=402)), Denied),
        (answered(404), Denied),
        (answered(404, b"<html>Not Found</html>"), Denied),
        (answered(404, {"detail": "Not Found"}), Denied),
        (answered(404, an_error("File Not Found", type="not_found_error", code=404)), Denied),
        (answered(404, an_error("Invalid URL (POST /v1/chat/complete)", type="invalid_request_error")), Denied),
        (answered(404, an_error("The model `x` does not exist.", type="NotFoundError", code=404)), Denied),
        (answered(404, an_error('model "x" not found, try pulling it first', type="api_error")), Denied),
        (answered(404, an_error("words", code="model_not_found")), Denied),
        (answered(404, an_error("No endpoints found for x/y.", code=404)), Denied),
        (answered(404, an_error("No endpoints found that support tool use", code=404)), BadRequest),
        (
            answered(404, an_error("This is a chat model and not supported in the v1/completions endpoint")),
            BadRequest,
        ),
        (answered(422, {"detail": [{"loc": ["body"], "msg": "required"}]}), BadRequest),
        (answered(413, b"<html>too large</html>"), BadRequest),
        (answered(429, an_error()), Throttled),
        (answered(429, an_error(code="insufficient_quota")), Denied),
        (answered(408, an_error(code=408)), EngineFault),
        (answered(409), EngineFault),
        (answered(301), Denied),
        (answered(405, an_error()), Denied),
        (answered(400, an_error(param="model")), Denied),
        (answered(400, an_error(param="n")), BadRequest),
        (answered(500, b"<html>oops</html>"), EngineFault),
        (answered(502, an_error(code=502, metadata={"provider_name": "x"})), EngineFault),
        (answered(503), Throttled),
        (answered(504), EngineFault),
        (answered(503, None, retry_after="2"), Throttled),
        (answered(500, None, retry_after="2"), Throttled),
        (answered(502, None, retry_after="2"), Throttled),
        (answered(400, an_error(), retry_after="2"), BadRequest),
        (answered(400, an_error(code="insufficient_quota")), Denied),
        (answered(403, an_error(type="moderation")), Filtered),
        (answered(400, an_error(code="content_policy_violation")), Filtered),
        (answered(429, an_error("too many tokens a minute for this model")), Throttled),
        *((answered(status, an_error()), BadRequest) for status in (411, 413, 414, 415, 422, 431)),
        (answered(529, an_error(type="overloaded_error")), Throttled),
        (answered(400, [an_error("Unknown name: cannot find field.", code=400)]), BadRequest),
        (answered(404, [an_error("Requested entity was not found in the tool registry.", code=404)]), BadRequest),
        (answered(429, [an_error(code=429, status="RESOURCE_EXHAUSTED")]), Throttled),
    ],
)
def test_every_status_is_a_failure(said: Answered, kind: type) -> None:
    assert type(of(said.status, said.body, **said.headers)) is kind


def test_a_failure_knows_the_limit_and_the_wait() -> None:
    assert of(413, an_error("too many tokens")) == ContextTooLong("413: too many tokens", 512)
    assert of(429, None, retry_after="2") == Throttled(Ms(2000))
    assert of(429) == Throttled()


def test_an_apis_words_are_cut() -> None:
    failure = of(400, an_error("x" * 10_000))

    assert failure == BadRequest(f"400: {'x' * 500}")


def test_a_failure_has_the_apis_words_and_never_a_page() -> None:
    assert of(400, an_error("no  such\nfield")) == BadRequest("400: no such field")
    assert of(500, b"<html>secret</html>") == EngineFault("it answered 500 with no reason")
    assert of(500, {"error": "plain"}) == EngineFault("500: plain")
    assert of(500, {"object": "error", "message": "bare"}) == EngineFault("500: bare")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"error": {"message": "a"}, "choices": []}, "a"),
        ({"choices": [{}, {"error": {"message": "b", "code": 502}}]}, "b"),
        ({"choices": [{"error": "c"}]}, "c"),
        ({"choices": [{"finish_reason": "error"}]}, "the provider ended it with an error"),
        ({"choices": [{"finish_reason": "stop", "error": None}], "message": "hello", "detail": "d"}, None),
        ({"data": [{}], "message": "hello"}, None),
        ({"choices": [], "usage": {}}, None),
        ({"choices": [{}], "error": {}}, None),
        ({"choices": [{}], "error": ""}, None),
        ({"choices": [{}], "error": {"message": None, "code": None, "type": ""}}, None),
        ({"choices": [{}], "error": {"message": "Success", "code": 0}}, None),
        ({"choices": [{}], "error": {"message": "OK", "code": "200"}}, None),
        ({"choices": [{"delta": {}}], "code": 0, "message": "Success"}, None),
        ({"choices": [], "usage": {"prompt_tokens": 1}, "code": 0, "message": "Success"}, None),
        ({"usage": {"prompt_tokens": 1}, "message": "Success"}, None),
        ({"choices": [], "code": 429, "message": "slow down"}, "slow down"),
        ({"choices": None, "message": "a"}, "a"),
        ({"type": "ping"}, None),
        ({"status": "completed"}, None),
        ({"error": {"type": "overloaded_error"}}, ""),
        ([{"error": {"code": 400, "message": "a", "status": "INVALID_ARGUMENT"}}], "a"),
        ([1, [], {}], None),
        ({"error": {"message": {"detail": "a"}}}, "a"),
        ({"error": {"message": ["a", {"msg": "b"}]}}, "a; b"),
        ({"error": {"message": {"error": {"error": {"error": {"error": "deep"}}}}}}, "deep"),
        ({"detail": [{"loc": ["body", "n"], "msg": "a"}, {"loc": ["body"], "msg": "b"}]}, "body.n: a; body: b"),
        ({"title": "Too Large", "status": 413, "detail": "a"}, "a"),
        ({"errors": [{"code": 10000, "message": "a"}], "success": False}, "a"),
        ({"error_code": 17, "error_msg": "a"}, "a"),
        ({"choices": None, "base_resp": {"status_code": 1004, "status_msg": "a"}}, "a"),
        ({"choices": [{}], "base_resp": {"status_code": 0, "status_msg": "success"}}, None),
        ({"fault": {"faultstring": "a"}}, "a"),
        ({"error": {"message": "Provider returned error", "metadata": {"raw": "a"}}}, "Provider returned error: a"),
        ({"error": {"message": "Provider", "metadata": {"raw": '{"error":{"message":"a"}}'}}}, "Provider: a"),
        ({"error": {"message": "Provider", "metadata": {"raw": "<html>"}}}, "Provider"),
    ],
)
def test_where_an_error_stands(answer: object, message: str | None) -> None:
    error = error_in(msgspec.json.encode(answer))

    assert (error and error.message) == message


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7000),
        ({"retry-after": "0.5", "retry-after-ms": "250"}, 250),
        ({"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30_000),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "Fri, 15 Jan 2027 07:00:00 GMT"}, 0),
        ({"retry-after": "7", "x-ratelimit-reset": "9"}, 7000),
        ({"retry-after": "soon", "x-ratelimit-reset": "9"}, 9000),
        ({"retry-after": "Mon, 01 Jan 99999999999 00:00:00 GMT"}, None),
        ({"x-ratelimit-reset": "9" * 400 + "s"}, 10**15),
        ({"x-ratelimit-reset": "2027-01-15T08:00:05"}, 5000),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7000),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "2s"}, 2000),
        ({"x-ratelimit-reset": "1h1m1s"}, 3_661_000),
        ({"x-ratelimit-reset": "2027-01-15T08:00:05+00:00"}, 5000),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, 360_000),
        ({"x-ratelimit-reset-tokens": "120ms", "x-ratelimit-remaining-tokens": "0"}, 120),
        ({"x-ratelimit-reset-tokens": "120ms", "x-ratelimit-remaining-tokens": "5"}, None),
        ({"x-ratelimit-reset": "1800000004000", "x-ratelimit-remaining": "0"}, 4000),
        ({"x-ratelimit-reset": "1800000004"}, 4000),
        ({"x-ratelimit-reset": "2.5"}, 2500),
        ({"x-ratelimit-reset": "nonsense"}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], wait: int | None) -> None:
    assert retry_after_ms(headers, None, NOW) == wait


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        ({"metadata": {"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(NOW + 8000)}}}, 8000),
        ({"metadata": {"headers": {"Retry-After": 3}}}, 3000),
        ({"details": [{"@type": "…Help"}, {"@type": "…RetryInfo", "retryDelay": "8.5s"}]}, 8500),
        ({"retry_after": 4}, 4000),
        ({"retry_after_ms": "250"}, 250),
        ({"message": "Rate limit reached. Please try again in 6m0s. Limit 3 / 1m."}, 360_000),
        ({"message": "Please retry after 22 seconds."}, 22_000),
        ({"message": "Please try again in 120ms."}, 120),
        ({"message": "Please wait for 2 minutes and 3 apples"}, 120_000),
        ({"message": "3 requests a 1m are allowed"}, None),
        ({"message": "try again later"}, None),
        ({"details": "none", "retry_after": "soon", "metadata": []}, None),
    ],
)
def test_an_error_itself_may_say_how_long_to_wait(error: dict[str, Any], wait: int | None) -> None:
    assert of(429, {"error": {"message": "slow down", **error}}) == Throttled(None if wait is None else Ms(wait))


def test_a_header_comes_before_what_the_error_says() -> None:
    assert of(429, an_error("try again in 9s", retry_after=5), retry_after="2") == Throttled(Ms(2000))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"type": "rate_limit_error"}, 429),
        ({"code": "RESOURCE_EXHAUSTED"}, 429),
        ({"type": "overloaded_error"}, 529),
        ({"type": "authentication_error"}, 401),
        ({"type": "invalid_request_error"}, 400),
        ({"type": "invalid_request_error", "code": 502}, 502),
        ({"code": 404, "status": "NOT_FOUND"}, 404),
        ({"code": "x", "status": 429}, 429),
        ({"type": "server_error"}, 500),
    ],
)
def test_an_error_without_a_number_has_its_names_status(error: dict[str, Any], status: int) -> None:
    found = error_in(msgspec.json.encode({"error": {"message": "words", **error}}))

    assert found is not None
    assert found.status == status


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (429, 429),
        ("429", 429),
        (400, 400),
        (599, 599),
        (None, 500),
        ("slow", 500),
        (200, 500),
        (399, 500),
        (600, 500),
    ],
)
def test_an_error_inside_an_answer_has_its_code_for_a_status(code: str | int | None, status: int) -> None:
    error = error_in(msgspec.json.encode(an_error(code=code)))

    assert error is not None
    assert error.status == status


@given(st.binary() | st.text().map(str.encode), st.text(), st.integers(100, 599))
def test_nothing_that_an_api_says_breaks_us(body: bytes, header: str, status: int) -> None:
    error = error_in(body)
    headers = {"retry-after": header, "x-ratelimit-reset": header}

    failure_of(status, error, headers, context_tokens=1, now=NOW)
    if error is not None:
        assert 400 <= error.status < 600
    with contextlib.suppress(BadBody):
        reported_usage(body)

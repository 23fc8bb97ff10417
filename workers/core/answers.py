"""Classifies what an OpenAI-compatible API answers: every status and error becomes one Failure."""

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from schemas.outcome import BadRequest, ContextTooLong, Denied, EngineFault, Failure, Filtered, Throttled
from schemas.units import Ms
from workers.core.address import said_target
from workers.core.api_error import ApiError

_TOO_LONG = re.compile(r"context.?(length|window|size)|maximum context|too many tokens|max_model_len", re.IGNORECASE)
_TOO_LONG_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_NOT_SERVED = re.compile(
    r"\bmodel\b.*\bnot (found|exist|available)|^model:|find model|^(file )?not found|invalid url"
    r"|no endpoints found for|data policy",
    re.IGNORECASE,
)
"""How APIs word a 404 that is the deployment's fault: vLLM, Ollama and Ray Serve for a model; FastAPI, llama.cpp and OpenAI
for a path; OpenRouter for a model and for an account's settings."""
OUTAGE = frozenset({502, 503, 504, 529})
"""Statuses of an API that is down or full, or whose upstream is: other requests would fail too."""
_FILTER_CODES = frozenset({"content_filter", "content_policy_violation", "moderation"})
_KINDS = ("-requests", "-tokens", "-input-tokens", "-output-tokens", "")
_LIMITS = [
    *(
        (f"{name}-remaining{kind}", f"{name}-reset{kind}")
        for name in ("x-ratelimit", "x-rate-limit")
        for kind in _KINDS
    ),
    *((f"anthropic-ratelimit{kind}-remaining", f"anthropic-ratelimit{kind}-reset") for kind in _KINDS),
]
"""The headers of rate limits: what is left of one, and when it is whole again."""
_LONGEST_MS = 1e15
"""Longer waits, and later instants, nobody means."""
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_AGAIN = re.compile(
    r"(?:try again|retry|wait)[a-z ]{0,30}?"
    r"((?:\d+(?:\.\d+)? ?(?:ms|milliseconds?|s|sec|seconds?|m|min|minutes?|h|hours?)(?![a-z]) ?)+)",
    re.IGNORECASE,
)
"""How APIs say in words when to come back: "Please try again in 6m0s", "Retry after 22 seconds"."""
_REFUSES = re.compile(
    r"unsupported(?!.value)|not supported|unknown|unrecogni[sz]ed|unexpected|not (permitted|allowed)|extra (inputs?|fields?)"
    r"|cannot find",
    re.IGNORECASE,
)
"""How APIs say that they do not take a field: OpenAI, Pydantic, Google and others."""
_MARKED = r"['\"`]{0}['\"`]|\b(?:argument|field|parameter|property|supplied|name|key)s?:? {0}\b|(?:^|\.){0}:"
"""How APIs mark the name of a field."""
_IN_WORDS = re.compile(r"(\d+(?:\.\d+)?) ?(ms|mil|s|m|h)[a-z]*", re.IGNORECASE)


def failure_of(
    status: int,
    error: ApiError | None,
    headers: Mapping[str, str],
    *,
    denied: Collection[str] = (),
    context_tokens: int,
    now: Ms,
) -> Failure:
    """Classify an answer that is an error.

    `headers` have lower-case names. `denied` are the provider's error codes for an account that its owner must mend.
    """
    names = error.names if error else frozenset()
    message = _message(status, error)
    if 300 <= status < 400:
        target = said_target(headers.get("location", ""))
        return Denied(f"{status}: the API has moved to {target or 'no place that it names'}; set base_url")
    if names & _FILTER_CODES or (status == 403 and error is not None and error.is_moderated):
        return Filtered(message)
    if status in {401, 402, 403, 405} or names & set(denied) or _is_not_served(status, error):
        return Denied(message)
    if status in {400, 404, 411, 413, 414, 415, 422, 431}:
        too_long = names & _TOO_LONG_CODES or _TOO_LONG.search(message)
        return ContextTooLong(message, context_tokens) if too_long else BadRequest(message)
    wait = retry_after_ms(headers, error, now)
    if status in {429, 503, 529} or (status >= 500 and wait is not None):
        return Throttled(wait)
    return EngineFault(message)


def _is_not_served(status: int, error: ApiError | None) -> bool:
    """Say whether the model or the path does not exist, which is the deployment's fault. Any other 404 is the request's.

    The model's name is the deployment's, too: an error about that field is not about the request.
    """
    if error is None:
        return status == 404
    if status in {400, 404, 422} and error.param == "model":
        return True
    return "model_not_found" in error.names or (status == 404 and bool(_NOT_SERVED.search(error.message)))


def is_about_field(error: ApiError, field: str) -> bool:
    """Say whether an API refuses a field of the request, or its value: it names it, or says in words that it takes none."""
    if error.param:
        return error.param == field
    return is_unknown_field(error, field)


def is_unknown_field(error: ApiError, field: str) -> bool:
    """Say whether an API does not take a field of the request at all. In words, one that may be a word must be marked."""
    if not _REFUSES.search(" ".join((error.message, *error.names))):
        return False
    if error.param:
        return error.param == field
    name = re.escape(field)
    words = rf"\b{name}\b" if "_" in field else _MARKED.format(name)
    return re.search(words, error.message) is not None


def _message(status: int, error: ApiError | None) -> str:
    words = (error.message or error.type) if error else ""
    return f"{status}: {words}" if words else f"it answered {status} with no reason"


def retry_after_ms(headers: Mapping[str, str], error: ApiError | None, now: Ms) -> Ms | None:
    """Return how long the API asks to wait, if it does, wherever it says so.

    Its headers come first, then those that a gateway passes on inside the error, then a field of the error, then its words.
    """
    wait = _headers_ms(headers, now)
    if wait is not None or error is None:
        return wait
    wait = _headers_ms(error.headers, now)
    if wait is not None:
        return wait
    said = error.wait or _wait_in(error.message)
    return _reset_ms(said, now) if said else None


def _wait_in(message: str) -> str:
    """Return the span of time that a message asks to wait, such as `6m0s`; "" if it does not."""
    found = _AGAIN.search(message)
    spans = [] if found is None else _IN_WORDS.findall(found[1])
    return "".join(f"{count}{'ms' if unit.lower() == 'mil' else unit.lower()}" for count, unit in spans)


def _headers_ms(headers: Mapping[str, str], now: Ms) -> Ms | None:
    """Read Retry-After (RFC 9110, section 10.2.3), else the reset times of the rate limits that are used up."""
    if (exact := _number(headers.get("retry-after-ms"))) is not None:
        return _whole_ms(exact)
    given = headers.get("retry-after")
    if given is not None and (wait := _parse_retry_after(given, now)) is not None:
        return wait
    resets = [
        headers.get(reset) for remaining, reset in _LIMITS if headers.get(remaining, "0").strip() in {"0", "0.0"}
    ]
    waits = [wait for value in resets if value is not None and (wait := _reset_ms(value, now)) is not None]
    return max(waits, default=None)


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number < _LONGEST_MS else None


def _whole_ms(ms: float) -> Ms:
    """Return whole milliseconds, within what anybody can mean."""
    return Ms(int(max(0.0, min(ms, _LONGEST_MS))))


def _parse_retry_after(text: str, now: Ms) -> Ms | None:
    if (seconds := _number(text)) is not None:
        return _whole_ms(seconds * 1000)
    try:
        return _until(parsedate_to_datetime(text), now)
    except (ValueError, OverflowError):
        return None


def _until(at: datetime, now: Ms) -> Ms:
    """Return how long it is until an instant, which is UTC unless it says otherwise."""
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return _whole_ms(at.timestamp() * 1000 - now)


def _reset_ms(text: str, now: Ms) -> Ms | None:
    """Parse a reset time: a span (OpenAI: `6m0s`), seconds, an instant in s or ms since the epoch, or an ISO date."""
    if (number := _number(text)) is not None:
        if number > 1e11:
            return _whole_ms(number - now)
        return _whole_ms(number * 1000 - (now if number > 1e9 else 0))
    if spans := _SPAN.findall(text):
        return _whole_ms(sum(float(count) * _UNIT_MS[unit] for count, unit in spans))
    try:
        return _until(datetime.fromisoformat(text), now)
    except (ValueError, OverflowError):
        return None

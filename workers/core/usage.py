"""Reads what an answer says was used and charged, in the dialects of the APIs.

| who | how |
| --- | --- |
| OpenAI and most others | `prompt_tokens`, `completion_tokens`; cached tokens and reasoning are parts of these |
| OpenAI's Responses API | `input_tokens`, `output_tokens`, likewise |
| Anthropic | the same names, but tokens read from and written to the cache stand beside `input_tokens` |
| DeepSeek, Moonshot, Mistral | cached tokens in `prompt_cache_hit_tokens`, `cached_tokens`, `num_cached_tokens` |
| xAI, some gateways | reasoning stands beside `completion_tokens`: only `total_tokens` shows it |
| Google | `usageMetadata` with `promptTokenCount`, `candidatesTokenCount` and, beside them, `thoughtsTokenCount` |
| Groq, Moonshot streaming | the usage stands in `x_groq`, or in the first choice |

The parts are checked against the total. If they do not add up to it, the usage is marked as adjusted: what is missing
counts as output, since that costs most; if the parts are more than the total, they are taken as they are.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from schemas import lenient
from schemas.codec import UNREADABLE
from schemas.outcome import Usage
from workers.core.body import MOST_TOKENS, BadBody, count_of, number_of

MOST_USD = 9 * 10**6
"""The most that one request can cost: its nano-dollars are exact in JSON."""
_INPUT = ("prompt_tokens", "input_tokens", "promptTokenCount")
_OUTPUT = ("completion_tokens", "output_tokens", "candidatesTokenCount")
_TOTAL = ("total_tokens", "totalTokenCount")
_CACHED = (
    "prompt_tokens_details.cached_tokens",
    "input_tokens_details.cached_tokens",
    "prompt_cache_hit_tokens",
    "cached_tokens",
    "num_cached_tokens",
    "cachedContentTokenCount",
    "cache_read_input_tokens",
)
_REASONING = (
    "completion_tokens_details.reasoning_tokens",
    "output_tokens_details.reasoning_tokens",
    "reasoning_tokens",
    "thoughtsTokenCount",
)
_BESIDE_INPUT = ("cache_read_input_tokens", "cache_creation_input_tokens")
"""Anthropic: tokens of the prompt that `input_tokens` leaves out. Behind some gateways `prompt_tokens` does, too."""


class ReportedUsage(msgspec.Struct, frozen=True):
    """What a response says was used and charged. None: it does not say, or the value makes no sense."""

    usage: Usage | None
    cost_usd: Decimal | None
    model: str | None


class _Response(msgspec.Struct, frozen=True):
    usage: msgspec.Raw = msgspec.Raw(b"null")
    x_groq: msgspec.Raw = msgspec.Raw(b"null")
    usageMetadata: msgspec.Raw = msgspec.Raw(b"null")  # noqa: N815 - Google's name
    model: msgspec.Raw = msgspec.Raw(b"null")


_response = msgspec.json.Decoder(_Response)


def reported_usage(response: bytes, *, cost_at: Sequence[str] = ()) -> ReportedUsage:
    """Read what a response says of itself. Raises: BadBody, if it is not a JSON object.

    `cost_at`: where the API says what it charged in US dollars, such as `usage.cost`.
    """
    try:
        said = {
            name: lenient.parsed(bytes(value))
            for name, value in msgspec.structs.asdict(_response.decode(response)).items()
        }
    except (*UNREADABLE, ValueError) as error:
        raise BadBody(f"the response cannot be read: {error}") from error
    return reported_in(said, cost_at=cost_at)


def reported_in(answer: Mapping[str, Any], *, cost_at: Sequence[str] = ()) -> ReportedUsage:
    """Read what an answer, or an object of a stream, says of itself."""
    used = usage_in(answer) or {}
    model = answer.get("model")
    cost = next((cost for path in cost_at if (cost := _cost_usd({"usage": used}, path)) is not None), None)
    return ReportedUsage(usage_of(used), cost, model if isinstance(model, str) else None)


def usage_in(answer: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the object in which an answer, or an object of a stream, says what was used; None if it does not."""
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    places = (
        answer.get("usage"),
        _dict(answer.get("x_groq")).get("usage"),
        answer.get("usageMetadata"),
        _dict(first).get("usage"),
    )
    return next((place for place in places if isinstance(place, dict) and place), None)


def usage_of(used: Mapping[str, Any]) -> Usage | None:
    """Read the tokens of a usage object; None if it counts none that can be read."""
    prompt, output, total = (_first(used, names) for names in (_INPUT, _OUTPUT, _TOTAL))
    if _is_nonsense(used) or not (prompt or output):
        return None
    beside = sum(_first(used, [name]) or 0 for name in _BESIDE_INPUT)
    is_beside = used.get("prompt_tokens") is None or prompt is None or total == prompt + (output or 0) + beside
    if prompt is not None and is_beside:
        prompt += beside
    if prompt is None:
        prompt = 0 if total is None or output is None else max(0, total - output)
    reasoning = _first(used, _REASONING) or 0
    said = output
    if output is None:
        output = 0 if total is None else max(0, total - prompt)
    elif reasoning and prompt + output + reasoning == total:
        said = output = output + reasoning
    cached = _first(used, _CACHED) or 0
    is_adjusted = cached > prompt
    if total is None and reasoning > output:
        output, is_adjusted = output + reasoning, True
    if said is not None and total is not None and prompt + output != total:
        output, is_adjusted = max(output, total - prompt), True
    prompt = min(prompt, MOST_TOKENS)
    return Usage(prompt, min(output, MOST_TOKENS), min(prompt, cached), adjusted=is_adjusted)


def reasoning_tokens_of(used: Mapping[str, Any]) -> int:
    """Read how many tokens were reasoning: as counted, or as the total shows. 0: nothing says that any was."""
    if counted := _first(used, _REASONING):
        return counted
    prompt, output, total = (_first(used, names) for names in (_INPUT, _OUTPUT, _TOTAL))
    beside = sum(_first(used, [name]) or 0 for name in _BESIDE_INPUT)
    return 0 if total is None or prompt is None else max(0, total - prompt - (output or 0) - beside)


def usd_of(value: Any) -> Decimal | None:
    return number_of(value, most=MOST_USD)


def _is_nonsense(used: Mapping[str, Any]) -> bool:
    """Say whether a count is there that cannot be one."""
    return any(used.get(name) is not None and count_of(used[name]) is None for name in (*_INPUT, *_OUTPUT))


def _first(used: Mapping[str, Any], paths: Sequence[str]) -> int | None:
    """Return the first of these counts that is more than 0, since some APIs send 0 for all; else 0; None if none is said."""
    found: int | None = None
    for path in paths:
        if count := (told := count_of(_at(used, path))):
            return count
        found = told if found is None else found
    return found


def _cost_usd(answer: Mapping[str, Any], path: str) -> Decimal | None:
    """Read a cost. With a caller's own key at OpenRouter, what the provider behind it charges is added."""
    cost, used = usd_of(_at(answer, path)), _dict(answer.get("usage"))
    if cost is None or not used.get("is_byok"):
        return cost
    upstream = usd_of(_at(used, "cost_details.upstream_inference_cost"))
    return None if upstream is None else cost + upstream


def _at(value: Any, path: str) -> Any:
    """Return what stands at a path of names; None if nothing does."""
    for name in path.split("."):
        value = _dict(value).get(name)
    return value


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

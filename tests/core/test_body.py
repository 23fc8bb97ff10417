"""What a request asks for, and what a response says that it took."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from schemas.catalog import CHAT, COMPLETIONS, EMBEDDINGS
from schemas.outcome import Usage
from workers.core.body import MOST_TOKENS, Asked, asked_of, has_parts, spent_of


def spent(**usage: Any) -> tuple[Usage | None, Decimal | None]:
    found = spent_of(msgspec.json.encode({"usage": usage}))
    return found.usage, found.cost_usd


@pytest.mark.parametrize(
    ("endpoint", "body", "asked"),
    [
        (CHAT, {}, Asked(1, 64)),
        (CHAT, {"n": 2, "max_completion_tokens": 5, "prompt": ["a", "b"]}, Asked(2, 10)),
        (COMPLETIONS, {"prompt": "a", "best_of": 4, "n": 2}, Asked(2, 4 * 64)),
        (COMPLETIONS, {"prompt": ["a", "b", "c"]}, Asked(3, 3 * 64)),
        (COMPLETIONS, {"prompt": [1, 2, 3]}, Asked(1, 64)),
        (COMPLETIONS, {"prompt": [[1, 2], [3]]}, Asked(2, 128)),
        (COMPLETIONS, {"prompt": [], "n": None}, Asked(1, 64)),
        (CHAT, {"n": 10**6, "max_tokens": 10**6}, Asked(10**6, MOST_TOKENS)),
        (EMBEDDINGS, {"input": ["a", "b"]}, Asked(1, 0)),
    ],
)
def test_what_a_request_asks_for(endpoint: str, body: dict[str, Any], asked: Asked) -> None:
    assert asked_of(msgspec.json.encode(body), endpoint, max_output_tokens=64) == asked


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 3}, Usage(3)),
        ({"prompt_tokens": 3, "completion_tokens": None}, Usage(3)),
        ({"prompt_tokens": 3.0, "completion_tokens": "4"}, Usage(3, 4)),
        ({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": "9"}}, Usage(3, 0, 3)),
        ({"prompt_tokens": 3, "prompt_tokens_details": "none"}, Usage(3)),
        ({"prompt_tokens": 3, "completion_tokens": MOST_TOKENS + 1}, None),
        ({"prompt_tokens": {}, "completion_tokens": 1}, None),
        ({"total_tokens": 3}, None),
    ],
)
def test_tokens_are_read_as_apis_write_them(usage: dict[str, Any], counted: Usage | None) -> None:
    assert spent(**usage) == (counted, None)


@pytest.mark.parametrize(
    ("usage", "usd"),
    [
        ({"cost": 0.1}, "0.1"),
        ({"cost": "0.1"}, "0.1"),
        ({"cost": 0.1, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.2}}, "0.3"),
        ({"cost": 0.1, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.2}}, "0.1"),
        ({"cost": 0, "is_byok": True, "cost_details": None}, None),
        ({"cost": 1e300}, None),
        ({"cost": -1}, None),
    ],
)
def test_a_cost_is_all_that_was_charged(usage: dict[str, Any], usd: str | None) -> None:
    assert spent(**usage) == (None, None if usd is None else Decimal(usd))


def test_a_number_that_no_float_holds_spoils_nothing() -> None:
    found = spent_of(b'{"usage": {"prompt_tokens": 3, "cost": 1e400}, "model": 5}')

    assert (found.usage, found.cost_usd, found.model) == (Usage(3), None, None)


@pytest.mark.parametrize(("value", "has"), [(b"[1]", True), (b"[]", False), (b"null", False), (b'"x"', False)])
def test_parts_are_a_list_with_something_in_it(value: bytes, *, has: bool) -> None:
    assert has_parts(msgspec.Raw(value)) is has

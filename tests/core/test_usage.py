"""What a response says that it took: one usage, in whichever dialect it is said."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.outcome import Usage
from workers.core.body import MOST_TOKENS, BadBody
from workers.core.usage import reported_usage, usage_in, usage_of


def spent(**usage: Any) -> tuple[Usage | None, Decimal | None]:
    found = reported_usage(msgspec.json.encode({"usage": usage}), cost_at=["usage.cost"])
    return found.usage, found.cost_usd


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 3}, Usage(3)),
        ({"prompt_tokens": 3, "completion_tokens": None}, Usage(3)),
        ({"prompt_tokens": 3.0, "completion_tokens": "4"}, Usage(3, 4)),
        ({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": "9"}}, Usage(3, 0, 3, adjusted=True)),
        ({"prompt_tokens": 3, "prompt_tokens_details": "none"}, Usage(3)),
        ({"prompt_tokens": 3, "completion_tokens": MOST_TOKENS + 1}, None),
        ({"completion_tokens": 4}, Usage(0, 4)),
        ({"prompt_tokens": MOST_TOKENS}, Usage(MOST_TOKENS)),
        ({"prompt_tokens": -1}, None),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}, Usage(5, 0, 2)),
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
        ({"cost": "NaN"}, None),
        ({"cost": 9 * 10**6}, "9000000"),
        ({"cost": 9 * 10**6 + 1}, None),
    ],
)
def test_a_cost_is_all_that_was_charged(usage: dict[str, Any], usd: str | None) -> None:
    assert spent(**usage) == (None, None if usd is None else Decimal(usd))


def test_a_number_that_no_float_holds_spoils_nothing() -> None:
    found = reported_usage(b'{"usage": {"prompt_tokens": 3, "cost": 1e400}, "model": 5}', cost_at=["usage.cost"])

    assert (found.usage, found.cost_usd, found.model) == (Usage(3), None, None)


P, C, T = "prompt_tokens", "completion_tokens", "total_tokens"


@pytest.mark.parametrize(
    ("used", "counted"),
    [
        pytest.param({"input_tokens": 9, "output_tokens": 4, T: 13}, Usage(9, 4), id="responses"),
        pytest.param(
            {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 5}, "output_tokens": 4},
            Usage(9, 4, 5),
            id="responses-cached",
        ),
        pytest.param(
            {"input_tokens": 9, "output_tokens": 4, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 1},
            Usage(100, 4, 90),
            id="anthropic",
        ),
        pytest.param({P: 100, C: 4, "cache_read_input_tokens": 90}, Usage(100, 4, 90), id="anthropic-behind-litellm"),
        pytest.param(
            {P: 1000, C: 10, T: 1010, "prompt_cache_hit_tokens": 800, "prompt_cache_miss_tokens": 200},
            Usage(1000, 10, 800),
            id="deepseek",
        ),
        pytest.param({P: 9, C: 4, "cached_tokens": 3}, Usage(9, 4, 3), id="moonshot"),
        pytest.param({P: 9, C: 4, "num_cached_tokens": 3}, Usage(9, 4, 3), id="mistral"),
        pytest.param(
            {P: 1000, C: 10, T: 2010, "completion_tokens_details": {"reasoning_tokens": 1000}},
            Usage(1000, 1010),
            id="reasoning-beside",
        ),
        pytest.param(
            {P: 1000, C: 1010, T: 2010, "completion_tokens_details": {"reasoning_tokens": 1000}},
            Usage(1000, 1010),
            id="reasoning-inside",
        ),
        pytest.param(
            {P: 1000, C: 1010, "completion_tokens_details": {"reasoning_tokens": 1000}},
            Usage(1000, 1010),
            id="reasoning-and-no-total",
        ),
        pytest.param({P: 10, C: 5, T: 30}, Usage(10, 20, adjusted=True), id="more-in-total"),
        pytest.param({P: 10, C: 5, T: 12}, Usage(10, 5, adjusted=True), id="less-in-total"),
        pytest.param({P: 10, C: 5, T: 0}, Usage(10, 5, adjusted=True), id="no-total"),
        pytest.param({P: 10, T: 15}, Usage(10, 5), id="total-without-output"),
        pytest.param({C: 5, T: 15}, Usage(10, 5), id="total-without-input"),
        pytest.param({P: 10, T: 10}, Usage(10, 0), id="embeddings"),
        pytest.param(
            {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 7, "totalTokenCount": 22},
            Usage(10, 12),
            id="google",
        ),
        pytest.param({P: 10, C: 5, T: None, "prompt_tokens_details": None}, Usage(10, 5), id="nulls"),
        pytest.param({P: 10, C: 5, T: "x"}, Usage(10, 5), id="total-that-is-none"),
        pytest.param({P: 1, C: 1, T: 10**12}, Usage(1, 1), id="total-beyond-reason"),
    ],
)
def test_every_dialect_is_one_usage(used: dict[str, Any], counted: Usage) -> None:
    assert usage_of(used) == counted


@pytest.mark.parametrize(
    "answer",
    [
        {"usage": {P: 1}},
        {"usage": None, "x_groq": {"id": "r", "usage": {P: 1}}},
        {"choices": [{"delta": {}, "usage": {P: 1}}]},
        {"usageMetadata": {P: 1}},
    ],
)
def test_where_a_usage_stands(answer: dict[str, Any]) -> None:
    assert usage_in(answer) == {P: 1}


@pytest.mark.parametrize(
    "answer", [{}, {"usage": None}, {"usage": 5}, {"x_groq": 5}, {"choices": [5]}, {"choices": {}}]
)
def test_where_none_is_said(answer: dict[str, Any]) -> None:
    assert usage_in(answer) is None


@pytest.mark.parametrize(
    ("at", "usd"),
    [((), None), (("usage.cost",), "0.5"), (("usage.nothing", "usage.cost"), "0.5"), (("usage.cost.x",), None)],
)
def test_a_cost_is_read_where_the_profile_says_that_it_stands(at: tuple[str, ...], usd: str | None) -> None:
    found = reported_usage(b'{"usage": {"cost": 0.5}}', cost_at=at)

    assert found.cost_usd == (None if usd is None else Decimal(usd))


@pytest.mark.parametrize("response", [b"", b"[]", b"{", b'{"usage": }'])
def test_what_is_no_object_is_bad(response: bytes) -> None:
    with pytest.raises(BadBody):
        reported_usage(response)


_counts = (
    st.none()
    | st.integers(-1, 10**13)
    | st.floats()
    | st.text(max_size=3)
    | st.dictionaries(st.text(), st.integers())
)
_names = st.sampled_from(
    [P, C, T, "input_tokens", "output_tokens", "prompt_tokens_details", "cost", "is_byok", "cached_tokens"]
)


@given(st.dictionaries(_names, _counts))
def test_no_usage_breaks_us_or_the_ledger(used: dict[str, Any]) -> None:
    usage = usage_of(used)

    if usage is not None:
        assert 0 <= usage.cached_tokens <= usage.input_tokens <= MOST_TOKENS
        assert 0 <= usage.output_tokens <= MOST_TOKENS

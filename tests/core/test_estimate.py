"""What an execution is taken to cost before anybody knows."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.estimate import ENOUGH, estimated_nano_usd, mean_nano_usd, most_output, request_tokens
from broker.core.price import price_nano_usd
from broker.core.records import Spend
from schemas.catalog import Catalog, Deployment, Model, Price, Route
from schemas.outcome import Usage
from schemas.units import NanoUsd

CHAT, TEXT, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
PRICE = Price(input=1.0, output=2.0)
PRICED, UNPRICED = Deployment(engine="simulated", price=PRICE), Deployment(engine="simulated")


def chat(**fields: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "hi"}], **fields}).encode()


def tokens(body: bytes, endpoint: str = CHAT) -> int:
    return request_tokens(body, endpoint, most_output=500).output_tokens


def test_a_body_counts_a_token_for_four_of_its_bytes() -> None:
    assert request_tokens(b"x" * 9, CHAT, most_output=500) == Usage(3, 500, estimated=True)


def test_a_request_may_use_all_the_output_that_it_asks_for_or_the_models_default() -> None:
    assert tokens(chat()) == 500
    assert tokens(chat(max_tokens=8)) == 8
    assert tokens(chat(max_tokens=8, max_completion_tokens=9)) == 9
    assert tokens(b"no json at all") == 500


def test_each_choice_and_each_prompt_gets_its_output() -> None:
    assert tokens(chat(max_tokens=8, n=3)) == 24
    assert tokens(b'{"prompt": ["a", "b"], "max_tokens": 8, "n": 2}', TEXT) == 32
    assert tokens(b'{"prompt": [1, 2, 3], "max_tokens": 8}', TEXT) == 8
    assert tokens(b'{"prompt": [[1, 2], [3]], "max_tokens": 8}', TEXT) == 16


def test_an_endpoint_that_generates_nothing_has_no_output() -> None:
    assert tokens(b'{"input": "a"}', EMBEDDINGS) == 0


def test_without_a_record_the_price_of_the_tokens_counts() -> None:
    asked = request_tokens(chat(max_tokens=8), CHAT, most_output=500)

    for recorded in (None, Spend(NanoUsd(0), 0), Spend(NanoUsd(5), ENOUGH - 1)):
        assert estimated_nano_usd(asked, PRICED, recorded) == price_nano_usd(asked, PRICE)


def test_enough_recorded_costs_count_more_than_the_price() -> None:
    assert estimated_nano_usd(Usage(1, 1), PRICED, Spend(NanoUsd(100 * ENOUGH), ENOUGH)) == 100


def test_without_a_price_the_few_recorded_costs_count_and_without_them_nothing_is_known() -> None:
    assert estimated_nano_usd(Usage(1, 1), UNPRICED, Spend(NanoUsd(7), 2)) == 4
    assert estimated_nano_usd(Usage(1, 1), UNPRICED, Spend(NanoUsd(0), 0)) is None
    assert estimated_nano_usd(Usage(1, 1), None, None) is None


def test_the_default_output_is_the_models_or_the_catalogs_for_a_model_that_is_gone() -> None:
    catalog = Catalog(models={"m": Model(route=(Route("d"),), max_output_tokens=7)}, deployments={"d": PRICED})

    assert (most_output("m", catalog), most_output("gone", catalog)) == (7, 1024)


@given(st.binary(max_size=200), st.sampled_from([CHAT, TEXT, EMBEDDINGS, "/other"]))
def test_any_bytes_have_an_estimate(body: bytes, endpoint: str) -> None:
    assert request_tokens(body, endpoint, most_output=500).output_tokens >= 0


@pytest.mark.parametrize(("cost", "count", "mean"), [(0, 1, 0), (10, 5, 2), (11, 5, 3)])
def test_a_mean_is_rounded_up(cost: int, count: int, mean: int) -> None:
    assert mean_nano_usd(Spend(NanoUsd(cost), count)) == mean

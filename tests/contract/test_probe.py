"""A deployment that is configured wrong is found out at once, by the simplest request, and at no job's cost."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from schemas.catalog import CatalogError, parse
from schemas.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, Endpoint
from schemas.outcome import BadRequest, Denied, Failed, Succeeded, Throttled, counts
from schemas.worker import DENIED
from tests.contract.test_openai import (
    RESPONSE,
    Api,
    Hands,
    Script,
    a_request,
    answer,
    piece,
    serving,
    steps_of,
    stream,
)
from workers.core.alike import SUSPICIOUS
from workers.ports import Engine

REFUSED = {
    "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "type": "invalid_request_error",
    "param": "max_tokens",
    "code": "unsupported_parameter",
}


class Chooses(Api):
    """Answers each request by what is in it."""

    def __init__(self, choose: Callable[[str, dict[str, Any]], Script]) -> None:
        super().__init__(self._play)
        self.choose = choose

    async def _play(self, writer: asyncio.StreamWriter) -> None:
        await self.choose(*self.asked[-1])(writer)


def refuses(field: str) -> Callable[[str, dict[str, Any]], Script]:
    error = {**REFUSED, "param": field}
    return lambda _, body: answer({"error": error}, status=400) if field in body else answer(RESPONSE)


def paused_why(engine: Engine) -> tuple[str, str]:
    paused = engine.capacity().paused
    assert paused is not None
    return paused.cause, paused.detail


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            answer({"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}, status=401),
            "401: Incorrect API key",
        ),
        (answer({"detail": "Not Found"}, status=404), "404: Not Found"),
        (answer(status=405), "405"),
        (
            answer(status=308, location="https://elsewhere.example/v1/chat/completions"),
            "https://elsewhere.example/v1",
        ),
        (answer(b"<html>Welcome</html>", kind="text/html"), "a web page"),
        (answer({"error": {"message": "no such model: x", "param": "model"}}, status=400), "no such model"),
        (answer({"error": {"message": "the server is broken"}}, status=500), "500"),
        (answer({"error": {"message": "messages: too simple"}}, status=400), "400"),
    ],
)
async def test_what_serves_nobody_offers_no_slot_from_the_start_and_says_why(script: Script, words: str) -> None:
    async with serving(script, probe=(CHAT,)) as (_, engine):
        assert engine.capacity().slots == 0
        cause, detail = paused_why(engine)

    assert cause == DENIED
    assert words in detail


async def test_what_serves_is_asked_once_at_the_start_for_very_little() -> None:
    async with serving(answer(RESPONSE), probe=(CHAT, COMPLETIONS)) as (api, engine):
        assert engine.capacity().paused is None

    [(head, body)] = api.asked
    assert head.startswith("POST /v1/chat/completions ")
    assert (body["messages"], body["max_completion_tokens"]) == ([{"role": "user", "content": "Hi"}], 16)


async def test_an_api_of_another_endpoint_is_tried_there() -> None:
    def choose(head: str, _: dict[str, Any]) -> Script:
        is_embedding = head.startswith("POST /v1/embeddings ")
        return answer({"data": [{"embedding": [1]}], "usage": {}}) if is_embedding else answer(status=404)

    hands = Hands()
    async with serving(answer(), api=Chooses(choose), probe=(CHAT, EMBEDDINGS), clock=hands) as (api, engine):
        assert len(api.asked) == 2
        assert engine.capacity().paused is None
        assert engine.capacity().slots > 0
        last = (await steps_of(engine, a_request(endpoint=EMBEDDINGS)))[-1]

    assert isinstance(last, Succeeded)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_limit_that_the_model_refuses_is_called_otherwise_from_then_on_at_no_jobs_cost(
    *, streamed: bool
) -> None:
    done = stream(piece("Hi", "stop")) if streamed else answer(RESPONSE)

    def choose(_: str, body: dict[str, Any]) -> Script:
        return answer({"error": REFUSED}, status=400) if "max_tokens" in body else done

    async with serving(answer(), api=Chooses(choose), options={"profile": "generic"}) as (api, engine):
        for _ in range(2):
            assert isinstance((await steps_of(engine, a_request(streamed=streamed)))[-1], Succeeded)

    limits = [[name for name in body if name.startswith("max_")] for _, body in api.asked]
    assert limits == [["max_tokens"], ["max_completion_tokens"], ["max_completion_tokens"]]


async def test_a_model_that_takes_no_limit_gets_none() -> None:
    def choose(_: str, body: dict[str, Any]) -> Script:
        found = next((name for name in body if name.startswith("max_")), None)
        return answer({"error": {**REFUSED, "param": found}}, status=400) if found else answer(RESPONSE)

    async with serving(answer(), api=Chooses(choose)) as (api, engine):
        assert isinstance((await steps_of(engine, a_request()))[-1], Succeeded)

    assert len(api.asked) == 3


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("profile", ["generic", "openai"])
async def test_a_limit_of_the_jobs_own_that_the_model_refuses_goes_by_the_other_name(
    field: str, profile: str
) -> None:
    asked: dict[str, Any] = {field: 5}
    async with serving(answer(), api=Chooses(refuses(field)), options={"profile": profile}) as (api, engine):
        for _ in range(2):
            assert isinstance((await steps_of(engine, a_request(**asked)))[-1], Succeeded)

    [other] = {"max_tokens", "max_completion_tokens"} - {field}
    limits = [{name: value for name, value in body.items() if name.startswith("max_")} for _, body in api.asked]
    assert limits == [{field: 5}, {other: 5}, {other: 5}]


@pytest.mark.parametrize(
    ("endpoint", "limits", "asked"),
    [
        (COMPLETIONS, {"max_tokens": 5}, 1),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 5}, 1),
        (CHAT, {"max_tokens": 5}, 3),
    ],
    ids=["completions", "both", "one"],
)
async def test_a_limit_of_the_jobs_own_that_has_no_other_name_is_the_jobs_fault(
    endpoint: Endpoint, limits: dict[str, Any], asked: int
) -> None:
    def choose(_: str, body: dict[str, Any]) -> Script:
        found = next((name for name in body if name.startswith("max_")), None)
        return answer({"error": {**REFUSED, "param": found}}, status=400) if found else answer(RESPONSE)

    async with serving(answer(), api=Chooses(choose)) as (api, engine):
        [last] = await steps_of(engine, a_request(endpoint=endpoint, **limits))

    assert isinstance(last, Failed)
    assert isinstance(last.failure, BadRequest)
    assert len(api.asked) == asked


async def test_a_field_that_the_deployment_adds_is_not_the_jobs_fault() -> None:
    async with serving(answer(), api=Chooses(refuses("top_k")), options={"body": {"top_k": 5}}) as (_, engine):
        [added] = await steps_of(engine, a_request())
        cause, detail = paused_why(engine)

    assert isinstance(added, Failed)
    assert isinstance(added.failure, Denied)
    assert not counts(added.failure)
    assert cause == DENIED
    assert "'max_tokens' is not supported" in detail


async def test_a_move_within_the_host_is_followed_by_all() -> None:
    def choose(head: str, _: dict[str, Any]) -> Script:
        there = head.startswith("POST /v2/chat/completions?k=v ")
        return answer(RESPONSE) if there else answer(status=308, location="/v2/chat/completions?k=v")

    async with serving(answer(), api=Chooses(choose)) as (api, engine):
        ends = [(await steps_of(engine, a_request()))[-1] for _ in range(2)]

    assert [type(end) for end in ends] == [Succeeded, Succeeded]
    assert [head.split(" ")[1] for head, _ in api.asked] == [
        "/v1/chat/completions",
        "/v2/chat/completions?k=v",
        "/v2/chat/completions?k=v",
    ]
    assert api.asked[0][1] == api.asked[1][1]


async def test_an_api_that_sends_everybody_round_in_circles_is_left() -> None:
    def choose(head: str, _: dict[str, Any]) -> Script:
        there = "/v2/" if "/v1/" in head.split(" ")[1] else "/v1/"
        return answer(status=307, location=f"{there}chat/completions")

    async with serving(answer(), api=Chooses(choose)) as (api, engine):
        ends = [(await steps_of(engine, a_request()))[-1] for _ in range(2)]

    assert all(isinstance(end, Failed) and isinstance(end.failure, Denied) for end in ends)
    assert len(api.asked) == 3


async def test_when_all_fail_alike_and_the_simplest_too_it_is_the_deployments_fault() -> None:
    broken = {"error": {"message": "worker 7f3a21 of 12 has no such table"}}
    async with serving(answer(broken, status=500)) as (api, engine):
        ends = [(await steps_of(engine, a_request(user=str(n))))[-1] for n in range(SUSPICIOUS)]
        cause, detail = paused_why(engine)

    failures = [end.failure for end in ends if isinstance(end, Failed)]
    assert [isinstance(failure, Denied) for failure in failures] == [False] * (SUSPICIOUS - 1) + [True]
    assert len(api.asked) == SUSPICIOUS + 1
    assert (cause, "simplest request" in detail) == (DENIED, True)


async def test_when_all_fail_alike_but_not_the_simplest_it_is_the_jobs_fault_and_is_tried_ever_more_seldom() -> None:
    def choose(_: str, body: dict[str, Any]) -> Script:
        return answer({"error": {"message": "no tool x"}}, status=400) if "tools" in body else answer(RESPONSE)

    async with serving(answer(), api=Chooses(choose)) as (api, engine):
        ends = [(await steps_of(engine, a_request(tools=["x"])))[-1] for n in range(15 * SUSPICIOUS)]
        assert engine.capacity().paused is None

    assert all(isinstance(end, Failed) and isinstance(end.failure, BadRequest) for end in ends)
    assert len(api.asked) == 15 * SUSPICIOUS + 4


def blocks(word: str, otherwise: Script) -> Callable[[str, dict[str, Any]], Script]:
    """A firewall that answers 403 to requests with a word in them."""
    page = answer(b"<html>Blocked</html>", status=403, kind="text/html")
    return lambda _, body: page if word in json.dumps(body) else otherwise


async def test_a_request_that_a_firewall_bars_fails_alone() -> None:
    async with serving(answer(), api=Chooses(blocks("DROP TABLE", answer(RESPONSE)))) as (api, engine):
        [barred] = await steps_of(engine, a_request(user="DROP TABLE"))
        assert engine.capacity().paused is None

    assert isinstance(barred, Failed)
    assert isinstance(barred.failure, BadRequest)
    assert len(api.asked) == 2


async def test_a_refusal_is_no_requests_fault_while_nobody_is_served() -> None:
    throttled = answer({"error": {"message": "slow down"}}, status=429)
    async with serving(answer(), api=Chooses(blocks("DROP TABLE", throttled))) as (_, engine):
        ends = [(await steps_of(engine, a_request(user=user)))[-1] for user in ("x", "DROP TABLE", "x")]

    kinds = [type(end.failure) for end in ends if isinstance(end, Failed)]
    assert kinds == [Throttled, Denied, Throttled]


async def test_a_model_for_which_the_simplest_request_is_too_simple_serves_the_others() -> None:
    def choose(_: str, body: dict[str, Any]) -> Script:
        bad, simple = "tools" in body, "user" not in body
        words = "no tool x" if bad else "input_type is missing"
        return answer({"error": {"message": words}}, status=400) if bad or simple else answer(RESPONSE)

    hands = Hands()
    async with serving(answer(), api=Chooses(choose), probe=(CHAT,), clock=hands) as (_, engine):
        hands.move(30_000)
        assert isinstance((await steps_of(engine, a_request(user="u")))[-1], Succeeded)
        ends = [(await steps_of(engine, a_request(user="u", tools=["x"])))[-1] for _ in range(3 * SUSPICIOUS)]
        assert engine.capacity().paused is None

    assert all(isinstance(end, Failed) and isinstance(end.failure, BadRequest) for end in ends)


async def test_a_model_that_thinks_longer_than_the_simplest_request_allows_is_served() -> None:
    words = "Could not finish the message because max_tokens or model output limit was reached."
    async with serving(answer({"error": {"message": words}}, status=400), probe=(CHAT,)) as (_, engine):
        assert engine.capacity().paused is None


async def test_a_limit_whose_value_is_refused_is_kept() -> None:
    words = "max_tokens is too large: 64. This model supports at most 32 completion tokens"
    refusal = answer({"error": {"message": words, "param": "max_tokens", "code": "invalid_value"}}, status=400)
    async with serving(refusal, options={"profile": "generic"}) as (api, engine):
        for _ in range(2):
            await steps_of(engine, a_request())

    assert [[name for name in body if name.startswith("max_")] for _, body in api.asked] == [["max_tokens"]] * 2


async def test_a_word_of_a_refusal_is_no_field_of_the_deployment() -> None:
    words = answer({"error": {"message": "images are not supported by this provider"}}, status=400)
    async with serving(words, options={"body": {"provider": {"order": ["x"]}}}) as (_, engine):
        [last] = await steps_of(engine, a_request())

    assert isinstance(last, Failed)
    assert isinstance(last.failure, BadRequest)


async def test_many_that_are_sent_on_at_once_all_follow() -> None:
    def choose(head: str, _: dict[str, Any]) -> Script:
        return (
            answer(RESPONSE)
            if "/v2/" in head.partition("\r\n")[0]
            else answer(status=308, location="/v2/chat/completions")
        )

    async with serving(answer(), api=Chooses(choose)) as (_, engine):
        ends = await asyncio.gather(*(steps_of(engine, a_request(user=str(n))) for n in range(8)))
        assert engine.capacity().paused is None

    assert all(isinstance(end[-1], Succeeded) for end in ends)


async def test_many_that_fail_at_once_try_the_simplest_once() -> None:
    async with serving(answer({"error": {"message": "broken"}}, status=500)) as (api, engine):
        ends = await asyncio.gather(*(steps_of(engine, a_request(user=str(n))) for n in range(12)))
        tried = [body for _, body in api.asked if body["messages"][0]["content"] == "Hi"]

    assert len(tried) == 1
    assert sum(isinstance(end[-1], Failed) and isinstance(end[-1].failure, Denied) for end in ends) == 13 - SUSPICIOUS


@pytest.mark.parametrize(
    ("base_url", "words"),
    [
        ("host/v1", "must be a URL"),
        ("ftp://host/v1", "must be a URL"),
        ("https:///v1", "must be a URL"),
        ("https://host/v1/chat/completions", "leave out the endpoint /chat/completions"),
        ("https://host/v1/chat/completions/", "leave out the endpoint /chat/completions"),
        ("https://me:secret@host/v1", "leave user and password out"),
        ("https://host/v1#x", "leave out the part after #"),
        ("https://host/v 1", "a space"),
        (" https://host/v1", "a space"),
        ("https://host:x/v1", "no URL"),
    ],
)
def test_an_odd_address_is_refused_with_what_to_do(base_url: str, words: str) -> None:
    toml = f'[deployments.x]\nengine = "openai"\nbase_url = "{base_url}"'

    with pytest.raises(CatalogError) as refused:
        parse(toml)

    assert words in str(refused.value)
    assert "secret" not in str(refused.value)


async def test_a_query_in_the_address_goes_with_every_request() -> None:
    async with (
        serving(answer(RESPONSE)) as (api, _),
        serving(answer(), base_url=f"{api.base_url}/?api-version=3") as (_, engine),
    ):
        await steps_of(engine, a_request())

    assert api.asked[0][0].startswith("POST /v1/chat/completions?api-version=3 ")

"""What a catalog may say, and how its faults are named."""

import pytest

from schemas.catalog import CatalogError, Price, Retry, Route, parse
from schemas.endpoints import CHAT, ENDPOINTS
from schemas.outcome import ALWAYS_FINAL, FAILURE_KINDS

GOOD = """
[models.m]
[[models.m.route]]
deployment = "d"
[deployments.d]
engine = "simulated"
"""


def faults(toml: str) -> list[str]:
    with pytest.raises(CatalogError) as error:
        parse(toml)
    return str(error.value).splitlines()


def test_what_a_catalog_leaves_out_has_the_documented_value() -> None:
    catalog = parse(GOOD)

    model, deployment = catalog.models["m"], catalog.deployments["d"]
    assert (model.endpoints, model.max_output_tokens, model.route) == ((CHAT.path,), 1024, (Route("d", 100),))
    assert (deployment.source, deployment.context_tokens, deployment.options) == ("", 2048, {})
    assert (deployment.max_concurrency, deployment.reserve) == (0, 1)
    assert (deployment.attempt_timeout_s, deployment.progress_timeout_s) == (300.0, 120.0)
    assert (deployment.daily_cap_usd, deployment.price) == (None, None)
    assert (deployment.base_url, deployment.key_env) == (None, None)


def test_a_price_that_is_left_out_is_nothing_and_cached_input_costs_as_other_input() -> None:
    assert parse(GOOD + "[deployments.d.price]\n").deployments["d"].price == Price(0.0, 0.0, None)


def test_an_empty_catalog_serves_nothing() -> None:
    assert (parse("").models, parse("").deployments) == ({}, {})


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[models", "at end of document"),
        ("models = 3", "$.models"),
        ("[modles]", "modles"),
        (GOOD.replace("[models.m]", "[models.m]\nmax_tokens = 3"), "max_tokens"),
        (GOOD.replace('engine = "simulated"', 'engine = "simulated"\nslots = 3'), "slots"),
        (GOOD + "[deployments.d.price]\nin = 3", "`in`"),
        (GOOD.replace('deployment = "d"', 'deployment = "d"\nwieght = 3'), "wieght"),
        (GOOD.replace('deployment = "d"', 'deployment = "d"\nweight = -1'), "weight"),
        (GOOD.replace('engine = "simulated"', ""), "engine"),
        (GOOD.replace("[models.m]", "[models.m]\nendpoints = []"), "endpoints"),
        (GOOD + "daily_cap_usd = -1", "daily_cap_usd"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(toml: str, words: str) -> None:
    [fault] = faults(toml)

    assert words in fault


def test_every_fault_is_named_in_a_line_of_its_own() -> None:
    toml = """
    [models.a]
    endpoints = ["/v1/chat/completions", "/v1/images"]
    [[models.a.route]]
    deployment = "gone"
    [models.b]
    [[models.b.route]]
    deployment = "y"
    weight = 0
    [models.c]
    [[models.c.route]]
    deployment = "x"
    [[models.c.route]]
    deployment = "x"
    weight = 0
    [deployments.x]
    engine = "simulated"
    base_url = "http://x"
    [deployments.y]
    engine = "openai"
    base_url = "http://y"
    key_env = "Y"
    """

    assert faults(toml) == [
        "models.a.route: there is no deployment 'gone'; known: x, y",
        f"models.a.endpoints: '/v1/images' is not one of {', '.join(ENDPOINTS)}",
        "models.b.route: every weight is 0: spares need somebody to stand in for",
        "models.c.route: a deployment is there twice",
        "deployments.x.base_url: the engine 'simulated' has none, only 'openai'",
    ]


def test_a_models_policy_of_retries_is_data() -> None:
    toml = """
    [models.m.retry]
    max_attempts = 6
    backoff_base_s = 2
    backoff_cap_s = 300
    [models.m.retry.attempts]
    timed_out = 2
    throttled = 1
    cut_while_reasoning = 2
    """

    assert parse(GOOD).models["m"].retry == Retry() == Retry(max_attempts=3, backoff_base_s=0.5, backoff_cap_s=60.0)
    assert parse(GOOD + toml).models["m"].retry == Retry(
        max_attempts=6,
        backoff_base_s=2,
        backoff_cap_s=300,
        attempts={"timed_out": 2, "throttled": 1, "cut_while_reasoning": 2},
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("max_attempts = 0", "max_attempts"),
        ("max_attempts = 21", "max_attempts"),
        ("backoff_base_s = 0", "backoff_base_s"),
        ("base_s = 1", "base_s"),
        ("backoff_cap_s = 0.1", "backoff_cap_s: it is 0.1, less than backoff_base_s (0.5)"),
        ("attempts = {timed_out = 0}", "attempts.timed_out: it is 0, it must be 1 to 20"),
        ("attempts = {timed_out = 21}", "attempts.timed_out: it is 21, it must be 1 to 20"),
        (
            "attempts = {timeout = 2}",
            "attempts: there is no class of failure 'timeout'; known: constraint_violated, cut_",
        ),
        (
            "attempts = {bad_request = 2}",
            "attempts.bad_request: it is never tried again, since the same body would fail",
        ),
        ("attempts = {throttled = 2}", "attempts.throttled: such an attempt does not count: it can only be 1"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_named_with_its_place(line: str, words: str) -> None:
    [fault] = faults(GOOD + f"[models.m.retry]\n{line}\n")

    assert words in fault


def test_no_class_that_may_be_tried_again_is_left_out_of_the_known_ones() -> None:
    [fault] = faults(GOOD + "[models.m.retry.attempts]\nx = 1\n")

    known = fault.partition("known: ")[2].split(", ")
    assert set(known) == FAILURE_KINDS - ALWAYS_FINAL
    assert {kind for kind in known if faults_of_one(kind)} == set()


def faults_of_one(kind: str) -> list[str]:
    try:
        parse(GOOD + f"[models.m.retry.attempts]\n{kind} = 1\n")
    except CatalogError as error:
        return [str(error)]
    return []


def test_a_route_to_no_deployment_at_all_says_that_none_is_known() -> None:
    assert faults('[models.m]\n[[models.m.route]]\ndeployment = "d"') == [
        "models.m.route: there is no deployment 'd'; known: none"
    ]


def test_an_api_may_need_no_key() -> None:
    catalog = parse('[deployments.x]\nengine = "openai"\nkey_env = ""')

    assert catalog.deployments["x"].key_env == ""


def test_a_deployment_whose_consumers_could_not_be_named_is_a_fault() -> None:
    longest, longer = "é" * 50, "é" * 51

    assert longest in parse(f'[deployments."{longest}"]\nengine = "simulated"').deployments
    [fault] = faults(f'[deployments."{longer}"]\nengine = "simulated"')
    assert "204 characters, the limit is 200" in fault


@pytest.mark.parametrize("variable", ["INFERMQ_API_KEY", "INFERMQ_NATS_URL"])
def test_no_variable_of_the_worker_itself_is_sent_to_an_api(variable: str) -> None:
    with pytest.raises(CatalogError, match=r"deployments.x.key_env: INFERMQ_… are infermq's own"):
        parse(f'[deployments.x]\nengine = "openai"\nkey_env = "{variable}"')

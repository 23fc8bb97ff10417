"""No key makes one that may do more."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.authorise import MAY
from broker.core.grants import LONGEST_MS, Grant, granted, granted_again
from broker.core.principal import Principal
from schemas.accounts import Key, KeyCreate, Role
from schemas.api import Problem
from schemas.api_keys import ApiKey
from schemas.endpoints import ENDPOINTS
from schemas.job import Lane
from schemas.units import Ms

NOW = Ms(1_000_000)
MODELS, DEPLOYMENTS = ("m", "n", "o"), ("d", "e")


def some(names: Any) -> st.SearchStrategy[Any]:
    return st.none() | st.sets(st.sampled_from(list(names)), min_size=1).map(frozenset)


def listed(names: Any) -> st.SearchStrategy[Any]:
    return some(names).map(lambda found: None if found is None else tuple(sorted(found)))


ENDS = st.none() | st.integers(NOW + 1, NOW + 100).map(Ms)
PRINCIPALS = st.builds(
    Principal,
    tenant=st.just("t"),
    key=st.just("k"),
    role=st.sampled_from(Role),
    models=some(MODELS),
    endpoints=some(ENDPOINTS),
    lanes=st.sets(st.sampled_from(Lane), min_size=1).map(frozenset),
    deployments=some(DEPLOYMENTS),
    expires_ms=ENDS,
)
ASKS = st.builds(
    KeyCreate,
    role=st.sampled_from(Role),
    models=listed(MODELS),
    endpoints=listed(ENDPOINTS),
    lanes=listed(Lane),
    deployments=listed((*DEPLOYMENTS, "*")),
    expires_ms=ENDS,
)
KEYS = st.builds(
    Key,
    id=st.just("a" * 12),
    tenant=st.just("t"),
    role=st.sampled_from(Role),
    models=listed(MODELS),
    endpoints=listed(ENDPOINTS),
    lanes=listed(Lane),
    deployments=listed(DEPLOYMENTS),
    created_ms=st.integers(0, NOW).map(Ms),
    made_by=st.just("t/k"),
    expires_ms=st.none() | st.integers(0, NOW + 100).map(Ms),
)


def assert_no_more(principal: Principal, grant: Grant) -> None:
    made = grant.record(ApiKey("t", "a" * 12, bytes(32)), NOW).principal
    assert MAY[made.role] <= MAY[principal.role] or principal.role is Role.OPERATOR
    for field in ("models", "endpoints", "deployments"):
        own, new = getattr(principal, field), getattr(made, field)
        assert own is None or (new is not None and new <= own), field
    assert made.lanes <= principal.lanes
    assert principal.expires_ms is None or (made.expires_ms is not None and made.expires_ms <= principal.expires_ms)


@given(PRINCIPALS, ASKS)
def test_no_key_makes_one_that_may_do_more(principal: Principal, ask: KeyCreate) -> None:
    grant = granted(principal, ask, NOW)

    if isinstance(grant, Grant):
        assert_no_more(principal, grant)


@given(PRINCIPALS, KEYS)
def test_no_key_replaces_one_that_may_do_more(principal: Principal, key: Key) -> None:
    grant = granted_again(principal, key, NOW)

    if isinstance(grant, Grant):
        assert_no_more(principal, grant)
        assert grant.role is key.role
        for field in ("models", "endpoints", "lanes", "deployments"):
            names = getattr(key, field)
            assert getattr(grant, field) == (None if names is None else frozenset(names))


def an_admin(**changes: Any) -> Principal:
    return Principal(**{"tenant": "t", "key": "k", "role": Role.TENANT_ADMIN, **changes})


def an_operator(**changes: Any) -> Principal:
    return an_admin(role=Role.OPERATOR, **changes)


def test_what_is_asked_for_is_granted() -> None:
    ask = KeyCreate(
        role=Role.PRODUCER,
        models=("m",),
        endpoints=("/v1/embeddings",),
        lanes=(Lane.BULK,),
        expires_in_ms=Ms(5),
        label="ci",
    )

    assert granted(an_admin(), ask, NOW) == Grant(
        role=Role.PRODUCER,
        models=frozenset({"m"}),
        endpoints=frozenset({"/v1/embeddings"}),
        lanes=frozenset({Lane.BULK}),
        expires_ms=Ms(NOW + 5),
        label="ci",
    )


def test_what_is_not_restricted_is_as_for_the_key_that_makes_it() -> None:
    own = an_admin(models=frozenset({"m"}), lanes=frozenset({Lane.BULK}), expires_ms=Ms(NOW + 9))

    assert granted(own, KeyCreate(role=Role.PRODUCER), NOW) == Grant(
        role=Role.PRODUCER, models=frozenset({"m"}), lanes=frozenset({Lane.BULK}), expires_ms=Ms(NOW + 9)
    )


def ask(role: Role, **changes: Any) -> KeyCreate:
    return KeyCreate(role=role, **changes)


OPERATOR = an_operator()


@pytest.mark.parametrize(
    ("principal", "wanted", "code", "field"),
    [
        (an_admin(), ask(Role.OPERATOR), "forbidden", "role"),
        (an_admin(), ask(Role.WORKER, deployments=("d",)), "forbidden", "role"),
        (an_admin(), ask(Role.DEPLOYER), "forbidden", "role"),
        (an_admin(models=frozenset({"m"})), ask(Role.PRODUCER, models=("m", "n")), "forbidden", "models"),
        (an_admin(lanes=frozenset({Lane.BULK})), ask(Role.PRODUCER, lanes=(Lane.STANDARD,)), "forbidden", "lanes"),
        (an_admin(expires_ms=NOW + 1), ask(Role.PRODUCER, expires_ms=Ms(NOW + 2)), "forbidden", "expires_ms"),
        (OPERATOR, ask(Role.WORKER), "bad_request", "deployments"),
        (OPERATOR, ask(Role.WORKER, deployments=("d",), models=("m",)), "bad_request", "models"),
        (OPERATOR, ask(Role.WORKER, deployments=("d",), lanes=(Lane.BULK,)), "bad_request", "lanes"),
        (OPERATOR, ask(Role.PRODUCER, deployments=("d",)), "bad_request", "deployments"),
        (OPERATOR, ask(Role.DEPLOYER, endpoints=("/v1/embeddings",)), "bad_request", "endpoints"),
        (OPERATOR, ask(Role.PRODUCER, endpoints=("/v1/x",)), "bad_request", "endpoints"),
        (OPERATOR, ask(Role.PRODUCER, expires_ms=NOW), "bad_request", "expires_ms"),
        (OPERATOR, ask(Role.PRODUCER, expires_in_ms=Ms(0)), "bad_request", "expires_in_ms"),
        (OPERATOR, ask(Role.PRODUCER, expires_in_ms=Ms(LONGEST_MS + 1)), "bad_request", "expires_in_ms"),
        (OPERATOR, ask(Role.PRODUCER, expires_ms=Ms(NOW + 1), expires_in_ms=Ms(1)), "bad_request", "expires_in_ms"),
    ],
    ids=[
        "operator", "worker", "deployer", "model", "lane", "longer", "no deployment", "worker's models",
        "worker's lanes", "producer's deployments", "deployer's endpoints", "no such endpoint", "past", "no time",
        "in another unit", "two ends",
    ],
)  # fmt: skip
def test_what_is_refused_names_its_field(principal: Principal, wanted: KeyCreate, code: str, field: str) -> None:
    problem = granted(principal, wanted, NOW)

    assert isinstance(problem, Problem)
    assert (problem.code, problem.field) == (code, field)


def test_a_worker_may_be_given_all_deployments_that_there_will_be() -> None:
    grant = granted(an_operator(), KeyCreate(role=Role.WORKER, deployments=("*",)), NOW)

    assert grant == Grant(role=Role.WORKER)


def a_key(**changes: Any) -> Key:
    fields = {"id": "a" * 12, "tenant": "t", "role": Role.PRODUCER, "created_ms": Ms(NOW - 100), "made_by": "t/k"}
    return Key(**{**fields, **changes})


def test_a_key_lives_as_long_as_the_one_that_it_replaces_was_made_for() -> None:
    grant = granted_again(an_admin(), a_key(expires_ms=Ms(NOW + 1)), NOW)

    assert isinstance(grant, Grant)
    assert grant.expires_ms == NOW + 101


@pytest.mark.parametrize(
    ("principal", "key", "code"),
    [
        (an_admin(), a_key(role=Role.OPERATOR), "forbidden"),
        (an_admin(models=frozenset({"m"})), a_key(), "forbidden"),
        (an_admin(models=frozenset({"m"})), a_key(models=("n",)), "forbidden"),
        (an_admin(), a_key(expires_ms=NOW), "key_expired"),
    ],
    ids=["operator's", "all models", "other models", "expired"],
)
def test_a_key_that_may_do_more_or_has_ended_is_not_replaced(principal: Principal, key: Key, code: str) -> None:
    problem = granted_again(principal, key, NOW)

    assert isinstance(problem, Problem)
    assert problem.code == code

"""Who may do what."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.authorise import DOES, GRANTS, MAY, Action, forbidden, may_call, may_grant, out_of_reach
from broker.core.principal import Principal, open_principal
from schemas.accounts import Role
from schemas.job import Lane
from schemas.subjects import Verb

TENANTS_OWN = {Action.SUBMIT, Action.READ_JOBS, Action.CONTROL_JOBS, Action.READ_CATALOG, Action.READ_OWN}
ALLOWED = {
    Role.PRODUCER: TENANTS_OWN,
    Role.TENANT_ADMIN: TENANTS_OWN | {Action.PIN, Action.READ_AUDIT, Action.MANAGE_KEYS, Action.MANAGE_WEBHOOKS},
    Role.WORKER: {Action.SERVE},
    Role.DEPLOYER: {Action.READ_OWN, Action.READ_CATALOG, Action.APPLY_CATALOG, Action.READ_STATUS},
    Role.OPERATOR: set(Action) - {Action.SERVE},
}


def a_principal(role: Role = Role.PRODUCER, **changes: object) -> Principal:
    return Principal(**{"tenant": "t", "key": "k", "role": role, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("role", "action"), list(product(Role, Action)))
def test_a_role_may_do_what_it_is_for(role: Role, action: Action) -> None:
    problem = forbidden(a_principal(role), action)

    assert (problem is None) == (action in ALLOWED[role])
    if problem is not None:
        assert problem.code == "forbidden"
        assert problem.message == f"a key of the role {role} may not {action}"


@given(action=st.sampled_from(sorted(ALLOWED[Role.OPERATOR])), model=st.text(), lane=st.sampled_from(Lane))
def test_an_open_door_lets_everything_through(action: Action, model: str, lane: Lane) -> None:
    assert forbidden(open_principal("t", "k"), action, model=model, lane=lane) is None


def test_a_key_that_names_models_may_use_those_only() -> None:
    principal = a_principal(models=frozenset({"m"}))

    assert forbidden(principal, Action.SUBMIT, model="m") is None
    assert forbidden(principal, Action.READ_JOBS) is None
    refusal = forbidden(principal, Action.SUBMIT, model="n")
    assert refusal is not None
    assert (refusal.code, refusal.field) == ("forbidden", "model")


def test_a_key_that_names_no_models_may_use_none() -> None:
    assert forbidden(a_principal(models=frozenset()), Action.SUBMIT, model="m") is not None


def test_a_key_may_use_its_lanes_only() -> None:
    principal = a_principal(lanes=frozenset({Lane.BULK}))

    assert forbidden(principal, Action.SUBMIT, lane=Lane.BULK) is None
    refusal = forbidden(principal, Action.SUBMIT, lane=Lane.INTERACTIVE)
    assert refusal is not None
    assert (refusal.code, refusal.field) == ("forbidden", "lane")


def test_a_key_that_names_endpoints_may_use_those_only() -> None:
    principal = a_principal(endpoints=frozenset({"/v1/embeddings"}))

    assert forbidden(principal, Action.SUBMIT, endpoint="/v1/embeddings") is None
    refusal = forbidden(principal, Action.SUBMIT, endpoint="/v1/chat/completions")
    assert refusal is not None
    assert (refusal.code, refusal.field) == ("forbidden", "endpoint")
    assert forbidden(a_principal(), Action.SUBMIT, endpoint="/v1/embeddings") is None


@pytest.mark.parametrize("verb", list(Verb))
def test_each_verb_does_something_that_some_role_may(verb: Verb) -> None:
    assert any(may_call(role, verb) for role in Role)


def test_each_role_and_verb_is_in_its_table() -> None:
    assert set(MAY) == set(Role)
    assert set(DOES) == set(Verb)
    assert set(GRANTS) <= set(Role)
    assert frozenset().union(*MAY.values()) == set(Action)


@pytest.mark.parametrize(("maker", "role"), list(product(Role, Role)))
def test_only_operators_make_keys_of_operators_workers_and_deployers(maker: Role, role: Role) -> None:
    problem = may_grant(a_principal(maker), role)

    allowed = maker is Role.OPERATOR or (maker is Role.TENANT_ADMIN and role in {Role.PRODUCER, Role.TENANT_ADMIN})
    assert (problem is None) == allowed


def test_a_role_that_may_not_is_told_so_whatever_models_it_has() -> None:
    refusal = forbidden(a_principal(Role.WORKER, models=frozenset()), Action.SUBMIT, model="m", lane=Lane.BULK)

    assert refusal is not None
    assert refusal.field is None


@pytest.mark.parametrize("role", list(Role))
def test_only_an_operator_reaches_another_tenant(role: Role) -> None:
    problem = out_of_reach(a_principal(role), "other")

    assert (problem is None) == (role is Role.OPERATOR)
    assert out_of_reach(a_principal(role), "t") is None
    assert out_of_reach(a_principal(role), None) is None

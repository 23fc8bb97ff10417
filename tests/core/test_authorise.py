"""Who may do what."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.authorise import Action, forbidden, out_of_reach
from broker.core.principal import Principal, Role, open_principal
from schemas.job import Lane

TENANTS_OWN = {Action.SUBMIT, Action.READ_JOBS, Action.CONTROL_JOBS, Action.READ_CATALOG}
ALLOWED = {
    Role.PRODUCER: TENANTS_OWN,
    Role.TENANT_ADMIN: TENANTS_OWN | {Action.PIN},
    Role.WORKER: set(),
    Role.DEPLOYER: {Action.READ_CATALOG, Action.APPLY_CATALOG, Action.READ_STATUS},
    Role.OPERATOR: set(Action),
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


@given(action=st.sampled_from(Action), model=st.text(), lane=st.sampled_from(Lane))
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

"""Decides who may do what, whichever door the caller came in by.

Which batches and jobs a principal can see is not decided here. Services ask the ledger for its tenant's only, so another
tenant's batch gets the same answer as one that does not exist. An operator may name another tenant (`out_of_reach`).
"""

from enum import StrEnum
from functools import cache
from typing import assert_never

from broker.core.principal import Principal, Role
from schemas.api import Problem
from schemas.job import Lane


class Action(StrEnum):
    """What a principal asks to do, worded to follow "may not"."""

    SUBMIT = "submit jobs"
    """Alone or in a batch, of any lane."""
    PIN = "choose the deployment of a job"
    """With the name of a model such as `MODEL@DEPLOYMENT`."""
    READ_JOBS = "read jobs, batches and results"
    CONTROL_JOBS = "cancel, pause, change or repeat jobs"
    """Those of its own tenant."""
    CONTROL_SYSTEM = "pause models, lanes, deployments or other tenants"
    READ_CATALOG = "read the catalog"
    APPLY_CATALOG = "apply a catalog"
    READ_STATUS = "read the status"
    """It shows the workers and the backlog of all tenants together."""


def forbidden(
    principal: Principal, action: Action, *, model: str | None = None, lane: Lane | None = None
) -> Problem | None:
    """Return why the principal may not do this, with this model and in this lane if one is given. None: it may."""
    if principal.role not in _roles(action):
        return Problem("forbidden", f"a key of the role {principal.role} may not {action}")
    if model is not None and principal.models is not None and model not in principal.models:
        return Problem("forbidden", f"this key may not use the model {model[:200]!r}", "model")
    if lane is not None and lane not in principal.lanes:
        return Problem("forbidden", f"this key may not use the lane {lane}", "lane")
    return None


def out_of_reach(principal: Principal, tenant: str | None) -> Problem | None:
    """Return why the principal may not name this tenant. None: it may. Every principal may name its own."""
    if tenant is None or tenant == principal.tenant or principal.role is Role.OPERATOR:
        return None
    return Problem("forbidden", f"a key of the role {principal.role} reaches its own tenant only", "tenant")


@cache
def _roles(action: Action) -> frozenset[Role]:
    match action:
        case Action.SUBMIT | Action.READ_JOBS | Action.CONTROL_JOBS:
            return frozenset({Role.PRODUCER, Role.TENANT_ADMIN, Role.OPERATOR})
        case Action.READ_CATALOG:
            return frozenset({Role.PRODUCER, Role.TENANT_ADMIN, Role.DEPLOYER, Role.OPERATOR})
        case Action.PIN:
            return frozenset({Role.TENANT_ADMIN, Role.OPERATOR})
        case Action.APPLY_CATALOG | Action.READ_STATUS:
            return frozenset({Role.DEPLOYER, Role.OPERATOR})
        case Action.CONTROL_SYSTEM:
            return frozenset({Role.OPERATOR})
        case _:
            assert_never(action)

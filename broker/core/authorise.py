"""Decides who may do what, whichever door the caller came in by.

Two tables say it: what each role may do, and what each verb of the API does. NATS permissions are made from both.

Which batches and jobs a principal can see is not decided here. Services ask the ledger for its tenant's only, so another
tenant's batch gets the same answer as one that does not exist. An operator may name another tenant (`out_of_reach`).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from broker.core.principal import Principal
from schemas.accounts import Role
from schemas.api import Problem
from schemas.job import Lane
from schemas.subjects import Verb


class Action(StrEnum):
    """What a principal asks to do, worded to follow "may not"."""

    SUBMIT = "submit jobs"
    """Alone or in a batch, of any lane; or send interactive requests."""
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
    READ_AUDIT = "read who changed what"
    READ_OWN = "read about its own key and tenant"
    MANAGE_KEYS = "manage keys"
    """Those of its own tenant."""
    MANAGE_WEBHOOKS = "manage webhooks"
    """Those of its own tenant. Their URLs may hold what only their receivers should know."""
    MANAGE_TENANTS = "manage tenants"
    SERVE = "run jobs"


_TENANTS_OWN: Final = frozenset({Action.SUBMIT, Action.READ_JOBS, Action.CONTROL_JOBS, Action.READ_CATALOG})
MAY: Final[Mapping[Role, frozenset[Action]]] = {
    Role.PRODUCER: _TENANTS_OWN | {Action.READ_OWN},
    Role.TENANT_ADMIN: _TENANTS_OWN
    | {Action.READ_OWN, Action.PIN, Action.READ_AUDIT, Action.MANAGE_KEYS, Action.MANAGE_WEBHOOKS},
    Role.WORKER: frozenset({Action.SERVE}),
    Role.DEPLOYER: frozenset({Action.READ_OWN, Action.READ_CATALOG, Action.APPLY_CATALOG, Action.READ_STATUS}),
    Role.OPERATOR: frozenset(Action) - {Action.SERVE},
}
"""What each role may do."""

DOES: Final[Mapping[Verb, frozenset[Action]]] = {
    Verb.BATCH_CREATE: frozenset({Action.SUBMIT}),
    Verb.BATCH_SEAL: frozenset({Action.SUBMIT}),
    Verb.BATCH_SHOW: frozenset({Action.READ_JOBS}),
    Verb.BATCH_LIST: frozenset({Action.READ_JOBS}),
    Verb.BATCH_RESULTS: frozenset({Action.READ_JOBS}),
    Verb.BATCH_RETRY: frozenset({Action.CONTROL_JOBS}),
    Verb.BATCH_RETRY_CHECK: frozenset({Action.READ_JOBS}),
    Verb.REPLAY: frozenset({Action.CONTROL_JOBS}),
    Verb.REPLAY_ESTIMATE: frozenset({Action.CONTROL_JOBS}),
    Verb.REPLAY_DIFF: frozenset({Action.READ_JOBS}),
    Verb.BATCH_CANCEL: frozenset({Action.CONTROL_JOBS}),
    Verb.JOB_SHOW: frozenset({Action.READ_JOBS}),
    Verb.INSTRUCTION_SHOW: frozenset({Action.READ_JOBS}),
    Verb.INSTRUCTION_LIST: frozenset({Action.READ_JOBS}),
    Verb.JOB_LIST: frozenset({Action.READ_JOBS}),
    Verb.JOB_CANCEL: frozenset({Action.CONTROL_JOBS}),
    Verb.JOB_CHANGE: frozenset({Action.CONTROL_JOBS}),
    Verb.BATCH_CHANGE: frozenset({Action.CONTROL_JOBS}),
    Verb.CANCEL: frozenset({Action.CONTROL_JOBS}),
    Verb.CANCEL_COUNT: frozenset({Action.CONTROL_JOBS}),
    Verb.DEAD_LIST: frozenset({Action.READ_JOBS}),
    Verb.DEAD_EACH: frozenset({Action.READ_JOBS}),
    Verb.DEAD_SHOW: frozenset({Action.READ_JOBS}),
    Verb.DEAD_REQUEUE: frozenset({Action.CONTROL_JOBS}),
    Verb.DEAD_DROP: frozenset({Action.CONTROL_JOBS}),
    Verb.CATALOG_APPLY: frozenset({Action.APPLY_CATALOG}),
    Verb.CATALOG_SHOW: frozenset({Action.READ_CATALOG}),
    Verb.STATUS: frozenset({Action.READ_STATUS}),
    Verb.PAUSE: frozenset({Action.CONTROL_JOBS, Action.CONTROL_SYSTEM}),
    Verb.RESUME: frozenset({Action.CONTROL_JOBS, Action.CONTROL_SYSTEM}),
    Verb.PAUSES: frozenset({Action.READ_JOBS}),
    Verb.AUDIT: frozenset({Action.READ_AUDIT}),
    Verb.TENANT_CREATE: frozenset({Action.MANAGE_TENANTS}),
    Verb.TENANT_LIST: frozenset({Action.MANAGE_TENANTS}),
    Verb.TENANT_SHOW: frozenset({Action.READ_OWN}),
    Verb.TENANT_DISABLE: frozenset({Action.MANAGE_TENANTS}),
    Verb.TENANT_ENABLE: frozenset({Action.MANAGE_TENANTS}),
    Verb.KEY_CREATE: frozenset({Action.MANAGE_KEYS}),
    Verb.KEY_LIST: frozenset({Action.MANAGE_KEYS}),
    Verb.KEY_SHOW: frozenset({Action.READ_OWN, Action.MANAGE_KEYS}),
    Verb.KEY_REVOKE: frozenset({Action.MANAGE_KEYS}),
    Verb.KEY_ROTATE: frozenset({Action.MANAGE_KEYS}),
    Verb.WEBHOOK_CREATE: frozenset({Action.MANAGE_WEBHOOKS}),
    Verb.WEBHOOK_LIST: frozenset({Action.MANAGE_WEBHOOKS}),
    Verb.WEBHOOK_SHOW: frozenset({Action.MANAGE_WEBHOOKS}),
    Verb.WEBHOOK_CHANGE: frozenset({Action.MANAGE_WEBHOOKS}),
    Verb.WEBHOOK_ROTATE: frozenset({Action.MANAGE_WEBHOOKS}),
    Verb.WEBHOOK_DELETE: frozenset({Action.MANAGE_WEBHOOKS}),
    Verb.WEBHOOK_TEST: frozenset({Action.MANAGE_WEBHOOKS}),
    Verb.WEBHOOK_DELIVERIES: frozenset({Action.MANAGE_WEBHOOKS}),
    Verb.WEBHOOK_RESEND: frozenset({Action.MANAGE_WEBHOOKS}),
}
"""What each verb does, depending on what it is about: a role that may do none of it may not call it."""

GRANTS: Final[Mapping[Role, frozenset[Role]]] = {
    Role.TENANT_ADMIN: frozenset({Role.PRODUCER, Role.TENANT_ADMIN}),
    Role.OPERATOR: frozenset(Role),
}
"""The roles of the keys that a role may make, replace and revoke."""


def may_call(role: Role, verb: Verb) -> bool:
    """Say whether a role may call a verb at all."""
    return not DOES[verb].isdisjoint(MAY[role])


def forbidden(
    principal: Principal,
    action: Action,
    *,
    model: str | None = None,
    lane: Lane | None = None,
    endpoint: str | None = None,
) -> Problem | None:
    """Return why the principal may not do this, with this model, in this lane and at this endpoint if one is given.

    None: it may.
    """
    if action not in MAY[principal.role]:
        return Problem("forbidden", f"a key of the role {principal.role} may not {action}")
    if model is not None and principal.models is not None and model not in principal.models:
        return Problem("forbidden", f"this key may not use the model {model[:200]!r}", "model")
    if lane is not None and lane not in principal.lanes:
        return Problem("forbidden", f"this key may not use the lane {lane}", "lane")
    if endpoint is not None and principal.endpoints is not None and endpoint not in principal.endpoints:
        return Problem("forbidden", f"this key may not use the endpoint {endpoint[:200]!r}", "endpoint")
    return None


def out_of_reach(principal: Principal, tenant: str | None) -> Problem | None:
    """Return why the principal may not name this tenant. None: it may. Every principal may name its own."""
    if tenant is None or tenant == principal.tenant or principal.role is Role.OPERATOR:
        return None
    return Problem("forbidden", f"a key of the role {principal.role} reaches its own tenant only", "tenant")


def may_grant(principal: Principal, role: Role) -> Problem | None:
    """Return why the principal may not make, replace or revoke keys of this role. None: it may."""
    allowed = GRANTS.get(principal.role, frozenset())
    if role in allowed:
        return None
    return Problem("forbidden", f"a key of the role {principal.role} may not manage keys of the role {role}", "role")

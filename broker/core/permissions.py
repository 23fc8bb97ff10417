"""Decides what a connection may publish and hear, from what its key is for.

The tokens of tenant and key in a subject are pinned here, so whoever receives a message knows who sent it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from broker.core.accounts import Account
from broker.core.authorise import MAY, Action, may_call
from broker.core.principal import Principal
from schemas import subjects
from schemas.accounts import Role
from schemas.job import Lane
from schemas.subjects import CATALOG_BUCKET, NOW, RUN, WORKERS_BUCKET, Verb, token

_MOST_PAIRS = 100
"""The most pairs of lane and model that are listed one by one. Admission checks each job anyway."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """Where a connection lives, and the subjects that it may use."""

    account: Account
    key: str
    """The id of its key, by which it is found again when it must end."""
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def permissions_of(principal: Principal) -> Permissions:
    """Return what the connections of a key may do."""
    if principal.role is Role.WORKER:
        publish, subscribe = _of_worker(principal), _heard_by_worker(principal)
        account = Account.WORKERS
    else:
        publish, subscribe = _of_tenant(principal), _heard_by_tenant(principal)
        account = Account.TENANTS
    inbox = f"{subjects.inbox_prefix(principal.tenant, principal.key)}.>"
    return Permissions(account, principal.key, tuple(publish), (inbox, *subscribe))


def _of_tenant(principal: Principal) -> Iterator[str]:
    who = f"{token(principal.tenant)}.{token(principal.key)}"
    for verb in Verb:
        if may_call(principal.role, verb):
            yield f"infermq.api.{verb}.{who}"
    if not _submits(principal):
        return
    models = ["*"] if principal.models is None else [token(model) for model in sorted(principal.models)]
    lanes = [lane for lane in Lane if lane in principal.lanes]
    if len(models) * len(lanes) > _MOST_PAIRS:
        models = ["*"]
    for model in models:
        for lane in lanes:
            yield f"infermq.submit.{lane}.{model}.{who}"
        if Lane.INTERACTIVE in lanes:
            yield f"infermq.infer.{model}.{who}"


def _heard_by_tenant(principal: Principal) -> Iterator[str]:
    if _submits(principal):
        yield f"infermq.result.{token(principal.tenant)}.>"


def _of_worker(principal: Principal) -> Iterator[str]:
    for name in _deployments(principal):
        for stream in (RUN, NOW):
            yield f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"
        yield f"$JS.ACK.{RUN}.{name}.*.*.*.*.*"  # with a domain in front, the same words could name another consumer
        yield f"infermq.outcome.{name}"
        yield f"infermq.reply.{name}.*.*"
        yield f"$KV.{WORKERS_BUCKET}.{name}.{token(principal.key)}.*"
        yield f"{_READ_CATALOG}.deployment.{name}"
        yield f"{_READ_CATALOG}.pool.{name}"
    yield f"{_READ_CATALOG}.revision"


def _heard_by_worker(principal: Principal) -> Iterator[str]:
    for name in _deployments(principal):
        yield f"infermq.ctl.cancel.{name}"
        yield f"infermq.ctl.abort.{name}"
        yield f"infermq.ctl.wanted.{name}"
        yield f"infermq.ward.{name}.{token(principal.key)}.*"
        yield f"$KV.{CATALOG_BUCKET}.deployment.{name}"
    yield f"$KV.{CATALOG_BUCKET}.revision"


_READ_CATALOG = f"$JS.API.DIRECT.GET.KV_{CATALOG_BUCKET}.$KV.{CATALOG_BUCKET}"


def _deployments(principal: Principal) -> list[str]:
    return ["*"] if principal.deployments is None else [token(name) for name in sorted(principal.deployments)]


def _submits(principal: Principal) -> bool:
    return Action.SUBMIT in MAY[principal.role]

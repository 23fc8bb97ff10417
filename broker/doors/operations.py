"""The API's verbs: of each what is asked, and the use-case that answers. One table for every door."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from broker.core.principal import Principal
from broker.service import Services, WebhookService
from schemas.accounts import (
    KeyCreate,
    KeyList,
    KeyRef,
    KeyRevoke,
    KeyRotate,
    TenantCreate,
    TenantDisable,
    TenantList,
    TenantRef,
)
from schemas.api import (
    BatchCreate,
    BatchList,
    BatchRef,
    BatchResults,
    BatchSeal,
    CatalogApply,
    JobCancel,
    JobRef,
    Nothing,
    Problem,
)
from schemas.cancel import CancelChoice, CancelMany
from schemas.changes import BatchChange, JobChange
from schemas.codec import place_of
from schemas.control import AuditList, PauseAsk, ResumeAsk
from schemas.dead import DeadDrop, DeadEach, DeadList, DeadRef, DeadRequeue
from schemas.instructions import InstructionList, InstructionRef
from schemas.listing import JobList
from schemas.repeats import BatchRetry, Replay, ReplayDiff, ReplayEstimateAsk, RetryCheck
from schemas.subjects import Verb
from schemas.webhooks import (
    DeliveryList,
    DeliveryResend,
    WebhookChange,
    WebhookCreate,
    WebhookList,
    WebhookRef,
    WebhookRotate,
)

Ask = TypeVar("Ask", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Operation(Generic[Ask]):
    """The type of a verb's request, and the use-case that answers it."""

    request: type[Ask]
    use_case: Callable[[Principal, Ask], Awaitable[msgspec.Struct]]


def operations(services: Services) -> Mapping[Verb, Operation[Any]]:
    """Map every verb of the API to its operation."""
    return {
        Verb.BATCH_CREATE: Operation(BatchCreate, services.batches.create),
        Verb.BATCH_SEAL: Operation(BatchSeal, services.batches.seal),
        Verb.BATCH_SHOW: Operation(BatchRef, services.batches.show),
        Verb.BATCH_LIST: Operation(BatchList, services.batches.list),
        Verb.BATCH_RESULTS: Operation(BatchResults, services.batches.results),
        Verb.BATCH_RETRY: Operation(BatchRetry, services.repeats.retry),
        Verb.REPLAY: Operation(Replay, services.repeats.replay),
        Verb.REPLAY_ESTIMATE: Operation(ReplayEstimateAsk, services.repeats.estimate),
        Verb.REPLAY_DIFF: Operation(ReplayDiff, services.repeats.differences),
        Verb.BATCH_RETRY_CHECK: Operation(RetryCheck, services.repeats.check),
        Verb.JOB_SHOW: Operation(JobRef, services.jobs.show),
        Verb.INSTRUCTION_SHOW: Operation(InstructionRef, services.instructions.show),
        Verb.INSTRUCTION_LIST: Operation(InstructionList, services.instructions.list),
        Verb.JOB_LIST: Operation(JobList, services.jobs.list),
        Verb.BATCH_CANCEL: Operation(BatchRef, services.cancels.cancel_batch),
        Verb.CANCEL: Operation(CancelMany, services.cancels.cancel_many),
        Verb.CANCEL_COUNT: Operation(CancelChoice, services.cancels.count),
        Verb.JOB_CANCEL: Operation(JobCancel, services.cancels.cancel_jobs),
        Verb.JOB_CHANGE: Operation(JobChange, services.changes.change_job),
        Verb.BATCH_CHANGE: Operation(BatchChange, services.changes.change_batch),
        Verb.DEAD_LIST: Operation(DeadList, services.dead_letters.groups),
        Verb.DEAD_EACH: Operation(DeadEach, services.dead_letters.each),
        Verb.DEAD_SHOW: Operation(DeadRef, services.dead_letters.show),
        Verb.DEAD_REQUEUE: Operation(DeadRequeue, services.dead_letters.requeue),
        Verb.DEAD_DROP: Operation(DeadDrop, services.dead_letters.drop),
        Verb.CATALOG_APPLY: Operation(CatalogApply, services.catalogs.apply),
        Verb.CATALOG_SHOW: Operation(Nothing, lambda principal, _: services.catalogs.show(principal)),
        Verb.PAUSE: Operation(PauseAsk, services.controls.pause),
        Verb.RESUME: Operation(ResumeAsk, services.controls.resume),
        Verb.PAUSES: Operation(Nothing, lambda principal, _: services.controls.pauses(principal)),
        Verb.AUDIT: Operation(AuditList, services.controls.changes),
        Verb.TENANT_CREATE: Operation(TenantCreate, services.tenants.create),
        Verb.TENANT_LIST: Operation(TenantList, services.tenants.list),
        Verb.TENANT_SHOW: Operation(TenantRef, services.tenants.show),
        Verb.TENANT_DISABLE: Operation(TenantDisable, services.tenants.disable),
        Verb.TENANT_ENABLE: Operation(TenantRef, services.tenants.enable),
        Verb.KEY_CREATE: Operation(KeyCreate, services.keys.create),
        Verb.KEY_LIST: Operation(KeyList, services.keys.list),
        Verb.KEY_SHOW: Operation(KeyRef, services.keys.show),
        Verb.KEY_REVOKE: Operation(KeyRevoke, services.keys.revoke),
        Verb.KEY_ROTATE: Operation(KeyRotate, services.keys.rotate),
        **_of_webhooks(services.webhooks),
        Verb.STATUS: Operation(Nothing, lambda principal, _: services.status.show(principal)),
    }


def _of_webhooks(webhooks: WebhookService) -> Mapping[Verb, Operation[Any]]:
    return {
        Verb.WEBHOOK_CREATE: Operation(WebhookCreate, webhooks.create),
        Verb.WEBHOOK_LIST: Operation(WebhookList, webhooks.list),
        Verb.WEBHOOK_SHOW: Operation(WebhookRef, webhooks.show),
        Verb.WEBHOOK_CHANGE: Operation(WebhookChange, webhooks.change),
        Verb.WEBHOOK_ROTATE: Operation(WebhookRotate, webhooks.rotate),
        Verb.WEBHOOK_DELETE: Operation(WebhookRef, webhooks.delete),
        Verb.WEBHOOK_TEST: Operation(WebhookRef, webhooks.test),
        Verb.WEBHOOK_DELIVERIES: Operation(DeliveryList, webhooks.deliveries),
        Verb.WEBHOOK_RESEND: Operation(DeliveryResend, webhooks.resend),
    }


def invalid(message: str, *, within: str = "") -> Problem:
    """Describe a request that cannot be decoded. The message is msgspec's; what was decoded lies in it at `within`."""
    what, path = place_of(message)
    field = path.removeprefix(within).removeprefix(".")
    if not field and "got `bytes`" in what:
        what = "the request is not a JSON object"
    return Problem("bad_request", what, field or None)

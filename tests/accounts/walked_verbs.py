"""Calls of every verb of the API, about the things of any tenant."""

from collections.abc import Callable, Mapping
from uuid import UUID

import msgspec

from schemas import api, cancel, changes, control, dead, instructions, listing, repeats, webhooks
from schemas.accounts import (
    KeyCreate,
    KeyList,
    KeyRef,
    KeyRevoke,
    KeyRotate,
    Role,
    TenantCreate,
    TenantDisable,
    TenantList,
    TenantRef,
)
from schemas.control import PauseKind
from schemas.ids import uuid7
from schemas.subjects import Verb
from tests.accounts.walked import CATALOG
from tests.builders import an_id, now


class Things(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant has, or what nobody has."""

    tenant: str
    batch: UUID
    """Its jobs wait."""
    failed: UUID
    """A batch whose job has failed."""
    job: UUID
    failed_job: UUID
    instruction: UUID
    dead: UUID
    key: str
    webhook: UUID
    delivery: UUID

    @property
    def names(self) -> list[str]:
        """The longest first, since one may be a part of another."""
        return sorted((str(value) for value in msgspec.structs.astuple(self)), key=len, reverse=True)


def nobodys() -> Things:
    """What is not there. Ids are as long and as old as real ones."""
    batch, failed, job, failed_job, instruction, letter, webhook, delivery = (
        uuid7(now(), an_id().int & (1 << 79) - 1) for _ in range(8)
    )
    return Things(
        tenant="none",
        batch=batch,
        failed=failed,
        job=job,
        failed_job=failed_job,
        instruction=instruction,
        dead=letter,
        key="nobodynobody",
        webhook=webhook,
        delivery=delivery,
    )


Examples = Callable[[Things], tuple[msgspec.Struct, ...]]
CALLS: Mapping[Verb, Examples] = {
    Verb.BATCH_CREATE: lambda of: (api.BatchCreate(id=an_id()), api.BatchCreate(id=an_id(), webhook=of.webhook)),
    Verb.BATCH_SEAL: lambda of: (api.BatchSeal(of.batch, 5), api.BatchSeal(of.failed, 1)),
    Verb.BATCH_SHOW: lambda of: (api.BatchRef(of.batch), api.BatchRef(of.failed)),
    Verb.BATCH_LIST: lambda of: (api.BatchList(tenant=of.tenant), api.BatchList(before=of.batch)),
    Verb.BATCH_RESULTS: lambda of: (api.BatchResults(of.failed), api.BatchResults(of.batch, own=True)),
    Verb.BATCH_RETRY: lambda of: (repeats.BatchRetry(id=an_id(), batch=of.failed),),
    Verb.BATCH_RETRY_CHECK: lambda of: (repeats.RetryCheck(batch=of.failed, custom_ids=("a",)),),
    Verb.REPLAY: lambda of: (
        repeats.Replay(id=an_id(), jobs=(of.failed_job,)),
        repeats.Replay(id=an_id(), filter=listing.JobFilter(batch=of.failed)),
    ),
    Verb.REPLAY_ESTIMATE: lambda of: (
        repeats.ReplayEstimateAsk(jobs=(of.failed_job,)),
        repeats.ReplayEstimateAsk(filter=listing.JobFilter(batch=of.failed)),
    ),
    Verb.REPLAY_DIFF: lambda of: (repeats.ReplayDiff(of.failed),),
    Verb.BATCH_CANCEL: lambda of: (api.BatchRef(of.batch),),
    Verb.JOB_SHOW: lambda of: (api.JobRef(of.job), api.JobRef(of.failed_job)),
    Verb.INSTRUCTION_SHOW: lambda of: (instructions.InstructionRef(of.instruction),),
    Verb.INSTRUCTION_LIST: lambda of: (instructions.InstructionList(before=of.instruction),),
    Verb.JOB_LIST: lambda of: (
        listing.JobList(tenant=of.tenant),
        listing.JobList(filter=listing.JobFilter(batch=of.batch)),
        listing.JobList(before=of.job),
    ),
    Verb.JOB_CANCEL: lambda of: (api.JobCancel((of.job, of.failed_job)),),
    Verb.JOB_CHANGE: lambda of: (changes.JobChange(of.job, changes.Change(priority=1)),),
    Verb.BATCH_CHANGE: lambda of: (changes.BatchChange(an_id(), of.batch, changes.Change(priority=1)),),
    Verb.CANCEL: lambda of: (
        cancel.CancelMany(id=an_id(), tenant=of.tenant),
        cancel.CancelMany(id=an_id(), batch=of.batch),
    ),
    Verb.CANCEL_COUNT: lambda of: (cancel.CancelChoice(tenant=of.tenant), cancel.CancelChoice(batch=of.batch)),
    Verb.DEAD_LIST: lambda of: (dead.DeadList(filter=dead.DeadFilter(tenant=of.tenant)),),
    Verb.DEAD_EACH: lambda of: (
        dead.DeadEach(filter=dead.DeadFilter(tenant=of.tenant)),
        dead.DeadEach(filter=dead.DeadFilter(batch=of.failed)),
    ),
    Verb.DEAD_SHOW: lambda of: (dead.DeadRef(of.dead),),
    Verb.DEAD_REQUEUE: lambda of: (dead.DeadRequeue(ids=(of.dead,)),),
    Verb.DEAD_DROP: lambda of: (dead.DeadDrop(ids=(of.dead,)),),
    Verb.CATALOG_APPLY: lambda _: (api.CatalogApply(CATALOG, dry_run=True),),
    Verb.CATALOG_SHOW: lambda _: (api.Nothing(),),
    Verb.STATUS: lambda _: (api.Nothing(),),
    Verb.PAUSE: lambda of: (
        control.PauseAsk(PauseKind.BATCH, str(of.batch)),
        control.PauseAsk(PauseKind.TENANT, of.tenant),
    ),
    Verb.RESUME: lambda of: (
        control.ResumeAsk(PauseKind.BATCH, str(of.batch)),
        control.ResumeAsk(PauseKind.TENANT, of.tenant),
    ),
    Verb.PAUSES: lambda _: (api.Nothing(),),
    Verb.AUDIT: lambda _: (control.AuditList(),),
    Verb.TENANT_CREATE: lambda of: (TenantCreate(of.tenant),),
    Verb.TENANT_LIST: lambda of: (TenantList(after=of.tenant),),
    Verb.TENANT_SHOW: lambda of: (TenantRef(of.tenant),),
    Verb.TENANT_DISABLE: lambda of: (TenantDisable(of.tenant),),
    Verb.TENANT_ENABLE: lambda of: (TenantRef(of.tenant),),
    Verb.KEY_CREATE: lambda of: (KeyCreate(role=Role.PRODUCER, tenant=of.tenant),),
    Verb.KEY_LIST: lambda of: (KeyList(tenant=of.tenant), KeyList(after=of.key)),
    Verb.KEY_SHOW: lambda of: (KeyRef(of.key), KeyRef(of.key, of.tenant)),
    Verb.KEY_REVOKE: lambda of: (KeyRevoke(of.key), KeyRevoke(of.key, of.tenant)),
    Verb.KEY_ROTATE: lambda of: (KeyRotate(of.key), KeyRotate(of.key, of.tenant)),
    Verb.WEBHOOK_CREATE: lambda of: (webhooks.WebhookCreate(url="https://walk.example", tenant=of.tenant),),
    Verb.WEBHOOK_LIST: lambda of: (webhooks.WebhookList(of.tenant), webhooks.WebhookList()),
    Verb.WEBHOOK_SHOW: lambda of: (webhooks.WebhookRef(of.webhook), webhooks.WebhookRef(of.webhook, of.tenant)),
    Verb.WEBHOOK_CHANGE: lambda of: (
        webhooks.WebhookChange(id=of.webhook, label="walked"),
        webhooks.WebhookChange(id=of.webhook, label="walked", tenant=of.tenant),
    ),
    Verb.WEBHOOK_ROTATE: lambda of: (
        webhooks.WebhookRotate(of.webhook),
        webhooks.WebhookRotate(of.webhook, tenant=of.tenant),
    ),
    Verb.WEBHOOK_TEST: lambda of: (webhooks.WebhookRef(of.webhook), webhooks.WebhookRef(of.webhook, of.tenant)),
    Verb.WEBHOOK_DELIVERIES: lambda of: (
        webhooks.DeliveryList(webhook=of.webhook),
        webhooks.DeliveryList(id=of.delivery),
        webhooks.DeliveryList(before=of.delivery, tenant=of.tenant),
    ),
    Verb.WEBHOOK_RESEND: lambda of: (
        webhooks.DeliveryResend(ids=(of.delivery,)),
        webhooks.DeliveryResend(failed_of=of.webhook, tenant=of.tenant),
    ),
    Verb.WEBHOOK_DELETE: lambda of: (webhooks.WebhookRef(of.webhook),),
}
"""Each verb about some tenant's things, by every field that can name one."""
LISTS = {
    *(Verb.BATCH_LIST, Verb.JOB_LIST, Verb.INSTRUCTION_LIST, Verb.KEY_LIST, Verb.TENANT_LIST, Verb.DEAD_LIST),
    *(Verb.DEAD_EACH, Verb.AUDIT, Verb.PAUSES, Verb.STATUS, Verb.CATALOG_SHOW, Verb.CATALOG_APPLY),
    *(Verb.WEBHOOK_CREATE, Verb.WEBHOOK_LIST, Verb.WEBHOOK_DELIVERIES, Verb.WEBHOOK_RESEND),
}
"""Their answers are not about one thing that may be there or not."""

"""Webhooks: who is told of what, at least once, whatever is killed, and what is seen of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from broker.core.principal import Principal, open_principal
from broker.core.records import Final, Pick, Verdict
from broker.core.targets import Targets
from broker.metrics import BrokerMetrics
from broker.ports import Ledger
from broker.posting import Posting
from broker.roles.webhooks import Webhooks
from broker.service import BatchService, WebhookService
from broker.service.refusal import Refusal
from schemas.accounts import Role
from schemas.api import BatchCreate, State
from schemas.job import Lane
from schemas.outcome import Outcome, Refused
from schemas.units import Ms
from schemas.webhooks import (
    MOST_ENDPOINTS,
    DeliveryList,
    DeliveryResend,
    DeliveryStatus,
    EventType,
    WebhookChange,
    WebhookCreate,
    WebhookList,
    WebhookMade,
    WebhookRef,
    WebhookRotate,
)
from tests.builders import a_success, an_entropy, an_entry, an_id, now
from tests.contract.ledger.test_file_batches import a_line, given, stored
from tests.contract.ledger.test_retries import carry_out, somebody
from tests.settling import a_verdict
from tests.system import CATALOG, until

SECRET = bytes(range(32))
OPERATOR = open_principal("default", "k")
ALL = tuple(EventType)
LOCAL = Targets.of(["127.0.0.0/8"], http=True)
NO_WAIT = 0.02


def a_service(ledger: Ledger, *, targets: Targets = LOCAL) -> WebhookService:
    return WebhookService(
        ledger=ledger.webhooks, targets=targets, clock=now, entropy=an_entropy, secret=lambda: SECRET
    )


async def made(ledger: Ledger, url: str = "https://example.com", events: Sequence[EventType] = ALL) -> UUID:
    answer = await a_service(ledger).create(OPERATOR, WebhookCreate(url=url, events=tuple(events)))
    return answer.webhook.id


async def told(ledger: Ledger, **changes: Any) -> list[tuple[str, bytes]]:
    """What endpoints are told, the oldest first."""
    found = await ledger.webhooks.deliveries(DeliveryList(**changes), "default")
    return [(one.type, bytes(one.data).replace(b" ", b"")) for one in reversed(found.deliveries)]


async def run(ledger: Ledger, outcome: Outcome | None = None, **changes: Any) -> UUID:
    """Submit a job and end it."""
    entry = an_entry(**changes)
    await ledger.intake.admit([entry])
    await ledger.settlement.settle([await dispatched(ledger, entry, outcome or a_success())], now=now())
    return entry.id


async def dispatched(ledger: Ledger, entry: Any, outcome: Outcome) -> Verdict:
    term = await ledger.leadership.lead("b", lease_ms=60_000)
    assert term is not None
    pick = Pick(entry.flow, entry.place, "d")
    [attempt] = await ledger.attempts.dispatch([pick], term=term, controls=1, now=now())
    return a_verdict(attempt, outcome)


async def a_batch(ledger: Ledger, *, jobs: int = 1, webhook: UUID | None = None) -> UUID:
    batch = (await ledger.batches.create(BatchCreate(id=an_id(), webhook=webhook), "default", now())).id
    await ledger.batches.seal(batch, "default", jobs, now())
    return batch


@asynccontextmanager
async def a_role(ledger: Ledger, *, claim_ms: int = 30_000, clock: Any = now) -> AsyncIterator[Webhooks]:
    async with Posting.opened(LOCAL, agent="test") as posting:
        role = Webhooks(
            ledger=ledger.deliveries, post=posting.post, metrics=BrokerMetrics(), clock=clock, unit=lambda: 0.0,
            every_s=NO_WAIT, claim_ms=Ms(claim_ms),
        )  # fmt: skip
        serving = asyncio.create_task(role.serve())
        try:
            yield role
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


# who is told of what


async def test_the_end_of_a_batch_is_told_in_the_transaction_of_its_last_job(ledger: Ledger) -> None:
    await made(ledger)
    batch = await a_batch(ledger)
    assert await told(ledger) == []

    await run(ledger, batch=batch)

    assert await told(ledger) == [("batch.completed", f'{{"id":"{batch}","batch_id":"{batch}"}}'.encode())]


async def test_a_batch_that_was_sealed_after_its_last_job_is_told_of_too(ledger: Ledger) -> None:
    await made(ledger)

    await a_batch(ledger, jobs=0)

    assert [what for what, _ in await told(ledger)] == ["batch.completed"]


async def test_a_cancelled_batch_is_told_as_such_once(ledger: Ledger) -> None:
    await made(ledger)
    batch = (await ledger.batches.create(BatchCreate(id=an_id()), "default", now())).id

    await ledger.cancels.cancel_batch(batch, "default", somebody())
    await ledger.cancels.cancel_batch(batch, "default", somebody())

    assert [what for what, _ in await told(ledger)] == ["batch.cancelled"]


async def test_a_batch_with_expired_jobs_is_told_as_expired(ledger: Ledger) -> None:
    await made(ledger)
    batch = await a_batch(ledger, jobs=2)
    late = an_entry(batch=batch)
    await ledger.intake.admit([late])
    expired = Verdict(job=late.id, attempt=None, transition=Final(State.EXPIRED, None, None), executed=None)
    await ledger.settlement.settle([expired], now=now())

    await run(ledger, batch=batch)

    assert [what for what, _ in await told(ledger)] == ["batch.expired"]


async def test_a_batch_of_a_bad_file_is_told_as_failed_by_the_id_that_openais_clients_know(ledger: Ledger) -> None:
    await ledger.catalogs.apply(CATALOG.format(slots=4, options=""), "default", now())
    await made(ledger)
    file = await stored(ledger, a_line(1) + b"\n{")
    batch = await given(ledger, file.id)

    await carry_out(ledger)

    data = f'{{"id":"batch_{batch.hex}","batch_id":"{batch}"}}'.encode()
    assert await told(ledger) == [("batch.failed", data)]


async def test_a_job_in_no_batch_is_told_of_however_it_ends(ledger: Ledger) -> None:
    await made(ledger)

    first = await run(ledger, custom_id="a")
    refused = an_entry(refused=Refused(code="unknown_model", message="no"))
    await ledger.intake.admit([refused])
    third = an_entry()
    await ledger.intake.admit([third])
    await ledger.cancels.cancel_jobs([third.id], "default", now())

    assert sorted(await told(ledger)) == [
        ("job.settled", f'{{"id":"{first}","state":"succeeded","custom_id":"a"}}'.encode()),
        ("job.settled", f'{{"id":"{refused.id}","state":"failed","custom_id":null}}'.encode()),
        ("job.settled", f'{{"id":"{third.id}","state":"cancelled","custom_id":null}}'.encode()),
    ]


async def test_a_job_that_somebody_waits_for_is_not_told_of(ledger: Ledger) -> None:
    await made(ledger)

    await run(ledger, lane=Lane.INTERACTIVE)

    assert await told(ledger) == []


async def test_an_endpoint_is_told_only_of_what_it_listens_to(ledger: Ledger) -> None:
    listens = await made(ledger, events=[EventType.BATCH_COMPLETED])
    named = await made(ledger, events=[])
    await made(ledger, events=[EventType.BATCH_FAILED])
    disabled = await made(ledger)
    await a_service(ledger).change(OPERATOR, WebhookChange(id=disabled, disabled=True))

    await a_batch(ledger, jobs=0)
    await a_batch(ledger, jobs=0, webhook=named)
    await run(ledger)

    assert [len(await told(ledger, webhook=one)) for one in (listens, named, disabled)] == [2, 1, 0]
    assert len(await told(ledger)) == 3


async def test_both_endpoints_that_are_told_of_an_event_know_it_by_one_id(ledger: Ledger) -> None:
    await made(ledger)
    await made(ledger)

    await a_batch(ledger, jobs=0)

    found = (await ledger.webhooks.deliveries(DeliveryList(), "default")).deliveries
    assert len({one.event for one in found}) == 1
    assert len({one.id for one in found}) == 2


async def has_tried(ledger: Ledger, number: int) -> bool:
    [found] = (await ledger.webhooks.deliveries(DeliveryList(limit=1), "default")).deliveries
    return len(found.tries) >= number


async def until_tried(ledger: Ledger, number: int) -> Any:
    await until(lambda: has_tried(ledger, number), f"it was tried {number} times")
    [found] = (await ledger.webhooks.deliveries(DeliveryList(limit=1), "default")).deliveries
    return found


async def test_what_is_wrong_with_a_url_is_said_when_it_is_registered_or_changed(ledger: Ledger) -> None:
    service = a_service(ledger, targets=Targets())
    webhook = (await service.create(OPERATOR, WebhookCreate(url="https://example.com"))).webhook.id

    for url in ("http://example.com", "https://127.0.0.1"):
        for call in (
            service.create(OPERATOR, WebhookCreate(url=url)),
            service.change(OPERATOR, WebhookChange(id=webhook, url=url)),
        ):
            with pytest.raises(Refusal) as refused:
                await call
            assert (refused.value.problem.code, refused.value.problem.field) == ("bad_target", "url")
            assert "--webhook-allow" in refused.value.problem.message


async def test_a_tenant_has_a_bounded_number_of_endpoints(ledger: Ledger) -> None:
    for _ in range(MOST_ENDPOINTS):
        await made(ledger)

    with pytest.raises(Refusal) as refused:
        await made(ledger)

    assert (refused.value.problem.code, refused.value.problem.limit) == ("too_many_webhooks", MOST_ENDPOINTS)


async def test_a_deleted_endpoint_is_told_nothing_more(ledger: Ledger) -> None:
    webhook = await made(ledger)
    await a_batch(ledger, jobs=0)
    service = a_service(ledger)

    deleted = await service.delete(OPERATOR, WebhookRef(webhook))

    assert deleted.dropped == 1
    assert (await service.list(OPERATOR, WebhookList())).webhooks == ()
    assert await ledger.deliveries.claim([], now(), until=Ms(now() + 1), limit=1) == []
    with pytest.raises(Refusal):
        await service.delete(OPERATOR, WebhookRef(webhook))


async def test_a_batch_can_name_only_an_endpoint_of_its_tenant(ledger: Ledger) -> None:
    await ledger.tenants.create("other", None, somebody())
    webhook = await made(ledger)
    batches = BatchService(
        ledger=ledger.batches, webhooks=ledger.webhooks, clock=now, hearing=lambda *_: pytest.fail("nobody listens")
    )

    await batches.create(OPERATOR, BatchCreate(id=an_id(), webhook=webhook))
    with pytest.raises(Refusal) as refused:
        await batches.create(open_principal("other", "k"), BatchCreate(id=an_id(), webhook=webhook))

    assert refused.value.problem.code == "unknown_webhook"


async def test_another_tenant_reaches_no_endpoint_and_no_delivery(ledger: Ledger) -> None:
    await ledger.tenants.create("other", None, somebody())
    webhook = await made(ledger)
    await a_batch(ledger, jobs=0)
    [told_of] = (await ledger.webhooks.deliveries(DeliveryList(), "default")).deliveries
    service, other = a_service(ledger), Principal(tenant="other", key="k", role=Role.TENANT_ADMIN)
    later = Ms(now() + 1)

    assert (await service.list(other, WebhookList())).webhooks == ()
    for ask in (DeliveryList(), DeliveryList(webhook=webhook), DeliveryList(id=told_of.id)):
        assert (await service.deliveries(other, ask)).deliveries == ()
    for resend in (DeliveryResend(ids=(told_of.id,)), DeliveryResend(failed_of=webhook)):
        assert (await service.resend(other, resend)).ids == ()
    assert await ledger.webhooks.find(webhook, "other") is None
    assert await ledger.webhooks.change(WebhookChange(id=webhook, disabled=True), "other", somebody()) is None
    assert await ledger.webhooks.rotate(webhook, "other", SECRET, somebody(), until=later) is None
    assert await ledger.webhooks.delete(webhook, "other", somebody()) is None
    assert [(one.id, one.disabled_ms) for one in await ledger.webhooks.page("default")] == [(webhook, None)]


async def test_a_producer_manages_none(ledger: Ledger) -> None:
    producer = Principal(tenant="default", key="k", role=Role.PRODUCER)

    with pytest.raises(Refusal) as refused:
        await a_service(ledger).list(producer, WebhookList())

    assert refused.value.problem.code == "forbidden"


async def test_each_change_is_audited_and_no_secret_is_shown(ledger: Ledger) -> None:
    service = a_service(ledger)
    answer = await service.create(OPERATOR, WebhookCreate(url="https://example.com", label="a"))
    webhook = answer.webhook.id
    await service.change(OPERATOR, WebhookChange(id=webhook, label="b"))
    await service.rotate(OPERATOR, WebhookRotate(webhook))
    await service.delete(OPERATOR, WebhookRef(webhook))

    entries = await ledger.audit.page("default", 10, None)

    assert [one.action for one in entries] == [
        *("webhook-delete", "webhook-rotate", "webhook-change", "webhook-create")
    ]
    written = b"".join(bytes(one.before) + bytes(one.after) + bytes(one.target) for one in entries)
    assert b"whsec" not in written
    assert b"secret" not in written
    assert answer.secret.startswith("whsec_")
    assert answer.secret not in repr(answer)
    assert isinstance(answer, WebhookMade)


async def test_no_answer_at_all_is_recorded_with_its_reason(ledger: Ledger) -> None:
    await made(ledger, "http://127.0.0.1:1/hook")
    await a_batch(ledger, jobs=0)

    async with a_role(ledger):
        found = await until_tried(ledger, 1)

    assert found.tries[0].status is None
    assert "cannot be connected to" in (found.tries[0].error or "")
    assert found.status is DeliveryStatus.PENDING

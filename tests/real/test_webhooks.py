"""Webhooks: who is told of what, at least once, whatever is killed, and what is seen of it."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from broker.config import Keep
from broker.core.principal import open_principal
from broker.core.webhooks import Due, secret_text
from broker.ledger.connection import Connection
from broker.ports import Ledger
from broker.roles.upkeep import Upkeep
from broker.service import WebhookService
from schemas.units import Ms
from schemas.webhooks import (
    DeliveryList,
    DeliveryResend,
    DeliveryStatus,
    WebhookChange,
    WebhookCreate,
    WebhookRef,
    WebhookRotate,
)
from tests.builders import an_entropy, an_id, now
from tests.contract.ledger.test_retries import somebody
from tests.contract.ledger.test_webhooks import (
    ALL,
    LOCAL,
    OPERATOR,
    SECRET,
    a_batch,
    a_role,
    a_service,
    made,
    run,
    told,
    until_tried,
)
from tests.receiver import Receiver, a_receiver
from tests.system import until

pytestmark = pytest.mark.real


@pytest.fixture
async def database(ledger_url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(ledger_url)
    yield connection
    await connection.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with a_receiver() as running:
        running.secret = secret_text(SECRET)
        yield running


async def test_nothing_is_written_for_other_tenants(ledger: Ledger, database: Connection) -> None:
    await ledger.tenants.create("other", None, somebody())
    other = open_principal("other", "k")
    await a_service(ledger).create(other, WebhookCreate(url="https://example.com", events=ALL))

    await a_batch(ledger, jobs=0)
    await run(ledger)

    assert await database.fetchval("select count(*) from infermq.deliveries") == 0


# sending


async def test_a_message_is_sent_signed_and_recorded(ledger: Ledger, receiver: Receiver) -> None:
    await made(ledger, receiver.url)
    batch = await a_batch(ledger, jobs=0)

    async with a_role(ledger):
        await receiver.has(1)
        found = await delivered(ledger)

    headers, body = receiver.came[0]
    assert body["data"] == {"id": str(batch), "batch_id": str(batch)}
    assert headers["webhook-id"] == body["id"] == found.event
    assert (found.tries[0].status, len(found.tries), found.next_ms) == (204, 1, None)
    assert receiver.false == 0


async def delivered(ledger: Ledger, **changes: Any) -> Any:
    """Wait until the newest message is delivered."""
    found: list[Any] = []

    async def is_delivered() -> bool:
        found[:] = (await ledger.webhooks.deliveries(DeliveryList(limit=1, **changes), "default")).deliveries
        return bool(found) and found[0].status is DeliveryStatus.DELIVERED

    await until(is_delivered, "the message is delivered")
    return found[0]


async def test_what_fails_is_sent_again_later_and_each_answer_is_kept(ledger: Ledger, receiver: Receiver) -> None:
    passed_ms = 0
    receiver.answers = [web.Response(status=500, text="down"), web.Response(status=302)]
    await made(ledger, receiver.url)
    await a_batch(ledger, jobs=0)

    async with a_role(ledger, clock=lambda: Ms(now() + passed_ms)):
        await until_tried(ledger, 1)
        passed_ms = 5000
        found = await until_tried(ledger, 2)

    assert [one.status for one in found.tries] == [500, 302]
    assert found.tries[0].answer == "down"
    assert found.next_ms == found.tries[1].at_ms + found.tries[1].took_ms + 300_000
    assert len({body["id"] for _, body in receiver.came}) == 1


async def test_a_message_whose_broker_was_killed_on_the_way_is_sent_again(ledger: Ledger, receiver: Receiver) -> None:
    """It was taken, and perhaps sent, but what came of it was never recorded."""
    await made(ledger, receiver.url)
    await a_batch(ledger, jobs=0)
    [taken] = await ledger.deliveries.claim([], now(), until=Ms(now() + 500), limit=10)
    assert await ledger.deliveries.claim([], now(), until=Ms(now() + 500), limit=10) == []

    async with a_role(ledger):
        await receiver.has(1)
        found = await delivered(ledger)

    assert found.id == taken.id
    assert len(receiver.came) == 1


async def test_a_message_is_in_one_brokers_hands_only(ledger: Ledger, receiver: Receiver) -> None:
    await made(ledger, receiver.url)
    for _ in range(20):
        await a_batch(ledger, jobs=0)

    async with a_role(ledger), a_role(ledger):
        await receiver.has(20)
        await until(lambda: none_is_left(ledger), "all are delivered")

    assert len(receiver.came) == len({body["id"] for _, body in receiver.came}) == 20


async def none_is_left(ledger: Ledger) -> bool:
    left = await ledger.webhooks.deliveries(DeliveryList(status=DeliveryStatus.PENDING), "default")
    return not left.deliveries


async def test_an_endpoint_that_hangs_holds_up_no_other(ledger: Ledger, receiver: Receiver) -> None:
    async with a_receiver() as hanging:
        hanging.secret = receiver.secret
        hanging.hangs.clear()
        await made(ledger, hanging.url)
        for _ in range(300):  # more than are on their way at once
            await a_batch(ledger, jobs=0)
        await made(ledger, receiver.url)
        await a_batch(ledger, jobs=0)

        async with a_role(ledger):
            await receiver.has(1)
            await hanging.has(4)

        assert len(hanging.came) == 4


async def test_410_disables_the_endpoint_and_gives_up_what_waits_for_it(ledger: Ledger, receiver: Receiver) -> None:
    receiver.answers = [web.Response(status=410)]
    webhook = await made(ledger, receiver.url)
    await a_batch(ledger, jobs=0)

    async with a_role(ledger):
        await until_tried(ledger, 1)

    shown = await a_service(ledger).show(OPERATOR, WebhookRef(webhook))
    assert shown.disabled_ms is not None
    assert "410" in (shown.disabled_why or "")
    assert await none_is_left(ledger)
    await a_batch(ledger, jobs=0)
    assert len(await told(ledger)) == 1


async def test_after_a_rotation_both_secrets_verify_until_the_overlap_is_over(
    ledger: Ledger, receiver: Receiver
) -> None:
    webhook = await made(ledger, receiver.url)
    other = bytes(32)
    service = WebhookService(
        ledger=ledger.webhooks, targets=LOCAL, clock=now, entropy=an_entropy, secret=lambda: other
    )
    rotated = await service.rotate(OPERATOR, WebhookRotate(webhook, Ms(60_000)))
    assert rotated.secret == secret_text(other)

    due = [await claimed(ledger, at) for at in (now() + 1000, now() + 61_000)]

    assert [one.secrets for one in due] == [(other, SECRET), (other,)]


async def claimed(ledger: Ledger, at: int) -> Due:
    await a_batch(ledger, jobs=0)
    [due] = await ledger.deliveries.claim([], Ms(at), until=Ms(at + 10**9), limit=1)
    return due


# what people ask


async def test_a_message_can_be_sent_again(ledger: Ledger, receiver: Receiver) -> None:
    webhook = await made(ledger, receiver.url)
    await a_batch(ledger, jobs=0)

    async with a_role(ledger):
        found = await delivered(ledger)
        answer = await a_service(ledger).resend(OPERATOR, DeliveryResend(ids=(found.id, an_id())))
        await receiver.has(2)
        failed = await a_service(ledger).resend(OPERATOR, DeliveryResend(failed_of=webhook))

    assert answer.ids == (found.id,)
    assert failed.ids == ()
    assert len({body["id"] for _, body in receiver.came}) == 1


async def test_what_was_given_up_can_be_sent_after_all(ledger: Ledger, receiver: Receiver) -> None:
    webhook = await made(ledger, receiver.url)
    await a_batch(ledger, jobs=0)
    service = a_service(ledger)
    await service.change(OPERATOR, WebhookChange(id=webhook, disabled=True))
    assert (await service.resend(OPERATOR, DeliveryResend(failed_of=webhook))).ids == ()
    await service.change(OPERATOR, WebhookChange(id=webhook, disabled=False))
    assert await none_is_left(ledger)

    sent = await service.resend(OPERATOR, DeliveryResend(failed_of=webhook))

    assert len(sent.ids) == 1
    async with a_role(ledger):
        await receiver.has(1)


async def test_a_test_is_sent_to_one_endpoint(ledger: Ledger, receiver: Receiver) -> None:
    webhook = await made(ledger, receiver.url, [])
    await made(ledger, receiver.url)

    sent = await a_service(ledger).test(OPERATOR, WebhookRef(webhook))

    async with a_role(ledger):
        found = await delivered(ledger)
    assert (found.id, found.type) == (sent.id, "webhook.test")
    assert receiver.events() == ["webhook.test"]


async def test_what_was_sent_is_forgotten_after_its_days(ledger: Ledger, database: Connection) -> None:
    await made(ledger)
    for _ in range(2):
        await a_batch(ledger, jobs=0)
    await database.execute(
        "update infermq.deliveries set next_ms = null where id in (select id from infermq.deliveries order by id limit 1)"
    )
    upkeep = Upkeep(
        days=ledger.days, retention=ledger.retention, keep=Keep(deliveries=3), page=1,
        clock=lambda: Ms(now() + int(3.1 * 86_400_000)),
    )  # fmt: skip

    await upkeep.drop()

    assert len(await told(ledger)) == 1

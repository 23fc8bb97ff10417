"""What somebody else may publish: onto the inboxes of pulls, as answers, or as a subject to publish on."""

import asyncio

import pytest
from nats.errors import BadSubjectError

from broker.bus.groups import Groups, ack_all
from broker.bus.runs import attempts_in_run
from broker.errors import Unavailable
from schemas import subjects
from schemas.catalog import Catalog, Revision
from schemas.codec import jsoned, packed
from schemas.jetstream import Message, answer_all
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Lane
from schemas.units import Ms
from tests.builders import a_catalog, an_attempt
from tests.declared import declare_pool, declare_streams
from tests.system import until
from workers.catalog import active_catalog
from workers.puller import Puller

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
BULK = "infermq.submit.bulk.m.default.default"
FOREIGN_ACKS = (
    "",
    "somewhere",
    "$JS.ACK.INFERMQ_SUBMIT.intake-bulk.a.b.c.d.e",
    "$JS.ACK.INFERMQ_OUTCOME.settle.1.1.1.1764163200000000000.0",
)
INJECTION = "x 1\r\ny\r\nPUB evil 1\r\nx\r\nPUB x"


@pytest.mark.parametrize("subject", [INJECTION, "a b", "a.*", ">", "a..b", "", "a\n"])
async def test_what_is_no_subject_is_not_published_on(nc: Nats, subject: str) -> None:
    heard: list[Message] = []

    async def hear(message: Message) -> None:
        heard.append(message)

    await nc.subscribe(">", cb=hear)

    with pytest.raises(BadSubjectError):
        await nc.publish(subject, b"x")
    if subject:
        with pytest.raises(BadSubjectError):
            await nc.publish("a", b"x", subject)
        with pytest.raises(BadSubjectError):
            await answer_all(nc, [subject], b"+ACK")
    with pytest.raises(BadSubjectError):
        await answer_all(nc, [INJECTION, "a"], b"+ACK")
    await nc.publish("end")
    await until(lambda: _holds(bool(heard)), "the last message is heard")

    assert [message.subject for message in heard] == ["end"]


async def _holds(claim: bool) -> bool:  # noqa: FBT001
    return claim


async def test_what_others_send_to_the_inbox_of_a_group_is_ignored(nc: Nats) -> None:
    await declare_streams(nc)
    groups = Groups(
        nc, stream=subjects.SUBMIT, consumer=subjects.intake_consumer(Lane.BULK), room=10, group_bytes=1000
    )
    async with groups.open():
        for reply in FOREIGN_ACKS:
            await nc.publish(groups._inbox, b"forged", reply)
        await nc.publish(groups._inbox, b"", headers={"Status": "408", "Nats-Pending-Messages": "letters"})
        await nc.jetstream().publish(BULK, b"true")

        messages = await groups.next()
        await ack_all(nc, messages)

    assert [message.data for message in messages] == [b"true"]


async def test_what_others_send_to_the_inbox_of_a_puller_is_ignored(nc: Nats) -> None:
    await declare_streams(nc)
    await declare_pool(nc, "d", slots=1)
    came: list[Message] = []
    puller = Puller(nc, stream=subjects.RUN, consumer="d", free=lambda: 1 - len(came), start=came.append)
    await puller.open()
    try:
        for reply in FOREIGN_ACKS:
            await nc.publish(puller._inbox, packed(an_attempt()), reply)
        await nc.jetstream().publish(subjects.run("d"), b"true")
        await until(lambda: _holds(bool(came)), "the message comes")
    finally:
        await puller.close()

    assert [message.data for message in came] == [b"true"]


@pytest.mark.parametrize("sequence", [None, "letters", "-1", "0", "9" * 30])
async def test_a_page_whose_place_in_the_stream_is_unknown_is_not_the_stream(nc: Nats, sequence: str | None) -> None:
    """A server of a single answer, which says where it is by a header of its own."""

    async def answer(message: Message) -> None:
        await nc.publish(message.reply, b"x", headers={"Nats-Sequence": sequence} if sequence else None)
        await nc.publish(message.reply, b"", headers={"Status": "204"})

    await nc.subscribe(f"$JS.API.DIRECT.GET.{subjects.RUN}", cb=answer)

    with pytest.raises(Unavailable):
        async with asyncio.timeout(5):
            await attempts_in_run(nc)


async def test_a_worker_waits_for_a_catalog_that_can_be_read_and_keeps_it(nc: Nats) -> None:
    await declare_streams(nc)
    await nc.jetstream().publish(subjects.CATALOG_NUMBER, b"7")
    active = subjects.catalog_entry("d")
    await nc.jetstream().publish(active, b"[" * 100_000)
    waiting = asyncio.create_task(active_catalog(nc, "d"))
    await nc.jetstream().publish(active, b'{"number": -1}')
    await nc.jetstream().publish(active, jsoned(Revision(7, Ms(0), a_catalog())))

    catalog = await waiting
    await nc.jetstream().publish(active, jsoned(Revision(2**40, Ms(0), a_catalog())))
    others = a_catalog().deployments["d"]
    await nc.jetstream().publish(active, jsoned(Revision(9, Ms(0), Catalog(deployments={"e": others}))))
    await nc.publish(subjects.outcome("e"), b"", active)  # the server's acknowledgement goes where its reader chooses
    await nc.jetstream().publish(active, jsoned(Revision(8, Ms(0), a_catalog(max_concurrency=9))))

    await until(lambda: _holds(catalog.deployment.max_concurrency == 9), "the next revision is read")
    assert (catalog.revision, catalog.max_output_tokens("m")) == (8, a_catalog().models["m"].max_output_tokens)

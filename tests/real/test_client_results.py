"""The client reads a batch's results from a broker that comes and goes, and hears its notices or does not."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from broker.client import Client, NoBroker, RequestRefused
from broker.client.nats_door import NatsDoor
from broker.errors import Unavailable
from schemas import subjects
from schemas.api import BatchResults, Result, ResultPage, State
from schemas.jetstream.client import NatsClient as Nats
from schemas.outcome import Usage
from schemas.subjects import DEFAULT, Verb
from schemas.units import Ms, NanoUsd
from tests.builders import an_id
from tests.scripted import SILENCE, Script, a_problem, answering, round_trip, says
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(20)]
RESULTS = subjects.api(Verb.BATCH_RESULTS, DEFAULT, DEFAULT)
ANY_API = "infermq.api.>"
BATCH = an_id()


def a_result(custom_id: str) -> Result:
    return Result(
        job=an_id(),
        custom_id=custom_id,
        line=1,
        state=State.SUCCEEDED,
        model="m",
        body=msgspec.Raw(b"{}"),
        failure=None,
        usage=Usage(),
        cost_nano_usd=NanoUsd(0),
        attempts=1,
        total_ms=Ms(1),
    )


def a_page(*names: str, cursor: str | None = None, completed: bool = False, more: bool = False) -> Script:
    return says(ResultPage(tuple(map(a_result, names)), cursor, completed, more))


LAST = a_page(completed=True)


def asked(messages: list[Msg]) -> list[str | None]:
    """The cursors that pages were asked for with."""
    return [msgspec.json.decode(message.data, type=BatchResults).cursor for message in messages]


async def names_of(client: Client, *, wait: bool = True) -> list[str | None]:
    return [result.custom_id async for result in client.results(BATCH, wait=wait)]


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[Client]:
    """One that asks again by itself after a minute only."""
    async with Client.connect(nats_url) as connected:
        yield Client(NatsDoor(connected.nats, tenant=DEFAULT, key=DEFAULT), call_s=0.3, poll_s=60)


async def test_each_result_is_read_once_from_page_to_page(client: Client, nc: Nats) -> None:
    pages = [a_page("a", "b", cursor="1", more=True), a_page("c", cursor="2", more=True), LAST]

    async with answering(nc, RESULTS, *pages) as heard:
        names = await names_of(client)

    assert names == ["a", "b", "c"]
    assert asked(heard) == [None, "1", "2"]


async def test_results_are_read_from_a_cursor_on_and_pages_tell_theirs(client: Client, nc: Nats) -> None:
    async with answering(nc, RESULTS, a_page("a", cursor="6", more=True), LAST) as heard:
        cursors = [page.cursor async for page in client.result_pages(BATCH, cursor="5")]

    assert cursors == ["6"]
    assert asked(heard) == ["5", "6"]


async def test_a_reader_may_begin_after_a_cursor(client: Client, nc: Nats) -> None:
    async with answering(nc, RESULTS, LAST) as heard:
        assert [result async for result in client.results(BATCH, cursor="5")] == []

    assert asked(heard) == ["5"]


async def test_the_last_page_may_hold_results(client: Client, nc: Nats) -> None:
    async with answering(nc, RESULTS, a_page("a", cursor="1", completed=True)) as heard:
        names = await names_of(client)

    assert names == ["a"]
    assert len(heard) == 1


@pytest.mark.parametrize("trouble", [a_problem("unavailable"), SILENCE], ids=["away", "silent"])
async def test_results_are_read_through_a_broker_that_is_in_trouble(
    client: Client, nc: Nats, trouble: Script
) -> None:
    pages = [a_page("a", cursor="1", more=True), trouble, a_page("b", cursor="2", completed=True)]

    async with answering(nc, RESULTS, *pages) as heard:
        names = await names_of(client)

    assert names == ["a", "b"]
    assert asked(heard) == [None, "1", "1"]


async def test_results_are_read_through_a_restart_of_the_broker(client: Client, nc: Nats) -> None:
    reading = asyncio.create_task(names_of(client))
    before = client.nats.stats["out_msgs"]

    async def has_asked_twice() -> bool:
        return client.nats.stats["out_msgs"] >= before + 2

    await until(has_asked_twice, "nobody has answered twice")
    async with answering(nc, RESULTS, a_page("a", cursor="1", completed=True)):
        assert await reading == ["a"]


async def test_results_are_read_through_a_lost_connection(client: Client, nc: Nats) -> None:
    async with answering(nc, RESULTS, a_page("a", cursor="1"), a_page("b", cursor="2", completed=True)) as heard:
        reading = asyncio.create_task(names_of(client))

        async def has_asked() -> bool:
            return bool(heard)

        await until(has_asked, "the first page is asked for")
        await client.nats._process_op_err(OSError("cut"))
        while client.nats.stats["reconnects"] == 0 or not client.nats.is_connected:
            await asyncio.sleep(0.01)
        await round_trip(client.nats)
        await nc.publish(subjects.result(DEFAULT, BATCH), b"[]")

        assert await reading == ["a", "b"]


async def test_a_refusal_is_no_trouble_that_passes(client: Client, nc: Nats) -> None:
    async with answering(nc, RESULTS, a_problem("unknown_batch")) as heard:
        with pytest.raises(RequestRefused):
            await names_of(client)

    assert len(heard) == 1


async def test_a_notice_brings_the_next_page_at_once(client: Client, nc: Nats) -> None:
    async with answering(nc, RESULTS, a_page(), LAST) as heard:
        reading = asyncio.create_task(names_of(client))

        async def has_asked() -> bool:
            return bool(heard)

        await until(has_asked, "the first page is asked for")
        await round_trip(client.nats)
        await nc.publish(subjects.result(DEFAULT, BATCH), b"[]")
        await reading

    assert len(heard) == 2


async def test_a_notice_that_comes_before_its_page_is_not_lost(client: Client, nc: Nats) -> None:
    """The page was read before the result was recorded, and its answer is late."""

    async def answer(message: Msg) -> None:
        heard.append(message)
        if len(heard) == 1:
            await nc.publish(subjects.result(DEFAULT, BATCH), b"[]")
            await round_trip(nc)
        await nc.publish(message.reply, (LAST if len(heard) > 1 else a_page())[0].data)

    heard: list[Msg] = []
    await nc.subscribe(RESULTS, cb=answer)
    await round_trip(nc)

    await names_of(client)

    assert len(heard) == 2


async def test_a_notice_that_was_missed_is_made_up_for(nats_url: str, nc: Nats) -> None:
    async with Client.connect(nats_url) as connected, answering(nc, RESULTS, a_page(), a_page("a", cursor="1"), LAST):
        client = Client(NatsDoor(connected.nats, tenant=DEFAULT, key=DEFAULT), poll_s=0.05)

        assert await names_of(client) == ["a"]


async def test_what_is_recorded_while_a_page_is_read_is_asked_for_without_a_notice(client: Client, nc: Nats) -> None:
    async with answering(nc, RESULTS, a_page(more=True), a_page("a", cursor="1", completed=True)):
        assert await names_of(client) == ["a"]


async def test_while_there_are_more_the_next_page_is_asked_for_without_delay(client: Client, nc: Nats) -> None:
    pages = [a_page("a", cursor=str(number), more=True) for number in range(40)]

    async with answering(nc, RESULTS, *pages, LAST), asyncio.timeout(2):
        assert len(await names_of(client)) == 40


@pytest.mark.parametrize("wait", [False, True])
async def test_without_waiting_those_that_are_there_are_all(client: Client, nc: Nats, *, wait: bool) -> None:
    async with answering(nc, RESULTS, a_page("a", cursor="1", more=True), a_page("b", cursor="2"), LAST) as heard:
        reading = asyncio.create_task(names_of(client, wait=wait))
        if wait:

            async def has_read() -> bool:
                return len(heard) > 1

            await until(has_read, "two pages are asked for")
            assert not reading.done()
            await round_trip(client.nats)
            await nc.publish(subjects.result(DEFAULT, BATCH), b"[]")
        assert await reading == ["a", "b"]

    assert len(heard) == (3 if wait else 2)


@pytest.mark.parametrize("early", [False, True])
async def test_a_reader_leaves_no_subscription_behind(client: Client, nc: Nats, *, early: bool) -> None:
    async with answering(nc, RESULTS, a_page("a", cursor="1", more=True), LAST):
        pages = client.result_pages(BATCH)
        await anext(pages)
        if not early:
            assert [page async for page in pages] == []
        await pages.aclose()  # type: ignore[attr-defined] # it is a generator
        await round_trip(client.nats)

    with pytest.raises(NoRespondersError):
        await nc.request(subjects.result(DEFAULT, BATCH))


async def test_a_call_speaks_for_its_tenant_and_is_answered_in_the_inbox_of_its_key(nats_url: str, nc: Nats) -> None:
    async with answering(nc, ANY_API, LAST) as heard, Client.connect(nats_url, tenant="a.b", key="k") as client:
        await names_of(client)

    assert heard[0].subject == "infermq.api.batch-results.a_2e_b.k"
    assert heard[0].reply.startswith("_INBOX_k.")


async def test_what_a_call_can_come_to(client: Client, nc: Nats) -> None:
    with pytest.raises(NoBroker, match="infermq up"):
        await client.status()
    async with answering(nc, ANY_API, SILENCE):
        with pytest.raises(Unavailable, match="no answer to status"):
            await client.status()
    for code, kind in (("unavailable", Unavailable), ("unknown_job", RequestRefused)):
        async with answering(nc, ANY_API, a_problem(code)):
            with pytest.raises(kind, match="words"):
                await client.job(an_id())


async def test_without_nats_a_client_says_so_at_once() -> None:
    async with asyncio.timeout(2):
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9: .*failed"):
            async with Client.connect("nats://127.0.0.1:9"):
                pass

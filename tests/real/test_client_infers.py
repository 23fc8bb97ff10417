"""The client asks and waits: what it makes of a gateway's replies, and of their absence."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.errors import NoRespondersError

from broker.client import Client, NoBroker, Piece, Reply, RequestRefused, RequestTimedOut
from broker.client.nats_door import NatsDoor
from broker.errors import Unavailable
from schemas.codec import CHUNK, FINAL, KEEPALIVE, KIND, SEQ, decode_job, jsoned
from schemas.jetstream.client import NatsClient as Nats
from schemas.outcome import Usage
from schemas.subjects import DEFAULT
from tests.builders import BODY, CHAT, an_id
from tests.scripted import SILENCE, Answer, Script, a_problem, answering, round_trip

pytestmark = [pytest.mark.real, pytest.mark.timeout(20)]
ASKED = "infermq.infer.>"
JOB = an_id()
USED = {"prompt_tokens": 7, "completion_tokens": 3}
RESPONSE = jsoned({"choices": [{"message": {"content": "Hello."}}], "usage": USED})


def a_reply(kind: str, data: bytes = b"", *, seq: int = 1) -> Answer:
    return Answer(data, {KIND: kind, SEQ: str(seq), "Infermq-Job": str(JOB)})


def a_chunk(text: str) -> Answer:
    return a_reply(CHUNK, jsoned({"choices": [{"delta": {"content": text}}]}))


WHOLE = a_reply(FINAL, RESPONSE)


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[Client]:
    """One that lets a gateway be silent for a moment only."""
    async with Client.connect(nats_url) as connected:
        yield Client(NatsDoor(connected.nats, tenant=DEFAULT, key=DEFAULT, silence_s=0.3))


async def test_an_answer_has_its_job_its_text_and_its_tokens(client: Client, nc: Nats) -> None:
    async with answering(nc, ASKED, [a_reply(KEEPALIVE), WHOLE]):
        reply = await client.infer("m", BODY)

    assert (reply.job, reply.body, reply.text(), reply.usage()) == (JOB, RESPONSE, "Hello.", Usage(7, 3))


async def test_what_is_asked_has_its_body_and_ends_in_time(client: Client, nc: Nats) -> None:
    async with answering(nc, "infermq.infer.a_2e_b.default.default", [WHOLE]) as heard:
        await client.infer("a.b", BODY, endpoint="/v1/completions", timeout_s=50)

    job = decode_job(heard[0].data, None)
    assert (job.endpoint, job.body) == ("/v1/completions", BODY)
    assert (job.deadline_ms, job.deadline_in_ms) == (None, 50_000)


async def test_a_stream_is_asked_for_and_comes_by_pieces_and_whole(client: Client, nc: Nats) -> None:
    script = [a_chunk("Hel"), a_reply(KEEPALIVE), a_chunk("lo."), WHOLE]

    async with answering(nc, ASKED, script) as heard:
        steps = [step async for step in client.infer_stream("m", {"messages": []})]

    job = decode_job(heard[0].data, None)
    assert (job.endpoint, job.body) == (CHAT, b'{"messages":[],"stream":true}')
    assert [step.text for step in steps if isinstance(step, Piece)] == ["Hel", "lo."]
    assert steps[-1] == Reply(JOB, RESPONSE)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("timed_out", RequestTimedOut),
        ("unavailable", Unavailable),
        ("busy", RequestRefused),
        ("no_worker", RequestRefused),
    ],
)
async def test_a_no_is_raised_by_its_code(client: Client, nc: Nats, code: str, kind: type[Exception]) -> None:
    async with answering(nc, ASKED, [a_reply(KEEPALIVE), *a_problem(code)]):
        with pytest.raises(kind, match="words"):
            await client.infer("m", BODY)


async def test_without_a_broker_an_ask_is_told_so_at_once(client: Client) -> None:
    with pytest.raises(NoBroker):
        await client.infer("m", BODY)


async def test_a_gateway_that_is_silent_is_given_up(client: Client, nc: Nats) -> None:
    for script in (SILENCE, [a_chunk("Hel")]):
        async with answering(nc, ASKED, script), asyncio.timeout(5):
            with pytest.raises(RequestTimedOut, match="ask again"):
                await client.infer("m", BODY, timeout_s=3600)


async def test_an_ask_with_little_time_is_given_up_soon_after_it(nats_url: str, nc: Nats) -> None:
    async with Client.connect(nats_url) as client, answering(nc, ASKED, SILENCE), asyncio.timeout(5):
        with pytest.raises(RequestTimedOut):
            await client.infer("m", BODY, timeout_s=0.1)


async def test_a_gateway_that_says_it_waits_is_waited_for(client: Client, nc: Nats) -> None:
    async with answering(nc, ASKED, SILENCE) as heard:
        asking = asyncio.create_task(client.infer("m", BODY))
        while not heard:
            await asyncio.sleep(0.01)
        for _ in range(6):  # twice what the client lets it be silent
            await asyncio.sleep(0.1)
            await nc.publish(heard[0].reply, b"", headers={KIND: KEEPALIVE})
        await nc.publish(heard[0].reply, RESPONSE, headers=WHOLE.headers)

        assert (await asking).text() == "Hello."


@pytest.mark.parametrize("script", [[WHOLE], a_problem("busy"), SILENCE], ids=["answered", "refused", "given up"])
async def test_an_ask_leaves_no_subscription_behind(client: Client, nc: Nats, script: Script) -> None:
    async with answering(nc, ASKED, script) as heard:
        await asyncio.gather(client.infer("m", BODY), return_exceptions=True)
        await round_trip(client.nats)

    with pytest.raises(NoRespondersError):
        await nc.request(heard[0].reply)


async def test_a_reader_that_leaves_a_stream_leaves_no_subscription_behind(client: Client, nc: Nats) -> None:
    async with answering(nc, ASKED, [a_chunk("Hel")]) as heard:
        steps = client.infer_stream("m", {})
        await anext(steps)
        await steps.aclose()
        await round_trip(client.nats)

    with pytest.raises(NoRespondersError):
        await nc.request(heard[0].reply)


async def test_an_answer_comes_to_the_inbox_of_its_key(nats_url: str, nc: Nats) -> None:
    async with answering(nc, ASKED, [WHOLE]) as heard, Client.connect(nats_url, tenant="t", key="k") as client:
        await client.infer("m", BODY)

    assert heard[0].subject == "infermq.infer.m.t.k"
    assert heard[0].reply.startswith("_INBOX_k.")

"""The client stores jobs in a stream that is in trouble: again after an error, and once."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from nats.js.api import StreamConfig

from broker.client import BacklogFull, Client, NoBroker, RequestRefused, Submission
from broker.client.nats_door import NatsDoor
from broker.errors import Unavailable
from schemas.codec import MSG_ID, decode_job, decode_jobs, jsoned
from schemas.ids import line_id
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Job
from schemas.subjects import DEFAULT
from tests.builders import BODY, CHAT, a_job, an_id
from tests.scripted import SILENCE, Script, answering, round_trip, says
from tests.system import until

pytestmark = pytest.mark.real
SUBMITTED = "infermq.submit.>"
STORED = says({"stream": "S", "seq": 1})
LARGE = b"x" * 200_000
"""Of a job that fills a message alone."""


def refused(code: int) -> Script:
    return says({"error": {"code": 503, "err_code": code, "description": "words"}})


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[Client]:
    """One that waits for an acknowledgement for a moment only."""
    async with Client.connect(nats_url) as connected:
        await round_trip(connected.nats)
        yield Client(NatsDoor(connected.nats, tenant=DEFAULT, key=DEFAULT, ack_s=0.2), patience_s=3.0)


@pytest.mark.parametrize("trouble", [refused(10008), SILENCE], ids=["refused", "no acknowledgement"])
async def test_what_was_not_stored_is_sent_again_as_the_same_message(
    client: Client, nc: Nats, trouble: Script
) -> None:
    async with answering(nc, SUBMITTED, trouble, STORED) as sent:
        job = await client.submit("m", BODY)

    assert len(sent) == 2
    assert sent[0].data == sent[1].data
    assert decode_job(sent[0].data, None).id == job
    assert len({message.headers[MSG_ID] for message in sent if message.headers}) == 1


@pytest.mark.parametrize("many", [False, True])
async def test_what_was_stored_without_an_acknowledgement_is_not_stored_twice(
    client: Client, nc: Nats, *, many: bool
) -> None:
    js = nc.jetstream()
    mute = await js.add_stream(StreamConfig(name="S", subjects=[SUBMITTED], no_ack=True))

    async def count() -> int:
        return (await js.stream_info("S")).state.messages

    async def is_stored() -> bool:
        return await count() > 0

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(client.submit_many([Submission("m", a_job())]) if many else client.submit("m", BODY))
        await until(is_stored, "the message is stored")
        mute.config.no_ack = False
        await js.update_stream(mute.config)

    assert await count() == 1


async def test_messages_of_their_own_have_names_of_their_own(client: Client, nc: Nats) -> None:
    async with answering(nc, SUBMITTED, STORED) as sent:
        await client.submit_many(Submission(model, a_job()) for model in "ab")
        for _ in range(2):
            await client.submit("m", BODY)

    assert len({message.headers[MSG_ID] for message in sent if message.headers}) == 4


async def test_a_stream_that_never_takes_it_is_unavailable(client: Client, nc: Nats) -> None:
    async with (
        answering(nc, "infermq.submit.*.silent.>", SILENCE) as unanswered,
        answering(nc, "infermq.submit.*.away.>", refused(10008)) as answered,
    ):
        ends = await asyncio.gather(
            client.submit("silent", BODY), client.submit("away", BODY), return_exceptions=True
        )

    assert [type(end) for end in ends] == [Unavailable, Unavailable]
    assert "words" in str(ends[1])
    assert len(unanswered) == len(answered) == 5


@pytest.mark.parametrize("code", [10002, 10023, 10077])
async def test_a_stream_that_has_no_room_is_said_at_once(client: Client, nc: Nats, code: int) -> None:
    async with answering(nc, SUBMITTED, refused(code)) as sent:
        with pytest.raises(BacklogFull, match="send again"):
            await client.submit("m", BODY)

    assert len(sent) == 1


async def test_when_one_message_fails_the_others_are_sent_no_more(client: Client, nc: Nats) -> None:
    jobs = [Submission("silent", a_job(body=LARGE)), Submission("full", a_job(body=LARGE))]

    async with (
        answering(nc, "infermq.submit.*.silent.>", SILENCE) as unanswered,
        answering(nc, "infermq.submit.*.full.>", refused(10077)),
    ):
        before = asyncio.all_tasks()
        with pytest.raises(BacklogFull):
            await client.submit_many(jobs)
        left = asyncio.all_tasks() - before

    assert not left
    assert len(unanswered) < 5


@pytest.mark.parametrize("many", [1, 3])
async def test_what_one_of_many_messages_raises_is_raised(client: Client, nc: Nats, many: int) -> None:
    """Whether they were sent together or one after the other."""
    jobs = [Submission(model, a_job()) for model in ("fine", "full", "fine")[-many:]] * 2
    jobs.append(Submission("full", a_job(body=LARGE if many == 1 else BODY)))

    async with (
        answering(nc, "infermq.submit.*.fine.>", STORED),
        answering(nc, "infermq.submit.*.full.>", refused(10077)),
    ):
        with pytest.raises(BacklogFull):
            await client.submit_many(jobs)


async def test_jobs_that_cannot_be_sent_yet_are_not_asked_for(client: Client, nc: Nats) -> None:
    asked: list[int] = []

    def jobs() -> Iterator[Submission]:
        for number in range(40):
            asked.append(number)
            yield Submission("m", a_job(body=LARGE))

    async with answering(nc, SUBMITTED, SILENCE) as sent:
        sending = asyncio.create_task(client.submit_many(jobs()))

        async def has_begun() -> bool:
            return bool(sent)

        await until(has_begun, "something is sent")
        sending.cancel()
        await asyncio.wait({sending})

    assert len(asked) <= 10


async def test_a_batchs_jobs_have_their_line_and_the_id_of_that_line(client: Client, nc: Nats) -> None:
    batch, other, own = an_id(), an_id(), an_id()
    jobs = [a_job(), a_job(line=7), a_job(id=own), a_job(batch=other, line=9)]

    async with answering(nc, SUBMITTED, STORED) as sent:
        count = await client.submit_many([Submission("m", job) for job in jobs], batch_id=batch)

    read, _ = decode_jobs(sent[0].data, None)
    assert count == 4
    assert [(job.batch, job.line, job.id) for job in read.values()] == [
        (batch, 1, line_id(batch, 1)),
        (batch, 7, line_id(batch, 7)),
        (batch, 3, own),
        (other, 9, None),
    ]


async def test_without_a_stream_there_is_no_broker_and_nothing_is_tried_again(client: Client) -> None:
    before = client.nats.stats["out_msgs"]

    with pytest.raises(NoBroker):
        await client.submit("m", BODY)

    assert client.nats.stats["out_msgs"] - before == 2  # the message, and the question whether a broker listens


async def test_what_is_refused_among_many_ends_the_sends_before_it(client: Client, nc: Nats) -> None:
    jobs = [a_job(body=LARGE), a_job(body=LARGE), Job(endpoint=CHAT, body=LARGE, custom_id="")]

    async with answering(nc, SUBMITTED, SILENCE):
        before = asyncio.all_tasks()
        with pytest.raises(RequestRefused):
            await client.submit_many([Submission("m", job) for job in jobs])
        left = asyncio.all_tasks() - before

    assert not left


def test_a_submission_takes_a_dict_or_its_json() -> None:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    job = Job(endpoint=CHAT, body=jsoned(body), custom_id="c")

    assert Submission.of("m", body, custom_id="c") == Submission("m", job)
    assert Submission.of("m", job.body, custom_id="c") == Submission("m", job)


def test_a_dict_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(RequestRefused) as refusal:
        Submission.of("m", {"prompt": "\ud800"})

    assert (refusal.value.problem.code, refusal.value.problem.field) == ("body_not_json", "body")

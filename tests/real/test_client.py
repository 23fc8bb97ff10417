"""The Python producer's client, on a NATS without a broker: what it refuses by itself, and what it leaves behind."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.client import Client, NoBroker, RequestRefused, Submission, new_id
from broker.errors import Unavailable
from schemas import subjects
from schemas.codec import decode_jobs
from schemas.endpoints import CHAT
from schemas.job import BODY_BYTES, Job
from schemas.units import LONGEST_NAME
from tests.builders import BODY, a_job
from tests.declared import declare_streams
from tests.proxy import a_proxy
from tests.system import until

pytestmark = pytest.mark.real
LONG_NAMES = ["x" * 5000, "x" * (LONGEST_NAME + 1), "\N{GRINNING FACE}" * LONGEST_NAME]
BAD_NAMES = ["", "\ud800", *LONG_NAMES]


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[Client]:
    async with Client.connect(nats_url) as connected:
        yield connected


async def test_a_task_goes_on_after_submit_many_has_failed(client: Client) -> None:
    task = asyncio.current_task()
    assert task is not None

    with pytest.raises(NoBroker):
        await client.submit_many([Submission("m", a_job())])

    assert task.cancelling() == 0
    with pytest.raises(NoBroker):
        await client.submit("m", BODY)


async def test_a_cancelled_submit_many_is_cancelled(client: Client) -> None:
    asked = asyncio.Event()

    async def jobs() -> AsyncIterator[Submission]:
        yield Submission("m", a_job())
        asked.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(client.submit_many(jobs()))
    await asked.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("model", BAD_NAMES)
async def test_a_model_that_no_subject_can_carry_is_refused_and_the_connection_stays(
    client: Client, model: str
) -> None:
    for refused in (client.infer(model, BODY), client.submit(model, BODY)):
        with pytest.raises(RequestRefused) as caught:
            await refused
        assert (caught.value.problem.code, caught.value.problem.field) == ("unknown_model", "model")
        assert caught.value.problem.limit == LONGEST_NAME

    assert client.nats.is_connected
    with pytest.raises(NoBroker):
        await client.status()


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("field", ["tenant", "key"])
async def test_a_tenant_or_key_that_no_subject_can_carry_is_refused(nats_url: str, field: str, name: str) -> None:
    names: dict[str, Any] = {field: name}
    with pytest.raises(RequestRefused) as caught:
        async with Client.connect(nats_url, **names):
            pass

    assert (caught.value.problem.code, caught.value.problem.field) == ("bad_name", field)


async def test_the_longest_names_fit(nats_url: str) -> None:
    longest = "é" * LONGEST_NAME

    async with Client.connect(nats_url, tenant=longest, key=longest) as client:
        with pytest.raises(NoBroker):
            await client.submit(longest, BODY)
        with pytest.raises(NoBroker):
            await client.infer(longest, BODY)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"custom_id": ""}, "custom_id"),
        ({"custom_id": "x" * 600}, "custom_id"),
        ({"custom_id": 5}, "custom_id"),
        ({"custom_id": "\ud800"}, "custom_id"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"a": "x" * 600}}, "metadata[...]"),
        ({"deadline_ms": -1}, "deadline_ms"),
        ({"deadline_ms": 1.5}, "deadline_ms"),
        ({"deadline_ms": 10**20}, "deadline_ms"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"endpoint": "x" * 9_000_000}, "endpoint"),
        ({"body": b"x" * (BODY_BYTES + 1)}, "body"),
        ({"body": {"messages": "\ud800"}}, "body"),
    ],
)
async def test_what_no_intake_could_read_is_refused_with_its_field(
    client: Client, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(RequestRefused) as caught:
        await client.submit("m", **{"body": BODY, **changes})

    assert caught.value.problem.field == field


async def test_a_body_over_the_limit_is_not_sent_whichever_way(client: Client) -> None:
    body = b" " * 9_000_000

    for refused in (client.infer("m", body), client.submit("m", body)):
        with pytest.raises(RequestRefused) as caught:
            await refused
        assert (caught.value.problem.code, caught.value.problem.limit) == ("body_too_large", BODY_BYTES)


async def test_jobs_of_one_model_share_a_message_whatever_lies_between_them(client: Client) -> None:
    await declare_streams(client.nats)
    ids = [new_id() for _ in range(6)]

    sent = await client.submit_many(
        Submission("ab"[number % 2], Job(id=job, endpoint=CHAT.path, body=b"{}")) for number, job in enumerate(ids)
    )

    js = client.nats.jetstream()
    stored = [await js.get_msg(subjects.SUBMIT, seq) for seq in (1, 2)]
    assert sent == 6
    assert (await js.stream_info(subjects.SUBMIT)).state.messages == 2
    read = [decode_jobs(message.data or b"", message.headers)[0] for message in stored]
    assert [[job.id for job in jobs.values()] for jobs in read] == [ids[::2], ids[1::2]]


async def test_of_many_jobs_the_bad_one_is_named(client: Client) -> None:
    with pytest.raises(RequestRefused, match=r"custom_id: .*, in job 2") as caught:
        await client.submit_many(Submission("m", a_job(custom_id=name)) for name in ("a", ""))

    assert caught.value.problem.field == "custom_id"


@pytest.mark.parametrize("timeout_s", [float("inf"), float("nan"), 0.0, -1.0, 1e300])
async def test_a_timeout_that_is_no_time_is_refused(client: Client, timeout_s: float) -> None:
    with pytest.raises(RequestRefused) as caught:
        await client.infer("m", BODY, timeout_s=timeout_s)

    assert caught.value.problem.field == "timeout_s"


async def test_what_no_message_can_carry_is_refused(client: Client) -> None:
    for refused in (client.apply_catalog("#" * 9_000_000), client.create_batch(metadata={"a": "\ud800"})):
        with pytest.raises(RequestRefused):
            await refused


async def test_without_nats_a_client_says_why_at_once() -> None:
    with pytest.raises(Unavailable, match="Connect call failed"):
        async with asyncio.timeout(3), Client.connect("nats://127.0.0.1:9"):
            pass


async def test_a_client_is_left_quietly_while_nats_is_away(nats_url: str) -> None:
    """With something that still waits to be written, which nobody will read."""
    async with a_proxy(nats_url) as proxy:
        async with Client.connect(proxy.url) as client:
            proxy.is_open = False
            proxy.cut()

            async def is_lost() -> bool:
                return not client.nats.is_connected

            await until(is_lost, "the connection is lost")
            await client.nats.publish("x", b"y")

        assert client.nats.is_closed

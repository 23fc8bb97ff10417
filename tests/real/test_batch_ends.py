"""How a batch of a file ends over HTTP: expired, cancelled and retried; what its files say, and who is told."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from broker.config import WebhookConfig
from schemas.changes import Change
from schemas.jetstream.client import NatsClient as Nats
from schemas.webhooks import EventType, WebhookCreate
from tests.real.test_broker import SCRIPT, Running, a_broker, a_worker
from tests.real.test_http_files import a_line, ended, got, lines_of, made
from tests.receiver import Receiver, a_receiver
from tests.system import CATALOG

pytestmark = [pytest.mark.real, pytest.mark.timeout(90)]
LATE = """
[models.late]
[[models.late.route]]
deployment = "e"
[deployments.e]
engine = "simulated"
max_concurrency = 4
"""
"""A model that nobody serves."""
LOCAL = WebhookConfig(allow=("127.0.0.0/8",), http=True)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with a_receiver() as receiver:
        yield receiver


@pytest.fixture
async def broker(nats_url: str, ledger_url: str, nc: Nats) -> AsyncIterator[Running]:
    """Without a worker."""
    async with a_broker(nats_url, ledger_url, nc, webhooks=LOCAL) as running:
        yield running


async def a_webhook(broker: Running, receiver: Receiver, *events: EventType) -> UUID:
    answer = await broker.client.create_webhook(WebhookCreate(url=receiver.url, events=events))
    receiver.secret = answer.secret
    return answer.webhook.id


async def asked(http: aiohttp.ClientSession, path: str, status: int = 200, **body: Any) -> Any:
    async with http.post(path, json=body) as response:
        assert response.status == status, await response.text()
        return await response.json()


async def until_done(http: aiohttp.ClientSession, batch: str, jobs: int) -> None:
    while json.loads((await got(http, f"/v1/batches/{batch}"))[1])["request_counts"]["completed"] < jobs:
        await asyncio.sleep(0.05)


async def expire(broker: Running, batch: dict[str, Any]) -> None:
    """Let the time of a batch be over."""
    await broker.client.change_batch(UUID(batch["infermq"]["id"]), Change(deadline_in_ms=100))


async def test_a_batch_whose_time_is_over_has_what_it_came_to_and_may_be_retried(
    broker: Running, http: aiohttp.ClientSession, receiver: Receiver, nc: Nats
) -> None:
    await broker.client.apply_catalog(CATALOG.format(slots=4, options=SCRIPT) + LATE)
    webhook = await a_webhook(broker, receiver)
    lines = [a_line(0), a_line(1), a_line(2, model="late"), a_line(3, model="late")]
    batch = await made(http, requests=lines, webhook=str(webhook))
    assert batch["infermq"]["webhook"] == str(webhook)
    async with a_worker(nc):
        await broker.has_a_worker()
        await until_done(http, batch["id"], 2)
    await expire(broker, batch)

    batch = await ended(http, batch)

    assert (batch["status"], batch["completed_at"]) == ("expired", None)
    assert batch["expired_at"] is not None
    assert batch["request_counts"] == {"total": 4, "completed": 2, "failed": 2}
    assert (await lines_of(http, batch["output_file_id"])).keys() == {"c0", "c1"}
    errors = await lines_of(http, batch["error_file_id"])
    assert {name: line["error"]["code"] for name, line in errors.items()} == dict.fromkeys(
        ["c2", "c3"], "batch_expired"
    )
    await receiver.has(1)

    retry = await asked(http, f"/v1/batches/{batch['id']}/retry", completion_window="2h", model="m")
    during = json.loads((await got(http, f"/v1/batches/{batch['id']}"))[1])
    async with a_worker(nc):
        retry = await ended(http, retry)
    first = await ended(http, during)

    assert (retry["status"], retry["completion_window"]) == ("completed", "2h")
    assert retry["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    assert (await lines_of(http, retry["output_file_id"])).keys() == {"c2", "c3"}
    assert during["status"] == "in_progress"
    assert (first["status"], first["error_file_id"]) == ("completed", None)
    assert first["request_counts"] == {"total": 4, "completed": 4, "failed": 0}
    output = await lines_of(http, first["output_file_id"])
    assert output.keys() == {f"c{n}" for n in range(4)}
    _, content = await got(http, f"/v1/files/{first['output_file_id']}/content")
    for begin, end in ((0, 10), (len(content) // 2, len(content)), (len(content) - 5, len(content))):
        part = await got(http, f"/v1/files/{first['output_file_id']}/content", range=f"bytes={begin}-{end - 1}")
        assert part == (206, content[begin:end])
    refused = await asked(http, f"/v1/batches/{batch['id']}/retry", 409)
    assert refused["error"]["code"] == "nothing_to_retry"
    again = await asked(http, f"/v1/batches/{batch['id']}/retry", id=retry["infermq"]["id"])
    assert again["id"] == retry["id"]
    await receiver.has(2)
    assert [(body["type"], body["data"]["id"]) for _, body in receiver.came] == [
        ("batch.expired", batch["id"]),
        ("batch.completed", retry["id"]),
    ]


async def test_a_cancelled_batch_is_told_of_and_what_was_cancelled_is_retried_only_if_it_is_named(
    broker: Running, http: aiohttp.ClientSession, receiver: Receiver, nc: Nats
) -> None:
    await a_webhook(broker, receiver, EventType.BATCH_CANCELLED, EventType.BATCH_COMPLETED)
    batch = await made(http, requests=[a_line(0), a_line(1, "late")])
    async with a_worker(nc, script='failures = [{match = "late", kind = "hang"}]'):
        await broker.has_a_worker()
        await until_done(http, batch["id"], 1)
        await asked(http, f"/v1/batches/{batch['id']}/cancel")
        batch = await ended(http, batch)

    assert batch["status"] == "cancelled"
    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert (await lines_of(http, batch["output_file_id"])).keys() == {"c0"}
    errors = await lines_of(http, batch["error_file_id"])
    assert {name: line["error"]["code"] for name, line in errors.items()} == {"c1": "batch_cancelled"}
    await asked(http, f"/v1/batches/{batch['id']}/retry", 409)
    retry = await asked(http, f"/v1/batches/{batch['id']}/retry", states=["cancelled"])
    async with a_worker(nc):
        await ended(http, retry)
    batch = json.loads((await got(http, f"/v1/batches/{batch['id']}"))[1])
    assert (await lines_of(http, batch["output_file_id"])).keys() == {"c0", "c1"}
    assert batch["error_file_id"] is None
    await receiver.has(2)
    assert receiver.events() == ["batch.cancelled", "batch.completed"]


WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({"states": ["succeeded"]}, 409, "nothing_to_retry"),
    ({"states": []}, 400, "bad_request"),
    ({"completion_window": "1m"}, 400, "bad_window"),
    ({"id": "00000000-0000-0000-0000-000000000000"}, 400, "bad_id"),
    ({"nothing": 1}, 400, "bad_request"),
]


async def test_what_is_wrong_with_a_retry_is_named(http: aiohttp.ClientSession, broker: Running, nc: Nats) -> None:
    batch = await made(http, requests=[a_line(0, "never")])
    async with a_worker(nc):
        await broker.has_a_worker()
        batch = await ended(http, batch)

    for body, status, code in WRONG:
        refused = await asked(http, f"/v1/batches/{batch['id']}/retry", status, **body)
        assert refused["error"]["code"] == code
    unknown = await asked(http, "/v1/batches/batch_01a21ad1672270008000000000000001/retry", 404)
    assert unknown["error"]["code"] == "unknown_batch"


async def test_a_single_job_is_told_of_when_it_ends(
    http: aiohttp.ClientSession, broker: Running, receiver: Receiver, nc: Nats
) -> None:
    await a_webhook(broker, receiver, EventType.JOB_SETTLED)
    async with a_worker(nc):
        await broker.has_a_worker()
        body = {"messages": [{"role": "user", "content": "Hi."}], "max_tokens": 2}
        job = await asked(http, "/v1/jobs", 202, model="m", body=body, custom_id="mine")
        await receiver.has(1)

    [(_, told)] = receiver.came
    assert (told["type"], told["data"]) == (
        "job.settled",
        {"id": job["id"], "state": "succeeded", "custom_id": "mine"},
    )

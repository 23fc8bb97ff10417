"""Single jobs over HTTP, requests that wait for their turn, and what the API says of itself."""

import asyncio
import json
import re
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import jsonschema_rs
import pytest

from broker.bus.catalogs import Catalogs
from broker.bus.results import hearing_job
from broker.bus.submissions import store
from broker.bus.submitted import SubmittedJobs
from broker.client import Submission
from broker.core.principal import open_principal
from broker.doors.http.app import HOT
from broker.doors.http.openapi import document
from broker.doors.http.routes import ROUTES
from broker.ledger.jobs import PgJobs
from broker.ports import BatchLedger, Ledger
from broker.serve import version
from broker.service import JobService, SingleJobService, SubmissionService
from broker.service.single_jobs import LOOK_S
from schemas import subjects
from schemas.api import JobShow, State
from schemas.ids import uuid7
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Job
from schemas.subjects import Verb
from tests.builders import CHAT, an_entropy, an_entry, now
from tests.declared import declare_streams
from tests.real.test_broker import Running
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]


def a_body(text: str = "Hi.", **more: Any) -> dict[str, Any]:
    return {"max_tokens": 4, "messages": [{"role": "user", "content": text}], **more}


def single_jobs(nc: Nats, jobs: PgJobs, batches: BatchLedger) -> SingleJobService:
    catalogs = Catalogs(nc)
    return SingleJobService(
        submissions=SubmissionService(store=partial(store, nc)),
        jobs=JobService(
            ledger=jobs, batches=batches, submitted=SubmittedJobs(nc), catalogs=catalogs, pools=dict, clock=now
        ),
        ledger=jobs,
        hearing=partial(hearing_job, nc),
        catalog=lambda: catalogs.active.catalog,
        clock=now,
        entropy=an_entropy,
    )


async def got(http: aiohttp.ClientSession, path: str, status: int = 200) -> Any:
    async with http.get(path) as response:
        assert response.status == status, await response.text()
        return await response.json()


async def submitted(http: aiohttp.ClientSession, text: str = "Hi.", status: int = 202, **more: Any) -> Any:
    async with http.post("/v1/jobs", json={"model": "m", "body": a_body(text), **more}) as response:
        assert response.status == status, await response.text()
        return await response.json()


async def test_a_job_is_submitted_and_read_once_it_has_ended(http: aiohttp.ClientSession) -> None:
    accepted = await submitted(http, custom_id="mine", metadata={"a": "b"}, lane="bulk", timeout_s=60, priority=3)

    job = await got(http, f"/v1/jobs/{accepted['id']}?wait_s=30")

    assert (accepted["object"], accepted["state"]) == ("job", "accepted")
    assert (job["state"], job["custom_id"], job["metadata"], job["priority"]) == ("succeeded", "mine", {"a": "b"}, 3)
    assert job["response"]["status_code"] == 200
    assert job["response"]["body"]["usage"]["completion_tokens"] == 4
    assert job["error"] is None
    described = document("1")
    schema = {"$ref": "#/components/schemas/JobView", "components": described["components"]}
    jsonschema_rs.validator_for(schema).validate(job)
    listed = await got(http, "/v1/jobs?custom_id=mine&states=succeeded&metadata.a=b&limit=5")
    assert [one["id"] for one in listed["jobs"]] == [accepted["id"]]
    assert (await got(http, "/v1/jobs?metadata.a=c"))["jobs"] == []


async def test_the_same_job_sent_again_runs_once(http: aiohttp.ClientSession) -> None:
    name = str(uuid7(now(), an_entropy()))
    first, again = await submitted(http, id=name), await submitted(http, id=name)

    assert first["id"] == again["id"] == name
    await got(http, f"/v1/jobs/{name}?wait_s=30")
    assert len((await got(http, "/v1/jobs"))["jobs"]) == 1


async def test_an_idempotency_key_stands_for_one_job(http: aiohttp.ClientSession) -> None:
    first = await submitted(http, idempotency_key="k")
    await got(http, f"/v1/jobs/{first['id']}?wait_s=30")
    again = await submitted(http, idempotency_key="k")
    other = await submitted(http, "Another.", status=409, idempotency_key="k")
    headers = {"Idempotency-Key": "k"}
    async with http.post("/v1/jobs", json={"model": "m", "body": a_body()}, headers=headers) as response:
        by_header = await response.json()
    async with http.post("/v1/jobs", json={"model": "m", "body": a_body()}, headers={"Idempotency-Key": ""}) as empty:
        refused = await empty.json()

    assert again["id"] == by_header["id"] == first["id"]
    assert other["error"]["code"] == "key_conflict"
    assert (empty.status, refused["error"]["param"]) == (400, "idempotency-key")
    assert len((await got(http, "/v1/jobs"))["jobs"]) == 1


async def test_an_idempotency_key_that_is_used_twice_at_once_stands_for_one_job(http: aiohttp.ClientSession) -> None:
    sent = await asyncio.gather(*(submitted(http, idempotency_key="k") for _ in range(8)))
    shown = [await got(http, f"/v1/jobs/{one['id']}?wait_s=30") for one in sent]

    assert len({one["id"] for one in shown}) == 1
    assert len((await got(http, "/v1/jobs"))["jobs"]) == 1


async def test_another_job_under_the_same_id_is_not_mistaken_for_it(
    broker: Running, http: aiohttp.ClientSession
) -> None:
    name = str(uuid7(now(), an_entropy()))
    await submitted(http, id=name)
    await submitted(http, "Another.", id=name)
    await got(http, f"/v1/jobs/{name}?wait_s=30")

    async def is_recorded() -> bool:
        return bool(await broker.rows("select from infermq.jobs where state = 'failed'"))

    await until(is_recorded, "the other one is recorded as refused")


async def test_whoever_waits_for_a_job_of_a_batch_hears_of_its_end(
    broker: Running, http: aiohttp.ClientSession
) -> None:
    batch, job = await broker.client.create_batch(), uuid7(now(), an_entropy())
    body = json.dumps(a_body("hang")).encode()
    await broker.client.submit_many([Submission("m", Job(id=job, endpoint=CHAT, body=body, batch=batch.id))])

    async def runs() -> bool:
        shown = await broker.shown(job)
        return shown is not None and shown.state is State.RUNNING

    await until(runs, "it runs")
    began = now()
    waiting = asyncio.create_task(got(http, f"/v1/jobs/{job}?wait_s=60"))
    async with http.post(f"/v1/jobs/{job}/cancel") as response:
        assert response.status == 200

    assert (await waiting)["state"] == "cancelled"
    assert now() - began < LOOK_S * 1000 - 1000, "it was found by a look at the ledger"


async def test_waiting_for_a_job_does_not_ask_the_ledger_again_and_again(ledger: Ledger, nc: Nats) -> None:
    looks = 0

    class Counting(PgJobs):
        async def find(self, job: UUID, tenant: str) -> JobShow | None:
            nonlocal looks
            looks += 1
            return await super().find(job, tenant)

    assert isinstance(ledger.jobs, PgJobs)
    await declare_streams(nc)
    entry = an_entry()
    await ledger.intake.admit([entry])
    principal = open_principal(entry.tenant, entry.key)
    shown = await single_jobs(nc, Counting(ledger.jobs._database), ledger.batches).show_within(
        principal, entry.id, wait_s=2
    )

    assert shown.state is State.QUEUED
    assert looks <= 3, "before it listens, once it does, and when its time is up"


async def test_what_is_nobodys_cannot_be_cancelled(http: aiohttp.ClientSession) -> None:
    async with http.post(f"/v1/jobs/{uuid7(now(), an_entropy())}/cancel") as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "unknown_job"


async def test_a_job_that_fails_says_why_and_one_that_waits_can_be_changed_and_cancelled(
    http: aiohttp.ClientSession,
) -> None:
    failed = await got(http, f"/v1/jobs/{(await submitted(http, 'wrong'))['id']}?wait_s=30")
    async with http.post("/v1/verbs/pause", json={"kind": "lane", "name": "bulk"}) as paused:
        assert paused.status == 200, await paused.text()
    waits = await submitted(http, lane="bulk")
    path = f"/v1/jobs/{waits['id']}"
    while (await got(http, path))["state"] != "queued":
        await asyncio.sleep(0.02)
    async with http.patch(path, json={"priority": 9}) as changed, http.post(f"{path}/cancel") as cancelled:
        assert (await changed.json())["after"]["priority"] == 9
        assert (await cancelled.json())["id"] == waits["id"]

    assert failed["error"]["code"] == "bad_request"
    assert failed["response"] is None
    assert (await got(http, f"{path}?wait_s=30"))["state"] == "cancelled"


WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({"model": "none"}, 404, "unknown_model"),
    ({"body": {"messages": []}}, 400, "body_shape"),
    ({"body": a_body(stream=True)}, 400, "stream_not_allowed"),
    ({"body": a_body("x" * 300_000)}, 413, "body_too_large"),
    ({"endpoint": "/v1/images"}, 400, "endpoint_not_served"),
    ({"lane": "fast"}, 400, "bad_request"),
    ({"timeout": 3}, 400, "bad_request"),
    ({"timeout_s": 3, "deadline_ms": 5}, 400, "two_deadlines"),
    ({"id": "0195d8a1-0000-4000-8000-000000000000"}, 400, "bad_id"),
]


async def test_what_would_be_refused_is_not_accepted(http: aiohttp.ClientSession) -> None:
    for more, status, code in WRONG:
        answer = await submitted(http, status=status, **more)
        assert answer["error"]["code"] == code
    assert (await got(http, "/v1/jobs/x", 404))["error"]["code"] == "unknown_job"
    for query in ("wait_s=61", "wait_s=x"):
        assert (await got(http, f"/v1/jobs/{uuid7(now(), an_entropy())}?{query}", 400))["error"]["param"] == "wait_s"
    for query, field in (("limit=0", "limit"), ("color=red", "color"), ("states=asleep", "states[0]")):
        assert (await got(http, f"/v1/jobs?{query}", 400))["error"]["param"] == field
    assert (await got(http, "/v1/jobs"))["jobs"] == []


@pytest.mark.parametrize("lane", ["standard", "bulk"])
async def test_a_request_may_wait_for_its_turn(http: aiohttp.ClientSession, lane: str) -> None:
    body = {"model": "m", **a_body(), "infermq": {"lane": lane}}
    async with http.post("/v1/chat/completions", json=body) as response:
        answer = await response.json()

    assert (response.status, answer["object"]) == (200, "chat.completion")
    job = await got(http, f"/v1/jobs/{response.headers['x-request-id']}")
    assert (job["lane"], job["state"], job["attempt"]) == (lane, "succeeded", 1)
    for text, status in (("wrong", 400), ("never", 502)):
        async with http.post("/v1/chat/completions", json={**body, **a_body(text)}) as response:
            assert response.status == status, await response.text()
    async with http.post("/v1/chat/completions", json={**body, "stream": True}) as response:
        error = (await response.json())["error"]
        assert (error["code"], error["param"]) == ("stream_not_allowed", "stream")
        assert f"the lane {lane}" in error["message"]


@pytest.mark.parametrize(
    ("path", "asked", "kind"),
    [
        ("/v1/responses", {"input": "Hi.", "max_output_tokens": 4}, "response"),
        ("/v1/messages", {"messages": [{"role": "user", "content": "Hi."}], "max_tokens": 4}, "message"),
        ("/v1/embeddings", {"input": "Hi."}, "list"),
    ],
    ids=["responses", "messages", "embeddings"],
)
async def test_a_request_of_any_dialect_may_wait_for_its_turn(
    http: aiohttp.ClientSession, path: str, asked: dict[str, Any], kind: str
) -> None:
    async with http.post(path, json={"model": "m", **asked}, headers={"x-infermq-lane": "bulk"}) as response:
        answer = await response.json()

    assert (response.status, answer.get("object", answer.get("type"))) == (200, kind), answer
    assert (await got(http, f"/v1/jobs/{response.headers['x-request-id']}"))["lane"] == "bulk"


async def test_a_job_for_which_there_is_no_room_is_refused_and_may_come_again(
    broker: Running, http: aiohttp.ClientSession
) -> None:
    js = broker.nc.jetstream()
    info = await js.stream_info(subjects.SUBMIT)
    info.config.max_bytes = 100
    await js.update_stream(info.config)

    async with http.post("/v1/jobs", json={"model": "m", "body": a_body()}) as response:
        answer = await response.json()

    assert (response.status, answer["error"]["code"]) == (503, "backlog_full")
    assert response.headers["x-should-retry"] == "true"
    assert int(response.headers["retry-after"]) >= 1


async def test_a_client_that_leaves_while_its_job_waits_cancels_it(http: aiohttp.ClientSession) -> None:
    async def asked() -> None:
        headers = {"x-infermq-lane": "bulk", "x-infermq-custom-id": "left"}
        async with http.post(
            "/v1/chat/completions", json={"model": "m", **a_body("hang")}, headers=headers
        ) as response:
            await response.read()

    asking = asyncio.create_task(asked())
    while not (jobs := (await got(http, "/v1/jobs?custom_id=left"))["jobs"]):
        await asyncio.sleep(0.02)
    asking.cancel()

    assert (await got(http, f"/v1/jobs/{jobs[0]['id']}?wait_s=30"))["state"] == "cancelled"


async def test_the_api_describes_itself_to_programs_and_people(http: aiohttp.ClientSession) -> None:
    described = await got(http, "/openapi.json")
    async with http.get("/docs") as response:
        page, policy = await response.text(), response.headers["content-security-policy"]

    assert (await got(http, "/"))["docs"] == "/docs"
    assert described["info"]["version"] == version()
    assert described == json.loads(json.dumps(document(described["info"]["version"])))
    assert "<script" not in page
    assert "script-src" not in policy
    assert "default-src 'none'" in policy
    for path in described["paths"]:
        assert path in page


async def test_another_method_is_told_which_are_allowed(http: aiohttp.ClientSession) -> None:
    async with http.delete("/v1/jobs") as response:
        assert (response.status, response.headers["allow"]) == (405, "GET, HEAD, POST")


async def test_every_route_of_the_table_is_served(http: aiohttp.ClientSession) -> None:
    for route in ROUTES:
        path = re.sub(r"{[^}]*}", "x", route.path)
        async with http.request(route.method, path) as response:
            answer = await response.text()
        for code in ("unknown_route", "wrong_method", "unavailable", "internal"):
            assert f'"code":"{code}"' not in answer or route.name == "verb", (route, answer)


def test_the_document_is_whole_and_its_examples_fit() -> None:
    described = document("1")
    operations = [(path, method) for path, methods in described["paths"].items() for method in methods]

    assert len(operations) == len(ROUTES) - 1 + len(Verb)
    official = json.loads((Path(__file__).parents[1] / "wire" / "openapi-3.1.schema.json").read_text())
    jsonschema_rs.validator_for(official).validate(described)
    names = [one["operationId"] for methods in described["paths"].values() for one in methods.values()]
    assert len(set(names)) == len(names)
    assert {route.path for route in ROUTES} >= HOT.keys()
    assert len({route.name for route in ROUTES}) == len(ROUTES)
    for path, method in operations:
        for media in described["paths"][path][method].get("requestBody", {}).get("content", {}).values():
            if "example" in media:
                schema = {**media["schema"], "components": described["components"]}
                jsonschema_rs.validator_for(schema).validate(media["example"])

"""Files and batches over HTTP, as OpenAI's API has them."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from schemas.endpoints import CHAT
from schemas.jetstream.client import NatsClient as Nats
from tests.real.test_broker import a_broker, a_worker

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]


@pytest.fixture
async def http(nats_url: str, ledger_url: str, nc: Nats) -> AsyncIterator[aiohttp.ClientSession]:
    async with a_broker(nats_url, ledger_url, nc) as running, a_worker(nc):
        await running.has_a_worker()
        async with aiohttp.ClientSession(running.api) as session:
            yield session


@pytest.fixture
async def http_alone(nats_url: str, ledger_url: str, nc: Nats) -> AsyncIterator[aiohttp.ClientSession]:
    """Of a broker that has no worker."""
    async with a_broker(nats_url, ledger_url, nc) as running, aiohttp.ClientSession(running.api) as session:
        yield session


def a_line(number: int, text: str = "Hi.", **more: Any) -> dict[str, Any]:
    body = {"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": text}]}
    return {"custom_id": f"c{number}", "method": "POST", "url": CHAT.path, "body": {**body, **more}}


def a_file(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def a_form(
    content: bytes, *, before: dict[str, str] | None = None, after: dict[str, str] | None = None
) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for name, value in (before or {}).items():
        form.add_field(name, value)
    form.add_field("file", io.BytesIO(content), filename="input.jsonl")
    for name, value in (after or {}).items():
        form.add_field(name, value)
    return form


BATCH = {"purpose": "batch"}


async def uploaded(http: aiohttp.ClientSession, content: bytes) -> str:
    async with http.post("/v1/files", data=a_form(content, before=BATCH)) as response:
        assert response.status == 200, await response.text()
        name: str = (await response.json())["id"]
        return name


async def made(http: aiohttp.ClientSession, **ask: Any) -> dict[str, Any]:
    body = {"endpoint": CHAT.path, "completion_window": "24h", **ask}
    async with http.post("/v1/batches", json=body) as response:
        assert response.status == 200, await response.text()
        found: dict[str, Any] = await response.json()
        return found


async def got(http: aiohttp.ClientSession, path: str, **headers: str) -> tuple[int, bytes]:
    async with http.get(path, headers=headers) as response:
        return response.status, await response.read()


async def ended(http: aiohttp.ClientSession, batch: dict[str, Any]) -> dict[str, Any]:
    while batch["status"] not in {"completed", "failed", "expired", "cancelled"}:
        assert batch["status"] in {"validating", "in_progress", "finalizing", "cancelling"}
        await asyncio.sleep(0.05)
        batch = json.loads((await got(http, f"/v1/batches/{batch['id']}"))[1])
    return batch


async def lines_of(http: aiohttp.ClientSession, file: str | None) -> dict[str, Any]:
    assert file is not None
    status, content = await got(http, f"/v1/files/{file}/content")
    assert status == 200
    shown = json.loads((await got(http, f"/v1/files/{file}"))[1])
    assert shown["bytes"] == len(content)
    return {line["custom_id"]: line for line in map(json.loads, content.splitlines())}


async def test_a_file_is_kept_as_it_was_sent(http_alone: aiohttp.ClientSession) -> None:
    content = bytes(range(256)) * 9000  # more than two pieces
    name = await uploaded(http_alone, content)

    assert await got(http_alone, f"/v1/files/{name}/content") == (200, content)
    shown = json.loads((await got(http_alone, f"/v1/files/{name}"))[1])
    assert (shown["bytes"], shown["filename"], shown["purpose"]) == (len(content), "input.jsonl", "batch")
    listed = json.loads((await got(http_alone, "/v1/files?purpose=batch&order=asc&limit=5"))[1])
    assert (listed["data"], listed["has_more"]) == ([shown], False)

    async with http_alone.delete(f"/v1/files/{name}") as response:
        assert (await response.json())["deleted"]
    assert [(await got(http_alone, f"/v1/files/{name}{more}"))[0] for more in ("", "/content")] == [404, 404]


RANGES = [
    ("bytes=0-0", 206, 0, 1),
    ("bytes=1048570-1048580", 206, 1_048_570, 1_048_581),
    ("bytes=-7", 206, 2_303_993, 2_304_000),
    ("bytes=2000000-", 206, 2_000_000, 2_304_000),
    ("bytes=5-99999999", 206, 5, 2_304_000),
    ("bytes=0-1,4-5", 200, 0, 2_304_000),
    ("lines=0-1", 200, 0, 2_304_000),
]


async def test_a_range_of_a_file_is_sent(http_alone: aiohttp.ClientSession) -> None:
    content = bytes(range(256)) * 9000
    name = await uploaded(http_alone, content)

    for asked, status, begin, end in RANGES:
        async with http_alone.get(f"/v1/files/{name}/content", headers={"range": asked}) as response:
            assert (response.status, await response.read()) == (status, content[begin:end]), asked
            assert (response.headers.get("content-range") is not None) is (status == 206)
    assert (await got(http_alone, f"/v1/files/{name}/content", range="bytes=2304000-"))[0] == 416


FORMS: list[tuple[dict[str, str], dict[str, str], int, str | None]] = [
    ({}, BATCH, 200, None),
    ({**BATCH, "expires_after[anchor]": "created_at", "expires_after[seconds]": "7200"}, {}, 200, None),
    ({}, {}, 400, "purpose"),
    ({"purpose": "assistants"}, {}, 400, "purpose"),
    ({}, {"purpose": "assistants"}, 400, "purpose"),
    (BATCH, {"expires_after[anchor]": "now", "expires_after[seconds]": "7200"}, 400, "expires_after.anchor"),
    ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "7"}, BATCH, 400, "expires_after.seconds"),
    ({"x": "y" * 70_000}, BATCH, 413, None),
]
"""The fields before and after the file, and what is answered."""


async def test_the_fields_of_a_form_are_checked_wherever_they_stand(http_alone: aiohttp.ClientSession) -> None:
    for before, after, status, field in FORMS:
        async with http_alone.post("/v1/files", data=a_form(b"{}", before=before, after=after)) as response:
            answer = await response.json()
        assert response.status == status, answer
        if status == 200:
            expires = answer["expires_at"] and answer["expires_at"] - answer["created_at"]
            assert expires == (7200 if "expires_after[seconds]" in before else None)
        else:
            assert answer["error"]["param"] == field
    assert len(json.loads((await got(http_alone, "/v1/files"))[1])["data"]) == 2


PURPOSE_FIRST = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
HALF = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nabc'
NO_FORMS = [
    (b"{}", "application/json"),
    (b"--x\r\n", "multipart/form-data; boundary=x"),
    (b"nothing of the kind", "multipart/form-data; boundary=x"),
    (HALF, "multipart/form-data; boundary=x"),
    (PURPOSE_FIRST + HALF, "multipart/form-data; boundary=x"),
    (b"", "multipart/form-data"),
]


async def test_what_is_no_form_is_refused(http_alone: aiohttp.ClientSession) -> None:
    for content, kind in NO_FORMS:
        async with http_alone.post("/v1/files", data=content, headers={"content-type": kind}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (400, "bad_request")
    assert json.loads((await got(http_alone, "/v1/files"))[1])["data"] == []


async def test_a_batch_runs_the_lines_of_a_file(http: aiohttp.ClientSession) -> None:
    lines = [*(a_line(n) for n in range(30)), a_line(30, "wrong"), a_line(31, "never")]
    name = await uploaded(http, a_file(*lines))

    batch = await ended(http, await made(http, input_file_id=name, metadata={"a": "b"}))

    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 32, "completed": 30, "failed": 2}
    assert (batch["metadata"], batch["input_file_id"]) == ({"a": "b"}, name)
    output, errors = await lines_of(http, batch["output_file_id"]), await lines_of(http, batch["error_file_id"])
    assert output.keys() == {f"c{n}" for n in range(30)}
    assert {line["response"]["status_code"] for line in output.values()} == {200}
    assert output["c0"]["response"]["body"]["object"] == "chat.completion"
    assert (errors["c30"]["response"]["status_code"], errors["c30"]["error"]) == (400, None)
    assert errors["c30"]["response"]["body"]["error"]["code"] == "bad_request"
    assert (errors["c31"]["response"], errors["c31"]["error"]["code"]) == (None, "engine_fault")


async def test_a_bad_line_fails_a_batch_and_is_named(http: aiohttp.ClientSession) -> None:
    content = a_file(a_line(0), a_line(1, model="none"), a_line(0)) + b"{\n"
    name = await uploaded(http, content)

    batch = await ended(http, await made(http, input_file_id=name))

    assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("failed", None, None)
    assert [(one["line"], one["code"], one["param"]) for one in batch["errors"]["data"]] == [
        (2, "unknown_model", "body.model"),
        (3, "duplicate_custom_id", "custom_id"),
        (4, "not_json", None),
    ]


async def test_bad_lines_are_left_out_and_in_the_error_file_if_that_is_asked(http: aiohttp.ClientSession) -> None:
    name = await uploaded(http, a_file(a_line(0), a_line(1, model="none"), a_line(2)))

    batch = await ended(http, await made(http, input_file_id=name, on_bad_line="skip"))

    assert (batch["status"], batch["errors"]) == ("completed", None)
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert (await lines_of(http, batch["output_file_id"])).keys() == {"c0", "c2"}
    assert (await lines_of(http, batch["error_file_id"]))["c1"]["error"]["code"] == "unknown_model"


async def test_a_batch_brings_its_requests_along(http: aiohttp.ClientSession) -> None:
    batch = await ended(http, await made(http, requests=[a_line(n) for n in range(5)]))

    assert batch["status"] == "completed"
    assert (await lines_of(http, batch["output_file_id"])).keys() == {f"c{n}" for n in range(5)}


async def test_a_cancelled_batch_has_what_it_came_to(http: aiohttp.ClientSession) -> None:
    batch = await made(http, requests=[a_line(0), *(a_line(n, "hang") for n in range(1, 20))])
    while json.loads((await got(http, f"/v1/batches/{batch['id']}"))[1])["request_counts"]["completed"] < 1:
        await asyncio.sleep(0.05)
    async with http.post(f"/v1/batches/{batch['id']}/cancel") as response:
        assert (await response.json())["status"] in {"cancelling", "cancelled"}

    batch = await ended(http, batch)

    assert batch["status"] == "cancelled"
    assert (await lines_of(http, batch["output_file_id"])).keys() == {"c0"}
    assert {line["error"]["code"] for line in (await lines_of(http, batch["error_file_id"])).values()} == {
        "batch_cancelled"
    }
    async with http.post(f"/v1/batches/{batch['id']}/cancel") as response:
        assert (await response.json())["status"] == "cancelled"


async def test_a_batch_of_which_nothing_succeeded_has_errors_only(http: aiohttp.ClientSession) -> None:
    batch = await ended(http, await made(http, requests=[a_line(0, "wrong")]))

    assert (batch["status"], batch["output_file_id"], batch["request_counts"]["failed"]) == ("completed", None, 1)
    assert (await lines_of(http, batch["error_file_id"]))["c0"]["response"]["status_code"] == 400


async def test_what_a_batch_came_to_is_deleted_one_file_by_one(http: aiohttp.ClientSession) -> None:
    batch = await ended(http, await made(http, requests=[a_line(0), a_line(1, "wrong")]))
    output, errors = batch["output_file_id"], batch["error_file_id"]

    async with http.delete(f"/v1/files/{output}") as response:
        assert await response.json() == {"id": output, "object": "file", "deleted": True}

    gone = [f"/v1/files/{output}", f"/v1/files/{output}/content"]
    assert [(await got(http, path))[0] for path in gone] == [404, 404]
    assert (await lines_of(http, errors)).keys() == {"c1"}
    async with http.delete(f"/v1/files/{output}") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "unknown_file")
    async with http.delete(f"/v1/files/{errors}") as response:
        assert response.status == 200
    assert (await got(http, f"/v1/files/{errors}"))[0] == 404


async def test_the_output_of_a_batch_that_runs_is_not_deleted(http_alone: aiohttp.ClientSession) -> None:
    batch = await made(http_alone, requests=[a_line(0)])
    output = f"file-output-{batch['id'].removeprefix('batch_')}"

    async with http_alone.delete(f"/v1/files/{output}") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (409, "bad_state")
    assert (await got(http_alone, f"/v1/files/{output}/content")) == (200, b"")


async def test_the_output_of_a_batch_expires_when_it_was_told_to(http: aiohttp.ClientSession) -> None:
    after = {"anchor": "created_at", "seconds": 3600}
    batch = await ended(http, await made(http, requests=[a_line(0)], output_expires_after=after))

    shown = json.loads((await got(http, f"/v1/files/{batch['output_file_id']}"))[1])

    assert shown["expires_at"] - batch["completed_at"] == 3600
    assert shown["purpose"] == "batch_output"


async def test_what_a_batch_came_to_is_no_file_of_requests(http: aiohttp.ClientSession) -> None:
    batch = await ended(http, await made(http, requests=[a_line(0)]))
    ask = {"endpoint": CHAT.path, "completion_window": "24h", "input_file_id": batch["output_file_id"]}

    async with http.post("/v1/batches", json=ask) as response:
        error = (await response.json())["error"]

    assert (response.status, error["code"], error["param"]) == (400, "wrong_purpose", "input_file_id")


async def test_a_range_of_an_output_has_those_bytes_only(http: aiohttp.ClientSession) -> None:
    batch = await ended(http, await made(http, requests=[a_line(n) for n in range(5)]))
    path = f"/v1/files/{batch['output_file_id']}/content"
    whole = (await got(http, path))[1]

    for begin, end in ((0, 1), (7, 12), (len(whole) // 2, len(whole)), (len(whole) - 1, len(whole))):
        assert await got(http, path, range=f"bytes={begin}-{end - 1}") == (206, whole[begin:end])


async def test_a_batch_says_which_model_it_asks(http: aiohttp.ClientSession) -> None:
    one = await ended(http, await made(http, requests=[a_line(0), a_line(1)]))
    several = await ended(http, await made(http, requests=[a_line(0), a_line(1, model="m@d")]))

    assert (one["model"], several["model"]) == ("m", None)


async def test_batches_are_listed_page_by_page(http_alone: aiohttp.ClientSession) -> None:
    ids = [(await made(http_alone, requests=[a_line(0)]))["id"] for _ in range(5)]

    found: list[str] = []
    path = "/v1/batches?limit=2"
    while True:
        page = json.loads((await got(http_alone, path))[1])
        found += [batch["id"] for batch in page["data"]]
        if not page["has_more"]:
            break
        path = f"/v1/batches?limit=2&after={page['last_id']}"
    assert found == ids[::-1]


_SECONDS, _ANCHOR = "output_expires_after.seconds", "output_expires_after.anchor"
WRONG: list[tuple[dict[str, Any], int, str | None]] = [
    ({"input_file_id": "file-1"}, 404, "input_file_id"),
    ({"input_file_id": "file-" + "0" * 32}, 404, "input_file_id"),
    ({"input_file_id": "file-output-" + "0" * 32}, 404, "input_file_id"),
    ({}, 400, "input_file_id"),
    ({"requests": [{}], "input_file_id": "file-" + "0" * 32}, 400, "input_file_id"),
    ({"requests": []}, 400, "requests"),
    ({"requests": [{}], "completion_window": "10m"}, 400, "completion_window"),
    ({"requests": [{}], "completion_window": "8d"}, 400, "completion_window"),
    ({"requests": [{}], "endpoint": "/v1/images"}, 400, "endpoint"),
    ({"requests": [{}], "on_bad_line": "cry"}, 400, "on_bad_line"),
    ({"requests": [{}], "metadata": {"a": 1}}, 400, "metadata[...]"),
    ({"requests": [{}], "output_expires_after": {"anchor": "created_at"}}, 400, _SECONDS),
    *(
        ({"requests": [{}], "output_expires_after": {"anchor": "created_at", "seconds": n}}, 400, _SECONDS)
        for n in (3599, 2_592_001, "3600")
    ),
    ({"requests": [{}], "output_expires_after": {"anchor": "now", "seconds": 3600}}, 400, _ANCHOR),
    ({"requests": [{}], "outputs": {}}, 400, "outputs"),
]


async def test_a_wrong_batch_is_refused(http_alone: aiohttp.ClientSession) -> None:
    for ask, status, field in WRONG:
        body = {"endpoint": CHAT.path, "completion_window": "24h", **ask}
        async with http_alone.post("/v1/batches", json=body) as response:
            error = (await response.json())["error"]
        assert (response.status, error["param"]) == (status, field), error

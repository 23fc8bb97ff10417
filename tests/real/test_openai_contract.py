"""One conversation about files and batches, recorded, and held against what OpenAI documents of each object in it."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args
from uuid import UUID

import aiohttp
import msgspec
import pytest

from broker.core.openai_batch import batch_id
from broker.core.records import FileBatch
from broker.doors.http.objects import BatchObject, BatchObjects, FileDeleted, FileObject, FileObjects, Status
from broker.ports import Ledger
from schemas.endpoints import CHAT
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Lane
from schemas.units import Ms
from tests.builders import an_id, now
from tests.contract.ledger.test_retries import somebody
from tests.openai_shapes import SHAPES, faults
from tests.real.test_broker import a_broker, a_worker
from tests.real.test_http_files import BATCH, a_file, a_form, a_line

pytestmark = [pytest.mark.real, pytest.mark.timeout(90)]
ENDED = {"completed", "failed", "expired", "cancelled"}
WINDOW: dict[str, Any] = {"endpoint": CHAT.path, "completion_window": "24h"}


class Exchange(NamedTuple):
    asked: str
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)


class Conversation:
    """Asks, and records all that was answered."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.said: list[Exchange] = []

    async def ask(self, method: str, path: str, **more: Any) -> Exchange:
        async with self._session.request(method, f"/v1{path}", **more) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            self.said.append(Exchange(f"{method} {path}", response.status, headers, await response.read()))
        return self.said[-1]

    async def upload(self, content: bytes, **fields: str) -> Any:
        return (await self.ask("POST", "/files", data=a_form(content, before={**BATCH, **fields}))).body

    async def make(self, *lines: dict[str, Any], **more: Any) -> Any:
        file = await self.upload(a_file(*lines))
        return (await self.ask("POST", "/batches", json={**WINDOW, "input_file_id": file["id"], **more})).body

    async def poll(self, batch: Any, *until: str) -> Any:
        while batch["status"] not in (until or ENDED):
            await asyncio.sleep(0.05)
            batch = (await self.ask("GET", f"/batches/{batch['id']}")).body
        return batch


@pytest.fixture
async def talk(nats_url: str, ledger_url: str, nc: Nats) -> AsyncIterator[Conversation]:
    async with a_broker(nats_url, ledger_url, nc) as running, a_worker(nc):
        await running.has_a_worker()
        async with aiohttp.ClientSession(running.api) as session:
            yield Conversation(session)


async def a_late_batch(ledger: Ledger, talk: Conversation) -> Any:
    """Have a batch made whose time is up in a moment, which takes a quarter of an hour over HTTP."""
    file = await talk.upload(a_file(a_line(0), *(a_line(n, "hang") for n in range(1, 6))))
    late = FileBatch(
        id=an_id(), file=UUID(file["id"].removeprefix("file-")), lane=Lane.BULK, endpoint=CHAT.path, window="15m",
        deadline_ms=Ms(now() + 4000), skips_bad=False,
    )  # fmt: skip
    assert await ledger.file_batches.create(late, {}, "default", somebody()) is not None
    return (await talk.ask("GET", f"/batches/{batch_id(late.id)}")).body


def shape_of(said: Exchange) -> str | None:
    """Name the shape that an answer must have. None: it is the content of a file."""
    method, path = said.asked.split(" ")
    if said.status >= 400:
        return "error_response"
    if path.endswith("/content"):
        return None
    is_list = method == "GET" and path.partition("?")[0] in {"/files", "/batches"}
    kind = "file" if path.startswith("/files") else "batch"
    return f"{kind}_list" if is_list else f"{kind}_deleted" if method == "DELETE" else kind


async def test_a_conversation_is_as_openai_documents_it(talk: Conversation, ledger: Ledger) -> None:
    lines = [*(a_line(n) for n in range(10)), a_line(10, "wrong"), a_line(11, "never")]
    expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = await talk.upload(a_file(*lines), **expiry)
    await talk.ask("GET", f"/files/{file['id']}")
    content = await talk.ask("GET", f"/files/{file['id']}/content")
    assert content.content == a_file(*lines)
    ask = {**WINDOW, "input_file_id": file["id"], "metadata": {"customer_id": "user_1"}}
    ask["output_expires_after"] = {"anchor": "created_at", "seconds": 3600}
    completed = await talk.poll((await talk.ask("POST", "/batches", json=ask)).body)
    outputs = [completed["output_file_id"], completed["error_file_id"]]
    await talk.ask("GET", f"/files/{outputs[0]}")

    failed = await talk.poll(await talk.make(a_line(0), a_line(0)))
    skipped = await talk.poll(await talk.make(a_line(0), a_line(1, model="none"), on_bad_line="skip"))
    running = await talk.poll(await talk.make(*(a_line(n, "hang") for n in range(9))), "in_progress")
    await talk.ask("POST", f"/batches/{running['id']}/cancel")
    cancelled = await talk.poll(running)
    expired = await talk.poll(await a_late_batch(ledger, talk))
    for listed in ("/files", "/files?limit=1&order=asc", "/batches", "/batches?limit=2", "/files?purpose=vision"):
        await talk.ask("GET", listed)
    for batch in (skipped, cancelled, expired, completed):
        for name in (batch["output_file_id"], batch["error_file_id"]):
            await talk.ask("GET", f"/files/{name}/content") if name else None
    for name in (file["id"], *outputs):
        await talk.ask("DELETE", f"/files/{name}")
        await talk.ask("GET", f"/files/{name}")

    shapes = [(said, shape_of(said)) for said in talk.said]
    assert [
        fault for said, shape in shapes if shape is not None for fault in faults(shape, said.body, said.asked)
    ] == []
    for said, shape in shapes:
        if shape in TYPES:
            msgspec.convert(said.body, TYPES[shape])
    written = [json.loads(line) for said, shape in shapes[3:] if shape is None for line in said.content.splitlines()]
    assert [fault for line in written for fault in faults("output_line", line)] == []
    assert {(line["error"] or {}).get("code") for line in written} == {
        None, "engine_fault", "unknown_model", "batch_cancelled", "batch_expired",
    }  # fmt: skip
    assert [one["status"] for one in (completed, failed, skipped, cancelled, expired)] == [
        "completed", "failed", "completed", "cancelled", "expired",
    ]  # fmt: skip
    seen = {said.body["status"] for said, shape in shapes if shape == "batch"}
    assert seen >= {*ENDED, "in_progress"}
    check_headers(talk.said)


TYPES: Mapping[str | None, type] = {
    "file": FileObject, "file_list": FileObjects, "file_deleted": FileDeleted,
    "batch": BatchObject, "batch_list": BatchObjects,
}  # fmt: skip
"""What the OpenAPI document says of them."""


def test_the_openapi_document_describes_what_openai_documents() -> None:
    for shape, kind in TYPES.items():
        documented = SHAPES[str(shape)]
        assert {*documented["fields"], *documented.get("ours", ())} == set(kind.__struct_fields__)  # type: ignore[attr-defined]
    assert set(get_args(Status)) == set(SHAPES["batch"]["fields"]["status"])


def check_headers(said: list[Exchange]) -> None:
    for one in said:
        is_content = one.asked.endswith("/content") and one.status == 200
        kind = "application/octet-stream" if is_content else "application/json"
        assert one.headers["content-type"] == kind, one.asked
        assert int(one.headers["content-length"]) == len(one.content), one.asked
        assert str(UUID(one.headers["x-request-id"])) == one.headers["x-request-id"], one.asked
        assert one.status in {200, 404}, one


def test_what_is_not_openais_is_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "http.md").read_text()

    ours = {name for shape in SHAPES.values() for name in shape.get("ours", ())}
    assert {name for name in ours if f"`{name}`" not in page} == set()


NONE = "0" * 32
LISTS = [
    ("/batches?limit=0", 400, "limit"),
    ("/batches?limit=101", 400, "limit"),
    ("/batches?limit=two", 400, "limit"),
    ("/batches?limit=-1", 400, "limit"),
    ("/batches?limit=100", 200, None),
    ("/batches?after=file-1", 400, "after"),
    (f"/batches?after=batch_{NONE}", 200, None),
    ("/files?limit=0", 400, "limit"),
    ("/files?limit=10001", 400, "limit"),
    ("/files?limit=10000", 200, None),
    ("/files?order=up", 400, "order"),
    ("/files?after=x", 400, "after"),
    (f"/files?after=file-{NONE}&order=asc", 200, None),
    ("/files?purpose=fine-tune", 200, None),
]


async def test_lists_keep_to_the_documented_limits(talk: Conversation) -> None:
    for path, status, param in LISTS:
        said = await talk.ask("GET", path)
        assert said.status == status, said
        if status == 200:
            assert (said.body["data"], said.body["has_more"]) == ([], False), said
            assert (said.body["first_id"], said.body["last_id"]) == (None, None), said
        else:
            assert said.body["error"]["param"] == param, said


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_files_are_paged_in_either_order(talk: Conversation, order: str) -> None:
    made = [(await talk.upload(b"x" * n))["id"] for n in range(5)]

    pages, path = [], f"/files?limit=2&order={order}"
    while True:
        page = (await talk.ask("GET", path)).body
        pages.append([one["id"] for one in page["data"]])
        assert (page["first_id"], page["last_id"]) == (pages[-1][0], pages[-1][-1])
        if not page["has_more"]:
            break
        path = f"/files?limit=2&order={order}&after={page['last_id']}"

    assert [len(page) for page in pages] == [2, 2, 1]
    assert [name for page in pages for name in page] == (made if order == "asc" else made[::-1])


REFUSED: list[tuple[str, str, dict[str, Any], tuple[int, str, str | None, str]]] = [
    ("GET", "/files/file-1", {}, (404, "not_found_error", "id", "unknown_file")),
    ("GET", f"/files/file-{NONE}", {}, (404, "not_found_error", "id", "unknown_file")),
    ("GET", f"/files/file-{NONE}/content", {}, (404, "not_found_error", "id", "unknown_file")),
    ("GET", f"/files/file-output-{NONE}/content", {}, (404, "not_found_error", "id", "unknown_file")),
    ("DELETE", f"/files/file-{NONE}", {}, (404, "not_found_error", "id", "unknown_file")),
    ("DELETE", f"/files/file-errors-{NONE}", {}, (404, "not_found_error", "id", "unknown_file")),
    ("GET", "/batches/batch_1", {}, (404, "not_found_error", "id", "unknown_batch")),
    ("GET", f"/batches/batch_{NONE}", {}, (404, "not_found_error", "id", "unknown_batch")),
    ("POST", f"/batches/batch_{NONE}/cancel", {}, (404, "not_found_error", "id", "unknown_batch")),
    ("POST", "/batches", {"data": b"{"}, (400, "invalid_request_error", None, "body_not_json")),
    ("POST", "/batches", {"data": b""}, (400, "invalid_request_error", None, "body_not_json")),
    ("POST", "/batches", {"json": []}, (400, "invalid_request_error", None, "bad_request")),
    ("POST", "/batches", {"json": {}}, (400, "invalid_request_error", "completion_window", "bad_request")),
    ("POST", "/batches", {"json": WINDOW}, (400, "invalid_request_error", "input_file_id", "bad_request")),
    (
        "POST", "/batches", {"json": {**WINDOW, "input_file_id": f"file-{NONE}"}},
        (404, "not_found_error", "input_file_id", "unknown_file"),
    ),
    (
        "POST", "/batches", {"json": {**WINDOW, "requests": [{}], "endpoint": "/v1/videos"}},
        (400, "invalid_request_error", "endpoint", "bad_url"),
    ),
    (
        "POST", "/batches", {"json": {**WINDOW, "requests": [{}], "completion_window": "1h30"}},
        (400, "invalid_request_error", "completion_window", "bad_window"),
    ),
    (
        "POST", "/batches", {"json": {**WINDOW, "requests": [{}], "metadata": {f"{n}": "" for n in range(17)}}},
        (400, "invalid_request_error", "metadata", "bad_request"),
    ),
    (
        "POST", "/batches", {"json": {**WINDOW, "requests": [{}], "metadata": {"a": "x" * 513}}},
        (400, "invalid_request_error", "metadata[...]", "bad_request"),
    ),
    ("POST", "/files", {"data": b"{}"}, (400, "invalid_request_error", None, "bad_request")),
    ("PUT", "/files", {"data": b"{}"}, (405, "invalid_request_error", None, "wrong_method")),
    ("GET", "/file", {}, (404, "not_found_error", None, "unknown_route")),
]  # fmt: skip
"""What is asked, and status, type, param and code of what is answered."""


async def test_errors_have_openais_shape_and_say_what_is_wrong(talk: Conversation) -> None:
    for method, path, more, expected in REFUSED:
        said = await talk.ask(method, path, **more)
        assert list(faults("error_response", said.body)) == [], said
        error = said.body["error"]
        assert (said.status, error["type"], error["param"], error["code"]) == expected, said


BAD: dict[str, tuple[bytes, list[tuple[int | None, str, str | None]]]] = {
    "an empty file": (b"", [(None, "empty_file", None)]),
    "only blank lines": (b"\n\r\n \n", [(None, "empty_file", None)]),
    "no JSON": (a_file(a_line(0)) + b"{oh\n", [(2, "not_json", None)]),
    "no custom_id": (
        b'{"method": "POST", "url": "/v1/chat/completions", "body": {}}\n',
        [(1, "bad_line", "custom_id")],
    ),
    "a custom_id again": (a_file(a_line(0), a_line(0)), [(2, "duplicate_custom_id", "custom_id")]),
    "another endpoint": (a_file({**a_line(0), "url": "/v1/embeddings"}), [(1, "mismatched_url", "url")]),
    "an unknown endpoint": (a_file({**a_line(0), "url": "/v1/videos"}), [(1, "bad_url", "url")]),
    "another method": (a_file({**a_line(0), "method": "GET"}), [(1, "bad_method", "method")]),
    "an unknown model": (a_file(a_line(0, model="none")), [(1, "unknown_model", "body.model")]),
}


async def test_a_file_that_is_wrong_fails_its_batch_with_documented_errors(talk: Conversation) -> None:
    batches = {what: await talk.poll(await batch_of(talk, content)) for what, (content, _) in BAD.items()}

    for what, (_, expected) in BAD.items():
        batch = batches[what]
        assert list(faults("batch", batch)) == [], what
        assert batch["status"] == "failed", what
        assert [(one["line"], one["code"], one["param"]) for one in batch["errors"]["data"]] == expected, what
        assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}, what


async def batch_of(talk: Conversation, content: bytes) -> Any:
    file = await talk.upload(content)
    return (await talk.ask("POST", "/batches", json={**WINDOW, "input_file_id": file["id"]})).body


async def test_a_batch_that_is_over_is_not_cancelled(talk: Conversation) -> None:
    completed = await talk.poll(await talk.make(a_line(0)))
    failed = await talk.poll(await talk.make(a_line(0, model="none")))

    for batch in (completed, failed):
        said = await talk.ask("POST", f"/batches/{batch['id']}/cancel")
        assert (said.status, said.body["error"]["code"]) == (409, "batch_completed"), said
        assert said.headers["x-should-retry"] == "false"
        assert (await talk.ask("GET", f"/batches/{batch['id']}")).body["status"] == batch["status"]

"""Requests of every route of the API over HTTP, about the things of any tenant."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import NamedTuple
from uuid import UUID

import msgspec

from broker.core.openai_batch import batch_id, file_id, output_id
from schemas.codec import jsoned
from schemas.subjects import Verb
from tests.accounts.walked_verbs import CALLS, LISTS, Things
from tests.builders import an_id


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant has, also over HTTP, or what nobody has."""

    things: Things
    file: UUID
    batch: UUID
    """Of the file."""

    @property
    def names(self) -> list[str]:
        return [*self.things.names, *(str(one) for one in (self.file, self.batch)), self.file.hex, self.batch.hex]


class Ask(NamedTuple):
    """A request."""

    path: str
    body: bytes | None = None
    kind: str = "application/json"
    accept: str = "*/*"


BOUNDARY = "a-boundary"


def uploaded(of: Stored) -> tuple[str, bytes]:
    """The digest and the content of the file that a tenant has uploaded: all of one size."""
    content = f"{of.things.tenant:>40}".encode()
    return hashlib.sha256(content).hexdigest(), content


def form(content: bytes) -> Ask:
    parts = [
        b'content-disposition: form-data; name="purpose"\r\n\r\nbatch',
        b'content-disposition: form-data; name="file"; filename="f.jsonl"\r\n\r\n' + content,
    ]
    marked = b"".join(b"--%b\r\n%b\r\n" % (BOUNDARY.encode(), part) for part in parts)
    return Ask("/v1/files", marked + b"--%b--\r\n" % BOUNDARY.encode(), f"multipart/form-data; boundary={BOUNDARY}")


def _asking(path: str, **body: object) -> Ask:
    return Ask(path, json.dumps({"model": "m", **body}).encode())


_CHAT = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 2}
Requests = Callable[[Stored], tuple[Ask, ...]]
ROUTES: Mapping[str, Requests] = {
    "chat": lambda _: (_asking("/v1/chat/completions", **_CHAT),),
    "completions": lambda _: (_asking("/v1/completions", prompt="Hello.", max_tokens=2),),
    "embeddings": lambda _: (_asking("/v1/embeddings", input="Hello."),),
    "responses": lambda of: (
        _asking("/v1/responses", input="Hello.", previous_response_id=f"resp_{of.things.job.hex}"),
    ),
    "messages": lambda _: (_asking("/v1/messages", **_CHAT),),
    "models": lambda _: (Ask("/v1/models"),),
    "model": lambda of: (Ask(f"/v1/models/{of.things.tenant}"),),
    "job_submit": lambda _: (_asking("/v1/jobs", body={"messages": []}),),
    "job_list": lambda of: (
        Ask(f"/v1/jobs?before={of.things.job}"),
        Ask(f"/v1/jobs?batch={of.things.batch}"),
    ),
    "job_show": lambda of: (Ask(f"/v1/jobs/{of.things.job}"), Ask(f"/v1/jobs/{of.things.failed_job}?wait_s=0.1")),
    "job_change": lambda of: (Ask(f"/v1/jobs/{of.things.job}", b'{"priority": 1}'),),
    "job_cancel": lambda of: (Ask(f"/v1/jobs/{of.things.job}/cancel", b""),),
    "bundle": lambda _: (Ask("/v1/bundles?lane=bulk&model=m", b"\xc1", "application/octet-stream"),),
    "file_create": lambda _: (form(b"{}\n"),),
    "upload_show": lambda of: (Ask(f"/v1/uploads?sha256={uploaded(of)[0]}"),),
    "upload_go_on": lambda of: (
        Ask(f"/v1/uploads?sha256={uploaded(of)[0]}&bytes=40", uploaded(of)[1], "application/octet-stream"),
    ),
    "file_list": lambda of: (Ask("/v1/files"), Ask(f"/v1/files?after={file_id(of.file)}")),
    "file_show": lambda of: (
        Ask(f"/v1/files/{file_id(of.file)}"),
        Ask(f"/v1/files/{output_id(of.things.failed, 'errors')}"),
    ),
    "file_delete": lambda of: (
        Ask(f"/v1/files/{file_id(of.file)}"),
        Ask(f"/v1/files/{output_id(of.batch, 'output')}"),
    ),
    "file_content": lambda of: (
        Ask(f"/v1/files/{file_id(of.file)}/content"),
        Ask(f"/v1/files/{output_id(of.batch, 'output')}/content"),
    ),
    "batch_create": lambda of: (
        _batch(input_file_id=file_id(of.file)),
        _batch(input_file_id=output_id(of.things.failed, "errors")),
    ),
    "batch_list": lambda of: (Ask("/v1/batches"), Ask(f"/v1/batches?after={batch_id(of.batch)}")),
    "batch_show": lambda of: (Ask(f"/v1/batches/{batch_id(of.batch)}"),),
    "batch_bad_lines": lambda of: (Ask(f"/v1/batches/{batch_id(of.batch)}/bad_lines"),),
    "batch_cancel": lambda of: (Ask(f"/v1/batches/{batch_id(of.batch)}/cancel", b""),),
    "batch_retry": lambda of: (
        Ask(f"/v1/batches/{batch_id(of.batch)}/retry", b"{}"),
        Ask(f"/v1/batches/{of.things.failed}/retry", b'{"states": ["failed"], "completion_window": "1h"}'),
    ),
    "batch_results": lambda of: (
        Ask(f"/v1/batches/{batch_id(of.batch)}/results"),
        Ask(f"/v1/batches/{of.things.failed}/results?tail=5"),
        Ask(f"/v1/batches/{of.things.failed}/results?wait_s=0.1&own=true"),
        Ask(f"/v1/batches/{of.things.failed}/results", accept="text/event-stream"),
    ),
    "verb": lambda of: tuple(
        Ask(f"/v1/verbs/{verb}", jsoned(ask)) for verb in Verb if verb not in LISTS for ask in CALLS[verb](of.things)
    ),
    "openapi": lambda _: (Ask("/openapi.json"),),
    "docs": lambda _: (Ask("/docs"),),
    "index": lambda _: (Ask("/"),),
    "health": lambda _: (Ask("/health"),),
}
"""Requests of each route, by its name."""
OPEN_TO_ALL = {"openapi", "docs", "health", "index"}
"""They need no key."""
FRESH = {
    *("chat", "completions", "embeddings", "messages", "models", "job_submit", "job_list", "bundle"),
    *("file_create", "file_list", "batch_list", *OPEN_TO_ALL),
}
"""Their answers are not about one thing that may be there or not."""


def _batch(**more: str) -> Ask:
    ask = {
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"n": str(an_id())[:4]},
        **more,
    }
    return Ask("/v1/batches", json.dumps(ask).encode())

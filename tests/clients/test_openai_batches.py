"""OpenAI's client, as it is: from a file to the results of a batch."""

import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from tests.clients.running import System

CHAT = "/v1/chat/completions"
ENDED = {"completed", "failed", "expired", "cancelled"}


@pytest.fixture
def client(system: System) -> Iterator[OpenAI]:
    with OpenAI(base_url=system.base_url, api_key=system.api_key) as made_for:
        yield made_for


def a_line(number: int, text: str = "Hello.", **more: Any) -> dict[str, Any]:
    body = {"model": "echo", "max_tokens": 4, "messages": [{"role": "user", "content": f"{text} {number}"}], **more}
    return {"custom_id": f"request-{number}", "method": "POST", "url": CHAT, "body": body}


def a_file(*lines: dict[str, Any]) -> bytes:
    return "\n".join(map(json.dumps, lines)).encode()


def made(client: OpenAI, content: bytes, **more: Any) -> Batch:
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    assert (file.bytes, file.filename, file.purpose) == (len(content), "requests.jsonl", "batch")
    return client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h", **more)


def ended(client: OpenAI, batch: Batch) -> Batch:
    until = time.monotonic() + 60
    while batch.status not in ENDED:
        assert time.monotonic() < until, batch
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    return batch


def test_a_batch_from_its_file_to_its_results(client: OpenAI) -> None:
    lines = [*(a_line(number) for number in range(20)), a_line(20, "cannot be answered"), a_line(21, "breaks it")]
    batch = ended(client, made(client, a_file(*lines), metadata={"for": "a test"}))

    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (22, 20, 2)
    assert batch.metadata == {"for": "a test"}
    assert batch.usage is not None
    assert batch.usage.output_tokens >= 80
    assert batch.output_file_id is not None
    assert batch.error_file_id is not None
    output = client.files.content(batch.output_file_id).text.splitlines()
    answers = {line["custom_id"]: line["response"] for line in map(json.loads, output)}
    assert answers.keys() == {f"request-{number}" for number in range(20)}
    assert answers["request-0"]["body"]["choices"][0]["message"]["role"] == "assistant"
    lines = client.files.content(batch.error_file_id).text.splitlines()
    errors = {line["custom_id"]: line for line in map(json.loads, lines)}
    assert errors.keys() == {"request-20", "request-21"}
    assert errors["request-20"]["response"]["status_code"] == 400
    assert errors["request-21"]["error"]["code"] == "engine_fault"
    assert client.files.retrieve(batch.output_file_id).bytes == len(
        client.files.content(batch.output_file_id).content
    )


def test_a_file_with_a_bad_line_fails(client: OpenAI) -> None:
    batch = ended(client, made(client, a_file(a_line(0), a_line(1, max_tokens=-1), a_line(0))))

    assert batch.status == "failed"
    assert batch.errors is not None
    assert [(one.line, one.code, one.param) for one in batch.errors.data or []] == [
        (2, "max_tokens_out_of_range", "body.max_tokens"),
        (3, "duplicate_custom_id", "custom_id"),
    ]


def test_a_batch_is_cancelled(client: OpenAI) -> None:
    batch = made(client, a_file(*(a_line(number, "never answered") for number in range(80))))
    while client.batches.retrieve(batch.id).status == "validating":
        time.sleep(0.05)

    batch = ended(client, client.batches.cancel(batch.id))

    assert batch.status == "cancelled"
    assert batch.cancelled_at is not None


def test_batches_and_files_are_paged(client: OpenAI) -> None:
    batches = [made(client, a_file(a_line(number))) for number in range(3)]

    listed = [batch.id for batch in client.batches.list(limit=1)]
    files = [file.id for file in client.files.list(limit=2, purpose="batch")]

    assert listed[:3] == [batch.id for batch in reversed(batches)]
    assert files[:3] == [batch.input_file_id for batch in reversed(batches)]
    for batch in batches:
        assert ended(client, batch).status == "completed"
        assert client.files.delete(batch.input_file_id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(batches[0].input_file_id)


def test_what_is_wrong_is_raised(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as purpose:
        client.files.create(file=("x.jsonl", b"{}"), purpose="assistants")
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_" + "0" * 32)
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id="file-none", endpoint=CHAT, completion_window="24h")

    assert purpose.value.param == "purpose"

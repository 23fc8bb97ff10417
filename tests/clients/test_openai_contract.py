"""Files and batches against the types of OpenAI's own client, which are made from the specification that it publishes.

The client itself takes whatever comes: here each answer is read strictly.
"""

import json
from collections.abc import Mapping
from typing import Any, get_args

import pytest
from openai import OpenAI
from openai._models import BaseModel
from openai.types import Batch, BatchError, BatchRequestCounts, BatchUsage, FileDeleted, FileObject
from openai.types.batch import Errors

from tests.clients.running import System
from tests.clients.test_openai_batches import a_file, a_line, ended, made
from tests.openai_shapes import SHAPES, faults

TYPES: Mapping[str, type[BaseModel]] = {
    "file": FileObject,
    "file_deleted": FileDeleted,
    "batch": Batch,
    "batch_errors": Errors,
    "batch_error": BatchError,
    "request_counts": BatchRequestCounts,
    "usage": BatchUsage,
}


@pytest.mark.parametrize("shape", TYPES)
def test_what_we_hold_to_be_documented_is_what_the_client_knows(shape: str) -> None:
    fields, ours = TYPES[shape].model_fields, SHAPES[shape]

    assert ours["fields"].keys() == fields.keys()
    assert set(ours["required"]) == {name for name, field in fields.items() if field.is_required()}
    for name, field in fields.items():
        values = [one for one in get_args(field.annotation) if isinstance(one, str)]
        if values:
            assert set(ours["fields"][name]) == set(values), name


def read(kind: type[BaseModel], shape: str, answer: Any) -> Any:
    """Read an answer as strictly as it can be, and hold it against what is documented."""
    found = answer.http_response.json()
    kind.model_validate(found, strict=True)
    assert list(faults(shape, found)) == []
    return found


def test_every_answer_is_of_the_clients_types(system: System) -> None:
    with OpenAI(base_url=system.base_url, api_key=system.api_key) as client:
        content = a_file(a_line(0), a_line(1, "cannot be answered"), a_line(2, "breaks it"))
        upload = client.files.with_raw_response.create(file=("in.jsonl", content), purpose="batch")
        file = read(FileObject, "file", upload)
        read(FileObject, "file", client.files.with_raw_response.retrieve(file["id"]))
        done = ended(client, made(client, content, metadata={"a": "b"}))
        batch = read(Batch, "batch", client.batches.with_raw_response.retrieve(done.id))
        failed = ended(client, made(client, a_file(a_line(0), a_line(0))))
        read(Batch, "batch", client.batches.with_raw_response.retrieve(failed.id))
        endless = made(client, a_file(*(a_line(number, "never answered") for number in range(8))))
        read(Batch, "batch", client.batches.with_raw_response.cancel(endless.id))
        ended(client, endless)
        for listed, shape in (
            (client.files.with_raw_response.list(limit=2), "file_list"),
            (client.batches.with_raw_response.list(limit=2), "batch_list"),
        ):
            found = listed.http_response.json()
            assert list(faults(shape, found)) == []
            assert (found["first_id"], found["last_id"]) == (found["data"][0]["id"], found["data"][-1]["id"])
        for name in (batch["output_file_id"], batch["error_file_id"]):
            read(FileObject, "file", client.files.with_raw_response.retrieve(name))
            for line in client.files.content(name).text.splitlines():
                assert list(faults("output_line", json.loads(line))) == []
            read(FileDeleted, "file_deleted", client.files.with_raw_response.delete(name))

"""Results as a file: OpenAI Batch's output lines."""

import sys
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import msgspec

from broker.client import Client
from schemas.api import Result, State
from schemas.outcome import failure_kind, public_message


def output_line(result: Result) -> bytes:
    """`response` for a success, `error` for everything else; failures that name a status have it."""
    error: dict[str, object] | None = None
    response: dict[str, object] | None = None
    if result.state is State.SUCCEEDED:
        response = {"status_code": 200, "request_id": str(result.job), "body": result.body}
    else:
        error = {"code": result.state.value, "message": f"the job is {result.state}"}
        if result.failure is not None:
            error = {"code": failure_kind(result.failure), "message": public_message(result.failure)}
    line = {"id": str(result.job), "custom_id": result.custom_id, "response": response, "error": error}
    return msgspec.json.encode(line) + b"\n"


async def write_results(client: Client, batch: UUID, out: Path | None, *, wait: bool) -> int:
    """To a file that appears when it is whole, or to standard output; how many."""
    if out is None:
        return await _write(client, batch, sys.stdout.buffer, wait=wait)
    part = out.with_name(f"{out.name}.part")
    with part.open("wb") as file:
        count = await _write(client, batch, file, wait=wait)
    part.replace(out)
    return count


async def _write(client: Client, batch: UUID, file: BinaryIO, *, wait: bool) -> int:
    count = 0
    async for page in client.result_pages(batch, wait=wait):
        file.writelines(output_line(result) for result in page.results)
        file.flush()
        count += len(page.results)
    return count

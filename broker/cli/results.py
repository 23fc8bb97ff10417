"""Writes results as a file of OpenAI Batch's output lines."""

import os
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import msgspec

from broker.cli.terminal import Exit, fail
from broker.client import Client
from schemas.api import Batch, Result, State
from schemas.outcome import ContextTooLong, Failure, Refused, ResponseTooLarge, failure_kind, public_message

_FAILURES = 5
"""How many failures are shown when a batch has ended."""
_CANCELLED_STATUS = 499
"""The status of an answer that was cut off: nginx's for a client that closed its request."""
_LOOKED_AT = 10_000
"""How many results are searched for them."""


def output_line(result: Result) -> bytes:
    """Encode a result: with `response` if it succeeded, else with `error`.

    One that was cancelled while it ran has both, if it had answered anything: `response` with status 499, as far as it came.
    """
    error: dict[str, object] | None = None
    response: dict[str, object] | None = None
    if result.state is State.SUCCEEDED:
        response = {"status_code": 200, "request_id": str(result.job), "body": result.body}
    else:
        error = _error(result)
        if bytes(result.body) != b"null":
            response = {"status_code": _CANCELLED_STATUS, "request_id": str(result.job), "body": result.body}
    line = {"id": str(result.job), "custom_id": result.custom_id, "response": response, "error": error}
    return msgspec.json.encode(line) + b"\n"


def _error(result: Result) -> dict[str, object]:
    param, limit = _bounds(result.failure)
    named = {"param": param, "limit": limit, "line": result.line}
    return {
        "code": _code(result),
        "message": _message(result),
        **{name: value for name, value in named.items() if value is not None},
    }


def _bounds(failure: Failure | None) -> tuple[str | None, int | None]:
    """Return the field that was wrong and the limit that was passed, if the failure names them."""
    match failure:
        case Refused(_, _, field, limit):
            return field, limit
        case ContextTooLong(_, limit) | ResponseTooLarge(_, limit):
            return None, limit
        case _:
            return None, None


def _code(result: Result) -> str:
    return result.state.value if result.failure is None else failure_code(result.failure)


def _message(result: Result) -> str:
    return f"the job is {result.state}" if result.failure is None else public_message(result.failure)


def failure_code(failure: Failure) -> str:
    """Return the kind of a failure; of a refusal its own code, which is more precise."""
    return failure.code if isinstance(failure, Refused) else failure_kind(failure)


async def first_failures(client: Client, batch: Batch) -> list[Result]:
    """Return some results that did not succeed, if they are among those recorded first."""
    most = min(_FAILURES, batch.counts.settled() - batch.counts.succeeded)
    if most == 0:
        return []
    found: list[Result] = []
    looked_at = 0
    async for page in client.result_pages(batch.id, wait=False):
        found += [result for result in page.results if result.state is not State.SUCCEEDED]
        looked_at += len(page.results)
        if len(found) >= most or looked_at >= _LOOKED_AT:
            break
    return found[:most]


def failure_line(result: Result) -> str:
    """Describe a failed job in a line for a person."""
    where = f"job {result.job}" if result.line is None else f"line {result.line}"
    label = "" if result.custom_id is None else f" ({result.custom_id[:80]})"
    return f"{where}{label}: {_code(result)}: {_message(result)}"


def check_out(out: Path) -> None:
    """Check that a file can be made at `out`. Raises: typer.Exit."""
    if out.is_dir() or _part(out).is_dir() or not out.parent.is_dir():
        fail(f"no file can be made at {out}", Exit.USAGE)
    if not os.access(out.parent, os.W_OK):
        fail(f"{out.parent} cannot be written to", Exit.USAGE)


async def write_results(
    client: Client, batch: UUID, out: Path | None, *, wait: bool, own: bool = False, in_order: bool = False
) -> int:
    """Write a batch's results to a file that appears once it is complete, or to standard output. Return their number."""
    if out is None:
        return await _write(client, batch, sys.stdout.buffer, wait=wait, own=own, in_order=in_order)
    part = _part(out)
    with part.open("wb") as file:
        count = await _write(client, batch, file, wait=wait, own=own, in_order=in_order)
    part.replace(out)
    return count


def _part(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


async def _write(client: Client, batch: UUID, file: BinaryIO, *, wait: bool, own: bool, in_order: bool) -> int:
    if not in_order:
        return await _write_pages(client, batch, file, wait=wait, own=own)
    places: list[tuple[int, int, int]] = []
    with tempfile.TemporaryFile() as unordered:
        count = await _write_pages(client, batch, unordered, wait=wait, own=own, places=places)
        for _, start, size in sorted(places):
            unordered.seek(start)
            file.write(unordered.read(size))
    file.flush()
    return count


async def _write_pages(
    client: Client,
    batch: UUID,
    file: BinaryIO,
    *,
    wait: bool,
    own: bool,
    places: list[tuple[int, int, int]] | None = None,
) -> int:
    """Write results as they come, and return their number.

    `places` gets the line of each in what was submitted, and where it is in the file. Those without a line come last.
    """
    count = position = 0
    async for page in client.result_pages(batch, wait=wait, own=own):
        lines = [output_line(result) for result in page.results]
        file.writelines(lines)
        file.flush()
        count += len(lines)
        if places is not None:
            for result, line in zip(page.results, lines, strict=True):
                places.append((_NO_LINE if result.line is None else result.line, position, len(line)))
                position += len(line)
    return count


_NO_LINE = 2**31

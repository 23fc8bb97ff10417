"""How long files take to be stored and read, and how much memory the broker takes for that.

    python -m tests.uploads --files /tmp/files --mb 10 --mb 1024

The files are requests as batches have them, made up as they are sent. The peak is that of the broker's resident memory
(VmHWM), which is set back before each call.
"""

import asyncio
import hashlib
import json
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import aiohttp
import psutil
import typer

from schemas.endpoints import CHAT
from tests.system import a_catalog_file, a_system

T = TypeVar("T")
_MB = 1024 * 1024


def _line(number: int) -> bytes:
    text = hashlib.sha256(str(number).encode()).hexdigest() + " Say what this text is about, in one word." * 8
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": text}]}
    return json.dumps({"custom_id": f"c{number}", "method": "POST", "url": CHAT.path, "body": body}).encode() + b"\n"


async def _form(size: int) -> AsyncIterator[bytes]:
    yield b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
    number, sent = 0, 0
    while sent < size:
        part = b"".join(map(_line, range(number, number + 1000)))
        number, sent = number + 1000, sent + len(part)
        yield part
    yield b"\r\n--x--\r\n"


class Measured:
    def __init__(self, broker: psutil.Process) -> None:
        self._proc = Path(f"/proc/{broker.pid}")

    async def of(self, act: Awaitable[T]) -> tuple[T, float, float]:
        """Return what it came to, the seconds, and the MB at the peak."""
        (self._proc / "clear_refs").write_text("5")
        began = time.perf_counter()
        value = await act
        seconds = time.perf_counter() - began
        peak = next(line for line in (self._proc / "status").read_text().splitlines() if line.startswith("VmHWM"))
        return value, seconds, int(peak.split()[1]) / 1024


async def _stored(http: aiohttp.ClientSession, mb: int) -> dict[str, Any]:
    kind = {"content-type": "multipart/form-data; boundary=x"}
    async with http.post("/v1/files", data=_form(mb * _MB), headers=kind) as response:
        response.raise_for_status()
        answer: dict[str, Any] = await response.json()
        return answer


async def _read(http: aiohttp.ClientSession, file: str) -> int:
    async with http.get(f"/v1/files/{file}/content") as response:
        return sum([len(part) async for part in response.content.iter_any()])


async def _checked(http: aiohttp.ClientSession, file: str) -> str:
    """Make a batch of it, and wait until all its lines are checked."""
    ask = {"input_file_id": file, "endpoint": CHAT.path, "completion_window": "24h"}
    async with http.post("/v1/batches", json=ask) as response:
        batch: dict[str, Any] = await response.json()
    while batch["status"] == "validating":
        await asyncio.sleep(0.1)
        async with http.get(f"/v1/batches/{batch['id']}") as response:
            batch = await response.json()
    assert batch["status"] == "in_progress", batch
    async with http.post(f"/v1/batches/{batch['id']}/cancel") as response:
        response.raise_for_status()
    return str(batch["id"])


async def _measure(files: str, sizes: list[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalog = a_catalog_file(folder, slots=4)
        async with a_system(folder / "data", catalog, "--port", "0", "--workers", "0", "--files", files) as system:
            measured = Measured(next(iter(system.children("serve"))))
            headers, patience = {"authorization": f"Bearer {system.api_key}"}, aiohttp.ClientTimeout(total=None)
            async with aiohttp.ClientSession(system.info.api, headers=headers, timeout=patience) as http:
                for mb in sizes:
                    file, *stored = await measured.of(_stored(http, mb))
                    size, *read = await measured.of(_read(http, file["id"]))
                    assert size == file["bytes"]
                    _, *checked = await measured.of(_checked(http, file["id"]))
                    for what, (seconds, peak) in {"store": stored, "read": read, "check": checked}.items():
                        typer.echo(f"{files} {mb} MB {what}: {seconds:.1f} s, peak {peak:.0f} MB")


def main(
    files: str = "postgres",
    mb: Annotated[list[int], typer.Option(help="Size of a file, in MB.")] = [10, 1024],  # noqa: B006
) -> None:
    asyncio.run(_measure(files, mb))


typer.run(main)

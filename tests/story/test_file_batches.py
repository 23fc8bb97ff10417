"""A batch of a large file, whose broker is killed at every step: each line runs once, and all are counted."""

import asyncio
import io
import itertools
import json
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import psutil
import pytest

from broker.core.openai_batch import read_file_id
from broker.ledger import open_ledger
from broker.roles.files import FileDrop
from schemas.endpoints import CHAT
from schemas.units import Ms
from tests.builders import now
from tests.system import System, a_catalog_file, a_system, until

pytestmark = [pytest.mark.story, pytest.mark.commands, pytest.mark.timeout(240)]
LINES = 8_000


def a_file(lines: int) -> bytes:
    def line(number: int) -> bytes:
        body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": f"{number} {'x' * 200}"}]}
        return json.dumps({"custom_id": f"c{number}", "method": "POST", "url": CHAT.path, "body": body}).encode()

    return b"\n".join(map(line, range(lines)))


def kill_broker(system: System) -> None:
    for broker in system.children("serve"):
        broker.kill()


async def asked(http: aiohttp.ClientSession, method: str, path: str, **more: Any) -> tuple[int, bytes]:
    """Ask until somebody answers: while the broker starts again nobody does."""
    while True:
        try:
            async with http.request(method, path, **more) as response:
                body = await response.read()
                if response.status != 503:
                    return response.status, body
        except (aiohttp.ClientError, ConnectionError):
            pass
        await asyncio.sleep(0.05)


def a_form(content: bytes) -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", io.BytesIO(content), filename="in.jsonl")
    return form


async def test_a_broker_that_is_killed_at_any_moment_of_a_batch_loses_and_doubles_no_line(tmp_path: Path) -> None:
    chance, content = random.Random(5), a_file(LINES)  # noqa: S311 - no secret
    catalog = a_catalog_file(tmp_path, slots=64, options="output_tokens = 1")
    async with a_system(tmp_path / "data", catalog, "--port", "0") as system:
        headers = {"authorization": f"Bearer {system.api_key}"}
        async with aiohttp.ClientSession(system.info.api, headers=headers) as http:
            uploading = asyncio.create_task(_upload_slowly(http, content))
            await asyncio.sleep(0.2)
            kill_broker(system)
            assert await uploading is False
            assert json.loads((await asked(http, "GET", "/v1/files"))[1])["data"] == []

            status, file = await asked(http, "POST", "/v1/files", data=a_form(content))
            assert status == 200, file
            ask = {"input_file_id": json.loads(file)["id"], "endpoint": CHAT.path, "completion_window": "24h"}
            status, made = await asked(http, "POST", "/v1/batches", json=ask)
            assert status == 200, made
            path = f"/v1/batches/{json.loads(made)['id']}"
            following = asyncio.create_task(_follow(http, f"{path}/results"))
            kills = 0
            while (batch := json.loads((await asked(http, "GET", path))[1]))["status"] != "completed":
                assert batch["status"] in {"validating", "in_progress"}
                if kills < 4:
                    await asyncio.sleep(chance.uniform(0.05, 0.5))
                    kill_broker(system)
                    kills += 1
                await asyncio.sleep(0.1)

            output = (await asked(http, "GET", f"/v1/files/{batch['output_file_id']}/content"))[1]
            shown = json.loads((await asked(http, "GET", f"/v1/files/{batch['output_file_id']}"))[1])
            followed, streams = await asyncio.wait_for(following, 60)
    assert kills >= 3
    assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    assert Counter(json.loads(line)["custom_id"] for line in output.splitlines()) == {
        f"c{n}": 1 for n in range(LINES)
    }
    assert shown["bytes"] == len(output)
    assert streams > 1, "it was never cut off"
    assert [place for place, _ in followed] == [*map(str, range(1, LINES + 1)), f"{LINES}-end"]
    assert {name for _, name in followed} == {None, *(f"c{n}" for n in range(LINES))}


async def _follow(http: aiohttp.ClientSession, path: str) -> tuple[list[tuple[str, str | None]], int]:
    """Read a stream of results to its end, over and over from where it broke.

    Return the place and the custom id of each event, and how many streams it took.
    """
    read: list[tuple[str, str | None]] = []
    for streams in itertools.count(1):
        headers = {"accept": "text/event-stream", "last-event-id": read[-1][0] if read else ""}
        try:
            async with http.get(path, headers=headers) as response:
                if response.status == 200:
                    async for event in _events(response):
                        read.append(event)  # noqa: PERF401 - what came before a break counts
        except (aiohttp.ClientError, ConnectionError):
            pass
        if read and read[-1][0].endswith("-end"):
            return read, streams
        await asyncio.sleep(0.05)
    raise AssertionError("unreachable")


async def test_of_an_upload_whose_broker_was_killed_nothing_is_left_in_a_directory(tmp_path: Path) -> None:
    root, content = tmp_path / "files", random.Random(6).randbytes(4_000_000)  # noqa: S311
    catalog = a_catalog_file(tmp_path, slots=4)
    async with a_system(tmp_path / "data", catalog, "--port", "0", "--workers", "0", "--files", str(root)) as system:
        headers = {"authorization": f"Bearer {system.api_key}"}
        async with aiohttp.ClientSession(system.info.api, headers=headers) as http:
            uploading = asyncio.create_task(_upload_slowly(http, content))

            async def has_begun() -> bool:
                return len(list(root.glob("*/*"))) >= 2

            await until(has_begun, "pieces of the file are in the directory")
            kill_broker(system)
            assert await uploading is False
            status, kept = await asked(http, "POST", "/v1/files", data=a_form(content))
            assert status == 200, kept
        assert len([path for path in root.iterdir() if path.is_dir()]) == 2

        later = Ms(now() + 25 * 3_600_000)
        async with open_ledger(system.info.postgres_url, clock=lambda: later) as ledger:
            await FileDrop(ledger=ledger.files, stores=ledger.stores, clock=lambda: later).drop()
        [left] = [path for path in root.iterdir() if path.is_dir()]
        assert left.name == str(file_of(json.loads(kept)["id"]))


def file_of(name: str) -> UUID:
    found = read_file_id(name)
    assert found is not None
    return found[0]


async def test_a_hundred_thousand_lines_are_submitted_by_a_command_while_the_broker_is_killed(tmp_path: Path) -> None:
    """The sums are checked when the system stops."""
    lines, chance = 100_000, random.Random(6)  # noqa: S311 - no secret
    (tmp_path / "in.jsonl").write_bytes(a_file(lines))
    catalog = a_catalog_file(tmp_path, slots=256, options="output_tokens = 1")
    async with a_system(tmp_path / "data", catalog, "--port", "0") as system:
        environ = {**os.environ, "INFERMQ_API_KEY": str(system.api_key), "INFERMQ_URL": system.info.api}
        words = ["submit", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl"), "--resume"]
        kills, peak = 0, 0
        command = [sys.executable, "-m", "broker", *words]
        process = await asyncio.create_subprocess_exec(*command, env=environ, stdout=-1, stderr=-1)
        ending = asyncio.create_task(process.communicate())
        while not (await asyncio.wait({ending}, timeout=chance.uniform(0.5, 3.0)))[0]:
            peak = max([peak, *map(peak_bytes, system.children("serve"))])
            if kills < 4:
                kill_broker(system)
                kills += 1
        said = b"".join(ending.result()).decode()

    assert process.returncode == 0, said
    assert f"{lines} jobs submitted" in said
    assert kills == 4
    found = Counter(json.loads(line)["custom_id"] for line in (tmp_path / "out.jsonl").read_bytes().splitlines())
    assert found == {f"c{n}": 1 for n in range(lines)}
    assert 0 < peak < 300 * 1024 * 1024


def peak_bytes(process: psutil.Process) -> int:
    """Return the most memory that a process has had; 0 of one that has ended."""
    try:
        return int(Path(f"/proc/{process.pid}/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        return 0


async def _upload_slowly(http: aiohttp.ClientSession, content: bytes) -> bool:
    """Whether it was stored."""

    async def parts() -> Any:
        head = 'form-data; name="file"; filename="in.jsonl"'
        yield f"--x\r\nContent-Disposition: {head}\r\n\r\n".encode()
        for at in range(0, len(content), 100_000):
            yield content[at : at + 100_000]
            await asyncio.sleep(0.05)
        yield b'\r\n--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'

    kind = {"content-type": "multipart/form-data; boundary=x"}
    try:
        async with http.post("/v1/files", data=parts(), headers=kind) as response:
            return response.status == 200
    except (aiohttp.ClientError, ConnectionError):
        return False


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str | None]]:
    place = ""
    async for line in response.content:
        name, _, value = line.decode().partition(": ")
        if name == "id":
            place = value.rstrip("\n")
        if name == "data" and place and value.endswith("\n"):
            yield place, json.loads(value).get("custom_id")

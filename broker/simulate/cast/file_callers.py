"""Callers of a simulated world who store files, have batches made of them, and read what became of those."""

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from uuid import UUID

import aiohttp

from broker.client import Client, RequestRefused
from broker.client.http_door import HttpDoor
from broker.core.files import PIECE_BYTES
from broker.core.openai_batch import batch_id, read_file_id, read_id
from broker.simulate.cast.acting import PASSING, Acts, act_at_random, until_done
from broker.simulate.cast.contents import Content, a_content
from broker.simulate.cast.session import URL, Session
from broker.simulate.cast.told import Told
from broker.simulate.cast.web import Web
from broker.simulate.world.world import Process
from schemas import subjects
from schemas.job import Lane

T = TypeVar("T")
_BOUNDARY = "x-of-the-form"
_CHUNK = 256 * 1024
_HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class GivenBatch:
    """A batch of a file that was accepted."""

    content: Content
    skips_bad: bool

    @property
    def runs(self) -> bool:
        """Whether its good lines run."""
        return bool(self.content.good) and (self.skips_bad or not self.content.bad)


@dataclass(slots=True)
class ToldOfFiles:
    """What was promised of files."""

    batches: dict[UUID, GivenBatch] = field(default_factory=dict)
    whole: dict[UUID, bytes] = field(default_factory=dict)
    """The content of each file that is said to be stored, and that nobody has deleted."""
    wrong: list[str] = field(default_factory=list)


class FileCaller:
    """A process of the default tenant that does one thing after another with files, at random."""

    def __init__(self, process: Process, web: Web, told: Told, files: ToldOfFiles, *, acts: int) -> None:
        self.process = process
        self._told = told
        self._files = files
        self._acts = acts
        self._chance = process.random
        self._session = Session(process, web)
        session = cast("aiohttp.ClientSession", self._session)
        door = HttpDoor(session, URL, tenant=subjects.DEFAULT, key=subjects.DEFAULT)
        self._client = Client(door, call_s=4.0, patience_s=6.0, ids=self.process.new_id)

    async def main(self) -> None:
        acts: Acts = (
            (4, self._submit), (3, self._form), (2, self._inline), (2, self._changed), (2, self._read_back),
            (2, self._delete), (1, self._cancel), (2, self._look),
        )  # fmt: skip
        await act_at_random(self._chance, acts, self._acts, do=self._tried, every_s=2.5)
        self.process.say("has done all it wanted with files")

    async def _tried(self, act: Callable[[], Awaitable[None]]) -> None:
        name = act.__name__.strip("_")
        self._told.counted(f"files {name}")
        try:
            await act()
        except RequestRefused as error:
            self._files.wrong.append(f"{name} was refused: {error.problem.code}: {error.problem.message}")

    async def _until_done(self, act: Callable[[], Awaitable[T]]) -> T:
        return await until_done(self.process, act)

    async def _asked(
        self,
        method: str,
        path: str,
        data: object = None,
        *,
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        refused: tuple[int, ...] = (),
    ) -> tuple[int, bytes]:
        """Ask once. Raises what passes, but for a status that is expected."""
        limits = aiohttp.ClientTimeout(total=30.0)
        async with self._session.request(
            method, URL + path, data=cast("Any", data), headers=headers, params=query, timeout=limits
        ) as answer:
            said = await answer.read()
        if answer.status >= 500:
            raise ConnectionError(f"{answer.status}: {said.decode()[:200]}")
        if answer.status >= 400 and answer.status not in refused:
            self._files.wrong.append(f"{method} {path} answers {answer.status}: {said.decode()[:300]}")
        return answer.status, said

    def _accept(self, batch: UUID, given: GivenBatch) -> None:
        self._files.batches[batch] = given
        self._told.tenant[batch] = subjects.DEFAULT
        self._told.batches[batch] = len(given.content.good)

    async def _submit(self) -> None:
        """Submit a file by the client, which goes on with uploads that were cut off."""
        content, strict = a_content(self._chance), self._chance.random() < 0.3
        times, apart_s = self._chance.choice((1, 1, 1, 2, 3)), self._chance.choice((0.0, 0.1, 0.5))

        async def submit() -> None:
            lane = self._chance.choice((Lane.BULK, Lane.STANDARD))
            batch = await self._until_done(
                lambda: self._client.submit_file(io.BytesIO(content.data), lane=lane, strict=strict)
            )
            self._accept(batch.id, GivenBatch(content, not strict))

        async with asyncio.TaskGroup() as group:
            for _ in range(times):
                group.create_task(self._tried(submit))
                await asyncio.sleep(self._chance.random() * apart_s)

    async def _form(self) -> None:
        """Store a file as OpenAI's clients do, and have a batch made of it; perhaps delete it at once."""
        content = a_content(self._chance)
        expires_s = self._chance.choice((None, _HOUR_S))
        file = await self._until_done(lambda: self._stored(content.data, expires_s))
        skips = self._chance.random() < 0.7
        ask = {
            "id": str(self.process.new_id()),
            "input_file_id": f"file-{file.hex}",
            "endpoint": "any",
            "completion_window": "24h",
            "on_bad_line": "skip" if skips else "fail",
        }
        async with asyncio.TaskGroup() as group:
            for _ in range(self._chance.choice((1, 1, 2))):
                group.create_task(self._until_done(lambda: self._created(ask, GivenBatch(content, skips))))
        if self._chance.random() < 0.15:
            await self._cancelled(UUID(ask["id"]))
        if self._chance.random() < 0.5:
            await asyncio.sleep(self._chance.random() * 2)
            await self._gone(file)

    async def _stored(self, data: bytes, expires_s: int | None) -> UUID:
        """Send a form with a file. What a try before this one has stored, and did not say so, stays."""
        fields = {"purpose": "batch"}
        if expires_s is not None:
            fields |= {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(expires_s)}
        headers = {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
        _, said = await self._asked("POST", "/v1/files", _parts(_form_of(fields, data)), headers=headers)
        shown = json.loads(said)
        file, _ = read_file_id(shown["id"]) or (UUID(int=0), None)
        if shown["bytes"] != len(data):
            self._files.wrong.append(f"file {file} of {len(data)} bytes was stored with {shown['bytes']}")
        self._files.whole[file] = data
        return file

    async def _created(self, ask: dict[str, Any], given: GivenBatch) -> None:
        file = read_file_id(ask.get("input_file_id", ""))
        refused = () if file is None else (404,)
        status, said = await self._asked("POST", "/v1/batches", json.dumps(ask).encode(), refused=refused)
        if status == 404 and file is not None and file[0] in self._files.whole:
            self._files.wrong.append(f"file {file[0]} is not there for a batch, and nobody has deleted it")
        if status >= 400:
            return
        batch = read_id(json.loads(said)["id"], "batch_")
        if str(batch) != ask["id"]:
            self._files.wrong.append(f"batch {ask['id']} was made as {batch}")
        self._accept(UUID(ask["id"]), given)

    async def _inline(self) -> None:
        """Have a batch made of requests that come along with it."""
        content = a_content(self._chance)
        lines = [line for line in content.data.split(b"\n") if line.strip()]
        if not content.good or content.bad:
            return
        ask = {"id": str(self.process.new_id()), "endpoint": "any", "completion_window": "1h"}
        ask |= {"requests": cast("Any", [json.loads(line) for line in lines])}
        await self._until_done(lambda: self._created(ask, GivenBatch(content, skips_bad=False)))

    async def _changed(self) -> None:
        """Upload a file that changes while it is sent: first the wrong content, as far as it goes, then the right one."""
        size = self._chance.choice((10, PIECE_BYTES, int(2.5 * PIECE_BYTES)))
        right = self._chance.randbytes(64) * (size // 64 + 1)
        wrong = bytes(len(right) // 2) + right[len(right) // 2 :]
        sent = wrong[: self._chance.randrange(len(wrong) + 1)]
        digest = hashlib.sha256(right).hexdigest()
        query = {"sha256": digest, "bytes": str(len(right)), "expires_in_s": str(_HOUR_S)}
        late = asyncio.ensure_future(self._put(sent, query)) if self._chance.random() < 0.5 else None
        if late is None:
            with suppress(*PASSING):
                await self._put(sent, query)
        file = await self._until_done(lambda: self._uploaded(right, query))
        if late is not None:
            with suppress(*PASSING):
                await late
        self._files.whole[file] = right

    async def _put(self, data: bytes, query: dict[str, str]) -> tuple[int, bytes]:
        return await self._asked("PUT", "/v1/uploads", _parts(data), query=query, refused=(400, 409))

    async def _uploaded(self, data: bytes, query: dict[str, str]) -> UUID:
        """Send what is missing of a file until it is whole. Raises what passes."""
        while True:
            _, said = await self._asked("GET", "/v1/uploads", query=query)
            known = json.loads(said)
            if known["file_id"] is not None:
                file = read_file_id(known["file_id"])
                break
            offset = known["bytes"]
            status, said = await self._put(data[offset:], {**query, "offset": str(offset)})
            if status < 400:
                file = read_file_id(json.loads(said)["id"])
                break
            await asyncio.sleep(0.2)
        return file[0] if file else UUID(int=0)

    async def _read_back(self) -> None:
        """Read a file, or a part of it."""
        if not (files := list(self._files.whole)):
            return
        file = self._chance.choice(files)
        data = self._files.whole[file]
        begin = self._chance.choice((0, len(data) // 2))
        headers = {"range": f"bytes={begin}-"} if begin else {}
        status, said = await self._until_done(
            lambda: self._asked("GET", f"/v1/files/file-{file.hex}/content", headers=headers, refused=(404,))
        )
        if status < 300 and said != data[begin:]:
            self._files.wrong.append(f"file {file} was read as something else than what was stored")
        if status == 404 and file in self._files.whole:
            self._files.wrong.append(f"file {file} is not there, and nobody has deleted it")

    async def _delete(self) -> None:
        if files := list(self._files.whole):
            await self._gone(self._chance.choice(files))

    async def _gone(self, file: UUID) -> None:
        self._files.whole.pop(file, None)
        await self._until_done(lambda: self._asked("DELETE", f"/v1/files/file-{file.hex}", refused=(404,)))

    async def _cancel(self) -> None:
        if batches := list(self._files.batches):
            await self._cancelled(self._chance.choice(batches))

    async def _cancelled(self, batch: UUID) -> None:
        self._told.meddled.add(batch)
        path = f"/v1/batches/{batch_id(batch)}/cancel"
        refused = (409,) if batch in self._files.batches else (404, 409)
        await self._until_done(lambda: self._asked("POST", path, refused=refused))

    async def _look(self) -> None:
        """Look at a batch, and read what it came to by now: no name comes twice."""
        if not (batches := list(self._files.batches)):
            return
        batch = self._chance.choice(batches)
        names: list[str] = []
        for which in ("output", "errors"):
            path = f"/v1/files/file-{which}-{batch.hex}/content"
            _, said = await self._until_done(lambda path=path: self._asked("GET", path))  # type: ignore[misc]
            names += [json.loads(line)["custom_id"] for line in said.splitlines()]
        good = [name for name in names if name in self._files.batches[batch].content.good]
        twice = set(self._files.batches[batch].content.bad)
        if again := {name for name in good if good.count(name) > 1} - twice:
            self._files.wrong.append(f"batch {batch} names {sorted(again)} more than once")


async def _parts(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), _CHUNK):
        yield data[at : at + _CHUNK]


def _form_of(fields: dict[str, str], data: bytes) -> bytes:
    parts = [
        f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()
    ]
    parts.append(b'Content-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n' + data)
    between = f"--{_BOUNDARY}\r\n".encode()
    return b"".join(between + part + b"\r\n" for part in parts) + f"--{_BOUNDARY}--\r\n".encode()

"""Files in a directory or a bucket: who finds them again, what waits while the store is away, and what is left behind."""

import asyncio
import hashlib
import logging
import os
import resource
import stat
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import pytest

from broker.blobs.stores import Stores
from broker.core.file_stores import MARK_FILE, POSTGRES
from broker.core.files import PIECE_BYTES, Part
from broker.core.openai_batch import status_of
from broker.core.principal import open_principal
from broker.errors import Unavailable
from broker.ledger import open_ledger
from broker.ports import Blobs, FileLedger, Ledger
from broker.roles.files import FileDrop
from broker.service.files import FileService
from broker.service.refusal import Refusal
from schemas.files import File, Purpose
from schemas.jetstream.client import NatsClient as Nats
from schemas.units import Ms
from tests.builders import an_entropy, an_id, now
from tests.contract.ledger.test_file_batches import HOUR, a_line, faults, given, names, state
from tests.contract.ledger.test_retries import carry_out
from tests.real.test_broker import a_broker
from tests.real.test_http_files import BATCH, a_form, got, uploaded
from tests.s3 import S3
from tests.system import CATALOG

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
ME = open_principal("default", "k")
CONTENT = bytes(range(256)) * 9000
"""More than two pieces."""
DIGEST = hashlib.sha256(CONTENT).digest()


@asynccontextmanager
async def a_ledger(ledger_url: str, files: str = POSTGRES) -> AsyncIterator[Ledger]:
    """As a broker opens it that keeps new files there."""
    stores = partial(Stores, url=files, new_mark=os.urandom(4).hex())
    async with open_ledger(ledger_url, clock=now, connections=4, stores=stores) as ledger:
        await ledger.catalogs.apply(CATALOG.format(slots=4, options=""), "default", now())
        yield ledger


def service_of(ledger: Ledger) -> FileService:
    return FileService(
        ledger=ledger.files, stores=ledger.stores, file_batches=ledger.file_batches,
        clock=now, entropy=an_entropy,
    )  # fmt: skip


async def stored(ledger: Ledger, content: bytes = CONTENT) -> UUID:
    async def parts() -> AsyncIterator[bytes]:
        for at in range(0, len(content), 500_000):
            yield content[at : at + 500_000]

    return (await service_of(ledger).store(ME, "in.jsonl", parts())).id


async def content_of(ledger: Ledger, file: UUID) -> bytes:
    service = service_of(ledger)
    shown = await service.show(ME, file)
    return b"".join([part async for part in service.content(shown, 0, shown.bytes)])


async def drop(ledger: Ledger, *, hours: int = 0) -> None:
    later = Ms(now() + hours * HOUR)
    await FileDrop(ledger=ledger.files, stores=ledger.stores, clock=lambda: later).drop()


def left(root: Path) -> list[str]:
    """What a directory holds, but for its mark."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.name != MARK_FILE)


async def test_files_are_found_wherever_they_were_stored_after_the_setting_has_changed(
    ledger_url: str, tmp_path: Path, s3: S3
) -> None:
    bucket = s3.new_bucket()
    places = [POSTGRES, (tmp_path / "files").as_uri(), f"s3://{bucket}/p"]
    files = []
    for place in places:
        async with a_ledger(ledger_url, place) as ledger:
            files.append(await stored(ledger))

    for place in places:
        async with a_ledger(ledger_url, place) as ledger:
            assert [await content_of(ledger, file) for file in files] == [CONTENT] * 3
    assert [one.partition("/")[0] for one in left(tmp_path / "files")] == [str(files[1])] * 4
    assert s3.keys(bucket).count(f"<Key>p/{files[2]}/") == 3

    async with a_ledger(ledger_url) as ledger:
        for file in files:
            await service_of(ledger).delete(ME, file)
        await drop(ledger)
        assert [await ledger.files.store_of(file) for file in files] == [None] * 3
    assert left(tmp_path / "files") == []
    assert f"<Key>p/{files[2]}" not in s3.keys(bucket)


async def test_only_the_brokers_user_reads_a_directory(ledger_url: str, tmp_path: Path) -> None:
    root = tmp_path / "files"
    async with a_ledger(ledger_url, root.as_uri()) as ledger:
        file = await stored(ledger)

    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (root, *root.rglob("*"))}
    assert {modes[root], modes[root / str(file)]} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


async def test_a_piece_that_could_not_be_written_whole_is_not_there(ledger_url: str, tmp_path: Path) -> None:
    async with a_ledger(ledger_url, (tmp_path / "files").as_uri()) as ledger:
        file, blobs = an_id(), await ledger.stores.of(await ledger.stores.current())
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))  # as if the disk were full then
        try:
            with pytest.raises(Unavailable):
                await blobs.put(file, 0, os.urandom(5000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        assert await blobs.get(file, 0) is None
        await blobs.put(file, 0, b"again")
        assert await blobs.get(file, 0) == b"again"


async def test_brokers_that_begin_at_once_agree_on_a_mark(ledger_url: str, tmp_path: Path, s3: S3) -> None:
    for url in ((tmp_path / "files").as_uri(), f"s3://{s3.new_bucket()}"):
        async with a_ledger(ledger_url) as ledger:
            postgres = await ledger.stores.of(POSTGRES)
            stores = [Stores(postgres, url, f"{n}") for n in range(8)]
            names = await asyncio.gather(*(one.current() for one in stores))
            blobs = [await one.of(names[0]) for one in stores]
        assert len(set(names)) == 1
        assert len(blobs) == 8
    assert [path.name for path in (tmp_path / "files").iterdir()] == [MARK_FILE]


async def test_a_directory_that_moved_is_found_by_its_mark(ledger_url: str, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    async with a_ledger(ledger_url, before.as_uri()) as ledger:
        file = await stored(ledger)
    before.rename(after)

    async with a_ledger(ledger_url, after.as_uri()) as ledger:
        assert await content_of(ledger, file) == CONTENT
    async with a_ledger(ledger_url) as ledger:
        with pytest.raises(Unavailable):
            await content_of(ledger, file)


async def test_another_directory_in_its_place_is_neither_read_nor_written_nor_believed(
    ledger_url: str, tmp_path: Path
) -> None:
    """As when its disk is not mounted, or a broker of another machine has one of the same name."""
    root = tmp_path / "files"
    async with a_ledger(ledger_url, root.as_uri()) as ledger:
        file = await stored(ledger)
        store = await ledger.files.store_of(file)
        assert store is not None
        blobs = await ledger.stores.of(store)
        root.rename(tmp_path / "unmounted")
        for mark in (None, "", "other"):
            if mark is not None:
                root.mkdir(exist_ok=True)
            if mark:
                (root / MARK_FILE).write_text(mark)
            with pytest.raises(Unavailable):
                await blobs.put(an_id(), 0, b"x")
            with pytest.raises(Unavailable):
                await blobs.drop([file])
            async with a_ledger(ledger_url) as another:
                with pytest.raises(Unavailable):
                    await content_of(another, file)
        assert [path.name for path in root.iterdir()] == [MARK_FILE]


async def test_what_a_store_cannot_do_is_said_to_its_callers_without_paths_and_servers(
    ledger_url: str, tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    away = "http://127.0.0.1:1"
    cases = {
        (tmp_path / "none" / "files").as_uri(): (s3.url, "No such file"),
        (tmp_path / "file").as_uri(): (s3.url, "Not a directory"),
        "s3://there-is-no-such-bucket": (s3.url, "NoSuchBucket"),
        "s3://bucket": (away, "error sending request"),
    }
    for url, (endpoint, logged) in cases.items():
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        caplog.clear()
        async with a_ledger(ledger_url, url) as ledger:
            with caplog.at_level(logging.WARNING), pytest.raises(Unavailable) as said:
                await stored(ledger)
        assert str(said.value) == "the store of files is unavailable: the broker's log says why"
        assert logged in caplog.text, url


async def test_a_bucket_without_its_package_says_what_to_install(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "broker.blobs.bucket", None)
    async with a_ledger(ledger_url, "s3://bucket") as ledger:
        with caplog.at_level(logging.WARNING), pytest.raises(Unavailable):
            await ledger.stores.current()

    assert "pip install 'infermq[s3]'" in caplog.text


async def test_a_file_whose_pieces_are_lost_is_away_and_not_deleted(ledger_url: str, tmp_path: Path) -> None:
    root = tmp_path / "files"
    async with a_ledger(ledger_url, root.as_uri()) as ledger:
        file = await stored(ledger)
        (root / str(file) / "000001").unlink()

        with pytest.raises(Unavailable, match="piece 1 of file"):
            await content_of(ledger, file)

        file = await stored(ledger)
        shown = await service_of(ledger).show(ME, file)
        parts = service_of(ledger).content(shown, 0, shown.bytes)
        assert await anext(parts)
        await service_of(ledger).delete(ME, file)
        await drop(ledger)
        with pytest.raises(Refusal, match="there is no file"):
            await anext(parts)


async def test_files_of_a_store_that_is_away_are_dropped_later_and_others_at_once(
    ledger_url: str, tmp_path: Path
) -> None:
    root = tmp_path / "files"
    async with a_ledger(ledger_url, root.as_uri()) as ledger:
        there = [await stored(ledger, b"x") for _ in range(12)]  # more than are dropped at once
    async with a_ledger(ledger_url) as ledger:
        here = await stored(ledger, b"x")
        for file in (*there, here):
            await service_of(ledger).delete(ME, file)
        root.rename(tmp_path / "away")
        await drop(ledger)
        assert await ledger.files.store_of(here) is None
        assert [await ledger.files.store_of(file) for file in there].count(None) == 0

        (tmp_path / "away").rename(root)
        await drop(ledger)
        assert [await ledger.files.store_of(file) for file in there] == [None] * 12
    assert left(root) == []


async def test_what_a_killed_broker_left_of_an_upload_is_found_through_its_row(
    ledger_url: str, tmp_path: Path
) -> None:
    root = tmp_path / "files"

    async def cut_off() -> AsyncIterator[bytes]:
        yield CONTENT
        raise KeyboardInterrupt

    async with a_ledger(ledger_url, root.as_uri()) as ledger:
        with pytest.raises(KeyboardInterrupt):
            await service_of(ledger).store(ME, "in.jsonl", cut_off())
        [folder] = [path for path in root.iterdir() if path.is_dir()]
        (folder / "000002.part").write_bytes(b"half of a piece")
        blobs = await ledger.stores.of(await ledger.stores.current())
        assert await blobs.get(UUID(folder.name), 2) is None

        await drop(ledger, hours=23)
        assert len(left(root)) == 4
        await drop(ledger, hours=25)
    assert left(root) == []


async def test_an_upload_that_took_so_long_that_it_was_dropped_leaves_nothing(
    ledger_url: str, tmp_path: Path
) -> None:
    root = tmp_path / "files"
    for place in (root.as_uri(), POSTGRES):
        async with a_ledger(ledger_url, place) as ledger:

            async def slow(ledger: Ledger = ledger) -> AsyncIterator[bytes]:
                yield CONTENT
                await drop(ledger, hours=25)
                yield CONTENT

            with pytest.raises((Refusal, Unavailable)):
                await service_of(ledger).store(ME, "in.jsonl", slow())
    assert left(root) == []
    connection = await asyncpg.connect(ledger_url)
    assert await connection.fetchval("select count(*) from infermq.blobs") == 0
    await connection.close()


def a_part(content: bytes, offset: int = 0) -> Part:
    sha256 = hashlib.sha256(content).digest()
    return Part(sha256=sha256, bytes=len(content), offset=offset, name="in.jsonl", kept_ms=None)


async def parts(*contents: bytes) -> AsyncIterator[bytes]:
    for content in contents:
        yield content


@pytest.mark.parametrize("place", [POSTGRES, "directory"])
async def test_what_another_try_left_is_not_taken_for_what_came(ledger_url: str, tmp_path: Path, place: str) -> None:
    """Pieces that were not noted yet when a broker was killed may be of a file that has changed since."""

    async def changed() -> AsyncIterator[bytes]:
        yield bytes(len(CONTENT) - 1)
        raise Unavailable("a test")

    async with a_ledger(ledger_url, _url(place, tmp_path)) as ledger:
        service = service_of(ledger)
        with pytest.raises(Unavailable):
            await service.go_on(ME, a_part(CONTENT), changed())
        with pytest.raises(Refusal) as refused:
            await service.go_on(ME, a_part(CONTENT), parts(CONTENT))
        file = await service.go_on(ME, a_part(CONTENT), parts(CONTENT))

        assert (refused.value.problem.code, refused.value.problem.limit) == ("bad_offset", 0)
        assert await content_of(ledger, file.id) == CONTENT
        await service.delete(ME, file.id)
        await drop(ledger)
        assert await pieces_in(ledger_url) == 0
    assert left(tmp_path / "files") == []


@pytest.mark.parametrize("place", [POSTGRES, "directory"])
async def test_a_file_that_is_whole_is_not_written_over(ledger_url: str, tmp_path: Path, place: str) -> None:
    """A connection that its client took for lost may go on, and bring what the file no longer is."""
    async with a_ledger(ledger_url, _url(place, tmp_path)) as ledger:
        service, files = service_of(ledger), list[UUID]()
        await ledger.files.begin(
            a_file := an_empty_file(), await ledger.stores.current(), "default", "k", sha256=DIGEST
        )

        async def late() -> AsyncIterator[bytes]:
            files.append((await service.go_on(ME, a_part(CONTENT), parts(CONTENT))).id)
            yield bytes(len(CONTENT))

        with pytest.raises(Refusal) as refused:
            await service.go_on(ME, a_part(CONTENT), late())

        assert (refused.value.problem.code, files) == ("bad_offset", [a_file.id])
        assert await content_of(ledger, a_file.id) == CONTENT


async def test_an_upload_in_parts_that_was_dropped_is_begun_again_and_leaves_nothing(
    ledger_url: str, tmp_path: Path
) -> None:
    root = tmp_path / "files"
    for place in (root.as_uri(), POSTGRES):
        async with a_ledger(ledger_url, place) as ledger:
            service = service_of(ledger)

            async def slow(ledger: Ledger = ledger) -> AsyncIterator[bytes]:
                yield CONTENT[:-1]
                await drop(ledger, hours=25)
                yield CONTENT[-1:]

            with pytest.raises((Refusal, Unavailable)):
                await service.go_on(ME, a_part(CONTENT), slow())
            assert await service.upload(ME, DIGEST, size=len(CONTENT)) is None
    assert left(root) == []
    assert await pieces_in(ledger_url) == 0


def _url(place: str, folder: Path) -> str:
    return POSTGRES if place == POSTGRES else (folder / "files").as_uri()


class LateWriter:
    """The files of a ledger. Before some are forgotten, somebody puts a piece who has not seen that they were dropped."""

    def __init__(self, files: FileLedger, blobs: Blobs) -> None:
        self._files = files
        self._blobs = blobs
        self.to_drop = files.to_drop

    async def dropped(self, files: Collection[UUID], at: Ms) -> None:
        for file in files:
            await self._blobs.put(file, 0, b"late")
        await self._files.dropped(files, at)


async def test_what_is_put_while_a_file_is_dropped_is_dropped_too(ledger_url: str) -> None:
    async with a_ledger(ledger_url) as ledger:
        await service_of(ledger).delete(ME, await stored(ledger))
        files: Any = LateWriter(ledger.files, await ledger.stores.of(POSTGRES))

        await FileDrop(ledger=files, stores=ledger.stores, clock=now).drop()

    assert await pieces_in(ledger_url) == 0


async def test_what_a_broker_put_to_a_dropped_file_before_it_died_is_dropped_a_day_later(
    ledger_url: str, tmp_path: Path
) -> None:
    root = tmp_path / "files"
    async with a_ledger(ledger_url, root.as_uri()) as ledger:
        await service_of(ledger).delete(ME, file := await stored(ledger))
        await drop(ledger)
        assert left(root) == []
        await (await ledger.stores.of(await ledger.stores.current())).put(file, 0, b"late")

        await drop(ledger, hours=23)
        assert left(root) != []
        assert await known_files(ledger_url) == 1

        await drop(ledger, hours=25)
        assert left(root) == []
        assert await known_files(ledger_url) == 0


def an_empty_file() -> File:
    return File(id=an_id(), purpose=Purpose.BATCH, name="in.jsonl", bytes=0, created_ms=now())


async def pieces_in(ledger_url: str) -> int:
    return await _count(ledger_url, "select count(*) from infermq.blobs")


async def known_files(ledger_url: str) -> int:
    return await _count(ledger_url, "select count(*) from infermq.files")


async def _count(ledger_url: str, statement: str) -> int:
    connection = await asyncpg.connect(ledger_url)
    count: int = await connection.fetchval(statement)
    await connection.close()
    return count


async def test_a_batch_waits_while_its_store_is_away_and_others_go_on(ledger_url: str, tmp_path: Path) -> None:
    root = tmp_path / "files"
    async with a_ledger(ledger_url, root.as_uri()) as ledger:
        waits = await given(ledger, await stored(ledger, a_line(1)))
    async with a_ledger(ledger_url) as ledger:
        goes_on = await given(ledger, await stored(ledger, a_line(2)))
        root.rename(tmp_path / "away")
        await carry_out(ledger)
        assert (await names(ledger, waits), await names(ledger, goes_on)) == ([], ["c2"])
        assert status_of(await state(ledger, waits)) == "validating"

        (tmp_path / "away").rename(root)
        at = now()
        while (carried := await ledger.instructions.carry_on(Ms(at + 6000))) is not None:
            assert carried.failure is None
        assert await names(ledger, waits) == ["c1"]


async def test_a_batch_whose_store_stays_away_fails_at_its_deadline(ledger_url: str, tmp_path: Path) -> None:
    root = tmp_path / "files"
    async with a_ledger(ledger_url, root.as_uri()) as ledger:
        batch = await given(ledger, await stored(ledger, a_line(1)))
        (root / MARK_FILE).write_text("other")
        (root / str((await state(ledger, batch)).file) / "000000").unlink()

        await carry_out(ledger)
        assert status_of(await state(ledger, batch)) == "validating"
        await ledger.instructions.carry_on(Ms(now() + 25 * HOUR))

        assert await faults(ledger, batch) == {0: "internal"}
        assert status_of(await state(ledger, batch)) == "failed"


async def test_a_download_that_breaks_off_is_seen_to_be_short(
    nats_url: str, ledger_url: str, nc: Nats, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "files"
    content = b"x" * (3 * PIECE_BYTES)
    async with (
        a_broker(nats_url, ledger_url, nc, files=root.as_uri()) as running,
        aiohttp.ClientSession(running.api) as http,
    ):
        name = await uploaded(http, content)
        [last] = root.glob("*/000002")
        last.unlink()

        async with http.get(f"/v1/files/{name}/content") as response:
            assert response.content_length == len(content)
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()

    assert "a download breaks off" in caplog.text
    assert "Traceback" not in caplog.text


async def test_files_over_http_are_in_a_bucket(nats_url: str, ledger_url: str, nc: Nats, s3: S3) -> None:
    bucket = s3.new_bucket()
    async with (
        a_broker(nats_url, ledger_url, nc, files=f"s3://{bucket}/p") as running,
        aiohttp.ClientSession(running.api) as http,
    ):
        name = await uploaded(http, CONTENT)
        assert await got(http, f"/v1/files/{name}/content") == (200, CONTENT)
        part = await got(http, f"/v1/files/{name}/content", range="bytes=1048570-1048580")
        assert part == (206, CONTENT[1_048_570:1_048_581])
    assert s3.keys(bucket).count("<Key>p/") == 4  # with its mark


async def test_while_their_store_is_away_files_are_answered_by_503(
    nats_url: str, ledger_url: str, nc: Nats, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "files"
    async with (
        a_broker(nats_url, ledger_url, nc, files=root.as_uri()) as running,
        aiohttp.ClientSession(running.api) as http,
    ):
        name = await uploaded(http, CONTENT)
        root.rename(tmp_path / "away")

        status, said = await got(http, f"/v1/files/{name}/content")
        assert (status, b"the store of files is unavailable" in said) == (503, True)
        async with http.post("/v1/files", data=a_form(b"{}", before=BATCH)) as response:
            assert (response.status, str(root) in await response.text()) == (503, False)
            assert "retry-after" in response.headers
        assert (await got(http, f"/v1/files/{name}"))[0] == 200

        (tmp_path / "away").rename(root)
        assert await got(http, f"/v1/files/{name}/content") == (200, CONTENT)
    assert "Exception in ASGI" not in caplog.text

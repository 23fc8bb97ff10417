"""One suite for every store of the content of files."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from broker.blobs.stores import Stores
from broker.core.file_stores import POSTGRES
from broker.errors import BadData
from broker.ledger.connection import Database
from broker.ledger.files import PgBlobs
from broker.ports import Blobs
from tests.builders import an_id
from tests.memory import a_memory_ledger
from tests.s3 import S3

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]

Damage = Callable[[UUID], Awaitable[object]]
"""Spoils the first piece of a file."""


@pytest.fixture(params=["postgres", "directory", "bucket", "memory"])
async def kept(
    request: pytest.FixtureRequest, ledger_url: str, tmp_path: Path, s3: S3
) -> AsyncIterator[tuple[Blobs, Damage]]:
    if request.param == "memory":
        async with a_memory_ledger() as ledger:
            yield await ledger.stores.of(POSTGRES), _skipping
        return
    bucket, folder = s3.new_bucket(), tmp_path / "files"
    cases: dict[str, tuple[str, Damage]] = {
        "postgres": (POSTGRES, partial(_damage_row, ledger_url)),
        "directory": (folder.as_uri(), _damaging_file(folder)),
        "bucket": (f"s3://{bucket}/some/prefix", _damaging_object(s3, bucket)),
    }
    url, damage = cases[request.param]
    async with Database.open(ledger_url, connections=4) as database:
        stores = Stores(PgBlobs(database), url, "mark")
        yield await stores.of(await stores.current()), damage


async def _skipping(_: UUID) -> None:
    pytest.skip("what is in memory is not packed")


async def _damage_row(ledger_url: str, file: UUID) -> None:
    connection = await asyncpg.connect(ledger_url)
    await connection.execute("update infermq.blobs set data = substr(data, 1, 9) where file = $1", file)
    await connection.close()


def _damaging_file(root: Path) -> Damage:
    async def damage(file: UUID) -> None:
        piece = root / str(file) / "000000"
        piece.write_bytes(piece.read_bytes()[:9])

    return damage


def _damaging_object(s3: S3, bucket: str) -> Damage:
    async def damage(file: UUID) -> None:
        await asyncio.to_thread(s3.write, bucket, f"some/prefix/{file}/000000", b"x")

    return damage


@pytest.fixture
def blobs(kept: tuple[Blobs, Damage]) -> Blobs:
    return kept[0]


async def test_a_piece_is_returned_as_it_was_put(blobs: Blobs) -> None:
    file, other = an_id(), an_id()
    pieces = [os.urandom(1024 * 1024), b"\0" * 1024 * 1024, b"last", b""]

    for number, piece in enumerate(pieces):
        await blobs.put(file, number, piece)
    await blobs.put(other, 0, b"other")

    assert [await blobs.get(file, number) for number in range(5)] == [*pieces, None]
    assert [await blobs.get(other, number) for number in range(2)] == [b"other", None]
    assert await blobs.get(an_id(), 0) is None


async def test_a_piece_that_is_there_stays_as_it_is(blobs: Blobs) -> None:
    file = an_id()

    new = [await blobs.put(file, 0, piece) for piece in (b"piece", b"piece", b"other")]

    assert new == [True, False, False]
    assert [await blobs.get(file, number) for number in range(2)] == [b"piece", None]


async def test_of_several_who_put_a_piece_at_once_one_is_first(blobs: Blobs) -> None:
    file, pieces = an_id(), [bytes([n]) * 300_000 for n in range(4)]

    new = await asyncio.gather(*(blobs.put(file, 0, piece) for piece in pieces))

    assert sorted(new) == [False, False, False, True]
    assert await blobs.get(file, 0) == pieces[new.index(True)]


async def test_of_the_files_that_are_dropped_nothing_is_left_and_of_others_all(blobs: Blobs) -> None:
    first, second, third, empty = (an_id() for _ in range(4))
    for file in (first, second, third):
        for number in range(3):
            await blobs.put(file, number, b"x" * number)

    for _ in range(2):
        await blobs.drop([first, third, empty])
        await blobs.drop([])

    left = {file: [await blobs.get(file, number) for number in range(3)] for file in (first, second, third)}
    assert left == {first: [None] * 3, second: [b"", b"x", b"xx"], third: [None] * 3}


async def test_more_pieces_than_an_object_store_lists_at_once_are_dropped(blobs: Blobs) -> None:
    file = an_id()
    for number in range(1003):
        await blobs.put(file, number, b"x")

    await blobs.drop([file])

    assert [await blobs.get(file, number) for number in (0, 500, 999, 1000, 1002)] == [None] * 5


async def test_a_damaged_piece_is_said_to_be(kept: tuple[Blobs, Damage]) -> None:
    blobs, damage = kept
    file = an_id()
    await blobs.put(file, 0, b"piece" * 100)
    await damage(file)

    with pytest.raises(BadData, match=f"the file {file} is damaged"):
        await blobs.get(file, 0)


async def test_pieces_may_be_put_and_read_side_by_side(blobs: Blobs) -> None:
    files = [an_id() for _ in range(8)]

    await asyncio.gather(*(blobs.put(file, 0, file.bytes) for file in files))

    assert await asyncio.gather(*(blobs.get(file, 0) for file in files)) == [file.bytes for file in files]

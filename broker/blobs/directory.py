"""Keeps the content of files in a directory, which all brokers share.

The standard library alone does it, since what a library of object stores writes to a disk is not made durable there, and
what a killed process leaves in the middle of writing is hidden from its listings.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Self
from uuid import UUID

from broker.blobs.errors import translated
from broker.blobs.pieces import packed, unpacked
from broker.core.file_stores import MARK_FILE

PRIVATE_FOLDER = 0o700
"""Only the user of the brokers reads what tenants store."""


class DirectoryBlobs:
    """Implements `broker.ports.Blobs`. A file has a folder, named by its id, and in that a file for each piece."""

    def __init__(self, root: Path, mark: str) -> None:
        self._root = root
        self.mark = mark

    @classmethod
    async def open(cls, path: str, new_mark: str | None) -> Self:
        """Open a directory. `new_mark`: make it, and mark it so, unless it bears one. Raises: Unavailable."""
        root = Path(path)
        with translated(OSError):
            return cls(root, await asyncio.to_thread(_mark, root, new_mark))

    async def put(self, file: UUID, number: int, piece: bytes) -> bool:
        with translated(OSError):
            return await asyncio.to_thread(self._put, file, number, piece)

    async def get(self, file: UUID, number: int) -> bytes | None:
        with translated(OSError):
            return await asyncio.to_thread(self._get, file, number)

    async def drop(self, files: Collection[UUID]) -> None:
        with translated(OSError):
            await asyncio.to_thread(self._drop, files)

    def _put(self, file: UUID, number: int, piece: bytes) -> bool:
        folder = self._folder(file)
        if number == 0:
            self._check()
            folder.mkdir(PRIVATE_FOLDER, exist_ok=True)
            _sync(self._root)
        return _write(_piece(folder, number), packed(piece))

    def _get(self, file: UUID, number: int) -> bytes | None:
        try:
            data = _piece(self._folder(file), number).read_bytes()
        except FileNotFoundError:
            return None
        return unpacked(data, file)

    def _drop(self, files: Collection[UUID]) -> None:
        self._check()
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self._folder(file))

    def _check(self) -> None:
        """See that it is still the same: a directory whose disk is not mounted looks empty. Raises: OSError."""
        if (found := _mark(self._root, None)) != self.mark:
            raise OSError(f"its mark is {found}, and was {self.mark}: another directory is mounted in its place")

    def _folder(self, file: UUID) -> Path:
        return self._root / str(file)


def _piece(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}"


def _mark(root: Path, new: str | None) -> str:
    """Read the mark of a directory, which is made and marked first if `new` is given. Raises: OSError."""
    file = root / MARK_FILE
    if new is not None and not file.is_file():
        with contextlib.suppress(FileExistsError):
            root.mkdir(PRIVATE_FOLDER)
            _sync(root.parent)
        _write(file, new.encode())  # unless another broker was first
    return file.read_text()


def _write(path: Path, data: bytes) -> bool:
    """Write a file so that nobody ever reads a part of it, and that it outlives a loss of power. False: it is there."""
    opened, part = tempfile.mkstemp(".part", f"{path.name}.", path.parent)  # others may write the same file now
    try:
        with open(opened, "wb") as written:  # noqa: PTH123
            written.write(data)
            written.flush()
            os.fsync(opened)
        os.link(part, path)
    except FileExistsError:
        return False
    else:
        return True
    finally:
        Path(part).unlink()
        _sync(path.parent)


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)

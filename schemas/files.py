"""Defines the files that tenants store, and how they are shown."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from schemas.units import Ms


class Purpose(StrEnum):
    """What a file is for."""

    BATCH = "batch"
    """Its lines are the requests of batches."""
    BATCH_OUTPUT = "batch_output"
    """It is what a batch came to. Brokers make it of their records each time that it is read."""


FileName = Annotated[str, Meta(min_length=1, max_length=512)]


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a tenant."""

    id: UUID
    purpose: Purpose
    name: FileName
    bytes: int
    """The size of its content."""
    created_ms: Ms
    expires_ms: Ms | None = None
    """When it will be deleted. None: it is kept until somebody deletes it."""


class Upload(msgspec.Struct, frozen=True):
    """A file that was uploaded in parts, or is being so: then its size is what is kept of it."""

    file: File
    store: str
    """Where its content is."""
    is_whole: bool


class FileRef(msgspec.Struct, frozen=True):
    id: UUID


class FileList(msgspec.Struct, frozen=True, omit_defaults=True):
    """List files, the newest first unless `oldest_first`. `after` is the last id of the previous page."""

    limit: Annotated[int, Meta(ge=1, le=10_000)] = 10_000
    after: UUID | None = None
    oldest_first: bool = False
    purpose: Purpose | None = None


class Files(msgspec.Struct, frozen=True):
    files: tuple[File, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Fault:
    """A bad line, or a bad file if `number` is 0. Lines count from 1."""

    number: int
    code: str
    message: str
    field: str | None = None
    limit: int | None = None
    custom_id: str | None = None
    """None: it has none that can be read."""

    def __str__(self) -> str:
        where = f"line {self.number}" if self.number else "file"
        return f"{where}{': ' + self.field if self.field else ''}: {self.message}"

"""Writes results to files, so that another command can go on where one was killed.

Until it is complete, a file of results grows as `FILE.part`. `FILE.resume` beside it says of which batch it is, and after
each page how far the files were then: whatever a kill leaves of them is cut back to the last page that is whole.
"""

import asyncio
import fcntl
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Protocol
from uuid import UUID

import msgspec
import typer
from msgspec.structs import replace

from broker.cli.results import fault_line, output_line
from broker.cli.terminal import Exit, fail, stop
from broker.client import Client, RequestRefused
from broker.errors import Unavailable
from schemas.api import ResultPage, State
from schemas.codec import UNREADABLE
from schemas.files import Fault
from schemas.ids import is_line_of

Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on where a command was cut off. May always be given: it begins if there is nothing."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Write over files that hold something else.")]
_NO_LINE = 2**31
"""The place of a result without a line: after all others."""
_PLACE_DIGITS = 10


class Wanted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which results are written, and where. Names of files are whole. `out=None`: nowhere, unless to standard output."""

    batch: UUID
    out: str | None = None
    errors: str | None = None
    """Where what did not succeed is written. None: between the others."""
    failed: bool = False
    """Whether to write only what did not succeed."""
    own: bool = False
    in_order: bool = False

    def paths(self) -> list[Path]:
        return [Path(name) for name in (self.out, self.errors) if name is not None]

    def command(self) -> str:
        """Return the command that goes on where another was cut off."""
        flags = {"--failed": self.failed, "--own": self.own, "--in-order": self.in_order}
        files = {"--out": self.out, "--errors": self.errors}
        words = ["infermq", "batch", "results", str(self.batch), "--wait"]
        words += [word for name, file in files.items() if file is not None for word in (name, as_typed(file))]
        words += [name for name, is_set in flags.items() if is_set]
        return " ".join([*words, "--resume"] if self.paths() else words)


def whole(path: Path | None) -> str | None:
    """Return the whole name of a file, wherever a command is run that reads it."""
    return None if path is None else str(path.resolve())


def as_typed(file: str | Path) -> str:
    """Return the name of a file as it is typed here: without our folder, if it is in it."""
    here = f"{Path.cwd()}{os.sep}"
    return shlex.quote(str(file).removeprefix(here))


class Mark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far the results were read and written after a page. `out` and `errors` are the sizes of the files in bytes."""

    cursor: str | None = None
    out: int = 0
    errors: int = 0
    results: int = 0
    failed: int = 0
    """How many of the results are of jobs that did not succeed."""
    is_whole: bool = False
    """Whether everything is written."""


_wanted = msgspec.json.Decoder(Wanted)
_mark = msgspec.json.Decoder(Mark)


class _Sink(Protocol):
    def write(self, lines: Iterable[bytes]) -> int:
        """Write lines and return how many bytes were written in all."""


class _Stream:
    """Standard output, or nothing."""

    def __init__(self, file: BinaryIO | None) -> None:
        self._file = file

    def write(self, lines: Iterable[bytes]) -> int:
        if self._file is not None:
            self._file.writelines(lines)
            self._file.flush()
        return 0


class _Part:
    """A file that appears under its name once it is complete."""

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = _beside(final, "part")
        self._file: BinaryIO | None = None

    def has(self, size: int, *, is_whole: bool) -> bool:
        """Whether it is there as far as that."""
        if self.path.exists():
            return self.path.stat().st_size >= size
        return is_whole and self.final.exists()

    def open_at(self, size: int) -> None:
        """Open it to go on after so many bytes; what comes after them is cut off."""
        self.path.touch()
        self._file = self.path.open("r+b")
        self._file.truncate(size)
        self._file.seek(size)

    def write(self, lines: Iterable[bytes]) -> int:
        assert self._file is not None  # noqa: S101 - it is open while pages come
        self._file.writelines(lines)
        self._file.flush()
        return self._file.tell()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def complete(self, *, in_order: bool) -> None:
        """Give it its name. A kill in between leaves either of both."""
        self.close()
        if not self.path.exists():
            return
        if in_order:
            _sort(self.path, _beside(self.final, "sorted"))
            _beside(self.final, "sorted").replace(self.final)
            self.path.unlink()
        else:
            self.path.replace(self.final)


def _sort(source: Path, target: Path) -> None:
    """Write lines that begin with their place in the order of these, without them."""
    places: list[tuple[int, int, int]] = []
    with source.open("rb") as unordered, target.open("wb") as ordered:
        start = 0
        for line in unordered:
            places.append((int(line[:_PLACE_DIGITS]), start + _PLACE_DIGITS, len(line) - _PLACE_DIGITS))
            start += len(line)
        for _, begin, size in sorted(places):
            unordered.seek(begin)
            ordered.write(unordered.read(size))


class ResultFiles:
    """Writes pages of results. What did not succeed goes into a file of its own, if one is wanted."""

    def __init__(self, wanted: Wanted, *, to_stdout: bool) -> None:
        self.wanted = wanted
        self.mark = Mark()
        self.is_resumed = False
        """Whether it goes on where another command was cut off."""
        self._parts: list[_Part] = []
        self._out: _Sink = _Stream(sys.stdout.buffer if to_stdout else None)
        if wanted.out is not None:
            self._out = self._part(wanted.out)
        self._errors: _Sink | None = self._part(wanted.errors) if wanted.errors is not None else None
        self._progress: BinaryIO | None = None

    def _part(self, name: str) -> _Part:
        part = _Part(Path(name))
        self._parts.append(part)
        return part

    def open(self, progress: BinaryIO | None, *, resume: bool) -> None:
        """Begin, or go on where the files that another command left are whole. Raises: typer.Exit."""
        before, marks = (None, []) if progress is None else read_progress(progress.read())
        if resume and before is not None and replace(before, out=self.wanted.out) != self.wanted:
            fail(
                f"what is left was begun by other options: {before.command()}; or begin anew, without --resume",
                Exit.USAGE,
            )
        usable = [(mark, end) for mark, end in marks if self._has(mark)] if resume and before is not None else []
        self._progress = progress
        self.is_resumed = bool(usable)
        self.mark, end = usable[-1] if usable else (Mark(), 0)
        if progress is not None:
            progress.seek(end)
            progress.truncate()
            if not end:
                self._note(self.wanted)
        if not self.mark.is_whole:
            for part, size in zip(self._parts, self._sizes(self.mark), strict=True):
                part.open_at(size)

    def _sizes(self, mark: Mark) -> list[int]:
        sizes = {self.wanted.out: mark.out, self.wanted.errors: mark.errors}
        return [size for name, size in sizes.items() if name is not None]

    def _has(self, mark: Mark) -> bool:
        pairs = zip(self._parts, self._sizes(mark), strict=True)
        return all(part.has(size, is_whole=mark.is_whole) for part, size in pairs)

    def add_fault(self, fault: Fault) -> None:
        """Write what is wrong with a line of the input that is no job, before the results."""
        if self._errors is not None:
            line = self._placed(fault_line(fault, self.wanted.batch), fault.number)
            self.mark = replace(self.mark, errors=self._errors.write([line]))

    def keep(self) -> None:
        """Have what is written so far kept by whoever resumes."""
        self._note(self.mark)

    def add(self, page: ResultPage) -> None:
        """Write a page, and note how far the files are then."""
        good: list[bytes] = []
        bad: list[bytes] = []
        failed = 0
        for result in page.results:
            has_failed = result.state is not State.SUCCEEDED
            failed += has_failed
            if has_failed or not self.wanted.failed:
                line = self._placed(output_line(result), result.line)
                (bad if has_failed and self._errors is not None else good).append(line)
        self.mark = Mark(
            cursor=page.cursor,
            out=self._out.write(good),
            errors=self.mark.errors if self._errors is None else self._errors.write(bad),
            results=self.mark.results + len(page.results),
            failed=self.mark.failed + failed,
        )
        self._note(self.mark)

    def _placed(self, line: bytes, number: int | None) -> bytes:
        if not self.wanted.in_order:
            return line
        return b"%0*d%s" % (_PLACE_DIGITS, _NO_LINE if number is None else number, line)

    def _note(self, what: Wanted | Mark) -> None:
        if self._progress is not None:
            self._progress.write(msgspec.json.encode(what) + b"\n")
            self._progress.flush()

    def complete(self) -> None:
        """Give the files their names, now that all results are in them."""
        if not self.mark.is_whole:
            self.mark = replace(self.mark, is_whole=True)
            self._note(self.mark)
        for part in self._parts:
            part.complete(in_order=self.wanted.in_order)
        if self._progress is not None:
            _progress_of(self.wanted).unlink(missing_ok=True)

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def forget_if_empty(self) -> None:
        """Leave nothing of a command that wrote nothing, as when there is no such batch."""
        if self.mark == Mark():
            for part in self._parts:
                part.path.unlink(missing_ok=True)
            if self._progress is not None:
                _progress_of(self.wanted).unlink(missing_ok=True)


@contextmanager
def result_files(wanted: Wanted, *, resume: bool = False, to_stdout: bool = False) -> Iterator[ResultFiles]:
    """Open the files that are wanted, alone: no other command may write them meanwhile. Raises: typer.Exit."""
    files = ResultFiles(wanted, to_stdout=to_stdout)
    with ExitStack() as stack:
        stack.callback(files.close)
        progress = None
        if wanted.paths() and not to_stdout:
            progress = stack.enter_context(
                os.fdopen(os.open(_progress_of(wanted), os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            )
            _lock(progress, wanted.paths()[0])
        files.open(progress, resume=resume)
        stack.callback(files.forget_if_empty)
        yield files


@contextmanager
def saying_how_to_go_on(wanted: Wanted) -> Iterator[None]:
    """Tell whoever stops the command, or loses the broker, how to have the rest written. Raises: typer.Exit."""
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        stop(f"to go on: {wanted.command()}" if wanted.paths() else "stopped")
    except (Unavailable, OSError, ExceptionGroup) as error:
        if wanted.paths():
            error.add_note(f"to go on: {wanted.command()}")
        raise


@contextmanager
def ordered_stdout(wanted: Wanted) -> Iterator[ResultFiles]:
    """Open files of which the first is printed in the end, since its order is known only then."""
    with tempfile.TemporaryDirectory() as folder:
        collected = Path(folder) / "results"
        with result_files(replace(wanted, out=str(collected))) as files:
            yield files
        with collected.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def write_faults(errors: Path, faults: Iterable[Fault]) -> None:
    """Write lines of an input of which nothing was submitted as a file of errors."""
    part = _Part(errors)
    part.open_at(0)
    part.write(fault_line(fault, None) for fault in faults)
    part.complete(in_order=False)


async def write_results(client: Client, files: ResultFiles, *, wait: bool) -> Mark:
    """Write what is not written yet, and return how far the files are: to their end."""
    if not files.mark.is_whole:
        async for page in client.result_pages(
            files.wanted.batch, cursor=files.mark.cursor, wait=wait, own=files.wanted.own
        ):
            files.add(page)
    files.complete()
    return files.mark


def read_progress(text: bytes) -> tuple[Wanted | None, list[tuple[Mark, int]]]:
    """Read what a command noted: what it wrote, and each mark with where the note of it ends. A half line does not count."""
    lines = text.split(b"\n")[:-1]
    try:
        wanted = _wanted.decode(lines[0]) if lines else None
    except UNREADABLE:
        wanted = None
    marks: list[tuple[Mark, int]] = []
    end = len(lines[0]) + 1 if lines else 0
    for line in lines[1:]:
        end += len(line) + 1
        try:
            marks.append((_mark.decode(line), end))
        except UNREADABLE:
            break
    return wanted, marks


def check_out(out: Path) -> None:
    """Check that a file can be made at `out`. Raises: typer.Exit."""
    if out.is_dir() or _beside(out, "part").is_dir() or not out.parent.is_dir():
        fail(f"no file can be made at {out}", Exit.USAGE)
    if out.exists() and not out.is_file():
        fail(f"{out} is no regular file: for standard output, name none", Exit.USAGE)
    if not os.access(out.parent, os.W_OK):
        fail(f"{out.parent} cannot be written to", Exit.USAGE)


def check_files(out: Path | None, errors: Path | None) -> None:
    """Check that the files can be made and are two. Raises: typer.Exit."""
    for file in (out, errors):
        if file is not None:
            check_out(file)
    if out is not None and errors is not None and out.resolve() == errors.resolve():
        fail("--out and --errors are the same file", Exit.USAGE)


async def check_loss(client: Client, wanted: Sequence[Path], batch: UUID | None, *, force: bool) -> None:
    """Check that nothing is written over but results of this batch. `None`: it is not made yet. Raises: typer.Exit."""
    if force or not wanted:
        return
    left = _left_beside(wanted[0])
    if left is not None and left.batch != batch:
        fail(
            f"{as_typed(_beside(wanted[0], 'part'))} is what a command left that wrote results of the batch {left.batch}: "
            f"go on with it ({left.command()}), give another file, or write over it with --force",
            Exit.USAGE,
        )
    for path in wanted:
        if path.exists() and path.stat().st_size and not await _is_of(client, path, batch):
            holds = "holds no results of this batch" if batch else "a new batch is to be written there"
            resume = "" if batch else "go on with one made before with --resume, "
            fail(
                f"{as_typed(path)} is there, and {holds}: {resume}give another file, or write over it with --force",
                Exit.USAGE,
            )


async def _is_of(client: Client, path: Path, batch: UUID | None) -> bool:
    """Whether a file holds results of a batch, as its first line tells."""
    with path.open("rb") as file:
        try:
            job = msgspec.json.decode(file.readline(), type=_Line).id
        except UNREADABLE:
            return False
    if job is None:
        return True  # what is wrong with lines of which no batch was made
    if batch is None:
        return False
    if is_line_of(job, batch):
        return True
    try:
        of = (await client.job(job)).batch
        return of is not None and await _first_of(client, of) == await _first_of(client, batch)
    except RequestRefused:
        return False


class _Line(msgspec.Struct, frozen=True):
    """What a line of results or errors begins with."""

    id: UUID | None
    custom_id: str | None
    response: msgspec.Raw
    error: msgspec.Raw


async def _first_of(client: Client, batch: UUID) -> UUID:
    """The batch of which this one is a retry, or itself: their results are merged."""
    return (await client.batch(batch)).root or batch


def _left_beside(path: Path) -> Wanted | None:
    """What a command was writing there when it was cut off, if it had written anything."""
    try:
        wanted, marks = read_progress(_beside(path, "resume").read_bytes())
    except FileNotFoundError:
        return None
    return wanted if any(mark.results or mark.errors for mark, _ in marks) else None


def _lock(progress: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(progress, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fail(f"another command is writing {path}", Exit.USAGE)


def _progress_of(wanted: Wanted) -> Path:
    return _beside(wanted.paths()[0], "resume")


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.name}.{kind}")

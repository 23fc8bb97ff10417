"""What a user sees: tables, money, errors, exit codes."""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from broker.client import BacklogFull, Client, NoBroker, RequestRefused, RequestTimedOut
from broker.config import NotFound, Where, find
from broker.errors import Conflict, Unavailable
from schemas.catalog import CatalogError
from schemas.units import Ms, NanoUsd

T = TypeVar("T")


class Exit(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 3
    INTERRUPTED = 130


_WIDE = 240
"""Columns where the output is no terminal: nothing is cut there."""
out = Console(highlight=False, soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else _WIDE)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
NatsUrl = Annotated[str | None, typer.Option("--nats-url", help="Where NATS is (INFERMQ_NATS_URL).")]
Data = Annotated[Path | None, typer.Option("--data", help="Data folder of a running `infermq up` (INFERMQ_DATA).")]


def where(nats_url: str | None, data: Path | None) -> Where:
    """Raises: NotFound."""
    import os  # noqa: PLC0415 - the environment is read here and nowhere else

    return find(nats_url=nats_url, data=data, environ=os.environ, folder=Path.cwd())


def with_client(nats_url: str | None, data: Path | None, work: Callable[[Client], Awaitable[T]]) -> T:
    """Run it on a connection to the system that the options name."""

    async def connected() -> T:
        place = where(nats_url, data)
        async with Client.connect(place.nats_url, tenant=place.tenant, key=place.key) as client:
            return await work(client)

    return asyncio.run(connected())


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Expected failures become a line on standard error and an exit code; a bug keeps its traceback."""
    try:
        yield
    except ExceptionGroup as group:
        known = group.subgroup(_is_expected)
        if known is None:
            raise
        _tell(_first(known))
    except _EXPECTED as error:
        if not _is_expected(error):
            raise
        _tell(error)


_EXPECTED = (
    NotFound,
    NoBroker,
    Unavailable,
    RequestRefused,
    BacklogFull,
    RequestTimedOut,
    Conflict,
    CatalogError,
    OSError,
)


def _is_expected(error: BaseException) -> bool:
    """What has no number is not the operating system's: a time-out that nobody caught."""
    return isinstance(error, _EXPECTED) and not (isinstance(error, OSError) and error.errno is None)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    first: BaseException = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _tell(error: BaseException) -> None:
    match error:
        case NotFound() | Unavailable():
            code = Exit.UNAVAILABLE
        case RequestRefused() | CatalogError() | OSError():
            code = Exit.USAGE
        case _:
            code = Exit.FAILED
    fail(_words(error), code)


def _words(error: BaseException) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return f"there is no file {error.filename}"
        case OSError():
            return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        case _:
            return str(error)


def fail(message: str, code: Exit) -> NoReturn:
    """Say it, and end. Raises: typer.Exit."""
    err.print(f"[bold red]error:[/] {plain(message)}")
    raise typer.Exit(code)


def data_folder(path: Path) -> Path:
    """Make the folder unless it is there; its full path. Raises: typer.Exit."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--data: no folder can be made at {path}: {error.strerror}", Exit.USAGE)
    return path.resolve()


def utf8(text: str, what: str) -> str:
    """An argument, where it can be sent. Raises: typer.Exit."""
    try:
        text.encode()
    except UnicodeEncodeError:
        fail(f"{what} is not UTF-8", Exit.USAGE)
    return text


def plain(text: str) -> str:
    """Not to be read as markup, and nothing in it that a terminal obeys."""
    return escape(printable(text))


def printable(text: str) -> str:
    """With its control characters written out, but for tabs and ends of lines."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""And lone surrogates, which cannot be written, and marks that turn the direction of what follows."""


def print_json(value: object) -> None:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    sys.stdout.buffer.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Numbers to the right."""
    table = Table(title=title, box=None, header_style="bold", title_justify="left", pad_edge=False)
    for number, column in enumerate(columns):
        right = column.endswith(">")
        name = column.removesuffix(">")
        table.add_column(name, no_wrap=number == 0, overflow="fold", justify="right" if right else "left")
    for row in rows:
        table.add_row(*(plain(str(cell)) for cell in row))
    out.print(table)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in fields:
        if value is not None:
            table.add_row(f"[bold]{name}[/]", plain(str(value)))
    out.print(table)


def money(nano_usd: NanoUsd | int) -> str:
    """In micro-dollars, or nano-dollars where it is less than one of those."""
    return f"${nano_usd / 1e9:,.{9 if 0 < nano_usd < 1000 else 6}f}"


def duration(ms: Ms | int | None) -> str:
    if ms is None:
        return "-"
    if ms < 1000:
        return f"{ms} ms"
    seconds = ms / 1000
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def instant(ms: Ms | int | None) -> str:
    """Local time."""
    if ms is None:
        return "-"
    from datetime import UTC, datetime  # noqa: PLC0415 - only here

    try:
        return datetime.fromtimestamp(ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):
        return "after the year 9999"

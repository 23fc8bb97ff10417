"""What a user sees: tables, money, errors, exit codes."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from broker.client import BacklogFull, Client, NoBroker, Refused, TimedOut
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
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE)
err = Console(stderr=True, highlight=False, soft_wrap=True)

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
def told() -> Iterator[None]:
    """Expected failures become a line on standard error and an exit code; a bug keeps its traceback."""
    try:
        yield
    except ExceptionGroup as group:
        known = group.subgroup(_EXPECTED)
        if known is None:
            raise
        _tell(_first(known))
    except _EXPECTED as error:
        _tell(error)


_EXPECTED = (
    NotFound,
    NoBroker,
    Unavailable,
    Refused,
    BacklogFull,
    TimedOut,
    Conflict,
    CatalogError,
    FileNotFoundError,
    IsADirectoryError,
    PermissionError,
)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    first: BaseException = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _tell(error: BaseException) -> None:
    match error:
        case NotFound() | Unavailable():
            code = Exit.UNAVAILABLE
        case Refused() | CatalogError() | FileNotFoundError() | IsADirectoryError() | PermissionError():
            code = Exit.USAGE
        case _:
            code = Exit.FAILED
    fail(f"there is no file {error.filename}" if isinstance(error, FileNotFoundError) else str(error), code)


def fail(message: str, code: Exit) -> NoReturn:
    """Say it, and end. Raises: typer.Exit."""
    err.print(f"[bold red]error:[/] {_plain(message)}")
    raise typer.Exit(code)


def _plain(text: str) -> str:
    """Not to be read as markup."""
    return text.replace("[", r"\[")


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
        table.add_row(*(_plain(str(cell)) for cell in row))
    out.print(table)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in fields:
        if value is not None:
            table.add_row(f"[bold]{name}[/]", _plain(str(value)))
    out.print(table)


def money(nano_usd: NanoUsd | int) -> str:
    return f"${nano_usd / 1e9:,.6f}"


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

    return datetime.fromtimestamp(ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")

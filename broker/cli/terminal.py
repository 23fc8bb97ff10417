"""Prints what a user sees: tables, money and errors; defines the exit codes and shared options."""

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec
import typer
from msgspec.structs import replace
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from broker.cli import layout, remedies
from broker.client import BacklogFull, Client, NoBroker, RequestRefused, RequestTimedOut
from broker.config import Location, NotFound, find
from broker.errors import CannotListen, Conflict, Unavailable
from schemas.api import ErrorBody, Hold, HoldCode, Problem
from schemas.catalog import CatalogError
from schemas.outcome import FAILURE_KINDS
from schemas.units import Ms, NanoUsd
from schemas.urls import public

T = TypeVar("T")


class Exit(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 3
    INTERRUPTED = 130


_as_json = ContextVar("as_json", default=False)
"""Whether the command was asked for JSON: then its errors are JSON too."""


def wants_json() -> bool:
    return _as_json.get()


class _ForPeople(Console):
    """Prints for people, so nothing under `--json`: what goes wrong is one JSON document then, by `fail`."""

    @property
    def quiet(self) -> bool:
        return self._is_quiet or wants_json()

    @quiet.setter
    def quiet(self, value: bool) -> None:
        self._is_quiet = value


def _console(kind: type[Console], *, stderr: bool) -> Console:
    """Make a console that writes no escape codes if NO_COLOR is set, or if it is no terminal."""
    plain_only: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return kind(stderr=stderr, highlight=False, soft_wrap=True, emoji=False, color_system=plain_only)


out, err = _console(Console, stderr=False), _console(_ForPeople, stderr=True)


def note_json(wanted: bool) -> bool:
    """Note whether the command was asked for JSON."""
    _as_json.set(wanted)
    return wanted


def _json(what: str) -> Any:
    """Make the option `--json` of a command that prints `what` then."""
    return typer.Option(
        "--json", is_eager=True, callback=note_json, help=f"Print {what}; errors are JSON on standard error."
    )


AsJson = Annotated[bool, _json("one JSON document")]
AsJsonOfFile = Annotated[
    bool, _json("one JSON document about the file of --out; without it, results are JSON Lines anyhow")
]
AsJsonOnceReady = Annotated[bool, _json("one JSON document once it is ready")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", "--nats-url", help="Where it is: at NATS (nats://…) or over HTTP (https://…) (INFERMQ_URL)."
    ),
]
Data = Annotated[Path | None, typer.Option("--data", help="Data folder of a running `infermq up` (INFERMQ_DATA).")]


def where(url: str | None, data: Path | None) -> Location:
    """Find the running system that the options or the environment name. Raises: NotFound."""
    return find(url=url, data=data, environ=os.environ, folder=Path.cwd())


def with_client(url: str | None, data: Path | None, work: Callable[[Client], Awaitable[T]]) -> T:
    """Run `work` with a client of the system that the options name, and return its result."""

    async def connected() -> T:
        place = where(url, data)
        async with Client.connect(place.url, api_key=place.api_key, trust=place.trust) as client:
            return await work(client)

    return asyncio.run(connected())


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Turn an expected failure into a line on standard error and an exit code. A bug keeps its traceback."""
    try:
        yield
    except ExceptionGroup as group:
        known = group.subgroup(_is_expected)
        if known is None:
            raise
        first = _first(known)
        for note in getattr(group, "__notes__", ()):
            first.add_note(note)
        _report(first)
    except _EXPECTED as error:
        if not _is_expected(error):
            raise
        _report(error)


_EXPECTED = (
    NotFound,
    NoBroker,
    Unavailable,
    RequestRefused,
    BacklogFull,
    RequestTimedOut,
    CannotListen,
    Conflict,
    CatalogError,
    OSError,
)


def _is_expected(error: BaseException) -> bool:
    """Tell whether a user can do something about it. An OSError without a number is a time-out that nobody caught: a bug.

    If nobody reads the output any more, as after `| head`, the command ends without a word.
    """
    if isinstance(error, BrokenPipeError):
        return False
    return isinstance(error, _EXPECTED) and not (isinstance(error, OSError) and error.errno is None)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    first: BaseException = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _report(error: BaseException) -> None:
    match error:
        case NotFound() | Unavailable():
            code = Exit.UNAVAILABLE
        case RequestRefused(problem=Problem(code=why)) if why in _NOT_OF_THE_REQUEST:
            code = Exit.FAILED
        case RequestRefused() | CatalogError() | OSError():
            code = Exit.USAGE
        case _:
            code = Exit.FAILED
    words = "\n".join([_words(error), *getattr(error, "__notes__", ())])
    if isinstance(error, RequestRefused):
        problem = replace(error.problem, message="\n".join([error.problem.message, *getattr(error, "__notes__", ())]))
    else:
        problem = Problem(_CODES.get(code, "failed"), words)
    _end(words, problem, code, remedy=_remedy(error))


def _remedy(error: BaseException) -> str | None:
    """Return what to do about an error whose own words do not say it."""
    match error:
        case RequestRefused(problem=Problem(code=why)):
            return remedies.OF_REFUSALS.get(why)
        case Unavailable(what="NATS" | "Postgres"):
            return remedies.OF_UNAVAILABLE
        case RequestTimedOut():
            return remedies.OF_NO_ANSWER
        case BacklogFull():
            return remedies.OF_BACKLOG
        case _:
            return None


_NOT_OF_THE_REQUEST = frozenset(
    {*map(str, HoldCode), *FAILURE_KINDS, "internal", "cancelled", "expired", "poison", "conflict"}
) - {HoldCode.UNKNOWN_MODEL, HoldCode.UNKNOWN_DEPLOYMENT, "bad_request", "context_too_long", "refused"}
"""The codes of refusals that say nothing against the request: what it asks for is busy, has failed, or was stopped."""
_CODES = {Exit.UNAVAILABLE: "unavailable", Exit.USAGE: "bad_input", Exit.INTERRUPTED: "interrupted"}
"""The codes of errors that no broker has given one."""


def _words(error: BaseException) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return f"there is no file {error.filename}"
        case RequestRefused(problem=Problem(message=message, field="id")):
            return message
        case OSError():
            return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        case _:
            return _NOTHING_LISTENS.sub(r"nothing listens at \1:\2", str(error))


_NOTHING_LISTENS = re.compile(r"\[Errno 111\] Connect call failed \('([^']*)', (\d+)[^)]*\)")


def fail(message: str, code: Exit) -> NoReturn:
    """Print an error and end the command. Raises: typer.Exit."""
    _end(message, Problem(_CODES.get(code, "failed"), message), code)


def end_failed(message: str) -> NoReturn:
    """End a command that did what it was asked, where some of it has failed, as people were told. Raises: typer.Exit."""
    if wants_json():
        fail(message, Exit.FAILED)
    raise typer.Exit(Exit.FAILED)


def stop(message: str) -> NoReturn:
    """End a command that Ctrl-C has stopped, and say how to go on. Raises: typer.Exit."""
    if wants_json():
        fail(message, Exit.INTERRUPTED)
    err.print(f"\n{plain(message)}")
    raise typer.Exit(Exit.INTERRUPTED)


def _end(message: str, problem: Problem, code: Exit, *, remedy: str | None = None) -> NoReturn:
    """Print an error and end the command. Raises: typer.Exit."""
    say_error(message, problem, as_json=_as_json.get())
    if remedy is not None:
        _print_wrapped("what to do", "bold", remedy)
    raise typer.Exit(code)


def say_error(message: str, problem: Problem, *, as_json: bool) -> None:
    """Print an error, under `--json` as the object that the API would answer."""
    if as_json:
        said = replace(problem, message=shown(problem.message))
        sys.stderr.write(msgspec.json.encode(ErrorBody(said)).decode() + "\n")
    else:
        _print_wrapped("error", "bold red", message)


def _print_wrapped(name: str, style: str, message: str) -> None:
    """Print a message on standard error. On a terminal no word is broken, and no command between backquotes."""
    lines = shown(f"{name}: {message}").split("\n")
    if err.is_terminal:
        lines = [part for line in lines for part in layout.flowed(_WORDS.findall(line), err.width, " ")]
    text = "\n".join(lines)
    err.print(Text.assemble((text[: len(name) + 1], style), text[len(name) + 1 :]))


_WORDS = re.compile(r"`[^`]*`\S*|\S+")


def data_folder(path: Path) -> Path:
    """Make the folder unless it exists, and return its full path. Raises: typer.Exit."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--data: no folder can be made at {path}: {error.strerror}", Exit.USAGE)
    return path.resolve()


def utf8(text: str, what: str) -> str:
    """Return an argument unchanged if it can be encoded. Raises: typer.Exit."""
    try:
        text.encode()
    except UnicodeEncodeError:
        fail(f"{what} is not UTF-8", Exit.USAGE)
    return text


def plain(text: str) -> str:
    """Escape text so that neither rich takes it for markup nor a terminal for a command. No URL keeps its password."""
    return escape(shown(text))


def shown(text: str) -> str:
    """Make text safe to print as it is: control characters are written out, and no URL keeps its password."""
    return printable(public(text))


def printable(text: str) -> str:
    """Write out control characters, except tabs and line ends."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters, lone surrogates, which cannot be encoded, and marks that change the direction of text."""


def print_json(value: object) -> None:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    sys.stdout.buffer.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows as `layout.table` lays them out: no line is wider than the terminal, and nothing is cut off."""
    cells = ([shown(str(cell)) for cell in row] for row in rows)
    _print_lines(layout.table(columns, cells, _width()))


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Print names with their values beside them. What is None is left out."""
    pairs = ((name, shown(str(value))) for name, value in fields if value is not None)
    _print_lines(layout.fields(pairs, _width()))


def print_text(text: str) -> None:
    """Print a text for people: on a terminal no word is broken."""
    _print_lines(layout.Line("", line) for line in layout.wrapped(shown(text), _width()))


def _print_lines(lines: Iterable[layout.Line]) -> None:
    for line in lines:
        out.print(Text.assemble((line.strong, "bold"), line.rest))


def _width() -> int | None:
    """Return the columns of the terminal. None: the output is none, so that each row is a line, however long."""
    return out.width if sys.stdout.isatty() else None


def reasons(holds: Iterable[Hold]) -> str:
    """Join the reasons why something waits into one line."""
    return "; ".join(hold.message for hold in holds)


def money(nano_usd: NanoUsd | int, *, short: bool = False) -> str:
    """Format as USD to the micro-dollar; less than one, to the nano-dollar. `short`: to the cent, from ten cents on."""
    if short and (nano_usd >= _TEN_CENTS or not nano_usd):
        return f"${nano_usd / 1e9:,.2f}"
    return f"${nano_usd / 1e9:,.{9 if 0 < nano_usd < 1000 else 6}f}"


_TEN_CENTS = 100_000_000


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
    """Format an instant, in UTC, as all times here are."""
    if ms is None:
        return "-"
    from datetime import UTC, datetime  # noqa: PLC0415 - only here

    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError):
        return "after the year 9999"

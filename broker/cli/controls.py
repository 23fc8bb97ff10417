"""`infermq pause`, `resume`, `audit`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from broker.cli.filters import Before, Limit
from broker.cli.terminal import (
    AsJson,
    Data,
    Exit,
    Url,
    duration,
    fail,
    instant,
    out,
    plain,
    print_json,
    print_table,
    reporting_errors,
    utf8,
    with_client,
)
from schemas.control import AuditEntry, Pause, PauseKind

Kind = Annotated[PauseKind | None, typer.Argument(help="What to pause; nothing: list what is paused.")]
Name = Annotated[str | None, typer.Argument(help="Its name, or the id of a batch.")]


def pause(
    kind: Kind = None,
    name: Name = None,
    *,
    reason: Annotated[str | None, typer.Option(help="Shown to whoever asks why something waits.")] = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Start nothing more of a batch, model, lane, tenant or deployment.

    What runs goes on. Without arguments, lists what is paused, since when, by whom and why.

    Examples:
      infermq pause model small-chat --reason "an upgrade"
      infermq pause batch BATCH
      infermq pause
    """
    if kind is None:
        _list(as_json=as_json, url=url, data=data)
        return
    what, why = _named(kind, name), None if reason is None else utf8(reason, "the reason")
    with reporting_errors():
        answer = with_client(url, data, lambda client: client.pause(kind, what, reason=why))
    if as_json:
        print_json(answer)
        return
    said = "is paused" if answer.changed else _by_whom(answer.pause)
    out.print(f"{kind} {plain(what)} {said}; `infermq resume {kind} {plain(what)}` lets it go on")


def resume(
    kind: Annotated[PauseKind, typer.Argument(help="What to resume.")],
    name: Annotated[str, typer.Argument(help="Its name, or the id of a batch.")],
    *,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Let a batch, model, lane, tenant or deployment go on that was paused.

    Says whether it had been paused.

    Examples:
      infermq resume model small-chat
    """
    what = utf8(name, "the name")
    with reporting_errors():
        answer = with_client(url, data, lambda client: client.resume(kind, what))
    if as_json:
        print_json(answer)
        return
    out.print(f"{kind} {plain(what)} {'goes on' if answer.changed else 'was not paused'}")


def audit(
    *,
    limit: Limit = 50,
    before: Before = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """List who changed what, the newest first.

    Prints a row for each change, with how it was before and is after.

    Examples:
      infermq audit --limit 10
    """
    with reporting_errors():
        page = with_client(url, data, lambda client: client.audit(limit=limit, before=before))
    if as_json:
        print_json(page)
        return
    print_table(("change", "at", "by", "action", "of", "before", "after"), (_row(one) for one in page.entries))


def print_pauses(pauses: Sequence[Pause]) -> None:
    """Print what is paused, since when, by whom and why."""
    rows = (
        (pause.kind, pause.name, instant(pause.paused_ms), f"{pause.tenant}/{pause.key}", pause.reason or "")
        for pause in pauses
    )
    print_table(("paused", "name", "since", "by", "because"), rows)


def _list(*, as_json: bool, url: str | None, data: Path | None) -> None:
    with reporting_errors():
        pauses = with_client(url, data, lambda client: client.pauses())
    if as_json:
        print_json({"pauses": pauses})
    elif pauses:
        print_pauses(pauses)
    else:
        out.print("nothing is paused")


def _named(kind: PauseKind, name: str | None) -> str:
    if name is None:
        fail(f"say which {kind} to pause: infermq pause {kind} NAME", Exit.USAGE)
    return utf8(name, "the name")


def _by_whom(pause: Pause | None) -> str:
    if pause is None:
        return "was paused already"
    why = f" ({plain(pause.reason)})" if pause.reason else ""
    return f"was paused already, at {instant(pause.paused_ms)} by {plain(f'{pause.tenant}/{pause.key}')}{why}"


def _row(one: AuditEntry) -> tuple[object, ...]:
    target = " ".join(_fields(one.target).values())
    states = (", ".join(f"{name} {value}" for name, value in _fields(raw).items()) for raw in (one.before, one.after))
    return (one.id, instant(one.at_ms), f"{one.tenant}/{one.key}", one.action, target, *states)


def _fields(raw: msgspec.Raw) -> dict[str, str]:
    """Read the fields that a person wants to see: the column `of` names the thing already."""
    value = msgspec.json.decode(raw)
    if not isinstance(value, dict):
        return {} if value is None else {"": _words(value)}
    return {
        name.removesuffix("_ms"): _time(one) if name.endswith("_ms") and isinstance(one, int) else _words(one)
        for name, one in value.items()
        if one is not None
    }


def _time(ms: int) -> str:
    return instant(ms) if ms > _LONGEST_MS else duration(ms)


_LONGEST_MS = 10**11
"""Three years: what is more is no duration, but an instant."""


def _words(value: object) -> str:
    match value:
        case dict():
            return ", ".join(f"{name} {_words(one)}" for name, one in value.items())
        case list():
            return ", ".join(map(_words, value))
        case _:
            return str(value)

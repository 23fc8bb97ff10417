"""`infermq dead list | show | requeue | drop`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import msgspec
import typer

from broker.cli.commands import Commands
from broker.cli.filters import OfBatch, Since, Tenant, Until, instant_of
from broker.cli.terminal import (
    AsJson,
    Data,
    Exit,
    Url,
    err,
    fail,
    instant,
    out,
    plain,
    print_fields,
    print_json,
    print_table,
    print_text,
    printable,
    reporting_errors,
    with_client,
)
from schemas.codec import UNREADABLE
from schemas.dead import (
    MOST_AT_ONCE,
    DeadDone,
    DeadDrop,
    DeadFilter,
    DeadGroup,
    DeadLine,
    DeadRequeue,
    DeadShow,
    DeadWhat,
)
from schemas.job import Lane

app = Commands(help="Look at what could not be done: jobs out of attempts, and messages that are no jobs.")
What = Annotated[DeadWhat | None, typer.Option("--what", help="Jobs or messages only.")]
Causes = Annotated[list[str] | None, typer.Option("--cause", help="Any of these causes, as `dead list` names them.")]
OfModel = Annotated[str | None, typer.Option("--of-model", help="The model that was asked for.")]
All = Annotated[bool, typer.Option("--all", help="All that there are.")]
Ids = Annotated[list[UUID] | None, typer.Argument(help="Dead letters; without any, a filter or --all.")]
Limit = Annotated[int, typer.Option(min=1, max=MOST_AT_ONCE, help="At most so many, the newest first.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be.")]
_SHOWN_BYTES = 2000
"""How many bytes `dead show` prints, unless it is told to print all."""


def _filter(
    *,
    what: DeadWhat | None,
    causes: Sequence[str] | None,
    model: str | None,
    batch: UUID | None,
    since: str | None,
    until: str | None,
    tenant: str | None,
) -> DeadFilter:
    return DeadFilter(
        what=what,
        causes=tuple(causes or ()),
        model=model,
        batch=batch,
        since_ms=instant_of(since),
        until_ms=instant_of(until),
        tenant=tenant,
    )


@app.command("list")
def list_dead_letters(
    *,
    each: Annotated[bool, typer.Option("--each", help="Single ones, the newest first.")] = False,
    what: What = None,
    causes: Causes = None,
    model: Annotated[str | None, typer.Option("--model", "--of-model", help="The model that was asked for.")] = None,
    batch: OfBatch = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="With --each.")] = 20,
    before: Annotated[UUID | None, typer.Option(help="With --each: the last id of the page before.")] = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Count dead letters by cause, and say what to do about each.

    Prints a row for each cause with an example; with --each, a row for each dead letter.

    Examples:
      infermq dead list
      infermq dead list --each --since 1d
    """
    wanted = _filter(what=what, causes=causes, model=model, batch=batch, since=since, until=until, tenant=tenant)
    if each:
        with reporting_errors():
            letters = with_client(url, data, lambda client: client.dead_letters(wanted, limit=limit, before=before))
        _print_each(letters, limit, as_json=as_json)
        return
    with reporting_errors():
        groups = with_client(url, data, lambda client: client.dead_groups(wanted))
    _print_groups(groups, as_json=as_json)


def _print_groups(groups: Sequence[DeadGroup], *, as_json: bool) -> None:
    if as_json:
        print_json({"groups": groups})
        return
    if not groups:
        out.print("there are no dead letters")
        return
    print_table(("cause", "of", "count>", "first", "last", "models", "example"), map(_group_row, groups))
    for group in groups:
        said = f": {group.reason[:300]}" if group.reason else ""
        print_text(f"\n{group.cause}{said}\n  {group.advice}")
    first = groups[0]
    out.print(f"\n`infermq dead show {first.example}` shows one")
    out.print(f"`infermq dead requeue --cause {plain(first.cause)} --dry-run` says what would run again")


def _group_row(group: DeadGroup) -> tuple[object, ...]:
    models = ", ".join(f"{name} ({count:,})" for name, count in group.models.items())
    first, last = instant(group.first_ms), instant(group.last_ms)
    return group.cause, f"{group.what}s", f"{group.count:,}", first, last, models, group.example


def _print_each(letters: Sequence[DeadLine], limit: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"letters": letters})
        return
    if not letters:
        out.print("no dead letter matches")
        return
    print_table(("dead letter", "of", "cause", "at", "tenant", "model", "attempts>", "reason"), map(_row, letters))
    if len(letters) == limit:
        err.print(f"more: go on with --before {letters[-1].id}")


def _row(one: DeadLine) -> tuple[object, ...]:
    return (
        one.id,
        one.what,
        one.cause,
        instant(one.at_ms),
        one.tenant or "-",
        one.model or "-",
        one.attempts or "",
        one.reason[:120],
    )


@app.command()
def show(
    letter: Annotated[UUID, typer.Argument(help="The dead letter.")],
    *,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write its original bytes to standard output, and nothing else.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Show a dead letter: why it is one, its last error, and its original bytes.

    Examples:
      infermq dead show LETTER
      infermq dead show LETTER --raw > message.bin
    """
    with reporting_errors():
        found, content = with_client(url, data, lambda client: client.dead_letter(letter))
    if raw:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    elif as_json:
        print_json({"letter": found.letter, "headers": found.headers, "advice": found.advice, "content": content})
    else:
        _print_letter(found, content)


def _print_letter(found: DeadShow, content: bytes) -> None:
    one = found.letter
    print_fields(
        [
            ("dead letter", f"{one.id}, a {one.what}"),
            ("cause", one.cause),
            ("reason", one.reason),
            ("what to do", found.advice),
            ("died" if one.what is DeadWhat.JOB else "came", instant(one.at_ms)),
            ("tenant", one.tenant or "nobody can tell"),
            ("model", one.model),
            ("batch", one.batch),
            ("custom_id", one.custom_id),
            ("attempts", one.attempts or None),
            ("stream", None if one.stream is None else f"{one.stream}, message {one.sequence}"),
            ("subject", one.subject),
            *((f"header {name}", value) for name, value in found.headers.items()),
            ("bytes", one.size_bytes),
        ]
    )
    shown = content[:_SHOWN_BYTES].decode(errors="backslashreplace")
    out.print(printable(shown), markup=False)
    if len(content) > _SHOWN_BYTES:
        err.print(f"… of {len(content)} bytes; --raw writes all")
    if one.what is DeadWhat.JOB:
        err.print(f"`infermq job show {one.id}` shows its executions")


@app.command()
def requeue(
    letters: Ids = None,
    *,
    lane: Annotated[Lane, typer.Option(help="The lane of the new jobs.")] = Lane.BULK,
    model: Annotated[str | None, typer.Option("--model", help="Run on this model instead.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The most output tokens instead.")] = None,
    patch: Annotated[
        str | None, typer.Option(help="A JSON merge patch of the bodies, such as '{\"n\": null}'.")
    ] = None,
    payload: Annotated[Path | None, typer.Option(help="A file: what to send instead of a message.")] = None,
    what: What = None,
    causes: Causes = None,
    of_model: OfModel = None,
    batch: OfBatch = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    every: All = False,
    limit: Limit = 1000,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Run dead letters again: jobs as new jobs, messages by publishing them again.

    Says how many were, and which were left as they are.

    Examples:
      infermq dead requeue --cause timed_out --dry-run
      infermq dead requeue LETTER --max-tokens 200
      infermq dead requeue --all --model small-chat
    """
    wanted = _filter(what=what, causes=causes, model=of_model, batch=batch, since=since, until=until, tenant=tenant)
    with reporting_errors():
        ask = DeadRequeue(
            ids=tuple(letters or ()),
            filter=_chosen(letters, wanted, every=every),
            limit=limit,
            dry_run=dry_run,
            lane=lane,
            model=model,
            max_tokens=max_tokens,
            patch=_object(patch),
            payload=None if payload is None else payload.read_bytes(),
        )
        done = with_client(url, data, lambda client: client.requeue(ask))
    _print_done(done, "requeued", as_json=as_json)


@app.command()
def drop(
    letters: Ids = None,
    *,
    what: What = None,
    causes: Causes = None,
    of_model: Annotated[
        str | None, typer.Option("--of-model", "--model", help="The model that was asked for.")
    ] = None,
    batch: OfBatch = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    every: All = False,
    limit: Limit = 1000,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Drop dead letters: messages are deleted, jobs leave this list and stay in the ledger.

    Says how many were.

    Examples:
      infermq dead drop --cause not_a_job --dry-run
      infermq dead drop LETTER
    """
    wanted = _filter(what=what, causes=causes, model=of_model, batch=batch, since=since, until=until, tenant=tenant)
    ask = DeadDrop(
        ids=tuple(letters or ()), filter=_chosen(letters, wanted, every=every), limit=limit, dry_run=dry_run
    )
    with reporting_errors():
        done = with_client(url, data, lambda client: client.drop(ask))
    _print_done(done, "dropped", as_json=as_json)


def _chosen(letters: Sequence[UUID] | None, wanted: DeadFilter, *, every: bool) -> DeadFilter | None:
    """Return the filter, unless dead letters are named. Raises: typer.Exit, if it is not said which are meant."""
    is_filter = wanted != DeadFilter(tenant=wanted.tenant)
    if letters and (is_filter or every):
        fail("name dead letters, or a filter, not both", Exit.USAGE)
    if letters:
        return None
    if not is_filter and not every:
        fail("say which: ids, a filter such as --cause timed_out, or --all", Exit.USAGE)
    return wanted


def _object(text: str | None) -> str | None:
    """Check an option that is a JSON object. Raises: typer.Exit."""
    if text is None:
        return None
    try:
        value: Any = msgspec.json.decode(text)
    except UNREADABLE as error:
        fail(f"--patch is not JSON: {error}", Exit.USAGE)
    if not isinstance(value, dict):
        fail("--patch is not a JSON object", Exit.USAGE)
    return text


def _print_done(done: DeadDone, word: str, *, as_json: bool) -> None:
    if as_json:
        print_json(done)
    else:
        said = f"would be {word}" if done.dry_run else word
        out.print(f"{_count(done)} {said}")
        for one in done.skipped:
            err.print(f"{one.id} was left as it is: {plain(one.why)}")
        if done.left > len(done.skipped):
            err.print(f"… and {done.left - len(done.skipped):,} more")
        for instruction in done.instructions:
            err.print(f"the jobs are submitted in pages: infermq instruction show {instruction}")
        if done.more:
            err.print("more match: run it again, or with a higher --limit")
    if done.left:
        raise typer.Exit(Exit.FAILED)


def _count(done: DeadDone) -> str:
    counts = [(done.jobs, "job"), (done.messages, "message")]
    said = [f"{count:,} {word}{'' if count == 1 else 's'}" for count, word in counts if count]
    return " and ".join(said) or "nothing"

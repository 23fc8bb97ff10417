"""`infermq apply | catalog | schema`."""

from pathlib import Path
from typing import Annotated

import typer

from broker.cli.result_files import check_out
from broker.cli.terminal import (
    AsJson,
    Data,
    Exit,
    Url,
    err,
    fail,
    instant,
    out,
    print_json,
    reporting_errors,
    with_client,
)
from broker.client import RequestRefused
from broker.config import catalog_text


def apply(
    file: Annotated[Path, typer.Argument(help="A catalog, TOML.")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check it, and say what it would change.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Make a catalog the active one, and say what it changes.

    Prints each change, the new revision, and a warning if jobs wait for a model that is removed.

    Examples:
      infermq apply infermq.toml --dry-run
      infermq apply infermq.toml
    """
    with reporting_errors():
        text = catalog_text(file)
        try:
            shown = with_client(url, data, lambda client: client.apply_catalog(text, dry_run=dry_run))
        except RequestRefused as refused:
            fail(f"{file}: {refused.problem.message}", Exit.USAGE)
    if as_json:
        print_json(shown)
        return
    for change in shown.changes:
        out.print(change, markup=False)
    if shown.is_new:
        out.print(f"revision {shown.number} is active")
    elif not shown.changes:
        out.print(f"revision {shown.number} has this content already: nothing changes")
    else:
        out.print(f"nothing was applied: revision {shown.number} is active")
    for warning in shown.warnings:
        err.print(f"warning: {warning}", style="yellow", markup=False)


def catalog(*, as_json: AsJson = False, url: Url = None, data: Data = None) -> None:
    """Show the active catalog.

    Prints it as it was applied, to be edited and applied again; its revision, on standard error.

    Examples:
      infermq catalog > infermq.toml
    """
    with reporting_errors():
        shown = with_client(url, data, lambda client: client.catalog())
    if as_json:
        print_json(shown)
    else:
        note = "" if shown.note is None else f"\n# {shown.note}"
        err.print(f"# revision {shown.number}, applied {instant(shown.applied_ms)}{note}", markup=False)
        out.print(shown.toml, markup=False, end="")


def schema(*, file: Annotated[Path | None, typer.Option("--out", help="Write it here.")] = None) -> None:
    """Print the JSON Schema of everything on the wire.

    Examples:
      infermq schema --out schema.json
    """
    from schemas.export import json_schema  # noqa: PLC0415 - only this command needs it

    with reporting_errors():
        if file is None:
            print_json(json_schema())
        else:
            import msgspec  # noqa: PLC0415

            check_out(file)
            file.write_bytes(msgspec.json.format(msgspec.json.encode(json_schema()), indent=2) + b"\n")

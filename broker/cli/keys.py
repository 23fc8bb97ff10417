"""`infermq key create | list | show | revoke | rotate | first`."""

import asyncio
import contextlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from broker.cli.commands import Commands
from broker.cli.filters import Limit
from broker.cli.secret_files import secret_file
from broker.cli.system import PostgresUrl
from broker.cli.tenants import Force, Label, OfTenant
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
    reporting_errors,
    utf8,
    where,
    with_client,
)
from broker.config import NotFound
from schemas.accounts import Key, KeyCreate, KeyMade, KeyRotate, Role
from schemas.api_keys import ID_LENGTH, PREFIX
from schemas.job import Lane
from schemas.subjects import DEFAULT

app = Commands(help="Look after API keys: make, list, rotate and revoke them.")
_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}


def _id(name: str | None) -> str | None:
    if name is None:
        return None
    if name.startswith(f"{PREFIX}_"):
        raise typer.BadParameter("that is the text of a key, which is a secret: name it by its id, the third part")
    if re.fullmatch(rf"[a-z0-9]{{{ID_LENGTH}}}", name) is None:
        raise typer.BadParameter(f"an id has {ID_LENGTH} small letters and digits: `infermq key list` shows them")
    return name


def _duration(text: str | None) -> str | None:
    if text is not None and re.fullmatch(r"([0-9]{1,9})([smhdw])", text) is None:
        raise typer.BadParameter(f"{text!r} is not a time such as 12h, 90d or 52w")
    return text


def _ms(text: str) -> int:
    return int(text[:-1]) * _UNITS_MS[text[-1]]


Id = Annotated[str, typer.Argument(metavar="KEY", callback=_id, help="The id of the key.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE", help="Write the key to this file, which only you can read, and do not print it."
    ),
]


@app.command()
def create(
    *,
    role: Annotated[Role, typer.Option(help="What it is for.")],
    tenant: OfTenant = None,
    label: Label = None,
    models: Annotated[
        str | None, typer.Option(help="Models that it may use, with commas between them; else all.")
    ] = None,
    endpoints: Annotated[
        str | None, typer.Option(help="Endpoints that it may use, with commas between them; else all.")
    ] = None,
    lanes: Annotated[
        str | None, typer.Option(help="Lanes that it may use, with commas between them; else all.")
    ] = None,
    deployments: Annotated[
        str | None, typer.Option(help="Deployments that a worker may serve, with commas between them; `*` is all.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(callback=_duration, help="When it ends by itself, from now: 12h, 90d, 52w.")
    ] = None,
    file: Out = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Make an API key, which may do no more than yours.

    Prints the key on standard output, this one time; what is said about it goes to standard error.

    Examples:
      infermq key create --role producer --models small-chat --lanes bulk --expires 90d --label ci
      infermq key create --role tenant-admin --tenant acme --out acme.key
      infermq key create --role worker --deployments small --out worker.key
    """
    ask = KeyCreate(
        role=role,
        tenant=tenant,
        label=None if label is None else utf8(label, "the label"),
        models=_split(models, "--models"),
        endpoints=_split(endpoints, "--endpoints"),
        lanes=_lanes(lanes),
        deployments=_split(deployments, "--deployments"),
        expires_in_ms=None if expires is None else _ms(expires),  # type: ignore[arg-type]
    )
    with reporting_errors():
        _make(
            lambda: with_client(url, data, lambda client: client.create_key(ask)),
            file,
            replace=False,
            as_json=as_json,
        )


@app.command()
def rotate(
    key: Id,
    *,
    overlap: Annotated[
        str, typer.Option(callback=_duration, help="How long the old key lives on: 10m, 24h, 7d; 0s ends it at once.")
    ] = "24h",
    tenant: OfTenant = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Write the key to this file instead of what it holds, and do not print it."
        ),
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Make a key with the rights of another, which lives on for a while.

    Prints the new key on standard output, this one time. Give it to all that use the old one before that ends.

    Examples:
      infermq key rotate k7f3x2abcdef --overlap 7d
      infermq key rotate k7f3x2abcdef --out ci.key
    """
    ask = KeyRotate(key, tenant, _ms(overlap))  # type: ignore[arg-type]
    with reporting_errors():
        _make(
            lambda: with_client(url, data, lambda client: client.rotate_key(ask)),
            file,
            replace=True,
            as_json=as_json,
        )


@app.command("list")
def list_keys(
    *,
    tenant: OfTenant = None,
    ended: Annotated[bool, typer.Option("--ended", help="Those too that were revoked or have expired.")] = False,
    limit: Limit = 100,
    after: Annotated[str | None, typer.Option(callback=_id, help="The last id of the page before.")] = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """List the keys of a tenant.

    Prints a row for each, with its role, when it ends and when it was used last.

    Examples:
      infermq key list
      infermq key list --tenant acme --ended
    """
    with reporting_errors():
        found = with_client(
            url, data, lambda client: client.keys(tenant=tenant, ended=ended, limit=limit, after=after)
        )
    if as_json:
        print_json({"keys": found})
        return
    rows = (
        (one.id, one.role, one.label or "", _end(one), _used(one), instant(one.created_ms), one.made_by)
        for one in found
    )
    print_table(("key", "role", "label", "ends", "last used", "made", "by"), rows)


@app.command()
def show(key: Id, *, tenant: OfTenant = None, as_json: AsJson = False, url: Url = None, data: Data = None) -> None:
    """Show what a key may do.

    Prints its rights, when it ends and when it was used last; never the key itself, which nobody has but its holder.

    Examples:
      infermq key show k7f3x2abcdef
    """
    with reporting_errors():
        found = with_client(url, data, lambda client: client.key(key, tenant=tenant))
    if as_json:
        print_json(found)
        return
    print_fields(
        [
            ("key", found.id),
            ("tenant", found.tenant),
            ("role", found.role),
            ("label", found.label),
            ("may use", _rights(found)),
            ("ends", _end(found)),
            ("last used", _used(found)),
            ("made", f"{instant(found.created_ms)}, by {found.made_by}"),
            ("replaces", found.replaces),
        ]
    )


@app.command()
def revoke(
    key: Id,
    *,
    tenant: OfTenant = None,
    force: Force = False,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Let a key in no more, at once and for good.

    Jobs that were accepted from it go on.

    Examples:
      infermq key revoke k7f3x2abcdef
    """
    with reporting_errors():
        answer = with_client(url, data, lambda client: client.revoke_key(key, tenant=tenant, force=force))
    if as_json:
        print_json(answer)
        return
    out.print(f"the key {key} {'is revoked' if answer.changed else f'was revoked already, {_end(answer.key)}'}")


@app.command()
def first(
    *,
    tenant: Annotated[str, typer.Option(help="The tenant that it belongs to, which must be there.")] = DEFAULT,
    file: Out = None,
    force: Annotated[bool, typer.Option("--force", help="Make one more though there is one.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
    postgres_url: PostgresUrl = None,
) -> None:
    """Make an operator's key in the database itself, where no key can ask for one yet.

    Prints the key on standard output, this one time. It is also the way back in if all operators' keys are lost.

    Examples:
      infermq key first --out operator.key --postgres-url postgresql://pg/infermq
    """
    from broker.local.first_key import NoSuchTenant, OperatorThere, first_key  # noqa: PLC0415 - others need no Postgres

    with reporting_errors():
        try:
            postgres_url = postgres_url or where(url, data).postgres_url
        except NotFound:
            postgres_url = None
        if postgres_url is None:
            fail("say where Postgres is: --postgres-url or INFERMQ_POSTGRES_URL", Exit.USAGE)
        try:
            made = partial(first_key, postgres_url, tenant=tenant, force=force)
            _make(lambda: asyncio.run(made()), file, replace=False, as_json=as_json)
        except (OperatorThere, NoSuchTenant) as error:
            fail(str(error), Exit.USAGE)


def _make(ask: Callable[[], KeyMade], file: Path | None, *, replace: bool, as_json: bool) -> None:
    """Ask for a key, and give it to the user: on standard output, alone on the last line, or in the file."""
    with secret_file(file, replace=replace) if file is not None else contextlib.nullcontext() as write:
        made = ask()
        if write is not None:
            write(made.text)
    if as_json:
        shown = msgspec.to_builtins(made)
        if file is not None:
            shown = {**{name: value for name, value in shown.items() if name != "text"}, "file": str(file)}
        print_json(shown)
        return
    key = made.key
    err.print(f"made the key {key.id} of {plain(key.tenant)}: {key.role}, {plain(_rights(key))}; it ends {_end(key)}")
    if made.old is not None:
        err.print(f"the key {made.old.id} ends {_end(made.old)}")
    if file is None:
        err.print("keep it now, it is not shown again:")
        typer.echo(made.text)
    else:
        err.print(f"it is in {plain(str(file))}, which only you can read")


def _split(text: str | None, option: str) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name for part in utf8(text, option).split(",") if (name := part.strip()))
    return names or fail(f"{option} names none: leave it out to allow all", Exit.USAGE)


def _lanes(text: str | None) -> tuple[Lane, ...] | None:
    names = _split(text, "--lanes")
    if names is None:
        return None
    if wrong := [name for name in names if name not in set(Lane)]:
        fail(f"--lanes: there is no lane {wrong[0]!r}; there are: {', '.join(Lane)}", Exit.USAGE)
    return tuple(Lane(name) for name in names)


def _rights(key: Key) -> str:
    """Say what a key is restricted to."""
    lists = {
        "models": key.models,
        "endpoints": key.endpoints,
        "lanes": key.lanes,
        "deployments": key.deployments,
    }
    return (
        "; ".join(f"{what} {', '.join(names)}" for what, names in lists.items() if names is not None) or "everything"
    )


def _end(key: Key) -> str:
    if key.revoked_ms is not None:
        return f"revoked {instant(key.revoked_ms)}"
    return "never" if key.expires_ms is None else instant(key.expires_ms)


def _used(key: Key) -> str:
    return "never" if key.used_ms is None else instant(key.used_ms)

"""`infermq tenant create | list | show | disable | enable`."""

from collections.abc import Iterable
from typing import Annotated

import typer

from broker.cli.commands import Commands
from broker.cli.filters import Limit
from broker.cli.terminal import (
    AsJson,
    Data,
    Url,
    instant,
    out,
    plain,
    print_fields,
    print_json,
    print_table,
    reporting_errors,
    utf8,
    with_client,
)
from schemas.accounts import Tenant, TenantChanged
from schemas.api_keys import bad_tenant

app = Commands(help="Look after tenants: who pays, and is isolated from others.")


def _checked(name: str | None) -> str | None:
    if name is not None and (why := bad_tenant(name)) is not None:
        raise typer.BadParameter(why)
    return name


Name = Annotated[str, typer.Argument(callback=_checked, help="The tenant.")]
OfTenant = Annotated[
    str | None, typer.Option("--tenant", callback=_checked, help="Another tenant's (operators only).")
]
Label = Annotated[str | None, typer.Option("--label", help="A text for people.")]
Force = Annotated[bool, typer.Option("--force", help="Do it even if nobody is an operator then.")]


@app.command()
def create(
    name: Annotated[
        str, typer.Argument(callback=_checked, help="Its name: small letters, digits and hyphens, 63 at most.")
    ],
    *,
    label: Label = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Make a tenant.

    Says how to make its first key.

    Examples:
      infermq tenant create acme --label "Acme Inc."
    """
    words = None if label is None else utf8(label, "the label")
    with reporting_errors():
        made = with_client(url, data, lambda client: client.create_tenant(name, label=words))
    if as_json:
        print_json(made)
        return
    out.print(f"made the tenant {name}; `infermq key create --tenant {name} --role tenant-admin` makes its first key")


@app.command("list")
def list_tenants(
    *,
    limit: Limit = 100,
    after: Annotated[str | None, typer.Option(callback=_checked, help="The last name of the page before.")] = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """List the tenants by name.

    Prints a row for each, with how many keys it has that are let in.

    Examples:
      infermq tenant list
    """
    with reporting_errors():
        found = with_client(url, data, lambda client: client.tenants(limit=limit, after=after))
    if as_json:
        print_json({"tenants": found})
        return
    rows: Iterable[tuple[object, ...]] = (
        (one.name, _status(one), one.keys, instant(one.created_ms), one.made_by, one.label or "") for one in found
    )
    print_table(("tenant", "status", "keys>", "made", "by", "label"), rows)


@app.command()
def show(name: Name, *, as_json: AsJson = False, url: Url = None, data: Data = None) -> None:
    """Show a tenant.

    Prints since when it is there, whether its keys are let in, and how many it has.

    Examples:
      infermq tenant show default
    """
    with reporting_errors():
        found = with_client(url, data, lambda client: client.tenant(name))
    if as_json:
        print_json(found)
        return
    print_fields(
        [
            ("tenant", found.name),
            ("label", found.label),
            ("status", _status(found)),
            ("keys", f"{found.keys} that have not ended"),
            ("made", f"{instant(found.created_ms)}, by {found.made_by}"),
        ]
    )


@app.command()
def disable(name: Name, *, force: Force = False, as_json: AsJson = False, url: Url = None, data: Data = None) -> None:
    """Let none of a tenant's keys in any more, until it is enabled.

    What it has in the ledger goes on: `infermq pause tenant NAME` stops that.

    Examples:
      infermq tenant disable acme
    """
    with reporting_errors():
        answer = with_client(url, data, lambda client: client.disable_tenant(name, force=force))
    _say(answer, "is disabled: none of its keys is let in", "was disabled already", as_json=as_json)


@app.command()
def enable(name: Name, *, as_json: AsJson = False, url: Url = None, data: Data = None) -> None:
    """Let the keys of a tenant in again.

    Says whether they had been shut out.

    Examples:
      infermq tenant enable acme
    """
    with reporting_errors():
        answer = with_client(url, data, lambda client: client.enable_tenant(name))
    _say(answer, "is enabled: its keys are let in again", "was not disabled", as_json=as_json)


def _say(answer: TenantChanged, done: str, as_before: str, *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        out.print(f"the tenant {plain(answer.tenant.name)} {done if answer.changed else as_before}")


def _status(tenant: Tenant) -> str:
    return "enabled" if tenant.disabled_ms is None else f"disabled since {instant(tenant.disabled_ms)}"

"""`infermq webhook create | list | show | change | rotate | delete | test | deliveries | resend`."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated
from uuid import UUID

import msgspec
import typer

from broker.cli.commands import Commands
from broker.cli.filters import Before, Limit, window_ms
from broker.cli.secret_files import secret_file
from broker.cli.tenants import Label, OfTenant
from broker.cli.terminal import (
    AsJson,
    Data,
    Exit,
    Url,
    end_failed,
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
    with_client,
)
from broker.client import Client
from schemas.webhooks import (
    Delivery,
    DeliveryList,
    DeliveryStatus,
    EventType,
    Try,
    Webhook,
    WebhookChange,
    WebhookCreate,
    WebhookMade,
    WebhookRotate,
)

app = Commands(help="Look after webhooks: where you are told what has ended.")
_TEST_S = 25.0
"""How long a test waits for an answer: longer than an endpoint may take."""
_LOOK_S = 0.2
_TYPES = ", ".join(EventType)

Id = Annotated[UUID, typer.Argument(metavar="WEBHOOK", help="The id of the webhook.")]
Events = Annotated[
    str | None,
    typer.Option(help=f"What it listens to, with commas between them, of {_TYPES}; or all, or none."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE", help="Write the secret to this file, which only you can read, and do not print it."
    ),
]


@app.command()
def create(
    target: Annotated[str, typer.Argument(metavar="URL", help="Where it is told; it begins with https://.")],
    *,
    events: Events = "batch.completed,batch.failed,batch.expired,batch.cancelled",
    label: Label = None,
    tenant: OfTenant = None,
    file: Out = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Register an endpoint, which is told when batches or jobs have ended.

    Prints its secret on standard output, this one time: messages are signed with it. What else is said goes to standard
    error. With `--events none` it is told of batches that name it (`infermq submit --webhook`), and of nothing else.

    Examples:
      infermq webhook create https://example.com/hooks
      infermq webhook create https://example.com/hooks --events job.settled --label app --out hook.secret
    """
    ask = WebhookCreate(url=utf8(target, "the URL"), events=_events(events) or (), label=_label(label), tenant=tenant)
    with reporting_errors():
        _make(lambda: with_client(url, data, lambda client: client.create_webhook(ask)), file, as_json=as_json)


@app.command("list")
def list_webhooks(*, tenant: OfTenant = None, as_json: AsJson = False, url: Url = None, data: Data = None) -> None:
    """List the webhooks of a tenant.

    Prints a row for each, with what it listens to.

    Examples:
      infermq webhook list
    """
    with reporting_errors():
        found = with_client(url, data, lambda client: client.webhooks(tenant=tenant))
    if as_json:
        print_json({"webhooks": found})
        return
    rows = ((one.id, one.label or "", one.url, _listens(one), _state(one), instant(one.created_ms)) for one in found)
    print_table(("webhook", "label", "url", "events", "status", "made"), rows)


@app.command()
def show(
    webhook: Id, *, tenant: OfTenant = None, as_json: AsJson = False, url: Url = None, data: Data = None
) -> None:
    """Show a webhook.

    Prints where it leads, what it listens to, and whether it is enabled; never its secret.

    Examples:
      infermq webhook show WEBHOOK
    """
    with reporting_errors():
        found = with_client(url, data, lambda client: client.webhook(webhook, tenant=tenant))
    _print(found, as_json=as_json)


@app.command()
def change(
    webhook: Id,
    *,
    target: Annotated[str | None, typer.Option("--target", metavar="URL", help="Another URL.")] = None,
    events: Events = None,
    label: Label = None,
    disable: Annotated[bool, typer.Option("--disable", help="Send nothing to it, and keep nothing for it.")] = False,
    enable: Annotated[bool, typer.Option("--enable", help="Send to it again what ends from now on.")] = False,
    tenant: OfTenant = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Change a webhook, disable it or enable it.

    Prints how it is now. What waits to be sent to one that is disabled is given up; `infermq webhook resend` sends it
    after all.

    Examples:
      infermq webhook change WEBHOOK --events batch.completed,batch.failed
      infermq webhook change WEBHOOK --disable
    """
    chosen = _events(events)
    if disable and enable:
        fail("--disable and --enable: one of both", Exit.USAGE)
    if (target, chosen, label, disable, enable) == (None, None, None, False, False):
        fail("say what to change: --target, --events, --label, --disable or --enable", Exit.USAGE)
    ask = WebhookChange(
        id=webhook,
        url=None if target is None else utf8(target, "the URL"),
        events=chosen,
        label=_label(label),
        disabled=disable if disable or enable else None,
        tenant=tenant,
    )
    with reporting_errors():
        changed = with_client(url, data, lambda client: client.change_webhook(ask))
    _print(changed, as_json=as_json)


@app.command()
def rotate(
    webhook: Id,
    *,
    overlap: Annotated[str, typer.Option(help="How long the old secret signs too: 10m, 24h, 7d.")] = "24h",
    tenant: OfTenant = None,
    file: Out = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Give a webhook another secret.

    Prints it on standard output, this one time. For the overlap, messages are signed with the old secret too.

    Examples:
      infermq webhook rotate WEBHOOK --overlap 7d
    """
    with reporting_errors():
        ask = WebhookRotate(webhook, window_ms(overlap) or 0, tenant)  # type: ignore[arg-type]
        _make(lambda: with_client(url, data, lambda client: client.rotate_webhook(ask)), file, as_json=as_json)


@app.command()
def delete(
    webhook: Id, *, tenant: OfTenant = None, as_json: AsJson = False, url: Url = None, data: Data = None
) -> None:
    """Forget a webhook.

    Says how many messages waited for it, which are given up.

    Examples:
      infermq webhook delete WEBHOOK
    """
    with reporting_errors():
        answer = with_client(url, data, lambda client: client.delete_webhook(webhook, tenant=tenant))
    if as_json:
        print_json(answer)
        return
    out.print(f"the webhook {webhook} is deleted; messages given up: {answer.dropped}")


@app.command("test")
def send_test(
    webhook: Id, *, tenant: OfTenant = None, as_json: AsJson = False, url: Url = None, data: Data = None
) -> None:
    """Send a webhook an event that means nothing, and show what it answers.

    Ends with 1 if it was not taken. Then it is sent again later, as every message.

    Examples:
      infermq webhook test WEBHOOK
    """

    async def send(client: Client) -> Delivery:
        sent = await client.test_webhook(webhook, tenant=tenant)
        wanted = DeliveryList(id=sent.id, tenant=tenant)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TEST_S):
                while not sent.tries:
                    await asyncio.sleep(_LOOK_S)
                    (sent,) = await client.deliveries(wanted)
        return sent

    with reporting_errors():
        sent = with_client(url, data, send)
    if as_json:
        print_json(sent)
    else:
        _print_deliveries([sent])
    if sent.status is not DeliveryStatus.DELIVERED:
        what = _came(sent.tries[-1]) if sent.tries else "no broker has sent it yet (infermq serve --roles webhooks)"
        end_failed(f"the webhook {webhook} did not take it: {what}")


@app.command()
def deliveries(
    *,
    webhook: Annotated[UUID | None, typer.Option("--webhook", help="Only of this webhook.")] = None,
    status: Annotated[DeliveryStatus | None, typer.Option(help="Only those that are so.")] = None,
    limit: Limit = 20,
    before: Before = None,
    tenant: OfTenant = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """List what was sent to webhooks, or is to be sent, the newest first.

    Prints a row for each, with the last answer; with `--json`, each time that it was sent.

    Examples:
      infermq webhook deliveries
      infermq webhook deliveries --webhook WEBHOOK --status failed
    """
    ask = DeliveryList(webhook=webhook, status=status, limit=limit, before=before, tenant=tenant)
    with reporting_errors():
        found = with_client(url, data, lambda client: client.deliveries(ask))
    if as_json:
        print_json({"deliveries": found})
    else:
        _print_deliveries(found)


@app.command()
def resend(
    ids: Annotated[list[UUID] | None, typer.Argument(metavar="[DELIVERY]...", help="Ids of deliveries.")] = None,
    *,
    failed_of: Annotated[
        UUID | None, typer.Option("--failed-of", metavar="WEBHOOK", help="Those that failed of this webhook.")
    ] = None,
    tenant: OfTenant = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Send messages again, whether they were delivered or not.

    Says how many; a thousand at most at once.

    Examples:
      infermq webhook resend DELIVERY
      infermq webhook resend --failed-of WEBHOOK
    """
    if not ids and failed_of is None:
        fail("name deliveries, or a webhook with --failed-of", Exit.USAGE)
    with reporting_errors():
        sent = with_client(url, data, lambda client: client.resend(ids or (), failed_of=failed_of, tenant=tenant))
    if as_json:
        print_json({"ids": sent})
    else:
        out.print(f"messages that are sent again: {len(sent)}")
    if missing := [one for one in ids or () if one not in sent]:
        end_failed(f"unknown, or of a webhook that is disabled or deleted: {', '.join(map(str, missing))}")


def _make(ask: Callable[[], WebhookMade], file: Path | None, *, as_json: bool) -> None:
    """Ask for a secret, and give it to the user: on standard output, alone on the last line, or in the file."""
    with secret_file(file, replace=False) if file is not None else contextlib.nullcontext() as write:
        made = ask()
        if write is not None:
            write(made.secret)
    if as_json:
        shown = msgspec.to_builtins(made)
        if file is not None:
            shown = {"webhook": shown["webhook"], "file": str(file)}
        print_json(shown)
        return
    webhook = made.webhook
    err.print(f"the webhook {webhook.id} leads to {plain(webhook.url)}; it listens to {_listens(webhook)}")
    if webhook.old_until_ms is not None:
        err.print(f"messages are signed with the old secret too until {instant(webhook.old_until_ms)}")
    if file is None:
        err.print("keep its secret now, it is not shown again:")
        typer.echo(made.secret)
    else:
        err.print(f"its secret is in {plain(str(file))}, which only you can read")


def _events(text: str | None) -> tuple[EventType, ...] | None:
    """Read a list of events. None: none was given. Raises: typer.Exit."""
    if text is None or text == "none":
        return None if text is None else ()
    if text == "all":
        return tuple(EventType)
    names = [one.strip() for one in utf8(text, "--events").split(",")]
    if wrong := [name for name in names if name not in set(EventType)]:
        fail(f"--events: there is no event {wrong[0]!r}; there are: {_TYPES}", Exit.USAGE)
    return tuple(map(EventType, dict.fromkeys(names)))


def _label(text: str | None) -> str | None:
    return None if text is None else utf8(text, "the label")


def _print(webhook: Webhook, *, as_json: bool) -> None:
    if as_json:
        print_json(webhook)
        return
    old = webhook.old_until_ms
    print_fields(
        [
            ("webhook", webhook.id),
            ("tenant", webhook.tenant),
            ("label", webhook.label),
            ("url", webhook.url),
            ("events", _listens(webhook)),
            ("status", _state(webhook)),
            ("why", webhook.disabled_why),
            ("old secret", None if old is None else f"signs too until {instant(old)}"),
            ("made", f"{instant(webhook.created_ms)}, by {webhook.made_by}"),
        ]
    )


def _print_deliveries(found: Iterable[Delivery]) -> None:
    rows = [
        (
            one.id,
            one.type,
            instant(one.made_ms),
            one.status,
            len(one.tries),
            _came(one.tries[-1]) if one.tries else "",
        )
        for one in found
    ]
    print_table(("delivery", "event", "made", "status", "sent>", "last answer"), rows)


def _listens(webhook: Webhook) -> str:
    return ", ".join(webhook.events) or "batches that name it"


def _state(webhook: Webhook) -> str:
    return "enabled" if webhook.disabled_ms is None else f"disabled since {instant(webhook.disabled_ms)}"


def _came(tried: Try) -> str:
    """Say what came of sending a message once."""
    parts = [None if tried.status is None else str(tried.status), tried.error, tried.answer]
    return ": ".join(part for part in parts if part)[:200]

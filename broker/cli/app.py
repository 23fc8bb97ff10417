"""The commands and their groups."""

import importlib.metadata
from typing import Annotated

import typer

from broker.cli import (
    batches,
    bench,
    cancels,
    catalogs,
    changes,
    controls,
    dead,
    demo,
    instructions,
    jobs,
    keys,
    nats_config,
    repeats,
    replays,
    simulate,
    submit,
    system,
    tenants,
    webhooks,
)
from broker.cli.commands import Commands

app = Commands(
    name="infermq",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"infermq {importlib.metadata.version('infermq')}")
        raise typer.Exit


@app.callback()
def _top(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """An asynchronous inference broker: submit jobs, run workers, read results.

    Start with `infermq up`, and in a second terminal:

    Examples:
      infermq infer small-chat "Why is the sky blue?"
      infermq submit examples/prompts.jsonl --out results.jsonl
      infermq status
    """


app.command()(system.up)
app.command()(system.serve)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})(
    system.worker
)
app.command()(system.migrate)
app.command("nats-config")(nats_config.print_nats_config)
app.command()(system.doctor)
app.command()(submit.submit)
app.command()(jobs.infer)
app.command()(jobs.status)
app.command()(catalogs.apply)
app.command()(catalogs.catalog)
app.command()(catalogs.schema)
app.command()(cancels.cancel)
app.command()(controls.pause)
app.command()(controls.resume)
app.command()(controls.audit)
app.command()(demo.demo)
batches.app.command()(repeats.retry)
batches.app.command("cancel")(cancels.cancel_batch)
jobs.app.command("cancel")(cancels.cancel_jobs)
jobs.app.command("change")(changes.change_job)
batches.app.command("change")(changes.change_batch)
app.add_typer(batches.app, name="batch")
app.add_typer(jobs.app, name="job")
app.add_typer(dead.app, name="dead")
app.add_typer(instructions.app, name="instruction")
app.add_typer(tenants.app, name="tenant")
app.add_typer(keys.app, name="key")
app.add_typer(webhooks.app, name="webhook")
app.add_typer(replays.app, name="replay")
app.add_typer(bench.app, name="bench")
app.add_typer(simulate.app, name="simulate")


def run() -> None:
    app(prog_name="infermq")

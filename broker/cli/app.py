"""The commands and their groups."""

import typer

from broker.cli import batches, bench, catalogs, demo, jobs, submit, system

app = typer.Typer(
    name="infermq",
    help="An asynchronous inference broker: submit jobs, run workers, read results.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(system.up)
app.command()(system.serve)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})(
    system.worker
)
app.command()(system.migrate)
app.command()(system.doctor)
app.command()(submit.submit)
app.command()(jobs.infer)
app.command()(jobs.status)
app.command()(catalogs.apply)
app.command()(catalogs.catalog)
app.command()(catalogs.schema)
app.command()(demo.demo)
app.add_typer(batches.app, name="batch")
app.add_typer(jobs.app, name="job")
app.add_typer(bench.app, name="bench")


def run() -> None:
    app()

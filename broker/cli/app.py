"""The commands and their groups."""

import typer

from broker.cli import system

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


def run() -> None:
    app()

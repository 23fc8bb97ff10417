"""The command line: `infermq …`.

app        the commands and their groups            terminal   tables, money, errors, exit codes
system     up, serve, worker, migrate, doctor       submit     submit, with its progress
batches    batch list | show | results              jobs       job show, infer, status
catalogs   apply, catalog, schema                   demo       demo

A command parses, calls, prints. Exit codes: 0 done, 1 something in it failed, 2 bad input, 3 nothing answers.
"""


def main() -> None:
    """Where the `infermq` command begins."""
    from broker.cli.app import run  # noqa: PLC0415 - typer and rich are loaded when a command runs, not on import

    run()

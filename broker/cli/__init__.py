"""The command line: `infermq …`. A command parses its arguments, calls a client or a server, and prints.

app        lists the commands and their groups    terminal   prints tables, money and errors; exit codes
remedies   what to do about each refusal     first_steps  what to do once `up` is ready
commands   the style of help and usage errors     layout     lays out tables and fields for a terminal's width
system     up, serve, worker, migrate, doctor     submit     submit
serve_options  the options of serve
instructions  instruction list | show
batches    batch list | show | results            jobs       job show | list, infer, status
filters    the options that say which jobs
dead       dead list | show | requeue | drop
repeats    batch retry                            replays    replay, replay diff
catalogs   apply, catalog, schema                 demo       demo
bench      bench bulk | interactive | …           doctor     examines an installation, for `infermq doctor`
simulate   simulate faults
cancels    job cancel, batch cancel, cancel
changes    job change, batch change
controls   pause, resume, audit                   nats_config  nats-config
tenants    tenant create | list | show | …        keys       key create | list | show | revoke | …
webhooks   webhook create | list | show | …
secret_files  writes keys to files that only their user can read
progress   shows a batch that runs                results    encodes results as OpenAI Batch's lines
result_files  writes them to files, so that a killed command can be gone on with
submission sends a file as a batch, or goes on with one

Exit codes: 0 done, 1 something in it failed, 2 bad input, 3 nothing answers.
"""

import sys


def main() -> None:
    """Run the `infermq` command."""
    try:
        from broker.cli.app import run  # noqa: PLC0415 - importing the package must not load typer and rich

        run()
    except KeyboardInterrupt:
        sys.exit(130)

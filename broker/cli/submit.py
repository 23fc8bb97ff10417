"""`infermq submit FILE.jsonl`: checks a file of requests and submits it as one batch."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO
from uuid import UUID

import typer

from broker.cli.filters import MetadataOption, metadata_of, window_ms
from broker.cli.progress import came_to
from broker.cli.result_files import Force, as_typed, check_files, whole
from broker.cli.submission import FileSubmission, Options, Tally
from broker.cli.terminal import (
    AsJson,
    Data,
    Exit,
    Url,
    end_failed,
    fail,
    money,
    out,
    plain,
    reporting_errors,
    utf8,
    with_client,
)
from schemas.api import Batch
from schemas.job import MOST_PRIORITY, Lane

Priority = Annotated[
    int,
    typer.Option(min=-MOST_PRIORITY, max=MOST_PRIORITY, help="Before your other jobs of the lane; higher first."),
]
Results = Annotated[Path | None, typer.Option("--out", help="Write results here; waits for them.")]
Errors = Annotated[
    Path | None,
    typer.Option("--errors", help="Write bad lines and what failed here, as OpenAI's error file; waits for it."),
]
GoOn = Annotated[
    bool, typer.Option("--resume", help="Go on with the batch of this file, however far it is, and with its files.")
]
OfWebhook = Annotated[UUID | None, typer.Option("--webhook", help="The webhook that is told of its end.")]
Known = Annotated[UUID | None, typer.Option("--batch", help="Go on with a batch that was not sent to its end.")]


def submit(
    file: Annotated[str, typer.Argument(help="OpenAI Batch lines (JSONL); - for standard input.")],
    *,
    model: Annotated[str | None, typer.Option(help="For lines whose body names none.")] = None,
    lane: Annotated[Lane, typer.Option(help="Priority class.")] = Lane.BULK,
    deadline: Annotated[str | None, typer.Option(help="From now: 90s, 30m, 24h, 7d. By default the lane's.")] = None,
    priority: Priority = 0,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the batch is complete.")] = False,
    results: Results = None,
    errors: Errors = None,
    strict: Annotated[bool, typer.Option("--strict", help="Submit nothing if a line is bad.")] = False,
    batch: Known = None,
    new: Annotated[bool, typer.Option("--new", help="Submit it even if a batch of this file runs.")] = False,
    resume: GoOn = False,
    force: Force = False,
    metadata: MetadataOption = None,
    webhook: OfWebhook = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Submit a file of requests as one batch.

    Prints the id of the batch first, and how to watch it. A line that is bad is named, and the others are sent.
    However it ended, the same command with --resume goes on: the batch runs once.

    Examples:
      infermq submit prompts.jsonl
      infermq submit prompts.jsonl --out results.jsonl --errors errors.jsonl --resume
      infermq submit prompts.jsonl --model small-chat --deadline 2h
    """
    with reporting_errors():
        check_files(results, errors)
        options = Options(
            model=None if model is None else utf8(model, "the model's name"),
            lane=lane,
            window_ms=window_ms(deadline),
            priority=priority,
            strict=strict,
            batch=batch,
            new=new,
            metadata=metadata_of(metadata),
            wait=wait or results is not None or errors is not None,
            resume=resume,
            force=force,
            out=whole(results),
            errors=whole(errors),
            webhook=webhook,
        )
        options.check()
        with _opened(file) as stream:
            job = FileSubmission(stream, options)
            state = with_client(url, data, job.run)
    _end(state, job.tally, options, as_json=as_json)


def _end(state: Batch | None, tally: Tally, options: Options, *, as_json: bool) -> None:
    """Say what it came to. Raises: typer.Exit, unless all is well."""
    if as_json:
        tally.print_json(state)
    elif state is not None:
        _print(state, tally, options)
    if state is None:
        fail(f"nothing was submitted; bad lines: {tally.bad}", Exit.USAGE)
    failed = state.without_success()
    if tally.bad or failed:
        end_failed(f"of the batch {state.id}, bad lines: {tally.bad}; failed jobs: {failed}")


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    """Open the file. Standard input and pipes are copied to a temporary file, since the input is read twice."""
    with sys.stdin.buffer if name == "-" else Path(name).open("rb") as stream:
        if stream.seekable() and name != "-":
            yield stream
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
            copy.seek(0)
            yield copy


def _print(state: Batch, tally: Tally, options: Options) -> None:
    out.print(
        f"batch [bold]{state.id}[/]: {tally.sent} jobs submitted" + (f", {tally.bad} bad lines" if tally.bad else "")
    )
    if not options.wait:
        out.print(f"watch it: infermq batch watch {state.id}\nresults:  infermq batch results {state.id} --out FILE")
        return
    out.print(
        f"{came_to(state)}; {state.usage.input_tokens} + {state.usage.output_tokens} tokens, "
        f"{money(state.cost_nano_usd)}"
    )
    for name, path in {"results": options.out, "errors": options.errors}.items():
        if path is not None:
            out.print(f"{name}: {plain(as_typed(path))}")

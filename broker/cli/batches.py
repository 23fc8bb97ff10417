"""`infermq batch list | show | watch | results`."""

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from msgspec.structs import replace

from broker.cli import progress
from broker.cli.commands import Commands
from broker.cli.filters import Before, Limit, MetadataOption, OfLane, Since, Tenant, Until, instant_of, metadata_of
from broker.cli.result_files import (
    Force,
    Mark,
    Resume,
    Wanted,
    check_files,
    check_loss,
    ordered_stdout,
    result_files,
    saying_how_to_go_on,
    whole,
    write_results,
)
from broker.cli.terminal import (
    AsJson,
    AsJsonOfFile,
    Data,
    Exit,
    Url,
    duration,
    end_failed,
    err,
    fail,
    instant,
    money,
    out,
    plain,
    print_fields,
    print_json,
    print_table,
    reasons,
    reporting_errors,
    stop,
    with_client,
)
from broker.client import Client
from schemas.api import Batch, BatchList, BatchStatus, Merged

app = Commands(help="Look at batches and their results.")
Id = Annotated[UUID, typer.Argument(help="The batch.")]


@app.command("list")
def list_batches(
    *,
    statuses: Annotated[
        list[BatchStatus] | None, typer.Option("--status", help="Any of these; give it again for another.")
    ] = None,
    lane: OfLane = None,
    since: Since = None,
    until: Until = None,
    metadata: MetadataOption = None,
    limit: Limit = 20,
    before: Before = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """List the batches that match everything given, the newest first.

    Prints a row for each, and where to go on if there are more.

    Examples:
      infermq batch list
      infermq batch list --status in_progress --since 7d
      infermq batch list --metadata team=search --json
    """
    wanted = BatchList(
        statuses=tuple(statuses or ()),
        lane=lane,
        since_ms=instant_of(since),
        until_ms=instant_of(until),
        metadata=metadata_of(metadata),
        tenant=tenant,
    )
    with reporting_errors():
        batches = with_client(url, data, lambda client: client.batches(limit=limit, before=before, matching=wanted))
    if as_json:
        print_json({"batches": batches})
        return
    columns = ("batch", "status", "lane", "created", "jobs>", "succeeded>", "cost>", "otherwise")
    if not batches:
        err.print("no batch matches")
        return
    print_table(columns, (_row(batch) for batch in batches))
    if len(batches) == limit:
        err.print(f"more: go on with --before {batches[-1].id}")


def _row(batch: Batch) -> tuple[object, ...]:
    jobs = batch.counts.admitted if batch.jobs is None else batch.jobs
    return (
        batch.id,
        batch.status,
        batch.lane,
        instant(batch.created_ms),
        f"{jobs:,}",
        f"{batch.counts.succeeded:,}",
        money(batch.cost_nano_usd),
        progress.ends_of(replace(batch.counts, succeeded=0)),
    )


@app.command()
def show(batch: Id, *, as_json: AsJson = False, url: Url = None, data: Data = None) -> None:
    """Show how far a batch is.

    Prints how many jobs ended how, why others wait, tokens and cost.

    Examples:
      infermq batch show BATCH
    """
    with reporting_errors():
        state = with_client(url, data, lambda client: client.batch(batch))
    if as_json:
        print_json(state)
        return
    counts = state.counts
    took = None if state.completed_ms is None else duration(state.completed_ms - state.created_ms)
    print_fields(
        [
            ("batch", state.id),
            ("status", state.status),
            ("held", reasons(state.holds) or None),
            ("lane", state.lane),
            ("priority", state.priority or None),
            ("created", instant(state.created_ms)),
            ("completed", None if took is None else f"{instant(state.completed_ms)}, after {took}"),
            ("jobs", "not sealed yet" if state.jobs is None else f"{state.jobs:,}"),
            *((name, f"{getattr(counts, name):,}") for name in counts.__struct_fields__),
            ("why", ", ".join(f"{count:,} {kind}" for kind, count in state.failures.items()) or None),
            ("refused", f"{state.refused}, since they came when it was full" if state.refused else None),
            ("never came", f"{state.never_came()}, which were accepted and lost" if state.never_came() else None),
            ("tokens", f"{state.usage.input_tokens} in, {state.usage.output_tokens} out"),
            ("cost", money(state.cost_nano_usd)),
            ("retry of", state.retry_of and f"{state.retry_of}, merged with {state.root}"),
            ("made by", "a replay" if state.is_replay else None),
            ("retried by", ", ".join(str(retry) for retry in state.retries) or None),
            ("together", state.merged and _merged(state.merged)),
            ("webhook", state.webhook),
        ]
    )


def _merged(merged: Merged) -> str:
    ends = ((name, getattr(merged.counts, name)) for name in merged.counts.__struct_fields__)
    words = ", ".join(f"{number:,} {name}" for name, number in ends if number)
    return f"{words}; {money(merged.cost_nano_usd)}; " + ("complete" if merged.is_completed else "goes on")


@app.command()
def watch(batch: Id, *, as_json: AsJson = False, url: Url = None, data: Data = None) -> None:
    """Show how a batch proceeds until it is complete. Ctrl-C leaves it running.

    Prints a line that is updated; in a pipe, one every ten seconds. Ends with 1 if a job did not succeed.

    Examples:
      infermq batch watch BATCH
    """
    with reporting_errors():
        try:
            state = with_client(url, data, lambda client: progress.watch(client, batch))
        except KeyboardInterrupt:
            stop(f"the batch goes on: infermq batch watch {batch}")
    if as_json:
        print_json(state)
    else:
        out.print(
            f"{progress.came_to(state)}; {money(state.cost_nano_usd)}; results: infermq batch results {batch} --out FILE"
        )
    if failed := state.without_success():
        end_failed(f"failed jobs: {failed}")


@app.command()
def results(
    batch: Id,
    *,
    file: Annotated[Path | None, typer.Option("--out", help="A file; by default standard output.")] = None,
    errors: Annotated[
        Path | None, typer.Option("--errors", help="Write what did not succeed here, as OpenAI's error file.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only what did not succeed.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the batch and its retries are complete.")] = False,
    own: Annotated[bool, typer.Option("--own", help="Leave its retries out.")] = False,
    in_order: Annotated[bool, typer.Option("--in-order", help="In the order of the lines submitted.")] = False,
    resume: Resume = False,
    force: Force = False,
    as_json: AsJsonOfFile = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Print the results as OpenAI Batch's output lines, in the order recorded, as retries have left them.

    Examples:
      infermq batch results BATCH --out results.jsonl --errors errors.jsonl
      infermq batch results BATCH --wait --out results.jsonl --resume
      infermq batch results BATCH --failed | jq .custom_id
    """
    if failed and errors is not None:
        fail(
            "--failed and --errors are one or the other: --errors writes what failed into a file of its own",
            Exit.USAGE,
        )
    if resume and file is None:
        fail("--resume goes on with a file: name it with --out", Exit.USAGE)
    check_files(file, errors)
    wanted = Wanted(
        batch=batch, out=whole(file), errors=whole(errors), failed=failed, own=own, in_order=in_order,
    )  # fmt: skip
    with reporting_errors(), saying_how_to_go_on(wanted):
        mark, missing = with_client(
            url, data, lambda client: _write(client, wanted, wait=wait, resume=resume, force=force)
        )
    if as_json and file is not None:
        files = {"file": str(file), **({} if errors is None else {"errors": str(errors)})}
        print_json({"results": mark.results, "failed": mark.failed, **files})
    else:
        err.print(_written(mark, missing, file, errors))
    if wait and (mark.failed or missing):
        end_failed(f"failed jobs: {mark.failed}" + (f"; jobs without a result: {missing}" if missing else ""))


async def _write(client: Client, wanted: Wanted, *, wait: bool, resume: bool, force: bool) -> tuple[Mark, int]:
    """Write what there is, or all. Return also how many jobs have no result although all was waited for."""
    await check_loss(client, wanted.paths(), wanted.batch, force=force)
    if wanted.out is None and wanted.in_order:
        opened = ordered_stdout(wanted)
    else:
        opened = result_files(wanted, resume=resume, to_stdout=wanted.out is None)
    with opened as files:
        if wait and wanted.out is not None:
            state = await progress.watch_and_write(client, files)
            return files.mark, state.without_result()
        mark = await write_results(client, files, wait=wait)
        return mark, (await client.batch(wanted.batch)).without_result() if wait else 0


def _written(mark: Mark, missing: int, file: Path | None, errors: Path | None) -> str:
    words = f"{mark.results} results" + (f", {mark.failed} of them failed" if mark.failed else "")
    words += f", jobs without a result: {missing}" if missing else ""
    where = ", ".join(plain(str(path)) for path in (file, errors) if path is not None)
    return f"{words}: {where}" if where else words

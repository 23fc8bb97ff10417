"""`infermq job show | list`, `infer`, `status`."""

import asyncio
import contextlib
import math
import signal
import sys
import time
from typing import Annotated, Any
from uuid import UUID

import msgspec
import typer

from broker.cli.commands import Commands
from broker.cli.controls import print_pauses
from broker.cli.filters import (
    Codes,
    CustomIdOption,
    MetadataOption,
    Model,
    OfBatch,
    OfLane,
    Since,
    States,
    Tenant,
    Until,
    job_filter,
)
from broker.cli.results import failure_code
from broker.cli.terminal import (
    AsJson,
    Data,
    Exit,
    Url,
    duration,
    err,
    fail,
    instant,
    money,
    out,
    print_fields,
    print_json,
    print_table,
    printable,
    reasons,
    reporting_errors,
    utf8,
    with_client,
)
from broker.client import Client, Piece, Reply
from schemas.api import JobShow, State, Status, Waiting
from schemas.ids import ms_of
from schemas.listing import MOST_LISTED, JobFilter, JobLine, JobPage
from schemas.outcome import public_message
from schemas.units import Ms
from schemas.worker import WorkerBeat

app = Commands(help="Look at jobs.")
_SEARCH_S = 10.0
"""How long `job list` goes on to look for jobs. One call looks at a bounded number of them."""


@app.command()
def show(
    job: Annotated[UUID, typer.Argument(help="The job.")],
    *,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Show all that is recorded of a job, except its prompt.

    Prints its state, why it waits if it does, its cost, each execution, and its answer.

    Examples:
      infermq job show JOB
    """
    with reporting_errors():
        state = with_client(url, data, lambda client: client.job(job))
    if as_json:
        print_json(state)
        return
    if state.id != job:
        err.print(f"{job} was submitted again under the key of this job, which is the first:")
    _print_job(state)


@app.command("list")
def list_jobs(
    *,
    states: States = None,
    codes: Codes = None,
    model: Model = None,
    lane: OfLane = None,
    batch: OfBatch = None,
    custom_id: CustomIdOption = None,
    since: Since = None,
    until: Until = None,
    metadata: MetadataOption = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST_LISTED, help="How many at most.")] = 20,
    before: Annotated[UUID | None, typer.Option(help="Where the page before said to go on.")] = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """List jobs that match everything given, the newest first.

    Prints a row for each, and where to go on if there are more.

    Examples:
      infermq job list --state failed --since 2h
      infermq job list --batch BATCH --code engine_fault
    """
    wanted = job_filter(
        states=states, codes=codes, model=model, lane=lane, batch=batch, custom_id=custom_id,
        since=since, until=until, metadata=metadata,
    )  # fmt: skip
    with reporting_errors():
        page = with_client(
            url, data, lambda client: _search(client, wanted, limit=limit, before=before, tenant=tenant)
        )
    if as_json:
        print_json(page)
        return
    if page.jobs:
        columns = (
            "job",
            "state",
            "model",
            "lane",
            "submitted",
            "took>",
            "attempts>",
            "cost>",
            "custom_id",
            "failure",
        )
        print_table(columns, (_job_row(job) for job in page.jobs))
    if page.next is not None:
        found = "more" if len(page.jobs) == limit else f"looked at all since {instant(ms_of(page.next))}"
        err.print(f"{found}: go on with --before {page.next}")
    elif not page.jobs:
        err.print("no job matches")


async def _search(
    client: Client, wanted: JobFilter, *, limit: int, before: UUID | None, tenant: str | None
) -> JobPage:
    """Ask for page after page until there are enough jobs, or no more, or it takes too long."""
    end = time.monotonic() + _SEARCH_S
    page = await client.jobs(wanted, limit=limit, before=before, tenant=tenant)
    while len(page.jobs) < limit and page.next is not None and time.monotonic() < end:
        more = await client.jobs(wanted, limit=limit - len(page.jobs), before=page.next, tenant=tenant)
        page = JobPage(jobs=(*page.jobs, *more.jobs), next=more.next)
    return page


def _job_row(job: JobLine) -> tuple[object, ...]:
    took = None if job.settled_ms is None else Ms(job.settled_ms - job.admitted_ms)
    return (
        job.id,
        job.state,
        job.model,
        job.lane,
        instant(ms_of(job.id)),
        duration(took),
        job.attempts or "",
        money(job.cost_nano_usd),
        job.custom_id or "",
        failure_code(job.failure) if job.failure is not None else "",
    )


def _print_job(job: JobShow) -> None:
    is_on_its_way = job.state is State.ACCEPTED
    took = None if job.settled_ms is None else duration(job.settled_ms - job.admitted_ms)
    failure = job.failure and f"{failure_code(job.failure)}: {public_message(job.failure)}"
    print_fields(
        [
            ("job", job.id),
            ("state", "accepted, on its way into the ledger" if is_on_its_way else job.state),
            ("model", f"{job.model} {job.endpoint}"),
            ("lane", job.lane),
            ("priority", job.priority or None),
            ("replay of", job.replay_of),
            ("batch", job.batch and f"{job.batch}, line {job.line}, custom_id {job.custom_id}"),
            ("submitted" if is_on_its_way else "admitted", instant(job.admitted_ms)),
            ("deadline", instant(job.deadline_ms)),
            ("not before", None if job.not_before_ms is None else instant(job.not_before_ms)),
            ("waiting", job.waiting and (reasons(job.waiting.holds) or "its turn")),
            ("ahead", job.waiting and _ahead(job.waiting)),
            ("cancelled", job.cancel_ms and f"{instant(job.cancel_ms)}, its worker is told to stop"),
            ("settled", took and f"{instant(job.settled_ms)}, after {took}"),
            ("failure", failure),
            ("attempts", f"{job.attempt} of {job.max_attempts}"),
            ("tokens", f"{job.usage.input_tokens} in, {job.usage.output_tokens} out"),
            ("cost", money(job.cost_nano_usd)),
        ]
    )
    if job.executions:
        columns = ("run", "deployment", "worker", "outcome", "tokens>", "cost>", "source", "queue>", "first>", "run>")
        print_table(columns, (_execution_row(execution) for execution in job.executions))
    if bytes(job.body) != b"null":
        out.print_json(bytes(job.body).decode())


def _ahead(waiting: Waiting) -> str:
    if waiting.more_ahead:
        return f"more than {waiting.ahead} jobs"
    return f"{waiting.ahead} {'job' if waiting.ahead == 1 else 'jobs'}"


def _execution_row(run: Any) -> tuple[object, ...]:
    return (
        f"{run.attempt}.{run.delivery}",
        run.deployment,
        run.worker,
        f"{run.failure or run.outcome}{', mended' if run.mended else ''}",
        f"{run.usage.input_tokens}+{run.usage.output_tokens}",
        money(run.cost_nano_usd),
        run.cost_source,
        duration(run.queue_ms),
        duration(run.ttft_ms),
        duration(run.run_ms),
    )


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("it is not a finite number")
    return value


def infer(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    prompt: Annotated[str, typer.Argument(help="What to ask; - for standard input.")],
    *,
    system: Annotated[str | None, typer.Option(help="A system message before it.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The most tokens of the answer.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, callback=_finite, help="How much chance there is in it.")
    ] = None,
    stream: Annotated[bool, typer.Option(help="Show the answer as it comes.")] = True,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="How long to wait for the answer, in seconds.")] = 120.0,
    as_json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Send a request and stream its answer to the terminal.

    Prints the answer, and nothing else on standard output; standard error says if it was cut at its limit. It skips
    the backlog; if nothing can serve it, it is refused at once, with the reason.

    Examples:
      infermq infer small-chat "Why is the sky blue?"
      infermq infer small-chat - --max-tokens 400 < question.txt
      infermq infer small-chat "Name a colour." --json
    """
    utf8(model, "the model's name")
    text = _standard_input() if prompt == "-" else utf8(prompt, "the prompt")
    messages = [{"role": "system", "content": utf8(system, "the system message")}] if system else []
    body: dict[str, Any] = {"messages": [*messages, {"role": "user", "content": text}]}
    body |= {} if max_tokens is None else {"max_tokens": max_tokens}
    body |= {} if temperature is None else {"temperature": temperature}

    async def ask(client: Client) -> Reply:
        if as_json or not stream:
            return await client.infer(model, body, timeout_s=timeout_s)
        return await streamed(client, model, body, timeout_s=timeout_s)

    with reporting_errors():
        reply = with_client(url, data, ask)
    if as_json:
        print_json({"job": reply.job, "response": msgspec.Raw(reply.body)})
        return
    if not stream:
        _write(f"{reply.text()}\n")
    if reply.was_cut():
        err.print(f"[yellow]{cut_line(reply.usage().output_tokens, max_tokens)}[/]")


def cut_line(tokens: int, most: int | None) -> str:
    """Say where an answer of so many tokens was cut, and how to have more of it. `most` is `--max-tokens`."""
    after = f"after {tokens} tokens" if tokens else "off"
    if most is None:
        return (
            f"the answer was cut {after}: its model's limit (max_output_tokens of infermq catalog) or context is full"
        )
    if tokens < most and tokens:
        return f"the answer was cut {after}, before --max-tokens {most}: prompt and answer fill the model's context"
    return f"the answer was cut at --max-tokens {most}: a higher number gives more"


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        fail("standard input is not UTF-8", Exit.USAGE)


async def streamed(client: Client, model: str, body: dict[str, Any], *, timeout_s: float) -> Reply:
    """Write pieces to standard output as they come. Ctrl-C ends the request."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this runs in a task
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
    text = ""
    try:
        async with contextlib.aclosing(client.infer_stream(model, body, timeout_s=timeout_s)) as steps:
            async for step in steps:
                if isinstance(step, Piece):
                    text += step.text
                    _write(step.text)
                    continue
                _write("\n" if text == step.text() else f"\n[a piece was lost; the whole answer:]\n{step.text()}\n")
                return step
    except asyncio.CancelledError:
        _write("\n")
        raise typer.Exit(Exit.INTERRUPTED) from None
    raise AssertionError("a stream ends with a reply or an error")


def _write(text: str) -> None:
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def status(*, as_json: AsJson = False, url: Url = None, data: Data = None) -> None:
    """Show the broker, the workers, and what waits.

    Prints the leader, each worker with its slots, what is paused, and the jobs that wait by model, with the
    reason.

    Examples:
      infermq status
      infermq status --json
    """
    with reporting_errors():
        state = with_client(url, data, lambda client: client.status())
    if as_json:
        print_json(state)
        return
    _print_status(state)


def _print_status(state: Status) -> None:
    leader = f"{state.leader or 'nobody'}, term {state.term}"
    print_fields([("broker", f"{state.name} {state.version}"), ("leader", leader), ("catalog", state.revision)])
    if state.catalog_note is not None:
        print_fields([("", state.catalog_note)])
    out.print()
    columns = ("worker", "deployment", "engine", "slots>", "reserve>", "running>", "")
    workers = (
        (w.worker, w.deployment, w.engine, w.slots, w.reserve, w.running, _worker_state(w, state.revision))
        for w in state.workers
    )
    print_table(columns, workers)
    _print_what_waits(state)


def _print_what_waits(state: Status) -> None:
    if wanted := [(pool.deployment, pool.requests_waiting) for pool in state.pools if pool.requests_waiting]:
        out.print()
        print_table(("deployment", "requests that wait>"), wanted)
    if held := [(pool.deployment, pool.hold.message) for pool in state.pools if pool.hold is not None]:
        out.print()
        print_table(("deployment", "starts nothing more, because"), held)
    if state.pauses:
        out.print()
        print_pauses(state.pauses)
    if state.backlog:
        why = {model.model: reasons(model.holds) for model in state.models}
        rows = ((b.model, b.lane, b.waiting, duration(b.oldest_ms), why.get(b.model, "")) for b in state.backlog)
        out.print()
        print_table(("model", "lane", "waiting>", "oldest>", "because"), rows)


def _worker_state(worker: WorkerBeat, active: int | None) -> str:
    said = ["draining"] if worker.draining else []
    if worker.paused is not None:
        said.append(f"{worker.paused.cause} {worker.paused.detail}")
    if active is not None and 0 < worker.revision < active:
        said.append(f"revision {worker.revision}, active {active}: restart it")
    return ", ".join(said)

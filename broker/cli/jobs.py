"""`infermq job show`, `infer`, `status`."""

import asyncio
import contextlib
import math
import signal
import sys
from typing import Annotated, Any
from uuid import UUID

import msgspec
import typer

from broker.cli.controls import print_pauses
from broker.cli.results import failure_code
from broker.cli.terminal import (
    AsJson,
    Data,
    Exit,
    NatsUrl,
    duration,
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
from schemas.outcome import public_message
from schemas.worker import WorkerBeat

app = typer.Typer(help="Look at a job.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Look at a job."""


@app.command()
def show(
    job: Annotated[UUID, typer.Argument(help="The job.")],
    *,
    as_json: AsJson = False,
    nats_url: NatsUrl = None,
    data: Data = None,
) -> None:
    """Show all that is recorded of a job, except its prompt."""
    with reporting_errors():
        state = with_client(nats_url, data, lambda client: client.job(job))
    if as_json:
        print_json(state)
        return
    _print_job(state)


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
            ("batch", job.batch and f"{job.batch}, line {job.line}, custom_id {job.custom_id}"),
            ("submitted" if is_on_its_way else "admitted", instant(job.admitted_ms)),
            ("deadline", instant(job.deadline_ms)),
            ("not before", None if job.not_before_ms is None else instant(job.not_before_ms)),
            ("waiting", job.waiting and (reasons(job.waiting.holds) or "its turn")),
            ("ahead", job.waiting and _ahead(job.waiting)),
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
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    temperature: Annotated[float | None, typer.Option(min=0, callback=_finite)] = None,
    stream: Annotated[bool, typer.Option(help="Show the answer as it comes.")] = True,
    timeout_s: Annotated[float, typer.Option(min=0.1)] = 120.0,
    as_json: AsJson = False,
    nats_url: NatsUrl = None,
    data: Data = None,
) -> None:
    """Send a request and stream its answer to the terminal."""
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
        reply = with_client(nats_url, data, ask)
    if as_json:
        print_json({"job": reply.job, "response": msgspec.Raw(reply.body)})
    elif not stream:
        _write(f"{reply.text()}\n")


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


def status(*, as_json: AsJson = False, nats_url: NatsUrl = None, data: Data = None) -> None:
    """Show the broker, the workers, and what waits."""
    with reporting_errors():
        state = with_client(nats_url, data, lambda client: client.status())
    if as_json:
        print_json(state)
        return
    _print_status(state)


def _print_status(state: Status) -> None:
    leader = f"{state.leader or 'nobody'}, term {state.term}"
    print_fields([("broker", f"{state.name} {state.version}"), ("leader", leader), ("catalog", state.revision)])
    if state.catalog_note is not None:
        print_fields([("", state.catalog_note)])
    columns = ("worker", "deployment", "engine", "slots>", "reserve>", "running>", "")
    workers = (
        (w.worker, w.deployment, w.engine, w.slots, w.reserve, w.running, _worker_state(w)) for w in state.workers
    )
    print_table(columns, workers)
    if held := [(pool.deployment, pool.hold.message) for pool in state.pools if pool.hold is not None]:
        print_table(("deployment", "starts nothing more, because"), held)
    if state.pauses:
        print_pauses(state.pauses)
    if state.backlog:
        why = {model.model: reasons(model.holds) for model in state.models}
        rows = ((b.model, b.lane, b.waiting, duration(b.oldest_ms), why.get(b.model, "")) for b in state.backlog)
        print_table(("model", "lane", "waiting>", "oldest>", "because"), rows)


def _worker_state(worker: WorkerBeat) -> str:
    if worker.paused is not None:
        return f"{worker.paused.cause} {worker.paused.detail}"
    return "draining" if worker.draining else ""

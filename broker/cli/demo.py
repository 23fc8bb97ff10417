"""`infermq demo`: runs a batch of real prompts on a small real model, streams an answer, and shows what it took."""

import asyncio
import signal
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated
from uuid import UUID

import msgspec
import typer

from broker.batch_file import read_lines
from broker.cli.jobs import streamed
from broker.cli.progress import watch_and_write
from broker.cli.result_files import Wanted, result_files
from broker.cli.terminal import (
    AsJson,
    Exit,
    data_folder,
    duration,
    err,
    fail,
    money,
    out,
    plain,
    print_json,
    print_table,
    reporting_errors,
)
from broker.client import Client, Reply, Submission
from broker.config import DATA, UpConfig
from broker.local.up import running
from schemas.api import Batch, Execution, JobShow, Result
from schemas.clock import wall_clock
from schemas.files import Fault

PROMPTS = Path(__file__).parents[2] / "examples" / "prompts.jsonl"
_QUESTION = "Explain in two sentences why the sky is blue."
_SAMPLES = 3


def demo(
    *,
    file: Annotated[Path, typer.Option(help="OpenAI Batch lines.")] = PROMPTS,
    data: Annotated[Path, typer.Option(help="Where streams and tables are kept.")] = Path(DATA),
    catalog: Annotated[Path | None, typer.Option(help="Models and what serves them (TOML).")] = None,
    model: Annotated[str, typer.Option(help="For the streamed question.")] = "small-chat",
    as_json: AsJson = False,
) -> None:
    """Run a batch of real prompts on this machine, stream an answer, show what it took, stop everything.

    Prints some answers, costs, tokens a second and latencies.

    Examples:
      infermq demo
    """
    began_ms = wall_clock()
    with reporting_errors():
        if not file.exists():
            fail(f"there is no {file}: give a file of OpenAI Batch lines with --file", Exit.USAGE)
        try:
            report = asyncio.run(
                _Demo(file, UpConfig(data=data_folder(data), catalog=catalog), model, began_ms, quiet=as_json).run()
            )
        except KeyboardInterrupt:
            raise typer.Exit(Exit.INTERRUPTED) from None
    if as_json:
        print_json(report)
    if report.batch.counts.succeeded != report.batch.jobs:
        raise typer.Exit(Exit.FAILED)


class DemoReport(msgspec.Struct, frozen=True, kw_only=True):
    batch: Batch
    first_token_s: float
    """Seconds from the command's start to the first token of any job."""
    seconds: float
    """From the start of the first execution to the last settled job."""
    results: str


class _Demo:
    def __init__(self, file: Path, config: UpConfig, model: str, began_ms: int, *, quiet: bool) -> None:
        self._file = file
        self._config = config
        self._data = config.data
        self._model = model
        self._began_ms = began_ms
        self._quiet = quiet

    async def run(self) -> DemoReport:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - we run in one
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async with running(self._config, say=lambda line: err.print(line, markup=False)) as up:
            if up.unable():
                fail("the demo needs every worker of its catalog; see above what to install", Exit.USAGE)
            self._say(f"[bold]infermq is up[/] after {(wall_clock() - self._began_ms) / 1000:.1f} s")
            async with Client.connect(up.nats_url, api_key=up.api_key, trust=up.trust) as client:
                return await self._with(client)

    def _say(self, text: str) -> None:
        (err if self._quiet else out).print(text)

    async def _with(self, client: Client) -> DemoReport:
        batch, models = await self._submit(client)
        results = self._data / f"results-{batch}.jsonl"

        with result_files(Wanted(batch=batch, out=str(results))) as files:
            state = await watch_and_write(client, files)
        jobs = [await client.job(result.job) async for result in client.results(batch)]
        if not self._quiet:
            await self._show_samples(client, batch)
            await self._ask(client)
            _print_figures(jobs, models)
        report = _report(state, jobs, results, self._began_ms)
        if not self._quiet:
            self._print_end(report, jobs)
        return report

    async def _submit(self, client: Client) -> tuple[UUID, list[str]]:
        batch = await client.create_batch(metadata={"name": "demo"})
        with self._file.open("rb") as stream:
            items = list(read_lines(stream, model=self._model, batch=batch.id))
        for item in items:
            if isinstance(item, Fault):
                fail(f"{self._file}: {item}", Exit.USAGE)
        lines = [item for item in items if not isinstance(item, Fault)]
        sent = await client.submit_many(Submission(line.model, line.job) for line in lines)
        await client.seal(batch.id, jobs=sent)
        self._say(f"batch [bold]{batch.id}[/]: {sent} prompts of {self._file.name} submitted")
        return batch.id, sorted({line.model for line in lines})

    async def _show_samples(self, client: Client, batch: UUID) -> None:
        """Print an answer of each kind of prompt. The custom id of a prompt is its kind and a number."""
        kinds: dict[str, Result] = {}
        async for result in client.results(batch):
            kinds.setdefault((result.custom_id or "").rpartition("-")[0], result)
        for result in list(kinds.values())[:_SAMPLES]:
            out.print(f"[bold]{plain(str(result.custom_id))}[/] ", end="")
            text = Reply(result.job, bytes(result.body)).text() if result.failure is None else str(result.state)
            out.print(plain(" ".join(text.split())))

    async def _ask(self, client: Client) -> None:
        out.print(f"\n[bold]infermq infer {self._model} {_QUESTION!r}[/]")
        await streamed(
            client,
            self._model,
            {"messages": [{"role": "user", "content": _QUESTION}], "max_tokens": 80, "temperature": 0},
            timeout_s=60.0,
        )

    def _print_end(self, report: DemoReport, jobs: Sequence[JobShow]) -> None:
        flag = "" if self._data == Path(DATA).resolve() else f" --data {_short(self._data)}"
        out.print(f"\nfirst token {report.first_token_s:.1f} s after the command")
        out.print(f"results: {_short(Path(report.results))}")
        out.print(f"one job: infermq up{flag}, then in another terminal: infermq job show {jobs[0].id}{flag}")


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _report(batch: Batch, jobs: Sequence[JobShow], results: Path, began_ms: int) -> DemoReport:
    runs = [run for job in jobs for run in job.executions]
    first = min(
        (run.started_ms + (run.run_ms if run.ttft_ms is None else run.ttft_ms) for run in runs), default=began_ms
    )
    return DemoReport(
        batch=batch,
        first_token_s=(first - began_ms) / 1000,
        seconds=_seconds(jobs),
        results=str(results),
    )


def _seconds(jobs: Sequence[JobShow]) -> float:
    started = min(run.started_ms for job in jobs for run in job.executions)
    return max(0.001, (max(started if job.settled_ms is None else job.settled_ms for job in jobs) - started) / 1000)


def _print_figures(jobs: Sequence[JobShow], models: Sequence[str]) -> None:
    by_model: dict[str, list[JobShow]] = defaultdict(list)
    for job in jobs:
        by_model[job.model].append(job)
    columns = ("model", "jobs>", "succeeded>", "jobs/s>", "tokens in>", "out>", "out/s>", "cost>")
    out.print()
    print_table(columns, (_model_row(name, by_model[name]) for name in models))
    runs = [run for job in jobs for run in job.executions]
    out.print()
    print_table(("latency", "p50>", "p99>"), _latency_rows(jobs, runs))


def _model_row(name: str, jobs: Sequence[JobShow]) -> tuple[object, ...]:
    seconds = _seconds(jobs)
    tokens_out = sum(job.usage.output_tokens for job in jobs)
    return (
        name,
        len(jobs),
        sum(job.state == "succeeded" for job in jobs),
        f"{len(jobs) / seconds:.1f}",
        sum(job.usage.input_tokens for job in jobs),
        tokens_out,
        f"{tokens_out / seconds:.0f}",
        money(sum(job.cost_nano_usd for job in jobs)),
    )


def _latency_rows(jobs: Sequence[JobShow], runs: Sequence[Execution]) -> Iterable[tuple[object, ...]]:
    figures: dict[str, list[int]] = {
        "queue (admitted to leased)": [run.queue_ms for run in runs],
        "first token (after leased)": [run.ttft_ms for run in runs if run.ttft_ms is not None],
        "run (leased to outcome)": [run.run_ms for run in runs],
        "total (admitted to settled)": [
            job.settled_ms - job.admitted_ms for job in jobs if job.settled_ms is not None
        ],
    }
    for name, values in figures.items():
        yield name, duration(_quantile(values, 0.5)), duration(_quantile(values, 0.99))


def _quantile(values: Sequence[int], share: float) -> int | None:
    """Return the value at the nearest rank, or None for no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

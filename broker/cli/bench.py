"""`infermq bench …`: each command prints a figure, its spread, and its ratio to what ran beside it."""

from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from broker.bench.figure import Figure
from broker.cli.commands import Commands
from broker.cli.terminal import AsJson, Exit, err, fail, out, print_json, print_table, reporting_errors
from schemas.catalog import parse

app = Commands(help="Measure on this machine.")
Runs = Annotated[int, typer.Option(min=1, max=50, help="Interleaved runs; the figure is their median.")]
Quick = Annotated[bool, typer.Option("--quick", help="One short run.")]
_EXAMPLE = Path(__file__).parents[1] / "default.toml"


@app.command()
def bulk(
    *,
    jobs: Annotated[int, typer.Option(min=100, max=1_000_000, help="How many jobs a run has.")] = 20_000,
    body_bytes: Annotated[int, typer.Option(min=100, max=200_000, help="How large the body of each is.")] = 600,
    runs: Runs = 3,
    peers: Annotated[bool, typer.Option("--peers", help="Other task queues beside it (extra `peers`).")] = False,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure jobs/s from submission to settlement on the simulated engine, and what each process spends on a job.

    Prints the figure, its spread, and what ran beside it.

    Examples:
      infermq bench bulk --quick
    """
    from broker.bench.bulk import bulk as measure  # noqa: PLC0415 - only this command needs it

    jobs, runs = (2500 if peers else 5000, 1) if quick else (jobs, runs)
    _show(measure(jobs=jobs, body_bytes=body_bytes, runs=runs, with_peers=peers, say=_say), as_json=as_json)


@app.command()
def interactive(
    *,
    requests: Annotated[int, typer.Option(min=50, max=100_000, help="How many requests a run has.")] = 500,
    runs: Runs = 5,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure the latency that infermq adds to an engine that takes no time, beside a raw NATS request-reply.

    Prints the figure, its spread, and what ran beside it.

    Examples:
      infermq bench interactive --quick
    """
    from broker.bench.interactive import interactive as measure  # noqa: PLC0415

    requests, runs = (200, 1) if quick else (requests, runs)
    _show(measure(requests=requests, runs=runs, say=_say), as_json=as_json)


@app.command()
def http(
    *,
    requests: Annotated[int, typer.Option(min=100, max=1_000_000, help="How many requests a run has.")] = 5000,
    runs: Runs = 5,
    peers: Annotated[bool, typer.Option("--peers", help="Other gateways beside it (make bench-peers).")] = False,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure requests/s over HTTP, added latency and CPU time, beside the same hops without a broker.

    Prints the figure, its spread, and what ran beside it.

    Examples:
      infermq bench http --quick
    """
    from broker.bench.http import http as measure  # noqa: PLC0415

    requests, runs = (2000, 1) if quick else (requests, runs)
    _show(measure(requests=requests, runs=runs, with_peers=peers, say=_say), as_json=as_json)


@app.command()
def saturation(
    *,
    catalog: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="A catalog with one model.")] = _EXAMPLE,
    model: Annotated[str, typer.Option(help="Its model.")] = "small-chat",
    rounds: Annotated[
        int, typer.Option(min=1, max=1000, help="How often each slot is filled in a quarter of a run.")
    ] = 6,
    runs: Runs = 5,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure output tokens/s of a real engine kept busy through the broker, and of the same engine driven directly.

    Prints the figure, its spread, and what ran beside it.

    Examples:
      infermq bench saturation --quick
    """
    from broker.bench.saturation import saturation as measure  # noqa: PLC0415

    rounds, runs = (1, 1) if quick else (rounds, runs)
    parsed = parse(catalog.read_text())
    if model not in parsed.models:
        fail(f"{catalog} has no model {model!r}; known: {', '.join(parsed.models)}", Exit.USAGE)
    deployment = parsed.models[model].route[0].deployment
    _show(
        measure(catalog=catalog, model=model, deployment=deployment, runs=runs, rounds=rounds, quick=quick, say=_say),
        as_json=as_json,
    )


@app.command()
def keys(
    *,
    jobs: Annotated[int, typer.Option(min=100, max=1_000_000, help="How many jobs a run has.")] = 10_000,
    requests: Annotated[int, typer.Option(min=50, max=100_000, help="How many requests a run has.")] = 300,
    connects: Annotated[int, typer.Option(min=20, max=10_000, help="How many clients connect in a run.")] = 200,
    runs: Runs = 5,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure what keys cost, beside a system that asks for none: connecting, requests and bulk jobs.

    Prints the figure, its spread, and what ran beside it.

    Examples:
      infermq bench keys --quick
    """
    from broker.bench.keys import keys as measure  # noqa: PLC0415

    jobs, requests, connects, runs = (2000, 100, 50, 1) if quick else (jobs, requests, connects, runs)
    _show(measure(jobs=jobs, requests=requests, connects=connects, runs=runs, say=_say), as_json=as_json)


@app.command()
def dispatch(
    *,
    jobs: Annotated[int, typer.Option(min=20, max=10_000, help="How many jobs a run has.")] = 300,
    runs: Runs = 5,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure how long one job takes from its publication to its start on an idle worker.

    Prints the figure, its spread, and what ran beside it.

    Examples:
      infermq bench dispatch --quick
    """
    from broker.bench.small import dispatch as measure  # noqa: PLC0415

    jobs, runs = (100, 1) if quick else (jobs, runs)
    _show(measure(jobs=jobs, runs=runs, say=_say), as_json=as_json)


@app.command()
def submit(
    *,
    lines: Annotated[int, typer.Option(min=1000, max=10_000_000, help="How many lines the file has.")] = 50_000,
    runs: Runs = 3,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure how long `infermq submit` takes until a JSONL file is accepted, and its peak memory.

    Prints the figure, its spread, and what ran beside it.

    Examples:
      infermq bench submit --quick
    """
    from broker.bench.small import submit as measure  # noqa: PLC0415

    _show(measure(lines=lines, runs=1 if quick else runs, say=_say), as_json=as_json)


@app.command()
def file(
    *,
    lines: Annotated[int, typer.Option(min=1000, max=10_000_000, help="How many lines the file has.")] = 50_000,
    line_bytes: Annotated[int, typer.Option(min=200, max=200_000, help="How long each line is, about.")] = 400,
    runs: Runs = 3,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure a batch of a large file over HTTP: upload, check, backlog, settlement, download, memory and disk.

    Prints the figure, its spread, and what ran beside it.

    Examples:
      infermq bench file --quick
    """
    from broker.bench.file import file as measure  # noqa: PLC0415

    lines, runs = (10_000, 1) if quick else (lines, runs)
    _show(measure(lines=lines, line_bytes=line_bytes, runs=runs, say=_say), as_json=as_json)


@app.command()
def idle(
    *,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="How long a run takes.")] = 10.0,
    runs: Runs = 3,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure the CPU time and memory of each process while there is nothing to do.

    Prints the figure, its spread, and what ran beside it.

    Examples:
      infermq bench idle --quick
    """
    from broker.bench.small import idle as measure  # noqa: PLC0415

    _show(measure(seconds=seconds, runs=1 if quick else runs, say=_say), as_json=as_json)


def _say(line: str) -> None:
    err.print(line, markup=False)


def _show(measuring: Coroutine[Any, Any, Figure], *, as_json: bool) -> None:
    with reporting_errors():
        figure = uvloop.run(measuring)
    if as_json:
        print_json(figure)
    else:
        _print(figure)


def _print(figure: Figure) -> None:
    low, high = figure.spread
    out.print(f"[bold]{figure.name}: {_number(figure.figure)} {figure.unit}[/] ({_number(low)} to {_number(high)})")
    if figure.cpu_us_per_job:
        total = sum(figure.cpu_us_per_job.values())
        rows = [(kind, f"{cost:.0f}") for kind, cost in figure.cpu_us_per_job.items()]
        print_table(("process", "CPU µs/job>"), [*rows, ("all", f"{total:.0f}")])
    if figure.baselines:
        beside = [(b.name, _number(b.figure), f"{figure.ratios[b.name]:.2f}") for b in figure.baselines]
        print_table(("beside it", f"{figure.unit}>", "ratio>"), beside)
    if figure.details:
        print_table(("", ">"), [(name, _number(value)) for name, value in figure.details.items()])
    out.print(figure.machine)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"

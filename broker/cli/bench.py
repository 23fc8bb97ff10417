"""`infermq bench bulk`."""

import asyncio
from typing import Annotated

import typer

from broker.bench.figure import Figure
from broker.cli.terminal import AsJson, err, out, print_json, print_table, told

app = typer.Typer(help="Measure on this machine.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure on this machine."""


@app.command()
def bulk(
    *,
    jobs: Annotated[int, typer.Option(min=100, max=1_000_000)] = 20_000,
    body_bytes: Annotated[int, typer.Option(min=100, max=200_000)] = 600,
    runs: Annotated[int, typer.Option(min=1, max=50)] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="One short run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit → settled on the simulated engine at no delay: jobs/s, and what each process spends on a job."""
    from broker.bench.bulk import bulk as measure  # noqa: PLC0415 - only this command needs it

    with told():
        figure = asyncio.run(
            measure(
                jobs=5000 if quick else jobs,
                body_bytes=body_bytes,
                runs=1 if quick else runs,
                say=lambda line: err.print(line, markup=False),
            )
        )
    if as_json:
        print_json(figure)
    else:
        _print(figure)


def _print(figure: Figure) -> None:
    low, high = figure.spread
    out.print(f"[bold]{figure.name}: {figure.figure:,.0f} {figure.unit}[/] ({low:,.0f} to {high:,.0f})")
    total = sum(figure.cpu_us_per_job.values())
    rows = [(kind, f"{cost:.0f}") for kind, cost in figure.cpu_us_per_job.items()]
    print_table(("process", "CPU µs/job>"), [*rows, ("all", f"{total:.0f}")])
    for baseline in figure.baselines:
        out.print(f"{figure.ratios[baseline.name]:.2f} × {baseline.name} ({baseline.figure:,.0f})")
    out.print(figure.machine)

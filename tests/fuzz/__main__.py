"""`python -m tests.fuzz`: send broken messages to a broker and a worker, on servers of their own."""

import asyncio
import logging
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from broker.ledger import migrate, open_ledger
from broker.local.servers import nats_server, postgres_server
from tests.builders import now
from tests.fuzz.attack import Tally, attack
from tests.sums import check_sums


def run(
    number: Annotated[int, typer.Option("--number", "-n", help="Of messages.")] = 20_000,
    seed: Annotated[int, typer.Option(help="The same seed draws the same messages.")] = 1,
) -> None:
    """Send broken messages, and say what came of it. Ends with 1 if anything did not work any more."""
    logging.basicConfig(level=logging.CRITICAL)
    logging.getLogger().setLevel(logging.WARNING)
    tally = asyncio.run(_run(seed, number))
    print(f"seed {seed}: {tally}")
    if tally.surprises:
        raise typer.Exit(1)


async def _run(seed: int, number: int) -> Tally:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="infermq-fuzz-") as folder:
        async with (
            nats_server(Path(folder) / "nats") as nats_url,
            postgres_server(Path(folder) / "pg", durable=False) as ledger_url,
        ):
            await migrate(ledger_url)
            async with open_ledger(ledger_url, clock=now) as ledger:
                await ledger.days.keep()
            tally = await attack(
                nats_url,
                ledger_url,
                seed=seed,
                number=number,
                say=lambda line: print(f"{time.monotonic() - began:5.0f} s  {line}", flush=True),
            )
            await check_sums(ledger_url)
    return tally


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(run)
    app()

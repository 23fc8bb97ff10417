"""Many steps: `python -m tests.transitions --steps 10000 --seed 1`."""

import argparse
import asyncio
import itertools
import math
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from broker.ledger import migrate, open_ledger
from broker.local.servers import postgres_server
from tests.builders import SEAL_KEY, now
from tests.transitions.machine import run

_EXAMPLES = 10
_STEPS = 120


@asynccontextmanager
async def a_template(folder: Path) -> AsyncIterator[str]:
    async with postgres_server(folder, durable=False) as url:
        await migrate(url)
        async with open_ledger(url, clock=now) as ledger:
            await ledger.days.keep()
            await ledger.seal_keys.agree(SEAL_KEY)
        yield url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--within-s", type=float, default=None, help="begin no more histories after so long")
    parser.add_argument("--as-found", action="store_true", help="show a fault's history as it was found, at once")
    args = parser.parse_args()
    began = time.monotonic()
    steps: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        server = AsyncExitStack()
        url = runner.run(server.enter_async_context(a_template(Path(folder))))
        try:
            for seed in itertools.count(args.seed * 1000):
                if steps.total() >= args.steps or time.monotonic() - began > (args.within_s or math.inf):
                    break
                steps += run(url, runner, examples=_EXAMPLES, steps=_STEPS, of_seed=seed, shrinks=not args.as_found)
                print(f"{steps.total()} steps in {time.monotonic() - began:.0f} s", flush=True)
        finally:
            runner.run(server.aclose())
    for name, count in steps.most_common():
        print(f"  {count:6} {name}")


if __name__ == "__main__":
    main()

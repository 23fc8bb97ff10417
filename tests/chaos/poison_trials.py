"""Many trials with real workers: `python -m tests.chaos.poison_trials FIRST LAST`. A trial takes one to ten minutes.

Each has 1 to 4 jobs that end their workers among 40 to 100, on 1 to 3 workers, every other one with kills from outside.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.test_poison import trial

_LONGEST_S = 900
"""`infermq up` pauses for up to 15 s before it starts a worker again that keeps dying, and a trial may have 30 deaths."""


async def run(seed: int) -> bool:
    began = time.monotonic()
    workers, slots, jobs, poisons = 1 + seed % 3, (4, 8)[seed // 3 % 2], 40 + seed * 7 % 61, 1 + seed % 4
    with tempfile.TemporaryDirectory(prefix="infermq-poison-") as folder:
        try:
            await trial(
                Path(folder),
                seed,
                workers=workers,
                slots=slots,
                jobs=jobs,
                poisons=poisons,
                kills=seed % 2,
                within_s=_LONGEST_S,
            )
        except AssertionError as error:
            print(f"{seed}: FAILED: {error}", flush=True)
            return False
    took_s = time.monotonic() - began
    print(f"{seed}: {poisons} of {jobs} jobs on {workers} x {slots} slots, {took_s:.0f} s", flush=True)
    return True


async def main(first: int, last: int) -> int:
    went_well = [await run(seed) for seed in range(first, last + 1)]
    print(f"{sum(went_well)} of {len(went_well)} trials: only those that end their workers were dead")
    return 0 if all(went_well) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]))))

"""Takes out what mended a fault, on a copy of the source, and lets the simulation find the fault again.

    python -m tests.simulate.refinding [NAME…] [--seconds 300]

Each patch in `planted/` plants one fault, in the form of those in `tests/mutation/removals`.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.removals import Removal, read
from tests.mutation.tree import ROOT, Tree

FOLDER = Path(__file__).parent / "planted"


@dataclass(frozen=True, slots=True)
class Found:
    fault: str
    seeds: int
    seconds: float
    failure: str
    """What the first seed that failed said. Empty: none failed."""


def planted(names: list[str]) -> list[Removal]:
    return [read(path) for path in sorted(FOLDER.glob("*.patch")) if not names or path.stem in names]


@contextlib.contextmanager
def with_fault(fault: Removal) -> Iterator[Path]:
    """Copy the source and plant a fault in the copy."""
    with tempfile.TemporaryDirectory(prefix="infermq-planted-") as folder:
        Tree.copy_to(Path(folder)).write(fault.changed(ROOT))
        yield Path(folder)


def find(fault: Removal, *, seconds: float, processes: int) -> Found:
    """Run seeds until one fails, or the time is over."""
    with with_fault(fault) as copy:
        words = ["simulate", "faults", "--seconds", str(seconds), "--processes", str(processes), "--json"]
        environ = {**os.environ, "PYTHONPATH": str(copy), "PYTHONHASHSEED": "0"}
        began = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-m", "broker", *words],
            cwd=copy,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        said = json.loads(ran.stdout)
    failures = [failure for failed in said["failed"].values() for failure in failed]
    return Found(fault.name, said["seeds"], time.monotonic() - began, failures[0] if failures else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    missed = 0
    for fault in planted(asked.names):
        found = find(fault, seconds=asked.seconds, processes=asked.processes)
        missed += not found.failure
        sys.stdout.write(
            f"{found.fault:44} {found.seeds:5} seeds {found.seconds:6.1f} s  {found.failure[:120] or 'NOT FOUND'}\n"
        )
        sys.stdout.flush()
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()

"""Which lines of roles and worker the simulation runs, and at which of their waits a process has died.

    python -m tests.simulate.covered [--seeds 200] [--first 1]

Each seed runs in a process of its own, forked from this one once everything is imported.
"""

import argparse
import ast
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import coverage

ROOT = Path(__file__).parents[2]
PARTS = ("broker/roles/*.py", "workers/*.py")
_OTHERS = {
    "workers/__main__.py", "workers/bench.py", "workers/cli.py", "workers/config.py", "workers/health.py",
    "workers/http.py", "broker/roles/callout.py", "broker/roles/files.py",
}  # fmt: skip
"""What a simulated world has not got: commands, HTTP, keys, files."""


def files() -> list[Path]:
    found = [path for part in PARTS for path in sorted(ROOT.glob(part))]
    return [path for path in found if str(path.relative_to(ROOT)) not in _OTHERS]


def waits(file: Path) -> set[int]:
    """The lines at which a coroutine of this file may wait."""
    tree = ast.parse(file.read_text())
    kinds = (ast.Await, ast.AsyncFor, ast.AsyncWith)
    return {node.lineno for node in ast.walk(tree) if isinstance(node, kinds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="infermq-covered-") as folder:
        _run(asked.first, asked.seeds, Path(folder) / "lines")


def _run(first: int, seeds: int, data: Path) -> None:
    measured = coverage.Coverage(
        data_file=str(data), data_suffix=True, include=[str(path) for path in files()], config_file=False
    )
    measured.start()
    from broker.simulate.run import Run  # noqa: PLC0415 - its imports are measured
    from broker.simulate.world.story import Story  # noqa: PLC0415

    died: Counter[tuple[str, int]] = Counter()
    for seed in range(first, first + seeds):
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            ended = Run(seed, Story()).run()
            measured.stop()
            measured.save()
            os.write(writing, "\n".join(f"{place} {times}" for place, times in ended.crashed.items()).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            for line in pipe:
                place, _, times = line.rpartition(" ")
                file, _, number = place.rpartition(":")
                died[file, int(number)] += int(times)
        os.waitpid(pid, 0)
    measured.stop()
    measured.save()
    measured.combine([str(data.parent)])
    _show(measured, died)


def _show(measured: coverage.Coverage, died: Counter[tuple[str, int]]) -> None:
    lines = missed = all_waits = died_at = 0
    sys.stdout.write(
        "| file | lines | run | waits | died at | lines not run |\n| --- | ---: | ---: | ---: | ---: | --- |\n"
    )
    for file in files():
        _, statements, _, missing, told = measured.analysis2(str(file))
        at = waits(file)
        deaths = {number for (name, number) in died if name == str(file)} & at
        lines, missed = lines + len(statements), missed + len(missing)
        all_waits, died_at = all_waits + len(at), died_at + len(deaths)
        share = 100 * (1 - len(missing) / max(1, len(statements)))
        sys.stdout.write(
            f"| {file.relative_to(ROOT)} | {len(statements)} | {share:.0f} % | {len(at)} | {len(deaths)} | {told} |\n"
        )
    share = 100 * (1 - missed / lines)
    sys.stdout.write(f"| all | {lines} | {share:.1f} % | {all_waits} | {died_at} | |\n")


if __name__ == "__main__":
    main()

"""Which lines of roles and worker the simulation runs, and at which of the lines where it waits a process has died.

    python -m tests.simulate.covered [--seeds 200] [--first 1]
    python -m tests.simulate.covered --died FILE.json    # the waits alone, of what `simulate faults --json` has said

Each seed runs in a process of its own, forked from this one once everything is imported.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import coverage

from broker.simulate.faults import waits

ROOT = Path(__file__).parents[2]
PARTS = ("broker/roles", "workers")


def files() -> list[Path]:
    """The files of roles and worker, without those of their parts that a simulated world has not got."""
    return [ROOT / file for file in waits.files() if str(Path(file).parent) in PARTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--died", type=Path)
    asked = parser.parse_args()
    if asked.died is not None:
        _show_waits(json.loads(asked.died.read_text())["died"])
        return
    with tempfile.TemporaryDirectory(prefix="infermq-covered-") as folder:
        _run(asked.first, asked.seeds, Path(folder) / "lines")


def _run(first: int, seeds: int, data: Path) -> None:
    measured = coverage.Coverage(
        data_file=str(data), data_suffix=True, include=[str(path) for path in files()], config_file=False
    )
    measured.start()
    from broker.simulate.run import Run  # noqa: PLC0415 - its imports are measured
    from broker.simulate.world.story import Story  # noqa: PLC0415

    died: Counter[str] = Counter()
    waited: set[str] = set()
    for seed in range(first, first + seeds):
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            ended = Run(seed, Story(), waited=waited).run()
            measured.stop()
            measured.save()
            with os.fdopen(writing, "w") as pipe:
                json.dump({"died": ended.died, "waited": sorted(waited)}, pipe)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            said = json.load(pipe)
        died.update(said["died"])
        waited.update(said["waited"])
        os.waitpid(pid, 0)
    measured.stop()
    measured.save()
    measured.combine([str(data.parent)])
    _show(measured, died, waited)


def _show_waits(died: dict[str, int]) -> None:
    """Print at how many of their waits processes have died, by file."""
    sys.stdout.write("| file | waits | died at | lines of the others |\n| --- | ---: | ---: | --- |\n")
    all_waits = all_died = 0
    for file in waits.files():
        at = sorted(waits.lines_of(file))
        others = [str(line) for line in at if f"{file}:{line}" not in died]
        all_waits, all_died = all_waits + len(at), all_died + len(at) - len(others)
        if at:
            sys.stdout.write(f"| {file} | {len(at)} | {len(at) - len(others)} | {', '.join(others)} |\n")
    sys.stdout.write(f"| all | {all_waits} | {all_died} | |\n")


def _show(measured: coverage.Coverage, died: Counter[str], waited: set[str]) -> None:
    lines = missed = all_waited = all_died = 0
    sys.stdout.write(
        "| file | lines | run | waits | died at | lines not run | waits at which nobody died |\n"
        "| --- | ---: | ---: | ---: | ---: | --- | --- |\n"
    )
    for file in files():
        _, statements, _, missing, told = measured.analysis2(str(file))
        name = file.relative_to(ROOT).as_posix()
        at = [line for line in sorted(waits.lines(file.read_text())) if f"{name}:{line}" in waited]
        others = [str(line) for line in at if f"{name}:{line}" not in died]
        lines, missed = lines + len(statements), missed + len(missing)
        all_waited, all_died = all_waited + len(at), all_died + len(at) - len(others)
        share = 100 * (1 - len(missing) / max(1, len(statements)))
        sys.stdout.write(
            f"| {name} | {len(statements)} | {share:.0f} % | {len(at)} | {len(at) - len(others)} "
            f"| {told} | {', '.join(others)} |\n"
        )
    share = 100 * (1 - missed / lines)
    sys.stdout.write(f"| all | {lines} | {share:.1f} % | {all_waited} | {all_died} | | |\n")


if __name__ == "__main__":
    main()

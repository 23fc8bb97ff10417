"""Which tests run which line, recorded once for each state of the source."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
from coverage import CoverageData

from tests.mutation.tree import ROOT, Tree

FOLDER = ROOT / ".mutate"
TESTS = ("tests/core", "tests/wire", "tests/contract", "tests/real", "tests/test_boundaries.py")
"""Those that run our code in their own process, where it can be seen."""
_PURE = ("tests/core/", "tests/wire/")
_DURATION = re.compile(r"^\s*([\d.]+)s (?:setup|call|teardown)\s+(\S.*)$", re.MULTILINE)
_QUERY = re.compile(r"""\bquery\("(\w+)"\)""")


@dataclass(frozen=True, slots=True)
class Relevance:
    """Tests by file and line, and how long each takes."""

    lines: Mapping[str, Mapping[int, frozenset[str]]]
    seconds: Mapping[str, float]

    def of(self, file: str, line: int) -> list[str]:
        """The tests that run this line, the quickest first.

        Of a line that runs at import only, those of its file; of a file without any other line, those without servers.
        """
        found = self._of_query(Path(file).stem) if file.endswith(".sql") else self._of_line(file, line)
        return sorted(found, key=lambda test: (self.seconds.get(test, 0.0), test))

    def _of_line(self, file: str, line: int) -> set[str]:
        by_line = self.lines.get(file, {})
        of_file = {test for tests in by_line.values() for test in tests}
        return set(by_line.get(line, ())) or of_file or {test for test in self.seconds if test.startswith(_PURE)}

    def _of_query(self, name: str) -> set[str]:
        return {test for file, line in _asked().get(name, ()) for test in self.lines.get(file, {}).get(line, ())}


@cache
def _asked() -> dict[str, list[tuple[str, int]]]:
    """Where each SQL statement is named."""
    places: dict[str, list[tuple[str, int]]] = {}
    for path in (ROOT / "broker").rglob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for name in _QUERY.findall(line):
                places.setdefault(name, []).append((str(path.relative_to(ROOT)), number))
    return places


def relevance() -> Relevance:
    """From the last record, if nothing has changed since; else made anew, which takes about as long as the tests do."""
    data, durations = FOLDER / f"{_state()}.coverage", FOLDER / f"{_state()}.json"
    if not durations.exists():
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir()
        _record(data, durations)
    return Relevance(_lines(data), msgspec.json.decode(durations.read_bytes(), type=dict[str, float]))


def _state() -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(_sources()):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _sources() -> Iterable[Path]:
    for folder in ("broker", "workers", "schemas", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".sql"} and "mutation" not in path.parts:
                yield path


def _record(data: Path, durations: Path) -> None:
    """Raises: RuntimeError, when a test fails without any change."""
    with tempfile.TemporaryDirectory(prefix="infermq-mutate-") as folder:
        tree = Tree.copy_to(Path(folder))
        sources = [f"--cov={name}" for name in ("broker", "workers", "schemas")]
        measured = ["--cov-context=test", "--cov-report=", "--durations=0", "--durations-min=0", "-vv"]
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:randomly", *sources, *measured, *TESTS],
            cwd=tree.root,
            env={**os.environ, "PYTHONPATH": str(tree.root), "COVERAGE_FILE": str(data)},
            capture_output=True,
            text=True,
            check=False,
        )
    if ran.returncode:
        raise RuntimeError(f"the tests fail as they are:\n{ran.stdout[-4000:]}{ran.stderr[-2000:]}")
    seconds: dict[str, float] = {}
    for took, test in _DURATION.findall(ran.stdout):
        seconds[test] = seconds.get(test, 0.0) + float(took)
    durations.write_bytes(msgspec.json.encode(seconds))


def _lines(data: Path) -> dict[str, dict[int, frozenset[str]]]:
    recorded = CoverageData(str(data))
    recorded.read()
    return {
        file: {
            line: frozenset(context.partition("|")[0] for context in contexts if context)
            for line, contexts in recorded.contexts_by_lineno(file).items()
        }
        for file in recorded.measured_files()
    }

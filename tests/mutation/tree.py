"""A copy of the source tree that may be broken, and the tests run in it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FAILED = 1
"""pytest's exit code when a test failed; everything above it means that the tests could not be run as asked."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run of tests came to."""

    code: int
    """pytest's exit code; -1 when the run took too long and was ended."""
    output: str

    @property
    def is_clean(self) -> bool:
        return self.code == 0

    def failed(self, test: str) -> bool:
        """Whether it failed, in any of its cases or in what is checked after it.

        A run that could not begin, or was ended, fails no test.
        """
        said = (f"FAILED {test}", f"ERROR {test}")
        return self.code == _FAILED and any(line.startswith(said) for line in self.output.splitlines())

    @property
    def timed_out(self) -> bool:
        return self.code < 0

    def outcome(self) -> str:
        """The first test that failed, or how it ended else."""
        for line in self.output.splitlines():
            if line.startswith(("FAILED ", "ERROR ")):
                return line.split(" ", 1)[1].partition(" - ")[0]
        return "took too long" if self.timed_out else f"exit code {self.code}"


@dataclass(frozen=True, slots=True)
class Tree:
    """The copy at `root`."""

    root: Path

    @classmethod
    def copy_to(cls, root: Path) -> "Tree":
        """Everything that git tracks or would, as it is in the working tree."""
        for name in _files():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        return cls(root)

    def write(self, texts: Mapping[str, str]) -> None:
        """Other texts for these files."""
        for name, text in texts.items():
            (self.root / name).write_text(text)

    def restore(self, *names: str) -> None:
        """These files as they are in the real tree."""
        for name in names:
            shutil.copy2(ROOT / name, self.root / name)

    def run(self, tests: Sequence[str], *, within_s: float, until_one_fails: bool) -> Ran:
        """Run these tests, in this order."""
        command = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:randomly", "-p", "no:cacheprovider"]
        command += ["-x"] if until_one_fails else []
        process = subprocess.Popen(
            [*command, *tests],
            cwd=self.root,
            # the copy comes before the installed package, also for the commands that tests start
            env={**os.environ, "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return Ran(-1, output)
        return Ran(process.returncode, output)


def _files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]

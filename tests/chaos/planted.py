"""Plants a bug in a copy of the source, and runs a round there, which must notice it."""

import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from tests.mutation.removals import removals
from tests.mutation.tree import Tree

_TABLE = Path(__file__).with_suffix(".toml")
_ROUND_S = 600.0
_VIOLATION = "  VIOLATION "


class Bug(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    says: str
    removals: tuple[str, ...]
    """Files of tests/mutation/removals that are applied together."""
    round: str
    """The arguments of `python -m tests.chaos run`."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bugs: tuple[Bug, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """What a round in a broken copy came to."""

    violations: Sequence[str]
    output: str

    @property
    def is_noticed(self) -> bool:
        return bool(self.violations)


def bugs() -> tuple[Bug, ...]:
    return msgspec.convert(tomllib.loads(_TABLE.read_text()), _Table).bugs


def texts(bug: Bug, root: Path) -> dict[str, str]:
    """The files of a tree with the bug in them. Raises: ValueError, when a removal does not fit."""
    return {file: text for removal in removals(bug.removals) for file, text in removal.changed(root).items()}


def plant(bug: Bug) -> Tried:
    """Run its round in a copy with the bug."""
    with _copy() as tree:
        tree.write(texts(bug, tree.root))
        env = {
            **os.environ,
            "PYTHONPATH": str(tree.root),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(tree.root.parent),
        }
        command = [sys.executable, "-m", "tests.chaos", "run", *shlex.split(bug.round)]
        ran = subprocess.run(
            command,
            cwd=tree.root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_ROUND_S,
        )
    found = [line.removeprefix(_VIOLATION) for line in ran.stdout.splitlines() if line.startswith(_VIOLATION)]
    return Tried(found, ran.stdout)


@contextmanager
def _copy() -> Iterator[Tree]:
    with TemporaryDirectory(prefix="infermq-planted-") as folder:
        yield Tree.copy_to(Path(folder) / "tree")

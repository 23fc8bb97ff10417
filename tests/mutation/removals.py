"""Directed removals: one promise taken out by each patch file, and the tests that must notice.

A patch file begins with what it breaks, in words, and who notices:

    Promise: a sealed batch stays as it was sealed
    Noticed by: tests/real/test_batches.py::test_sealing_again_changes_nothing

    --- a/broker/ledger/sql/seal_batch.sql
    …
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "removals"


@dataclass(frozen=True, slots=True)
class Removal:
    name: str
    promise: str
    noticed_by: tuple[str, ...]
    """Ids of tests; each of them must fail."""
    files: tuple[str, ...]
    """What the patch changes."""
    patch: Path


def removals(names: Sequence[str] = ()) -> list[Removal]:
    """All of them, or those named. Raises: ValueError, for a name that is none."""
    found = {path.stem: path for path in sorted(FOLDER.glob("*.patch"))}
    if unknown := sorted(set(names) - found.keys()):
        raise ValueError(f"there is no removal {', '.join(unknown)}; see {FOLDER}")
    return [read(path) for name, path in found.items() if not names or name in names]


def read(patch: Path) -> Removal:
    """Raises: ValueError, when its head is not as described above."""
    head, _, diff = patch.read_text().partition("\n--- ")
    promise = _said(head, "Promise: ")
    tests = _said(head, "Noticed by: ")
    if len(promise) != 1 or not tests:
        raise ValueError(f"{patch.name}: needs one line `Promise: …` and lines `Noticed by: …`")
    files = tuple(line.removeprefix("+++ b/") for line in diff.splitlines() if line.startswith("+++ b/"))
    return Removal(patch.stem, promise[0], tuple(tests), files, patch)


def _said(head: str, word: str) -> list[str]:
    return [line.removeprefix(word).strip() for line in head.splitlines() if line.startswith(word)]

"""Directed removals: one promise taken out by each patch file, and the tests that must notice.

A patch file begins with what it breaks, in words, and who notices:

    Promise: a sealed batch stays as it was sealed
    Noticed by: tests/real/test_batches.py::test_sealing_again_changes_nothing

    --- a/broker/ledger/sql/seal_batch.sql
    +++ b/broker/ledger/sql/seal_batch.sql
    …

The lines of a hunk are looked for in the file that it names, and in all others when they are not there: code that moves
to another file takes its removals along.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "removals"
_PACKAGES = ("broker", "workers", "schemas")


@dataclass(frozen=True, slots=True)
class Hunk:
    """A run of lines, and what it becomes."""

    file: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Removal:
    name: str
    promise: str
    noticed_by: tuple[str, ...]
    """Ids of tests; each of them must fail."""
    hunks: tuple[Hunk, ...]

    def changed(self, root: Path) -> Mapping[str, str]:
        """The files of a tree with the promise taken out, by name. Raises: ValueError, when its lines are not there."""
        changed: dict[str, str] = {}
        for hunk in self.hunks:
            file = self._place(hunk, root)
            text = changed.get(file) or (root / file).read_text()
            changed[file] = text.replace(hunk.before, hunk.after, 1)
        return changed

    def _place(self, hunk: Hunk, root: Path) -> str:
        """The named file, else the only other one that has these lines."""
        if (root / hunk.file).is_file() and hunk.before in (root / hunk.file).read_text():
            return hunk.file
        paths = [path for name in _PACKAGES for path in (root / name).rglob(f"*{Path(hunk.file).suffix}")]
        found = [str(path.relative_to(root)) for path in paths if hunk.before in path.read_text()]
        if len(found) != 1:
            where = f"in {len(found)} files" if found else "nowhere"
            raise ValueError(
                f"{self.name}: the lines that it changes in {hunk.file} are {where}: make the patch anew"
            )
        return found[0]


def removals(names: Sequence[str] = ()) -> list[Removal]:
    """All of them, or those named. Raises: ValueError, for a name that is none."""
    found = {path.stem: path for path in sorted(FOLDER.glob("*.patch"))}
    if unknown := sorted(set(names) - found.keys()):
        raise ValueError(f"there is no removal {', '.join(unknown)}; see {FOLDER}")
    return [read(path) for name, path in found.items() if not names or name in names]


def read(patch: Path) -> Removal:
    """Raises: ValueError, when it is not as described above."""
    head, *files = re.split(r"^--- a/.*\n\+\+\+ b/", patch.read_text(), flags=re.MULTILINE)
    promise, tests = _said(head, "Promise: "), _said(head, "Noticed by: ")
    if len(promise) != 1 or not tests or not files:
        raise ValueError(f"{patch.name}: needs one line `Promise: …`, lines `Noticed by: …` and a unified diff")
    hunks = [hunk for part in files for hunk in _hunks(part)]
    return Removal(patch.stem, promise[0], tuple(tests), tuple(hunks))


def _hunks(part: str) -> list[Hunk]:
    """Of one file, whose name comes first."""
    file, _, diff = part.partition("\n")
    return [
        Hunk(file.strip(), _lines(lines, " -"), _lines(lines, " +"))
        for lines in re.split(r"^@@.*\n", diff, flags=re.MULTILINE)[1:]
    ]


def _lines(diff: str, signs: str) -> str:
    """Those with one of the signs; a line without any is an empty one whose space an editor took."""
    kept = [line[1:] for line in diff.splitlines() if (line[:1] or " ") in signs]
    return "".join(f"{line}\n" for line in kept)


def _said(head: str, word: str) -> list[str]:
    return [line.removeprefix(word).strip() for line in head.splitlines() if line.startswith(word)]

"""Directed removals: one promise taken out by each patch file, and the tests that must notice.

A patch file begins with what it breaks, in words, and who notices:

    Promise: a sealed batch stays as it was sealed
    Noticed by: tests/real/test_batches.py::test_sealing_again_changes_nothing

    --- a/broker/ledger/sql/seal_batch.sql
    +++ b/broker/ledger/sql/seal_batch.sql
    …

The lines of a hunk are looked for in the file that it names and then in all others, with less and less of what stands
around them, until they are found in one place: code that moves takes its removals along.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "removals"
_PACKAGES = ("broker", "workers", "schemas")


@dataclass(frozen=True, slots=True)
class Hunk:
    """A run of lines, and what it becomes."""

    file: str
    lines: tuple[str, ...]
    """Each with its sign."""

    def trimmed(self) -> Iterator[tuple[str, str]]:
        """What to look for and what it becomes, with all of the lines around it, then fewer and fewer."""
        changed = [n for n, line in enumerate(self.lines) if line[0] != " "]
        first, last = changed[0], changed[-1]
        for around in range(max(first, len(self.lines) - 1 - last), -1, -1):
            lines = self.lines[max(0, first - around) : last + around + 1]
            yield _text(lines, " -"), _text(lines, " +")


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
            file, before, after = self._place(hunk, root)
            text = changed.get(file) or (root / file).read_text()
            changed[file] = text.replace(before, after, 1)
        return changed

    def _place(self, hunk: Hunk, root: Path) -> tuple[str, str, str]:
        """The file, and what becomes what there."""
        named = root / hunk.file
        found = _found(hunk, root, [named]) if named.is_file() else None
        found = found or _found(hunk, root, _sources(root, named.suffix))
        if found is not None:
            return found
        raise ValueError(f"{self.name}: what it changes in {hunk.file} is nowhere, or not in one place: make it anew")


def _found(hunk: Hunk, root: Path, files: Sequence[Path]) -> tuple[str, str, str] | None:
    """The one place in these files that has its lines, with as many of those around them as it takes."""
    texts = {str(path.relative_to(root)): path.read_text() for path in files}
    for before, after in hunk.trimmed():
        places = [name for name, text in texts.items() for _ in range(text.count(before)) if before]
        if len(places) == 1:
            return places[0], before, after
    return None


def _sources(root: Path, suffix: str) -> list[Path]:
    return [path for name in _PACKAGES for path in sorted((root / name).rglob(f"*{suffix}"))]


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
    runs = re.split(r"^@@.*\n", diff, flags=re.MULTILINE)[1:]
    return [Hunk(file.strip(), _signed(run)) for run in runs]


def _signed(run: str) -> tuple[str, ...]:
    """A line without a sign is an empty one whose space an editor took."""
    lines = [line or " " for line in run.rstrip("\n").split("\n")]
    return tuple(line for line in lines if line[0] in " +-")


def _text(lines: Sequence[str], signs: str) -> str:
    return "".join(f"{line[1:]}\n" for line in lines if line[0] in signs)


def _said(head: str, word: str) -> list[str]:
    return [line.removeprefix(word).strip() for line in head.splitlines() if line.startswith(word)]

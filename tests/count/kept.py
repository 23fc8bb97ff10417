"""The figures that are kept, and what has changed since."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import asdict

FILE = Path(__file__).with_name("kept.toml")
MOST = 0.02
"""By so much may a figure be above the kept one."""
SHOWN = 40
"""Functions."""
_HEAD = """\
# What a job of the bulk path and an interactive request cost; see tests/count. `make count` fails where one is more than
# 2 % higher. Renew it with `python -m tests.count --keep` when the cost has fallen, or has risen for a reason, which the
# commit then states.
"""


class Figures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one job, or of one request."""

    statements: float
    messages: float
    """Between NATS and all its clients, in both directions."""
    bytes: float
    """Of these messages, headers included."""
    broker_calls: float
    worker_calls: float


class Change(msgspec.Struct, frozen=True):
    path: str
    name: str
    kept: float
    now: float

    @property
    def share(self) -> float:
        return self.now / self.kept - 1

    @property
    def is_risen(self) -> bool:
        return self.now > self.kept * (1 + MOST)


def read(file: Path = FILE) -> dict[str, Figures]:
    return msgspec.toml.decode(file.read_bytes(), type=dict[str, Figures])


def write(figures: Mapping[str, Figures], file: Path = FILE) -> None:
    sections = [
        f"\n[{path}]\n" + "".join(f"{name} = {value:.4f}\n" for name, value in asdict(one).items())
        for path, one in figures.items()
    ]
    file.write_text(_HEAD + "".join(sections))


def changes(kept: Mapping[str, Figures], now: Mapping[str, Figures]) -> list[Change]:
    return [
        Change(path, name, value, getattr(now[path], name))
        for path, figures in kept.items()
        for name, value in asdict(figures).items()
    ]


def least(counts: Sequence[Mapping[str, Figures]]) -> dict[str, Figures]:
    """What disturbs a count adds to it, so the least of several is the nearest."""
    return {
        path: Figures(*(min(values) for values in zip(*(asdict(one[path]).values() for one in counts), strict=True)))
        for path in counts[0]
    }


def table(found: Sequence[Change]) -> str:
    lines = [f"{'':<28}{'kept':>12}{'now':>12}{'change':>10}"]
    for one in found:
        mark = "  too much" if one.is_risen else ""
        name = f"{one.path}: {one.name.replace('_', ' ')}"
        lines.append(f"{name:<28}{one.kept:>12,.2f}{one.now:>12,.2f}{one.share:>+10.1%}{mark}")
    return "\n".join(lines)


def by_function(old: Mapping[str, float], new: Mapping[str, float]) -> str:
    """The functions that are called more or less often than before, the greatest change first."""
    changed = {name: new.get(name, 0) - old.get(name, 0) for name in {*old, *new}}
    greatest = sorted(changed.items(), key=lambda one: (-abs(one[1]), one[0]))
    return "\n".join(f"{by:>+10.2f}  {name}" for name, by in greatest[:SHOWN] if by)

"""Defines what every process shows of itself: /livez for whoever restarts it, /readyz for whoever sends it work."""

from collections.abc import Mapping
from typing import Self

import msgspec

TIME_BUCKETS_S = (
    *(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
    *(3600.0, 14_400.0, 86_400.0),
)
"""The buckets of every metric that is a time, up to a day: a bulk job may wait so long."""
RUNS = "runs"
ENDED = "ended"


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that works, or does not."""

    ok: bool
    why: str | None = None
    """What is wrong, and what to do about it. None: nothing is."""


class Liveness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a process works. Whatever is away is waited for, and no reason to end it."""

    name: str
    live: bool
    """No role has ended."""
    roles: Mapping[str, str]
    """What each does: it runs, has ended, or waits for something."""

    @classmethod
    def of(cls, name: str, roles: Mapping[str, str]) -> Self:
        return cls(name=name, live=ENDED not in roles.values(), roles=roles)


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """What a process can serve."""

    name: str
    ready: bool
    """At least one door can serve."""
    doors: Mapping[str, Part]
    """The kinds of work that it takes."""
    parts: Mapping[str, Part]
    """What it needs for that."""
    revision: int
    """The revision of the catalog that is in force here; 0 before there is one."""

    @classmethod
    def of(cls, name: str, *, doors: Mapping[str, Part], parts: Mapping[str, Part], revision: int) -> Self:
        ready = any(door.ok for door in doors.values())
        return cls(name=name, ready=ready, doors=doors, parts=parts, revision=revision)

"""Says whether a broker process works, out of what its roles do; and which doors can serve, out of how their parts are."""

from collections.abc import Mapping

import msgspec

RUNS = "runs"
ENDED = "ended"


class Liveness(msgspec.Struct, frozen=True, kw_only=True):
    """What /livez shows."""

    name: str
    """The broker that answers."""
    live: bool
    """No role has ended. One whose server is away starts again and again, which is no reason to end the process."""
    roles: Mapping[str, str]


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that works, or does not."""

    ok: bool
    why: str | None = None
    """What is wrong, and what to do about it. None: nothing is."""


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """What /readyz shows."""

    name: str
    """The broker that answers."""
    ready: bool
    """At least one door can serve."""
    doors: Mapping[str, Part]
    parts: Mapping[str, Part]
    revision: int
    """The revision of the catalog that is in force here; 0 before there is one."""


NEEDS: Mapping[str, tuple[str, ...]] = {
    "submit": ("nats", "streams"),
    "infer": ("nats", "streams", "catalog"),
    "api": ("nats", "postgres"),
}
"""The parts without which a door cannot serve. A part that is not known of is not asked for."""


def liveness(name: str, roles: Mapping[str, str]) -> Liveness:
    return Liveness(name=name, live=ENDED not in roles.values(), roles=roles)


def readiness(name: str, parts: Mapping[str, Part], *, revision: int) -> Readiness:
    """Conclude from the parts which doors can serve."""
    doors = {door: _door([(need, parts[need]) for need in needs if need in parts]) for door, needs in NEEDS.items()}
    ready = any(door.ok for door in doors.values())
    return Readiness(name=name, ready=ready, doors=doors, parts=parts, revision=revision)


def _door(needs: list[tuple[str, Part]]) -> Part:
    missing = [f"{name}: {part.why or 'it does not work'}" for name, part in needs if not part.ok]
    return Part(ok=not missing, why="; ".join(missing) or None)

"""Says which doors of a broker can serve, out of how the parts are that each of them needs."""

from collections.abc import Collection, Mapping

from broker.core.records import Kept
from schemas.health import Part, Readiness

NEEDS: Mapping[str, tuple[str, ...]] = {
    "submit": ("nats", "streams"),
    "infer": ("nats", "streams", "catalog", "seal key"),
    "http": ("nats", "streams", "catalog", "seal key"),
    "api": ("nats", "postgres"),
}
"""The parts without which a door cannot serve. A part that is not known of is not asked for."""


def readiness(
    name: str, parts: Mapping[str, Part], *, revision: int, doors: Collection[str] = tuple(NEEDS)
) -> Readiness:
    """Conclude from the parts which of a broker's doors can serve."""
    found = {
        door: _door([(need, parts[need]) for need in needs if need in parts])
        for door, needs in NEEDS.items()
        if door in doors
    }
    return Readiness.of(name, doors=found, parts=parts, revision=revision)


def streams_part(kept: Kept) -> Part:
    """Conclude from the last look at the streams whether they can be used."""
    if kept.wrong is None:
        return Part(ok=False, why="they were not looked at yet")
    said = "; ".join(f"{what}: {why}" for what, why in {**kept.wrong, **kept.short}.items())
    return Part(ok=not kept.wrong, why=said or None)


def _door(needs: list[tuple[str, Part]]) -> Part:
    missing = [f"{name}: {part.why or 'it does not work'}" for name, part in needs if not part.ok]
    return Part(ok=not missing, why="; ".join(missing) or None)

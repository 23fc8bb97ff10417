"""Says what a worker takes now, and why it does not take the rest."""

from schemas.health import Part, Readiness
from schemas.worker import WorkerBeat


def readiness(beat: WorkerBeat, *, is_connected: bool, has_died: bool, revision: int) -> Readiness:
    """Conclude which kinds of attempts a worker that has started can take: dispatched (`run`) or interactive (`now`)."""
    parts = {"nats": _nats(is_connected), "engine": Part(ok=False, why="it is gone") if has_died else Part(ok=True)}
    missing = [f"{part}: {state.why}" for part, state in parts.items() if not state.ok]
    if beat.draining:
        missing.append("the worker drains")
    doors = {"run": _door(missing, beat, beat.slots), "now": _door(missing, beat, beat.slots + beat.reserve)}
    return Readiness.of(beat.worker, doors=doors, parts=parts, revision=revision)


def starting(name: str, stage: str, *, is_connected: bool) -> Readiness:
    """Say that a worker takes nothing yet, since it is still at this stage of its start."""
    doors = {door: Part(ok=False, why=f"the worker {stage}") for door in ("run", "now")}
    return Readiness.of(name, doors=doors, parts={"nats": _nats(is_connected)}, revision=0)


def _nats(is_connected: bool) -> Part:  # noqa: FBT001 - the only argument
    return Part(ok=True) if is_connected else Part(ok=False, why="away")


def _door(missing: list[str], beat: WorkerBeat, slots: int) -> Part:
    """Slots that are all taken are no reason: what a worker may hold is not what it can start now."""
    if slots == 0:
        paused = f": {beat.paused.cause} {beat.paused.detail}" if beat.paused is not None else ""
        missing = [*missing, f"the engine has no slots for it{paused}"]
    return Part(ok=not missing, why="; ".join(missing) or None)

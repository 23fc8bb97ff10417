"""Defines the beat, which each worker publishes once a second in the WORKERS bucket."""

import msgspec

from schemas.units import Ms

BEAT_EVERY_MS = Ms(1000)
BEAT_LIFETIME_MS = Ms(4000)
"""The time to live of a beat: a worker counts as gone once three beats in a row are missing."""


class Paused(msgspec.Struct, frozen=True):
    """Why a worker sends nothing to its provider, or only a single attempt to try it again."""

    cause: str
    """`denied`, `throttled` or `upstream_down`. Brokers must accept other words too."""
    detail: str
    """The HTTP status that the provider answered, or a few words if it did not answer."""
    until_ms: Ms
    """When a single attempt will try the provider again, by the worker's clock. In the past: it is being tried."""


DENIED = "denied"
"""The provider refuses the deployment's key or account."""
THROTTLED = "throttled"
"""The provider asks for fewer requests."""
UPSTREAM_DOWN = "upstream_down"
"""The provider cannot be reached, or is down behind its gateway."""


class WorkerBeat(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one worker process."""

    worker: str
    """A name unique to the process; also the key in the bucket."""
    deployment: str
    engine: str
    slots: int
    """How many dispatched attempts the engine takes at once."""
    reserve: int
    """How many interactive attempts it takes beside those."""
    running: int
    """How many attempts of both kinds the engine runs now."""
    interactive: int
    """How many of them are interactive."""
    draining: bool
    started_ms: Ms
    at_ms: Ms
    """When the beat was published, by the worker's clock."""
    version: str
    paused: Paused | None = None

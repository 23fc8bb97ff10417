"""What a worker says of itself, once a second, in the WORKERS bucket."""

import msgspec

from schemas.units import Ms

BEAT_EVERY_MS = Ms(1000)
BEAT_LIFETIME_MS = Ms(4000)
"""Time to live of a beat: three may be late before a worker counts as gone."""


class Paused(msgspec.Struct, frozen=True):
    """Why a worker leaves its provider alone, or lets a single attempt try it again."""

    cause: str
    """`denied`, `throttled` or `upstream_down`; brokers must expect more."""
    detail: str
    """The HTTP status that the provider answered, or in a few words that it did not."""
    until_ms: Ms
    """When one attempt tries again, by the worker's clock. Once that has passed, it is being tried."""


DENIED = "denied"
"""The provider refuses the deployment's key or account."""
THROTTLED = "throttled"
"""The provider asks to be asked less."""
UPSTREAM_DOWN = "upstream_down"
"""The provider cannot be reached, or is away behind its gateway."""


class WorkerBeat(msgspec.Struct, frozen=True, kw_only=True):
    worker: str
    """Unique to the process; also the key in the bucket."""
    deployment: str
    engine: str
    slots: int
    """Concurrent generations the engine takes for dispatched work."""
    reserve: int
    """Slots beyond those, kept for interactive requests."""
    running: int
    """Attempts in the engine now, of both kinds."""
    interactive: int
    """The interactive ones among them."""
    draining: bool
    started_ms: Ms
    at_ms: Ms
    """When this was said, by the worker's clock."""
    version: str
    paused: Paused | None = None

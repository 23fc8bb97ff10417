"""What a worker says of itself, once a second, in the WORKERS bucket."""

import msgspec

from schemas.units import Ms

BEAT_EVERY_MS = Ms(1000)
BEAT_LIFETIME_MS = Ms(4000)
"""Time to live of a beat: three may be late before a worker counts as gone."""


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
    live: int
    """The interactive ones among them."""
    draining: bool
    started_ms: Ms
    at_ms: Ms
    """When this was said, by the worker's clock."""
    version: str

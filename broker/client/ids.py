"""Makes ids for batches and jobs."""

import secrets
from uuid import UUID

from schemas.clock import wall_clock
from schemas.ids import uuid7


def new_id() -> UUID:
    """Make an id for a batch or a job. Ids sort by the time at which they were made."""
    return uuid7(wall_clock(), secrets.randbits(80))

"""Ids for batches and jobs."""

import secrets
from uuid import UUID

from schemas.clock import wall_clock
from schemas.ids import uuid7


def new_id() -> UUID:
    """For a batch or a job."""
    return uuid7(wall_clock(), secrets.randbits(80))

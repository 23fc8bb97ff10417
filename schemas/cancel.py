"""Defines what is asked of a cancel of many jobs, and its answers."""

from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from schemas.api import State
from schemas.job import Lane
from schemas.units import Instant, Name


class CancelChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which jobs to cancel: those of one tenant that wait or run, and match all that is given."""

    tenant: Name | None = None
    """None: the caller's own. Only operators may name another."""
    states: Annotated[tuple[State, ...], Meta(max_length=2)] = ()
    """`queued`, `running`, or both, which is the default."""
    model: Name | None = None
    lane: Lane | None = None
    batch: UUID | None = None
    since_ms: Instant | None = None
    """Jobs whose id was made at this instant or later. An id is made when its job is submitted."""
    until_ms: Instant | None = None
    """Jobs whose id was made before this instant. None: before the order was given."""

    def takes(self, state: State) -> bool:
        """Say whether jobs in this state are meant."""
        return not self.states or state in self.states


class CancelMany(CancelChoice, frozen=True, kw_only=True, omit_defaults=True):
    """Cancel many jobs. The answer is an Instruction: it goes on by itself, and nothing that it names starts any more."""

    id: UUID
    """Of the instruction: a UUIDv7. A second request with it changes nothing."""


class CancelCount(msgspec.Struct, frozen=True):
    """How many jobs a cancel would take now."""

    queued: int
    running: int
    more: bool
    """Whether there may be more: one call looks at a bounded number of jobs."""

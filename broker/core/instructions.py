"""Describes the work on an instruction: what a page of it starts from, and what it comes to."""

from collections.abc import Mapping
from uuid import UUID

import msgspec

from broker.core.records import EndedAttempt, Flow, Place, Recorded
from schemas.instructions import InstructionKind
from schemas.units import Ms


class OpenInstruction(msgspec.Struct, frozen=True, kw_only=True):
    """An instruction that is not carried out yet, as its next page finds it."""

    id: UUID
    kind: InstructionKind
    tenant: str
    key: str
    made_ms: Ms
    what: bytes
    """What was asked: JSON, as its kind writes it."""
    cursor: str | None
    """Where the page begins, as the page before it said. None: it is the first."""
    counts: Mapping[str, int]
    """What its pages have added up to so far."""


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """What one page came to."""

    cursor: str | None = None
    """Where the next page begins."""
    is_last: bool = False
    failure: str | None = None
    """Why the instruction ends early, if it does."""
    counts: Mapping[str, int] = {}
    """What to add to the instruction's counts."""
    not_before_ms: Ms = Ms(0)
    """When the next page may run. 0: at once."""
    waiting: tuple[tuple[Flow, Place], ...] = ()
    """The jobs that wait since then, to be announced to the dispatch leader."""
    ended: tuple[Recorded, ...] = ()
    """The jobs that have ended, to be announced to whoever waits for results."""
    ended_attempts: tuple[EndedAttempt, ...] = ()


def added(counts: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Add up counts by their names."""
    return {name: counts.get(name, 0) + more.get(name, 0) for name in {**counts, **more}}

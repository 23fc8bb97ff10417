"""Defines rulings: what a broker decides on a job when no worker's report will.

A report says how an execution ended: it has a deployment, timings and a cost. A ruling has none of these, since nothing
ran, but for Lost: it stands for the report of a worker that died. Both reach settle through OUTCOME, on different subjects,
because only a broker may rule.
"""

from typing import ClassVar
from uuid import UUID

import msgspec

from schemas.job import Attempt
from schemas.outcome import Cancelled, Expired, Failed
from schemas.units import AttemptNumber, DeathCount, DurationMs, Instant, Ms, Name


class Suspicion(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a job runs apart: its worker died while it ran. Suspects share an engine with their group only."""

    group: UUID
    deaths_alone: DeathCount = 0
    """How often its worker died while it ran alone."""
    ran_ms: DurationMs = Ms(0)
    """How long it had run when its worker died the last of these times."""


class Expire(msgspec.Struct, frozen=True, tag="expire"):
    """End a job whose deadline has passed, whether it waits or runs, whatever its attempt."""

    job: UUID
    attempt: ClassVar[None] = None
    """None: the ruling ends the job, whatever its attempt."""
    interactive: ClassVar[None] = None
    """None, as in a report: the job is not an interactive request."""


class PutBack(msgspec.Struct, frozen=True, tag="put_back"):
    """Let the job wait again: no worker is left to run this attempt, which does not count."""

    job: UUID
    attempt: AttemptNumber
    interactive: ClassVar[None] = None


class Suspect(msgspec.Struct, frozen=True, tag="suspect"):
    """Let the job wait for a run apart: its worker died while this attempt ran, which does not count."""

    job: UUID
    attempt: AttemptNumber
    suspicion: Suspicion
    interactive: ClassVar[None] = None


class Convict(msgspec.Struct, frozen=True, tag="convict"):
    """End a job as dead: its worker died each of these times that it ran alone."""

    job: UUID
    attempt: AttemptNumber
    deaths: DeathCount
    interactive: ClassVar[None] = None


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """End a job as cancelled that was to be cancelled while this attempt ran: its worker has not reported since."""

    job: UUID
    attempt: AttemptNumber
    interactive: ClassVar[None] = None


class EndRequest(msgspec.Struct, frozen=True, tag="end_request"):
    """End an interactive request as its relay decided, in case no report of an attempt ends it."""

    interactive: Attempt
    """The complete last attempt, since the ledger may not have the job yet."""
    outcome: Failed | Expired | Cancelled

    @property
    def job(self) -> UUID:
        return self.interactive.job

    @property
    def attempt(self) -> int:
        return self.interactive.number


class Lost(msgspec.Struct, frozen=True, kw_only=True, tag="lost"):
    """Record an execution whose worker died: it can report no more. Its job goes on, by another execution."""

    job: UUID
    attempt: AttemptNumber
    deployment: Name
    execution: UUID
    worker: Name
    started_ms: Instant
    """When the execution started, by a broker's clock."""
    interactive: ClassVar[None] = None


Ruling = Expire | PutBack | Suspect | Convict | Cancel | EndRequest | Lost

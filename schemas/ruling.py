"""What a broker decides on a job by itself, where no worker's report will.

A worker reports what an execution came to: it has a deployment, a delivery, timings and a cost. A ruling has none of
these, since nothing ran. Both reach settle through OUTCOME, on subjects of their own: only a broker may rule.
"""

from typing import ClassVar
from uuid import UUID

import msgspec

from schemas.job import Attempt
from schemas.outcome import Cancelled, Expired, Failed


class Expire(msgspec.Struct, frozen=True, tag="expire"):
    """The deadline has passed: end the job, whether it waits or runs, and whatever attempt it is at."""

    job: UUID
    attempt: ClassVar[None] = None
    """It is on no attempt, but on the job."""
    interactive: ClassVar[None] = None
    """As in a report: it is on no interactive request."""


class PutBack(msgspec.Struct, frozen=True, tag="put_back"):
    """No worker is left to run this attempt: let the job wait again. The attempt does not count."""

    job: UUID
    attempt: int
    interactive: ClassVar[None] = None


class EndRequest(msgspec.Struct, frozen=True, tag="end_request"):
    """End an interactive request as its relay decided, in case no report of an attempt ends it."""

    interactive: Attempt
    """The whole of its last attempt, since the ledger may never have heard of the job."""
    outcome: Failed | Expired | Cancelled

    @property
    def job(self) -> UUID:
        return self.interactive.job

    @property
    def attempt(self) -> int:
        return self.interactive.number


Ruling = Expire | PutBack | EndRequest

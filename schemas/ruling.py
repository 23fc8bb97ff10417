"""What a broker decides on a job by itself, where no worker's report will.

A worker reports what an execution came to: it has a deployment, a delivery, timings and a cost. A ruling has none of
these, since nothing ran. Both reach settle through OUTCOME, on subjects of their own: only a broker may rule.
"""

from uuid import UUID

import msgspec

from schemas.job import Attempt
from schemas.outcome import Failure


class Expire(msgspec.Struct, frozen=True, tag="expire"):
    """The deadline has passed: end the job, whether it waits or runs, and in whatever attempt."""

    job: UUID


class PutBack(msgspec.Struct, frozen=True, tag="put_back"):
    """No worker is left to run this attempt: let the job wait again. The attempt does not count."""

    job: UUID
    attempt: int


class Fail(msgspec.Struct, frozen=True, tag="fail"):
    """End an interactive request: no other deployment takes it, and no report of its attempts ends it."""

    request: Attempt
    """The whole of its last attempt, since the ledger may never have heard of the job."""
    failure: Failure

    @property
    def job(self) -> UUID:
        return self.request.job


Ruling = Expire | PutBack | Fail

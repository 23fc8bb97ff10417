"""What must hold of results that were read while batches ran."""

from collections.abc import Iterator

from broker.simulate.cast.told import Read
from broker.simulate.system import System
from schemas.api import State


def broken_reads(system: System) -> Iterator[str]:
    for read in system.told.read:
        yield from _results(system, read)
        if system.tables.batches[read.batch].cancel_ms is not None:
            continue  # what comes to it after its end is recorded all the same
        count = len(system.tables.results_by_batch.keys(read.batch))
        if read.is_complete and len(read.results) != count:
            yield f"of batch {read.batch} {len(read.results)} results were read, and {count} are recorded"


def _results(system: System, read: Read) -> Iterator[str]:
    """A result that was read is the one that is recorded, and is of the batch."""
    for job, result in read.results.items():
        row, kept = system.tables.jobs.get(job), system.tables.results.get(job)
        if row is None or kept is None or row.batch != read.batch:
            yield f"the result of job {job} was read in batch {read.batch}, and is not recorded there"
        elif row.state != str(result.state):
            yield f"job {job} was read as {result.state}, and is {row.state}"
        elif result.state is State.SUCCEEDED and bytes(result.body) != kept.body:
            yield f"the result of job {job} was read as something else than it is"

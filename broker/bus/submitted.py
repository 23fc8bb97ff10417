"""Finds jobs that were accepted and are not in the ledger yet: intake has still to take them from SUBMIT."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from broker.bus.stored import page_of
from broker.core.explain import accepted
from broker.errors import Unavailable
from schemas import subjects
from schemas.api import JobShow
from schemas.catalog import Catalog
from schemas.codec import Undecodable, decode_jobs
from schemas.jetstream import Message, NatsConnection, NatsError, header_number
from schemas.job import Job


@dataclass(frozen=True, slots=True)
class Looked:
    jobs: Mapping[UUID, JobShow]
    """Those of the jobs that were found."""
    unread: int
    """How many messages of the tenant were not looked into. 0 if all were found."""


class SubmittedJobs:
    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc

    async def find(self, jobs: Collection[UUID], tenant: str, *, catalog: Catalog) -> Looked:
        """Look for jobs in the oldest messages of their tenant: one page, whatever waits. Raises: Unavailable."""
        try:
            page = await page_of(self._nc, subjects.SUBMIT, 1, subjects.submit_tenant(tenant))
        except (NatsError, TimeoutError) as error:
            why = f"{subjects.SUBMIT} could not be read: {str(error) or type(error).__name__}"
            raise Unavailable("NATS", why) from error
        found: dict[UUID, JobShow] = {}
        for message in page:
            known = _jobs(message)
            for job in known.keys() & jobs:
                source = subjects.parse_submit((message.headers or {})["Nats-Subject"])
                found.setdefault(job, accepted(job, source, known[job], catalog=catalog))
            if len(found) == len(jobs):
                return Looked(found, 0)
        unread = header_number(page[-1].headers or {}, "Nats-Num-Pending") if page else None
        return Looked(found, 0 if unread is None else unread)


def _jobs(message: Message) -> Mapping[UUID, Job]:
    """Decode the jobs of a message, by the ids that their producer gave them."""
    try:
        jobs, _ = decode_jobs(message.data, message.headers)
    except Undecodable:
        return {}
    return {job.id: job for job in jobs.values() if job.id is not None}

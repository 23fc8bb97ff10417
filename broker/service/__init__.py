"""The use-cases: what callers can ask of the broker, whichever door they come in by.

batches    create, seal, show, list, results
files      store, show, list, read, delete
file_batches  batches whose jobs are the lines of a file
jobs       show
instructions  show, list
cancels    of jobs and batches
changes    of lane, deadline and priority while jobs wait
repeats    retry what failed in a batch, replay settled jobs, compare
catalogs   apply, show
controls   pause, resume, what is paused, who changed what
status     what this broker sees right now
dead_letters  groups by cause, single ones, requeue, drop
submissions  store messages of jobs
single_jobs  submit one job, and wait for its end
tenants    create, list, show, disable, enable
keys       create, list, show, revoke, rotate
webhooks   create, list, show, change, rotate, delete, test; what was sent, and again
health     whether this broker works, which anybody may ask
refusal    the one error by which a use-case says no, and what every error is to a caller

A use-case takes a Principal first, asks `broker.core.authorise` whether it may, and raises Refusal when the answer is
no. Nothing here knows a transport: doors decode, call and encode. Doors and roles may import it.
"""

from dataclasses import dataclass

from broker.service.batches import BatchService
from broker.service.cancels import CancelService
from broker.service.catalogs import CatalogService
from broker.service.changes import ChangeService
from broker.service.controls import ControlService
from broker.service.dead_letters import DeadLetterService
from broker.service.file_batches import FileBatchService
from broker.service.files import FileService
from broker.service.health import HealthService
from broker.service.instructions import InstructionService
from broker.service.jobs import JobService
from broker.service.keys import KeyService
from broker.service.repeats import RepeatService
from broker.service.single_jobs import SingleJobService
from broker.service.status import StatusService
from broker.service.submissions import SubmissionService
from broker.service.tenants import TenantService
from broker.service.webhooks import WebhookService

__all__ = [
    "BatchService",
    "CancelService",
    "CatalogService",
    "ChangeService",
    "ControlService",
    "DeadLetterService",
    "FileBatchService",
    "FileService",
    "HealthService",
    "InstructionService",
    "JobService",
    "KeyService",
    "RepeatService",
    "Services",
    "SingleJobService",
    "StatusService",
    "SubmissionService",
    "TenantService",
    "WebhookService",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The use-cases of principals, as a door takes them."""

    batches: BatchService
    files: FileService
    file_batches: FileBatchService
    jobs: JobService
    instructions: InstructionService
    repeats: RepeatService
    cancels: CancelService
    changes: ChangeService
    catalogs: CatalogService
    controls: ControlService
    dead_letters: DeadLetterService
    status: StatusService
    tenants: TenantService
    keys: KeyService
    webhooks: WebhookService
    submissions: SubmissionService
    single_jobs: SingleJobService

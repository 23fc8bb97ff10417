"""The use-case of those who submit jobs: what SUBMIT has stored is accepted, and ends."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from broker.core.authorise import Action
from broker.core.principal import Principal
from broker.errors import NoRoom
from broker.service.refusal import Refusal, authorise
from schemas import subjects
from schemas.api import Problem, Submitted
from schemas.codec import Undecodable, decode_jobs
from schemas.jetstream import Outgoing
from schemas.job import Lane
from schemas.subjects import Source
from schemas.units import LONGEST_NAME, LONGEST_SUBJECT

_LONGEST_KEY = 200
_FULL_MS = 2000
"""When to submit again if there is no room: a guess, by how fast a broker takes jobs in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionService:
    """Each method raises Refusal or Unavailable."""

    store: Callable[[Outgoing, str], Awaitable[None]]
    """Stores a message by a name. Raises: NoRoom, Unavailable."""

    async def bundle(
        self,
        principal: Principal,
        lane: Lane,
        model: str,
        message: bytes,
        *,
        headers: Mapping[str, str],
        name: str,
    ) -> Submitted:
        """Store a message of jobs for a model as it came: one job, or an array of up to 1000.

        Sent again under the same name it is stored once. If a job of it cannot be read, none is stored.
        """
        authorise(principal, Action.SUBMIT, lane=lane, model=model)
        subject = _subject(Source(lane, model, principal.tenant, principal.key))
        if not 1 <= len(name) <= _LONGEST_KEY:
            what = f"it has {len(name)} characters: a name of this message has 1 to {_LONGEST_KEY}"
            raise Refusal(Problem("bad_request", what, "idempotency-key", _LONGEST_KEY))
        jobs = _jobs(message, headers)
        try:
            await self.store(Outgoing(subject, message, headers), f"{principal.tenant}/{principal.key}/{name}")
        except NoRoom as error:
            what = f"{error}: wait until waiting jobs are taken in, and send again; or raise the limit"
            raise Refusal(Problem("backlog_full", what, retry_after_ms=_FULL_MS)) from error
        return Submitted(jobs)


def _subject(source: Source) -> str:
    """Raises: Refusal, if no message can be for this model."""
    if 1 <= len(source.model) <= LONGEST_NAME:
        subject = subjects.submit(source)
        if len(subject) <= LONGEST_SUBJECT:
            return subject
    what = f"{source.model[:20]!r} has {len(source.model)} characters: a name has 1 to {LONGEST_NAME}"
    raise Refusal(Problem("unknown_model", what, "model", LONGEST_NAME))


def _jobs(message: bytes, headers: Mapping[str, str]) -> int:
    """Count the jobs of a message. Raises: Refusal, if one of them cannot be read."""
    try:
        jobs, why = decode_jobs(message, headers)
    except Undecodable as error:
        raise Refusal(Problem("bad_job", str(error))) from error
    if why is not None:
        raise Refusal(Problem("bad_job", why))
    return len(jobs)

"""Decides what is said of dead letters, and what is sent when one is requeued."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
from msgspec.structs import replace

from broker.core.records import DeadLetter
from broker.core.repeat import NO_EDIT, Edit, edited
from schemas import subjects
from schemas.codec import CONTENT_TYPE, JSON, UNREADABLE, unreadable_jobs
from schemas.dead import DeadCause, DeadGroup, DeadWhat
from schemas.units import Ms

_MODELS_SHOWN = 5
_ADVICE: Mapping[str, str] = {
    DeadCause.NOT_A_JOB: "look at one, and mend its producer; then drop these, or requeue with --patch or --payload",
    DeadCause.UNSTORABLE: "mend the producer, which sends text that cannot be stored, such as a NUL; then drop these",
    DeadCause.NOT_AN_OUTCOME: "are workers newer than the brokers? Update the brokers and requeue; else look at the workers",
    DeadCause.FALSE_SEAL: "somebody publishes reports that no broker asked for, or the seals' key is another: drop these",
    DeadCause.UNRECORDABLE: "its job has failed, and the reason says what Postgres refuses; requeue once that is mended",
    DeadCause.MAX_DELIVERIES: "somebody changed its consumer, see `infermq doctor`; the ledger brings attempts back itself",
    DeadCause.TERMINATED: "are brokers newer than the workers? Update them; the ledger brings the attempt back itself",
    "engine_fault": "look at the workers' logs; requeue once the engine is mended, or with --model OTHER",
    "engine_lost": "is the engine or its API up (`infermq status`)? Requeue once it is, or with --model OTHER",
    "throttled": "give the deployment fewer slots, as its provider asks; then requeue in pieces (--limit)",
    "denied": "mend the provider's key or account, then requeue",
    "timed_out": "requeue with --max-tokens LESS or --model OTHER, or raise attempt_timeout_s in the catalog first",
    "cut_while_reasoning": "its limit was used up by reasoning: requeue with --max-tokens MORE",
    "unanswered": "it may have run, and been billed: look at the provider, then requeue",
    "constraint_violated": "the model does not answer as demanded: requeue with --model OTHER, or mend the schema",
    "worker_lost": "it ends its workers: look at its prompt and at their memory, and do not requeue it as it is",
}
_OTHER = "`infermq dead show ID` says more; requeue once its cause is mended"


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters of one cause and one model, as the ledger counts them."""

    what: DeadWhat
    cause: str
    model: str | None
    count: int
    first_ms: Ms
    last_ms: Ms
    newest: UUID


class CannotRequeue(Exception):
    """A dead letter cannot be sent again so; the message says why."""


def advice(cause: str) -> str:
    """Say what to do about dead letters of a cause."""
    return _ADVICE.get(cause, _OTHER)


def grouped(counted: Iterable[Counted], reasons: Mapping[UUID, str]) -> tuple[DeadGroup, ...]:
    """Add up by cause, the most frequent first."""
    by_cause: dict[tuple[DeadWhat, str], list[Counted]] = defaultdict(list)
    for one in counted:
        by_cause[one.what, one.cause].append(one)
    groups = [_group(what, cause, theirs, reasons) for (what, cause), theirs in by_cause.items()]
    return tuple(sorted(groups, key=lambda group: (-group.count, group.what, group.cause)))


def newest(counted: Iterable[Counted]) -> dict[tuple[DeadWhat, str], UUID]:
    """Return the newest dead letter of each cause."""
    found: dict[tuple[DeadWhat, str], UUID] = {}
    for one in counted:
        key = one.what, one.cause
        found[key] = max(one.newest, found.get(key, one.newest))
    return found


def _group(what: DeadWhat, cause: str, theirs: Sequence[Counted], reasons: Mapping[UUID, str]) -> DeadGroup:
    example = max(one.newest for one in theirs)
    frequent = sorted(theirs, key=lambda one: (-one.count, one.model or ""))
    return DeadGroup(
        what=what,
        cause=cause,
        count=sum(one.count for one in theirs),
        first_ms=min(one.first_ms for one in theirs),
        last_ms=max(one.last_ms for one in theirs),
        models={one.model: one.count for one in frequent[:_MODELS_SHOWN] if one.model is not None},
        example=example,
        reason=reasons.get(example, ""),
        advice=advice(cause),
    )


def again(
    letter: DeadLetter,
    *,
    model: str | None = None,
    edit: Edit = NO_EDIT,
    payload: bytes | None = None,
    by: tuple[str, str] | None = None,
) -> DeadLetter:
    """Return a message as it is to be sent again, to its own stream. Raises: CannotRequeue.

    `by` is the tenant and the key of who sends it. If the message is of that tenant, that key submits it, with its rights.
    """
    headers = {name: value for name, value in letter.headers.items() if not name.startswith("Nats-")}
    letter = replace(letter, headers=headers)
    is_edited = model is not None or edit != NO_EDIT or payload is not None
    if letter.cause in (DeadCause.MAX_DELIVERIES, DeadCause.TERMINATED):
        raise CannotRequeue("JetStream gave up on it: what it was of comes back from the ledger by itself")
    if letter.stream == subjects.OUTCOME:
        if is_edited:
            raise CannotRequeue("an outcome is requeued as it is: its seal holds for that only")
        return letter
    if letter.stream != subjects.SUBMIT:
        raise CannotRequeue(f"nothing is requeued to {letter.stream}")
    subject = letter.subject if model is None else _with_model(letter.subject, model)
    subject = subject if by is None else _with_key(subject, *by)
    if payload is not None:
        return replace(letter, subject=subject, payload=payload)
    return replace(letter, subject=subject, payload=_jobs_again(letter, edit))


def _with_model(subject: str, model: str) -> str:
    try:
        return subjects.submit(replace_model(subjects.parse_submit(subject), model))
    except ValueError as error:
        raise CannotRequeue(str(error)) from error


def _with_key(subject: str, tenant: str, key: str) -> str:
    try:
        source = subjects.parse_submit(subject)
    except ValueError:
        return subject  # it stays nobody's
    if source.tenant != tenant:
        return subject
    return subjects.submit(subjects.Source(source.lane, source.model, tenant, key))


def replace_model(source: subjects.Source, model: str) -> subjects.Source:
    return subjects.Source(source.lane, model, source.tenant, source.key)


def _jobs_again(letter: DeadLetter, edit: Edit) -> bytes:
    """Return the jobs of a message that failed, without their ids and batches, since those are taken by the failed jobs.

    The other jobs of the message were taken. A message of which no job can be read is returned as it is.
    """
    is_json = letter.headers.get(CONTENT_TYPE, "").partition(";")[0].strip().lower() == JSON
    read = _read(letter.payload, json=is_json)
    jobs = read if isinstance(read, list) else [read]
    broken = set(unreadable_jobs(letter.payload, letter.headers))
    if letter.cause == DeadCause.UNSTORABLE and len(jobs) > 1:
        raise CannotRequeue("it holds several jobs, of which the others were taken: submit the one anew")
    if len(jobs) == 1:
        broken = {None}
    chosen = [job for place, job in enumerate(jobs, 1) if None in broken or place in broken]
    if not chosen or not all(isinstance(job, dict) for job in chosen):
        if edit != NO_EDIT:
            raise CannotRequeue("it cannot be patched, since it is no object: send other bytes (--payload)")
        return letter.payload
    fresh = [_edited(job, edit, json=is_json) for job in chosen]
    whole = fresh if isinstance(read, list) else fresh[0]
    return msgspec.json.encode(whole) if is_json else msgspec.msgpack.encode(whole)


def _read(payload: bytes, *, json: bool) -> Any:
    try:
        return msgspec.json.decode(payload) if json else msgspec.msgpack.decode(payload)
    except UNREADABLE:
        return None


def _edited(job: dict[str, Any], edit: Edit, *, json: bool) -> dict[str, Any]:
    left = {name: value for name, value in job.items() if name not in ("id", "batch", "line")}
    if edit == NO_EDIT:
        return left
    body, endpoint = left.get("body"), str(left.get("endpoint"))
    if json:
        return {**left, "body": msgspec.Raw(edited(msgspec.json.encode(body), endpoint, edit))}
    return {**left, "body": edited(body if isinstance(body, bytes) else b"", endpoint, edit)}

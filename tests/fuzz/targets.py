"""A valid message of each kind that a broker or worker listens for, with its subject."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec

from schemas import subjects
from schemas.api import (
    BatchCreate,
    BatchList,
    BatchRef,
    BatchResults,
    BatchSeal,
    CatalogApply,
    JobRef,
    Nothing,
    State,
)
from schemas.catalog import Revision
from schemas.codec import ABORT, CANCEL, CONTENT_TYPE, FAILURE, JSON, KIND, MSGPACK, SEQ
from schemas.dead import DeadDrop, DeadEach, DeadFilter, DeadList, DeadRef, DeadRequeue
from schemas.instructions import InstructionList, InstructionRef
from schemas.job import Attempt, Lane
from schemas.listing import JobFilter, JobList
from schemas.outcome import (
    Charge,
    EngineFault,
    Expired,
    Failed,
    Released,
    Report,
    ResponseTooLarge,
    Throttled,
    TimedOut,
    Timings,
    Unanswered,
    Usage,
)
from schemas.repeats import BatchRetry, Replay, ReplayDiff, ReplayEstimateAsk, RetryCheck
from schemas.ruling import Convict, EndRequest, Expire, Lost, PutBack, Suspect, Suspicion
from schemas.subjects import Source, Verb
from schemas.units import Ms, NanoUsd
from schemas.worker import BEGINNING, NOT_BEGUN, HeldExecution, Paused, held_bytes
from tests.builders import BODY, a_beat, a_catalog, a_job, a_success, a_worker, an_attempt, an_id, now
from tests.fuzz.mutate import Valid

WORKER = "w1"
"""The real worker, of the deployment `d`."""
MODEL, DEPLOYMENT = "fuzzed", "fuzzed"
"""What no real worker serves: the attack pulls its attempts itself, as a worker that reports what it likes."""
_OUTCOMES = (
    a_success(charge=Charge(NanoUsd(5), "provider")),
    Failed(EngineFault("x"), Usage(1, 1)),
    Failed(Throttled(Ms(100))),
    Failed(TimedOut(Ms(1), "progress")),
    Failed(Unanswered(Ms(1), "x")),
    Failed(ResponseTooLarge(10, 5)),
    Expired(),
    Released(),
)


@dataclass(slots=True)
class Known:
    """What the attack has learnt of the system: it can say what only a worker or a server can."""

    relays: list[str] = field(default_factory=list)
    """Subjects on which a relay waits for an answer."""
    inboxes: list[str] = field(default_factory=list)
    """Subjects on which somebody waits for messages of a pull."""
    answers: list[str] = field(default_factory=list)
    """Subjects on which somebody waits for an answer of the server."""
    attempts: list[tuple[Attempt, str]] = field(default_factory=list)
    """True attempts of the deployment, each with the subject that acknowledges it."""
    inbox: str = "_INBOX.fuzz.x"


def targets(known: Known, draw: random.Random) -> Valid:
    """Draw a valid message."""
    return draw.choice(_KINDS)(known, draw)


def _builtin(value: Any) -> Any:
    return msgspec.to_builtins(value, builtin_types=(UUID, bytes))


def _packed(value: Any) -> Any:
    """As codec.packed encodes it, in builtin types."""
    return msgspec.msgpack.decode(msgspec.msgpack.Encoder(uuid_format="bytes").encode(value))


def _textual(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def _submission(known: Known, draw: random.Random) -> Valid:
    lane = draw.choice(list(Lane))
    model, jobs = draw.choice(("m", MODEL)), draw.choice((0, 0, 1, 3))
    job = a_job(
        id=draw.choice((None, an_id())),
        custom_id="c",
        deadline_ms=draw.choice((None, now() + 60_000)),
        max_attempts=1,
        idempotency_key=draw.choice((None, "key")),
        metadata={"a": "b"},
        line=1,
        batch=draw.choice((None, None, an_id())),
    )
    subject = subjects.submit(Source(lane, model, "default", "default"))
    if draw.random() < 0.5:
        value = _packed(job)
        return Valid("submit", subject, [value] * jobs if jobs else value, {CONTENT_TYPE: MSGPACK})
    value = _textual({**_textual(msgspec.structs.asdict(job)), "body": msgspec.json.decode(BODY)})
    value = {name: one for name, one in value.items() if one is not None}
    return Valid("submit", subject, [value] * jobs if jobs else value, {CONTENT_TYPE: JSON}, is_json=True)


def _request(known: Known, draw: random.Random) -> Valid:
    body = {**msgspec.json.decode(BODY), "stream": draw.random() < 0.5}
    value = {"endpoint": "/v1/chat/completions", "body": body, "custom_id": "c", "metadata": {"a": "b"}}
    model = draw.choice(("m", MODEL))
    subject = subjects.infer(model, "default", "default")
    return Valid("infer", subject, value, {CONTENT_TYPE: JSON}, known.inbox, is_json=True)


def _call(known: Known, draw: random.Random) -> Valid:
    verb = draw.choice(list(Verb))
    asks: dict[Verb, Any] = {
        Verb.BATCH_CREATE: BatchCreate(id=an_id(), metadata={"a": "b"}, deadline_ms=now()),
        Verb.BATCH_SEAL: BatchSeal(an_id(), 3),
        Verb.BATCH_SHOW: BatchRef(an_id()),
        Verb.BATCH_LIST: BatchList(limit=3, before=an_id()),
        Verb.BATCH_RESULTS: BatchResults(an_id(), cursor="1", limit=3),
        Verb.JOB_SHOW: JobRef(an_id()),
        Verb.BATCH_RETRY: BatchRetry(id=an_id(), batch=an_id(), states=(State.DEAD,), model="m"),
        Verb.REPLAY: Replay(id=an_id(), filter=JobFilter(model="m"), patch="{}", rate_per_s=1.0),
        Verb.REPLAY_ESTIMATE: ReplayEstimateAsk(jobs=(an_id(),), deployment="d"),
        Verb.REPLAY_DIFF: ReplayDiff(an_id(), "1"),
        Verb.BATCH_RETRY_CHECK: RetryCheck(batch=an_id(), custom_ids=("a", "b")),
        Verb.JOB_LIST: JobList(filter=JobFilter(kinds=("denied",), metadata={"a": "b"}), before=an_id()),
        Verb.DEAD_LIST: DeadList(filter=DeadFilter(causes=("not_a_job",), since_ms=now())),
        Verb.DEAD_EACH: DeadEach(filter=DeadFilter(model="m"), before=an_id()),
        Verb.DEAD_SHOW: DeadRef(an_id(), 3),
        Verb.DEAD_REQUEUE: DeadRequeue(ids=(an_id(),), model="m", patch="{}", dry_run=True),
        Verb.DEAD_DROP: DeadDrop(ids=(an_id(),), dry_run=True),
        Verb.INSTRUCTION_SHOW: InstructionRef(an_id()),
        Verb.INSTRUCTION_LIST: InstructionList(limit=3, before=an_id()),
        Verb.CATALOG_APPLY: CatalogApply("[models]\n"),
    }
    value = _textual(asks.get(verb, Nothing()))
    if verb is Verb.CATALOG_APPLY:  # one that can be applied would be in force
        value = {"toml": "[models"}
    return Valid("api", subjects.api(verb, "default", "default"), value, {}, known.inbox, is_json=True)


def _report(known: Known, draw: random.Random) -> Valid:
    attempt, ack = _attempt(known, draw)
    report = Report(
        job=attempt.job,
        attempt=attempt.number,
        execution=an_id(),
        delivery=1,
        deployment=attempt.deployment,
        worker="fuzz",
        outcome=draw.choice(_OUTCOMES),
        timings=Timings(started_ms=now(), queue_ms=Ms(1), run_ms=Ms(2), ttft_ms=Ms(1)),
        run_ack=ack or None,
        interactive=attempt if attempt.reply_to else None,
        seal=attempt.seal,
    )
    return Valid("outcome", subjects.outcome(attempt.deployment), [_packed(report)] * draw.choice((1, 1, 3)))


def _attempt(known: Known, draw: random.Random) -> tuple[Attempt, str]:
    """A true one, if there is one."""
    if known.attempts and draw.random() < 0.9:
        return known.attempts.pop(draw.randrange(len(known.attempts)))
    return an_attempt(deployment=DEPLOYMENT, model=MODEL), ""


def _ruling(known: Known, draw: random.Random) -> Valid:
    attempt, _ = _attempt(known, draw)
    request = attempt if attempt.reply_to else an_attempt(reply_to="infermq.reply.d.b.t", key="k")
    rulings: tuple[Any, ...] = (
        Expire(attempt.job),
        PutBack(attempt.job, attempt.number),
        Suspect(attempt.job, attempt.number, Suspicion(an_id(), 1, Ms(5))),
        Convict(attempt.job, attempt.number, 2),
        EndRequest(request, Expired()),
        Lost(
            job=attempt.job,
            attempt=attempt.number,
            deployment=DEPLOYMENT,
            execution=an_id(),
            worker="w",
            started_ms=now(),
        ),
    )
    return Valid("ruling", subjects.RULING, [_packed(draw.choice(rulings))])


def _reply(known: Known, draw: random.Random) -> Valid:
    subject = draw.choice(known.relays) if known.relays else "infermq.reply.d.b.t"
    kind = draw.choice(("chunk", "final", "error", "keepalive"))
    headers = {KIND: kind, SEQ: "1"}
    value: Any = {"choices": []} if kind != "error" else {"error": {"code": "x", "message": "y"}}
    if kind == "error":
        headers[FAILURE] = '{"type": "throttled", "retry_after_ms": 1}'
    return Valid("reply", subject, value, headers, is_json=True)


def _notice(known: Known, draw: random.Random) -> Valid:
    flow = ("m", "bulk", "default")
    notices: tuple[tuple[str, Any], ...] = (
        (subjects.CTL_WAITING, [[*flow, now(), an_id().bytes]]),
        (subjects.CTL_DELAYED, now() + 1000),
        (subjects.CTL_SETTLED, [[*flow, [[an_id().bytes, 1, 1]]]]),
    )
    subject, value = draw.choice(notices)
    return Valid("notice", subject, value)


def _order(known: Known, draw: random.Random) -> Valid:
    kind = draw.choice((ABORT, CANCEL))
    if kind == CANCEL:
        return Valid("order", subjects.cancel_order(DEPLOYMENT), [[an_id().bytes, 1]], {KIND: kind})
    return Valid("order", subjects.abort_order(DEPLOYMENT), draw.choice(("x", *known.relays)), {KIND: kind})


def _beat(known: Known, draw: random.Random) -> Valid:
    name = f"fuzz-{draw.randrange(5)}"
    held = held_bytes([HeldExecution(an_id(), 1, draw.choice((an_id(), NOT_BEGUN, BEGINNING)))])
    beat = a_beat(name, deployment=draw.choice((DEPLOYMENT, "nowhere")), slots=2, held=held)
    beat = msgspec.structs.replace(beat, paused=draw.choice((None, Paused("denied", "401", Ms(1000)))))
    return Valid("beat", subjects.beat(beat.id), _textual(beat), is_json=True)


def _catalog(known: Known, draw: random.Random) -> Valid:
    revision = Revision(0, now(), a_catalog())
    subject = draw.choice((subjects.ACTIVE_CATALOG, subjects.catalog_entry("d")))
    return Valid("catalog", subject, _textual(revision), is_json=True)


def _attempts(known: Known, draw: random.Random) -> Valid:
    """To a real worker, whose report settle may believe or not."""
    attempt = an_attempt(deployment="d", reply_to=draw.choice((None, "infermq.reply.d.b.t")), key="k")
    attempt = msgspec.structs.replace(attempt, metadata={"a": "b"}, custom_id="c")
    subject = draw.choice((subjects.run, subjects.now))("d")
    return Valid("attempt", subject, _packed(attempt))


def _apart(known: Known, draw: random.Random) -> Valid:
    """To a real worker alone, which runs it apart from all others."""
    attempt = an_attempt(deployment="d", reply_to=draw.choice((None, "infermq.reply.d.b.t")), key="k", group=an_id())
    return Valid("apart", subjects.ward(a_worker(WORKER)), _packed(attempt))


def _suspected(known: Known, draw: random.Random) -> Valid:
    value = {"deaths_alone": draw.choice((0, 1))}
    return Valid("suspected", subjects.suspected_request(f"{draw.getrandbits(128):032x}"), value, is_json=True)


def _advisory(known: Known, draw: random.Random) -> Valid:
    kind = draw.choice(("MAX_DELIVERIES", "MSG_TERMINATED"))
    value = {"type": "io.nats.jetstream.advisory.v1.x", "stream": "S", "consumer": "c", "stream_seq": 1}
    return Valid("advisory", f"$JS.EVENT.ADVISORY.CONSUMER.{kind}.INFERMQ_RUN.d", value, is_json=True)


def _of_a_pull(known: Known, draw: random.Random) -> Valid:
    """What only the server says to a pull: a status, or a message that nobody stored."""
    inbox = draw.choice(known.inboxes) if known.inboxes else known.inbox
    status = draw.choice(("100", "404", "408", "409", "503", "é", ""))
    if draw.random() < 0.5:
        return Valid("pull", inbox, b"", {"Status": status, "Nats-Pending-Messages": draw.choice(("1", "x", "-1"))})
    acks = ("$JS.ACK.S.c.a.b.c.d.e", "$JS.ACK.S.c.1.1.1.1.0", "x", "$JS.ACK.INFERMQ_RUN.fuzzed.1.1.1.1.x", "")
    return Valid("pull", inbox, _packed(an_attempt()), {}, draw.choice(acks))


def _answer(known: Known, draw: random.Random) -> Valid:
    """What only the server answers. It is never an answer that one may believe."""
    inbox = draw.choice(known.answers) if known.answers else known.inbox
    value: Any = draw.choice(({"seq": "x"}, [], "text", 1, {"error": 7}, {"error": {"err_code": "x"}}, None))
    return Valid("answer", inbox, value, is_json=True)


_KINDS: Sequence[Callable[[Known, random.Random], Valid]] = (
    *(_submission,) * 4,
    *(_request,) * 2,
    *(_call,) * 3,
    *(_report,) * 6,
    *(_ruling,) * 2,
    *(_reply,) * 2,
    *(_notice,) * 2,
    *(_attempts,) * 3,
    *(_beat,) * 2,
    _apart,
    _suspected,
    _order,
    _catalog,
    _advisory,
    _of_a_pull,
    _answer,
)


def kinds() -> Iterator[str]:
    """The names of all kinds."""
    for make in dict.fromkeys(_KINDS):
        yield make(Known(), random.Random(0)).kind

"""Decodes what came through OUTCOME: workers' reports and brokers' rulings.

A report that cannot be read is a dead letter. If its attempt can be read, the report also counts as a failure of the engine:
the job is retried until it runs out of attempts. Without a report it would run again for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

import msgspec

from broker.bus.dead_letters import dead_letter_of
from broker.core.records import DeadLetter
from broker.core.seals import are_truly_ruled, has_true_seal
from schemas import subjects
from schemas.codec import SEAL, UNREADABLE, Bundle
from schemas.dead import DeadCause
from schemas.jetstream import Message, acknowledges, delivered
from schemas.job import Attempt
from schemas.outcome import Cancelled, Charge, EngineFault, Failed, Report, Succeeded, Timings, Usage
from schemas.ruling import Ruling
from schemas.units import AttemptNumber, Ms, Name, Seal


class _Unknown(msgspec.Struct, frozen=True):
    """An outcome or failure of a kind that this broker does not know. Every kind has these fields."""

    usage: Usage = Usage()
    charge: Charge | None = None


class _Newer(Report, frozen=True, kw_only=True):
    """A report from a newer worker."""

    outcome: _Unknown  # type: ignore[assignment] # used for decoding only


class _Bare(msgspec.Struct, frozen=True, kw_only=True):
    """What says of which attempt a report is, whatever else it holds."""

    job: UUID
    attempt: AttemptNumber
    execution: UUID
    deployment: Name
    worker: Name
    interactive: Attempt | None = None
    seal: Seal = b""


_FALSE = "the seal is false"
_NOT_ITS_OWN = "it is on an attempt of another deployment than its subject's"
_NOT_ITS_MESSAGE = "it would acknowledge another deployment's message"
_reports = Bundle(Report)
_newer = Bundle(_Newer)
_bare = Bundle(_Bare)
_rulings: Bundle[Ruling] = Bundle(Ruling)
_json = msgspec.json.Decoder(msgspec.Raw)
_NEWER = EngineFault("it ended in a way that this broker does not know: update the brokers before the workers")
_UNREADABLE = EngineFault("its worker's report cannot be read: see the dead letters")
_NO_JSON = EngineFault("its response is not JSON")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """A group of messages, decoded once."""

    messages: Sequence[Message]
    reports: Sequence[Report]
    rulings: Sequence[Ruling]
    dead_letters: Sequence[DeadLetter]
    """Messages that cannot be read or believed, or only in part. The other part is among the reports or rulings."""
    sources: Sequence[Message]
    """The message of each report, then of each ruling."""
    false_seals: int = 0
    """How many reports, and messages of rulings, were not believed: a false seal, or a report beyond its deployment."""

    def __add__(self, other: "Outcomes") -> "Outcomes":
        mine, theirs = len(self.reports), len(other.reports)
        reported = [*self.sources[:mine], *other.sources[:theirs]]
        return Outcomes(
            [*self.messages, *other.messages],
            [*self.reports, *other.reports],
            [*self.rulings, *other.rulings],
            [*self.dead_letters, *other.dead_letters],
            [*reported, *self.sources[mine:], *other.sources[theirs:]],
            false_seals=self.false_seals + other.false_seals,
        )

    @property
    def received(self) -> Sequence[Ms]:
        """When the stream stored each report, then each ruling, by the server's clock."""
        received: list[Ms] = []
        last, at_ms = None, Ms(0)
        for message in self.sources:  # those of a message follow each other
            if message is not last:
                last, at_ms = message, delivered(message.reply).at_ms
            received.append(at_ms)
        return received

    @property
    def all(self) -> Sequence[Report | Ruling]:
        """Everything there is to settle. The order does not matter: the jobs' rows decide what still counts."""
        return [*self.reports, *self.rulings]


def decode_outcomes(messages: Sequence[Message], *, seal_key: bytes) -> Outcomes:
    """Decode messages by their subject, so that nothing a worker may publish is taken for a ruling.

    What has no true seal is left out, since anybody who may publish can have made it.
    """
    reports: list[Report] = []
    rulings: list[Ruling] = []
    dead_letters: list[DeadLetter] = []
    of_reports: list[Message] = []
    of_rulings: list[Message] = []
    false_seals = 0
    for message in messages:
        if message.subject == subjects.RULING:
            ruled, false, why = _rulings_in(message, seal_key)
            rulings += ruled
            of_rulings += [message] * len(ruled)
        else:
            reported, false, why = _reports_in(message, seal_key)
            reports += reported
            of_reports += [message] * len(reported)
        false_seals += false
        if why is not None:
            cause = DeadCause.FALSE_SEAL if false else DeadCause.NOT_AN_OUTCOME
            dead_letters.append(dead_letter_of(message, stream=subjects.OUTCOME, cause=cause, why=why))
    return Outcomes(
        messages, _with_json(reports), rulings, dead_letters, [*of_reports, *of_rulings], false_seals=false_seals
    )


def _rulings_in(message: Message, seal_key: bytes) -> tuple[list[Ruling], int, str | None]:
    """Return the rulings of a message, how many seals are false, and why some of it is left out, if it is."""
    if not are_truly_ruled(message.data, (message.headers or {}).get(SEAL), seal_key):
        return [], 1, f"rulings that no broker of this system made: {_FALSE}"
    ruled, why = _rulings.unpack(message.data)
    return ruled, 0, why


def _reports_in(message: Message, seal_key: bytes) -> tuple[list[Report], int, str | None]:
    """Return the reports of a message, how many seals are false, and why some of it is left out, if it is."""
    reports, why = _reports.unpack(message.data)
    if why is not None:
        reports += _failures(message, reports)
    right = _rights(message.subject)
    false = [report for report in reports if right.lie(report) is not None or not has_true_seal(report, seal_key)]
    if not false:
        return reports, 0, why
    first = false[0]
    lie = right.lie(first) or _FALSE
    said = f"{len(false)} of {len(reports)} reports, the first on job {first.job}, attempt {first.attempt}: {lie}"
    true = [report for report in reports if report not in false]
    return true, len(false), said if why is None else f"{why}; {said}"


@dataclass(frozen=True, slots=True)
class _Rights:
    """What a report may say that came on the subject of a deployment. Permissions restrict that subject and nothing else."""

    deployment: str | None
    """None: the subject names none."""
    consumer: str
    acks: str
    """How the ack subject of a message of this deployment begins, unless the server writes its domain in front."""
    not_acks: str
    """How one begins that looks like it: its domain and account are called as the stream and the consumer."""

    def lie(self, report: Report) -> str | None:
        """Say what oversteps its deployment in a report, without a call for what is usual: there are many reports."""
        ack = report.run_ack
        if report.deployment != self.deployment:
            return _NOT_ITS_OWN
        if ack is None or (ack[: len(self.acks)] == self.acks and ack[: len(self.not_acks)] != self.not_acks):
            return None
        return None if acknowledges(ack, subjects.RUN, self.consumer) else _NOT_ITS_MESSAGE


@lru_cache(maxsize=4096)
def _rights(subject: str) -> _Rights:
    consumer = subject.rpartition(".")[2]
    acks = f"$JS.ACK.{subjects.RUN}.{consumer}."
    return _Rights(subjects.parse_outcome(subject), consumer, acks, f"{acks}{subjects.RUN}.")


def _failures(message: Message, known: Sequence[Report]) -> list[Report]:
    """Read the reports that are not `known`, because their kind of outcome is not or a value is out of bounds."""
    found = {one.execution for one in known}
    newer = [_failed(one) for one in _newer.unpack(message.data)[0] if one.execution not in found]
    found |= {one.execution for one in newer}
    at_ms = delivered(message.reply).at_ms
    return newer + [_bare_failed(one, at_ms) for one in _bare.unpack(message.data)[0] if one.execution not in found]


def _failed(newer: _Newer) -> Report:
    unknown = newer.outcome
    fields = {name: getattr(newer, name) for name in Report.__struct_fields__}
    return Report(**{**fields, "outcome": Failed(_NEWER, unknown.usage, unknown.charge)})


def _bare_failed(bare: _Bare, at_ms: Ms) -> Report:
    """`at_ms`: when the report came, since what it says of its times cannot be read."""
    fields = {name: getattr(bare, name) for name in _Bare.__struct_fields__}
    timings = Timings(started_ms=at_ms, queue_ms=Ms(0), run_ms=Ms(0))
    return Report(delivery=1, outcome=Failed(_UNREADABLE), timings=timings, **fields)


def _with_json(reports: list[Report]) -> list[Report]:
    """Make a failure of each response that is not JSON: a page of results holds it as it is, so it would spoil the page.

    Of what was cancelled such a response is left out.
    """
    for n, report in enumerate(reports):
        if isinstance(outcome := report.outcome, Succeeded | Cancelled):
            try:
                _json.decode((b"null" if outcome.body is None else outcome.body).decode())
            except UNREADABLE:
                reports[n] = msgspec.structs.replace(report, outcome=_without_body(outcome))
    return reports


def _without_body(outcome: Succeeded | Cancelled) -> Failed | Cancelled:
    if isinstance(outcome, Succeeded):
        return Failed(_NO_JSON, outcome.usage, outcome.charge)
    return msgspec.structs.replace(outcome, body=None)

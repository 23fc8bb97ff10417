"""Decodes what came through OUTCOME: workers' reports and brokers' rulings."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from broker.bus.dead_letters import dead_letter_of
from broker.core.records import DeadLetter
from schemas import subjects
from schemas.codec import Bundle
from schemas.jetstream import Message
from schemas.outcome import Charge, EngineFault, Failed, Report, Usage
from schemas.ruling import Ruling


class _Unknown(msgspec.Struct, frozen=True):
    """An outcome or failure of a kind that this broker does not know. Every kind has these fields."""

    usage: Usage = Usage()
    charge: Charge | None = None


class _Newer(Report, frozen=True, kw_only=True):
    """A report from a newer worker."""

    outcome: _Unknown  # type: ignore[assignment] # used for decoding only


_reports = Bundle(Report)
_newer = Bundle(_Newer)
_rulings: Bundle[Ruling] = Bundle(Ruling)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """A group of messages, decoded once."""

    messages: Sequence[Message]
    reports: Sequence[Report]
    rulings: Sequence[Ruling]
    dead_letters: Sequence[DeadLetter]
    """Messages that cannot be read, or only in part. The part that can be read is among the reports or rulings."""

    def __add__(self, other: "Outcomes") -> "Outcomes":
        return Outcomes(
            [*self.messages, *other.messages],
            [*self.reports, *other.reports],
            [*self.rulings, *other.rulings],
            [*self.dead_letters, *other.dead_letters],
        )

    @property
    def all(self) -> Sequence[Report | Ruling]:
        """Everything there is to settle. The order does not matter: the jobs' rows decide what still counts."""
        return [*self.reports, *self.rulings]


def decode_outcomes(messages: Sequence[Message]) -> Outcomes:
    """Decode messages by their subject, so that nothing a worker may publish is taken for a ruling."""
    reports: list[Report] = []
    rulings: list[Ruling] = []
    dead_letters: list[DeadLetter] = []
    for message in messages:
        if message.subject == subjects.RULING:
            ruled, why = _rulings.unpack(message.data)
            rulings += ruled
        else:
            reported, why = _reports.unpack(message.data)
            reports += reported if why is None else [*reported, *_newer_reports(message.data, reported)]
        if why is not None:
            dead_letters.append(dead_letter_of(message, stream=subjects.OUTCOME, why=why))
    return Outcomes(messages, reports, rulings, dead_letters)


def _newer_reports(data: bytes, known: Sequence[Report]) -> list[Report]:
    """Read the reports that are not `known` because their kind of outcome is not, as failures of the engine.

    Their jobs are thus retried until they run out of attempts. Without a report they would run again for ever.
    """
    found = {(one.job, one.execution) for one in known}
    others = [one for one in _newer.unpack(data)[0] if (one.job, one.execution) not in found]
    return [_failed(other) for other in others]


def _failed(newer: _Newer) -> Report:
    unknown = newer.outcome
    failure = EngineFault("it ended in a way that this broker does not know: update the brokers before the workers")
    fields = {name: getattr(newer, name) for name in Report.__struct_fields__}
    return Report(**{**fields, "outcome": Failed(failure, unknown.usage, unknown.charge)})

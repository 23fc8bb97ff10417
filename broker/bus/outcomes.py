"""What came through OUTCOME: the workers' reports and the brokers' rulings."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from nats.aio.msg import Msg

from broker.bus.dead_letters import dead_letter_of
from broker.core.records import DeadLetter
from schemas import subjects
from schemas.codec import Bundle
from schemas.outcome import Charge, EngineFault, Failed, Report, Usage
from schemas.ruling import Ruling


class _Unknown(msgspec.Struct, frozen=True):
    """An outcome or failure of a kind that this broker does not know, with what every outcome says."""

    usage: Usage = Usage()
    charge: Charge | None = None


class _Newer(Report, frozen=True, kw_only=True):
    """A report of a newer worker."""

    outcome: _Unknown  # type: ignore[assignment] # only to be decoded


_reports = Bundle(Report)
_newer = Bundle(_Newer)
_rulings: Bundle[Ruling] = Bundle(Ruling)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """A group of messages, decoded once."""

    messages: Sequence[Msg]
    reports: Sequence[Report]
    rulings: Sequence[Ruling]
    dead_letters: Sequence[DeadLetter]
    """Messages that cannot be read as a whole. What can be read of them is among the reports or rulings."""

    def __add__(self, other: "Outcomes") -> "Outcomes":
        return Outcomes(
            [*self.messages, *other.messages],
            [*self.reports, *other.reports],
            [*self.rulings, *other.rulings],
            [*self.dead_letters, *other.dead_letters],
        )

    @property
    def all(self) -> Sequence[Report | Ruling]:
        """What there is to settle. The order does not matter: the jobs' rows decide what still counts."""
        return [*self.reports, *self.rulings]


def read(messages: Sequence[Msg]) -> Outcomes:
    """Decode them by their subjects, so that nothing that a worker may publish is taken for a ruling."""
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
    """The reports of a message that are not `known`, but lack only a known kind of outcome, as failures of the engine.

    Their jobs are tried again, as often as they may: without a report they would be run for ever.
    """
    found = {(one.job, one.attempt, one.delivery) for one in known}
    others = [one for one in _newer.unpack(data)[0] if (one.job, one.attempt, one.delivery) not in found]
    return [_failed(other) for other in others]


def _failed(newer: _Newer) -> Report:
    unknown = newer.outcome
    failure = EngineFault("it ended in a way that this broker does not know: update the brokers before the workers")
    fields = {name: getattr(newer, name) for name in Report.__struct_fields__}
    return Report(**{**fields, "outcome": Failed(failure, unknown.usage, unknown.charge)})

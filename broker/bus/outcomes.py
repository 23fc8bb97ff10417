"""What came through OUTCOME: the workers' reports and the brokers' rulings."""

from collections.abc import Sequence
from dataclasses import dataclass

from nats.aio.msg import Msg

from broker.bus.letters import letter_of
from broker.core.records import DeadLetter
from schemas import subjects
from schemas.codec import Bundle
from schemas.outcome import Report
from schemas.ruling import Ruling

_reports = Bundle(Report)
_rulings: Bundle[Ruling] = Bundle(Ruling)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """A group of messages, decoded once."""

    messages: Sequence[Msg]
    reports: Sequence[Report]
    rulings: Sequence[Ruling]
    letters: Sequence[DeadLetter]
    """Messages that cannot be read as a whole. What can be read of them is among the reports or rulings."""

    def __add__(self, other: "Outcomes") -> "Outcomes":
        return Outcomes(
            [*self.messages, *other.messages],
            [*self.reports, *other.reports],
            [*self.rulings, *other.rulings],
            [*self.letters, *other.letters],
        )

    @property
    def all(self) -> Sequence[Report | Ruling]:
        """What there is to settle. The order does not matter: the jobs' rows decide what still counts."""
        return [*self.reports, *self.rulings]


def read(messages: Sequence[Msg]) -> Outcomes:
    """Decode them by their subjects, so that nothing that a worker may publish is taken for a ruling."""
    reports: list[Report] = []
    rulings: list[Ruling] = []
    letters: list[DeadLetter] = []
    for message in messages:
        if message.subject == subjects.RULING:
            ruled, why = _rulings.unpack(message.data)
            rulings += ruled
        else:
            reported, why = _reports.unpack(message.data)
            reports += reported
        if why is not None:
            letters.append(letter_of(message, stream=subjects.OUTCOME, why=why))
    return Outcomes(messages, reports, rulings, letters)

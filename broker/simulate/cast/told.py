"""The kinds of jobs and requests of a simulated world, and what those who ask were told of them."""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from broker.client import Submission
from schemas.api import Result

TENANTS = ("default", "other")


class JobKind(NamedTuple):
    """A kind of job, and how it may end if nobody meddles with it."""

    weight: float
    model: str
    words: str
    tokens: tuple[int, int]
    ends: frozenset[str]


DONE = frozenset({"succeeded"})
KINDS = (
    JobKind(40, "quick", "quick", (2, 20), DONE),
    JobKind(10, "quick", "long", (60, 200), DONE),
    JobKind(8, "flaky", "fine", (2, 20), DONE),
    JobKind(4, "flaky", "once", (2, 20), DONE),
    JobKind(3, "flaky", "throttled", (2, 20), DONE),
    JobKind(2, "flaky", "hangs", (2, 20), DONE),
    JobKind(1, "flaky", "raises", (2, 20), DONE),
    JobKind(2, "flaky", "filtered", (2, 20), frozenset({"failed", "succeeded"})),
    JobKind(2, "flaky", "hopeless", (2, 20), frozenset({"dead"})),
    JobKind(2, "quick", "poison", (2, 20), frozenset({"dead"})),
    JobKind(2, "quick", "expires", (40, 200), frozenset({"succeeded", "expired", "failed"})),
    JobKind(1, "quick", "large", (2, 20), DONE),
    JobKind(0.5, "quick", "too large", (2, 20), frozenset({"failed"})),
    JobKind(1, "nobody", "refused", (2, 20), frozenset({"failed"})),
)
MODELS = ("quick", "flaky")


def a_kind(chance: random.Random) -> JobKind:
    return chance.choices(KINDS, [kind.weight for kind in KINDS])[0]


def a_body(chance: random.Random, kind: JobKind) -> dict[str, Any]:
    """Make the body of a job of this kind."""
    words = f"{kind.words} {chance.getrandbits(48):x}"
    body = {"messages": [{"role": "user", "content": words}], "max_tokens": chance.randint(*kind.tokens)}
    return {**body, "user": "x" * chance.randrange(_LARGE)} if kind.words.endswith("large") else body


_LARGE = 250_000
"""Nearly as long as a request may be."""


class Sent(NamedTuple):
    """A job as a producer sends it, and how it may end if nobody meddles with it."""

    id: UUID
    submission: Submission
    ends: frozenset[str]
    batch: UUID | None = None
    """To which it was sent, also if that refuses it."""


SUCCEEDED = "succeeded"


@dataclass(slots=True)
class Asked:
    """A request for an answer, and what whoever asked has heard of it."""

    kind: JobKind
    tenant: str
    at_s: float
    within_s: float
    """Its time-out."""
    job: UUID | None = None
    """None: its name was not heard yet."""
    code: str = ""
    """How it ended: `succeeded`, or the code of a problem. Empty: nobody said."""
    message: str = ""
    told_s: float = 0.0
    """When that was heard."""
    has_left: bool = False
    """Whoever asked did not wait for the end."""

    def hear(self, code: str, message: str, at_s: float) -> None:
        self.code, self.message, self.told_s = code, message, at_s


@dataclass(slots=True)
class Read:
    """What somebody has read of a batch, without its retries."""

    batch: UUID
    results: dict[UUID, Result] = field(default_factory=dict)
    is_complete: bool = False
    """The reader was told that there is no more."""


@dataclass(slots=True)
class Told:
    """What the producers were told."""

    accepted: dict[UUID, frozenset[str]] = field(default_factory=dict)
    """How each accepted job may end."""
    tenant: dict[UUID, str] = field(default_factory=dict)
    """Of each accepted job and batch."""
    sent: dict[UUID, Sent] = field(default_factory=dict)
    """Each accepted job as it was sent."""
    twice: list[tuple[UUID, UUID]] = field(default_factory=list)
    """Jobs that were sent as the same by their key."""
    batches: dict[UUID, int] = field(default_factory=dict)
    """How many jobs each sealed batch has."""
    batch_of: dict[UUID, UUID] = field(default_factory=dict)
    late: dict[UUID, UUID] = field(default_factory=dict)
    """Jobs that were sent to a batch that was complete."""
    asked: list[Asked] = field(default_factory=list)
    replies: dict[UUID, bytes] = field(default_factory=dict)
    texts: dict[UUID, str] = field(default_factory=dict)
    """The text of answers that were translated."""
    announced: dict[UUID, str] = field(default_factory=dict)
    """How jobs ended, as notices said or whoever asked was told."""
    followed: dict[UUID, UUID] = field(default_factory=dict)
    """The batch among whose results each job was."""
    succeeded: list[UUID] = field(default_factory=list)
    """Jobs that results of their batch said to have succeeded."""
    read: list[Read] = field(default_factory=list)
    meddled: set[UUID] = field(default_factory=set)
    """Jobs and batches that somebody may have cancelled or changed."""
    meddled_models: set[tuple[str, str]] = field(default_factory=set)
    """The model and the tenant of jobs that somebody may have cancelled all."""
    orders: dict[UUID, str] = field(default_factory=dict)
    """The instructions that were given, and whose they are."""
    did: Counter[str] = field(default_factory=Counter)
    """How often each action was done that is audited."""
    wrong: list[str] = field(default_factory=list)
    count: dict[str, int] = field(default_factory=dict)

    def hear_end(self, job: UUID, state: str) -> None:
        before = self.announced.setdefault(job, state)
        if before != state:
            self.wrong.append(f"job {job} was announced as {before}, then as {state}")

    def counted(self, what: str) -> None:
        self.count[what] = self.count.get(what, 0) + 1

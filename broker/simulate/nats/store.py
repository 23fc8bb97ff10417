"""Holds the messages of a stream, and finds the next one of a subject from a sequence on without looking at the others."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from broker.simulate.nats.interest import has_wildcard, matches

_FILE_BYTES, _FILE_HEAD_BYTES = 30, 4
_MEMORY_BYTES = 16
_SLACK = 64


@dataclass(slots=True, eq=False)
class Stored:
    """A message of a stream."""

    seq: int
    subject: str
    head: bytes
    data: bytes
    at_ns: int
    size: int


class Line:
    """Sequences in their order, of which some are gone. What is gone is left out by and by."""

    def __init__(self, messages: dict[int, Stored]) -> None:
        self._messages = messages
        self._seqs: list[int] = []
        self.alive = 0

    def append(self, seq: int) -> None:
        self._seqs.append(seq)
        self.alive += 1

    def removed(self) -> None:
        self.alive -= 1
        if len(self._seqs) > 2 * self.alive + _SLACK:
            self._seqs = [seq for seq in self._seqs if seq in self._messages]

    def from_on(self, start: int) -> Iterator[int]:
        """Go through the sequences from one on."""
        messages, seqs = self._messages, self._seqs
        for at in range(bisect_left(seqs, start), len(seqs)):
            if seqs[at] in messages:
                yield seqs[at]

    def next(self, start: int) -> int | None:
        messages, seqs = self._messages, self._seqs
        for at in range(bisect_left(seqs, start), len(seqs)):
            if seqs[at] in messages:
                return seqs[at]
        return None

    @property
    def last(self) -> int | None:
        while self._seqs and self._seqs[-1] not in self._messages:
            self._seqs.pop()
        return self._seqs[-1] if self._seqs else None


class Filter:
    """Which subjects a consumer or a reader wants. It remembers the answers."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self.patterns = patterns
        self.literal = patterns[0] if len(patterns) == 1 and not has_wildcard(patterns[0]) else None
        self._known: dict[str, bool] = {}

    def wants(self, subject: str) -> bool:
        if not self.patterns:
            return True
        if (known := self._known.get(subject)) is None:
            known = self._known[subject] = any(matches(subject, one) for one in self.patterns)
        return known


ALL = Filter(())


class Store:
    def __init__(self, *, is_file: bool, first: int = 0) -> None:
        self._is_file = is_file
        self.messages: dict[int, Stored] = {}
        self.subjects: dict[str, Line] = {}
        self._order = Line(self.messages)
        self.bytes = 0
        self.last = max(0, first - 1)
        self._first = first

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def first(self) -> int:
        """The first sequence; if there is no message, the next one that there will be."""
        if self.messages:
            found = self._order.next(self._first)
            self._first = self._first if found is None else found
        return self._first

    def size(self, subject: str, head: bytes, data: bytes) -> int:
        """Return how many bytes a message counts for, as the server counts."""
        if not self._is_file:
            return len(subject.encode()) + len(head) + len(data) + _MEMORY_BYTES
        return len(subject.encode()) + len(data) + _FILE_BYTES + (len(head) + _FILE_HEAD_BYTES if head else 0)

    def append(self, subject: str, head: bytes, data: bytes, at_ns: int) -> Stored:
        seq = self.last = self.last + 1
        if not self.messages:
            self._first = seq
        one = Stored(seq, subject, head, data, at_ns, self.size(subject, head, data))
        self.messages[seq] = one
        self.bytes += one.size
        self._order.append(seq)
        line = self.subjects.get(subject)
        if line is None:
            line = self.subjects[subject] = Line(self.messages)
        line.append(seq)
        return one

    def skip(self) -> int:
        """Use up a sequence without a message."""
        self.last += 1
        if not self.messages:
            self._first = self.last + 1
        return self.last

    def remove(self, seq: int) -> Stored | None:
        one = self.messages.pop(seq, None)
        if one is None:
            return None
        self.bytes -= one.size
        self._order.removed()
        line = self.subjects[one.subject]
        line.removed()
        if not line.alive:
            del self.subjects[one.subject]
        if not self.messages:
            self._first = self.last + 1
        return one

    def next(self, start: int, wanted: Filter) -> Stored | None:
        """Return the first message from a sequence on that is wanted."""
        if wanted.literal is not None:
            line = self.subjects.get(wanted.literal)
            seq = None if line is None else line.next(start)
            return None if seq is None else self.messages[seq]
        if not wanted.patterns:
            seq = self._order.next(start)
            return None if seq is None else self.messages[seq]
        return next(self.from_on(start, wanted), None)

    def from_on(self, start: int, wanted: Filter) -> Iterator[Stored]:
        line = self._order
        if wanted.literal is not None:
            found = self.subjects.get(wanted.literal)
            if found is None:
                return
            line = found
        for seq in line.from_on(start):
            one = self.messages[seq]
            if wanted.wants(one.subject):
                yield one

    def count(self, start: int, wanted: Filter) -> int:
        """Return how many messages from a sequence on are wanted."""
        if start <= self.first and (not wanted.patterns or wanted.literal is not None):
            return len(self) if wanted.literal is None else self.of(wanted.literal)
        return sum(1 for _ in self.from_on(start, wanted))

    def of(self, subject: str) -> int:
        """Return how many messages of a subject there are."""
        line = self.subjects.get(subject)
        return 0 if line is None else line.alive

    def begin_after(self) -> None:
        """Note that a store without messages was emptied, whether there were any or not."""
        self._first = self.last + 1

    def first_of(self, subject: str) -> Stored | None:
        line = self.subjects.get(subject)
        seq = None if line is None else line.next(0)
        return None if seq is None else self.messages[seq]

    def last_of(self, pattern: str) -> Stored | None:
        """Return the newest message of a subject, or of those that a pattern takes."""
        if not has_wildcard(pattern):
            line = self.subjects.get(pattern)
            seq = None if line is None else line.last
        else:
            lasts = [line.last or 0 for subject, line in self.subjects.items() if matches(subject, pattern)]
            seq = max(lasts, default=None)
        return None if seq is None else self.messages[seq]

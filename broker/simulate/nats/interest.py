"""Knows who hears which subject, wildcards and queue groups included."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.simulate.nats.session import Session

_ONE, _REST = "*", ">"
_REMEMBERED = 10_000


@dataclass(slots=True, eq=False)
class Subscriber:
    """A subscription of a connection, as the server has it."""

    session: "Session"
    sid: int
    subject: str
    queue: str = ""
    left: int | None = None
    """How many messages it still gets; None: all."""


@dataclass(slots=True, eq=False)
class _Level:
    """The subscriptions to one subject. What hears in which order is the order in which they came."""

    plain: dict[Subscriber, None] = field(default_factory=dict)
    queues: dict[str, dict[Subscriber, None]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.plain or self.queues)

    def add(self, one: Subscriber) -> None:
        members = self.queues.setdefault(one.queue, {}) if one.queue else self.plain
        members[one] = None

    def remove(self, one: Subscriber) -> None:
        if not one.queue:
            self.plain.pop(one, None)
        elif members := self.queues.get(one.queue):
            members.pop(one, None)
            if not members:
                del self.queues[one.queue]


@dataclass(slots=True, eq=False)
class _Node:
    """The subscriptions with wildcards that begin alike."""

    children: dict[str, "_Node"] = field(default_factory=dict)
    here: _Level = field(default_factory=_Level)
    rest: _Level = field(default_factory=_Level)
    """Those that end with `>` here."""

    def __bool__(self) -> bool:
        return bool(self.children or self.here or self.rest)


@dataclass(slots=True, eq=False)
class Heard:
    """Who hears a subject: all of `plain`, and one of each group."""

    plain: list[Subscriber]
    groups: dict[str, list[Subscriber]]

    def __bool__(self) -> bool:
        return bool(self.plain or self.groups)


class Interest:
    """All subscriptions of a server."""

    def __init__(self) -> None:
        self._literal: dict[str, _Level] = {}
        self._wild = _Node()
        self._heads: dict[str, int] = {}
        """How many subscriptions begin with each token."""
        self._known: dict[str, Heard | None] = {}
        """Who hears what, as far as somebody has asked since a subscription came or went."""

    def add(self, one: Subscriber) -> None:
        self._count(one, 1)
        if has_wildcard(one.subject):
            node, is_rest = self._node(one.subject)
            (node.rest if is_rest else node.here).add(one)
        else:
            self._literal.setdefault(one.subject, _Level()).add(one)

    def remove(self, one: Subscriber) -> None:
        self._count(one, -1)
        if has_wildcard(one.subject):
            self._prune(self._wild, one, one.subject.split("."), 0)
        elif level := self._literal.get(one.subject):
            level.remove(one)
            if not level:
                del self._literal[one.subject]

    def _count(self, one: Subscriber, more: int) -> None:
        self._known.clear()
        head = one.subject.partition(".")[0]
        self._heads[head] = self._heads.get(head, 0) + more
        if not self._heads[head]:
            del self._heads[head]

    def heard(self, subject: str) -> Heard | None:
        """Return who hears a subject; None if nobody does."""
        heads = self._heads
        if subject.partition(".")[0] not in heads and _ONE not in heads and _REST not in heads:
            return None
        if subject in self._known:
            return self._known[subject]
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        found = self._known[subject] = self._found(subject)
        return found

    def _found(self, subject: str) -> Heard | None:
        levels = self._wild_levels(subject)
        if (literal := self._literal.get(subject)) is not None:
            levels.insert(0, literal)
        if not levels:
            return None
        found = Heard([], {})
        for level in levels:
            found.plain += level.plain
            for queue, members in level.queues.items():
                found.groups.setdefault(queue, []).extend(members)
        return found

    def has(self, subject: str) -> bool:
        return self.heard(subject) is not None

    def _wild_levels(self, subject: str) -> list[_Level]:
        levels: list[_Level] = []
        _walk(self._wild, subject.split("."), 0, levels)
        return levels

    def _node(self, subject: str) -> tuple[_Node, bool]:
        node = self._wild
        for token in subject.split("."):
            if token == _REST:
                return node, True
            node = node.children.setdefault(token, _Node())
        return node, False

    def _prune(self, node: _Node, one: Subscriber, tokens: Sequence[str], at: int) -> None:
        """Remove a subscription, and what only it had made."""
        if at == len(tokens):
            node.here.remove(one)
        elif tokens[at] == _REST:
            node.rest.remove(one)
        elif (child := node.children.get(tokens[at])) is not None:
            self._prune(child, one, tokens, at + 1)
            if not child:
                del node.children[tokens[at]]


def _walk(node: _Node, tokens: Sequence[str], at: int, levels: list[_Level]) -> None:
    if at == len(tokens):
        if node.here:
            levels.append(node.here)
        return
    if node.rest:
        levels.append(node.rest)
    for token in (tokens[at], _ONE):
        if (child := node.children.get(token)) is not None:
            _walk(child, tokens, at + 1, levels)


def has_wildcard(subject: str) -> bool:
    return (_ONE in subject and _ONE in subject.split(".")) or subject == _REST or subject.endswith("." + _REST)


def is_valid(subject: str) -> bool:
    """Say whether it can be subscribed to: no empty tokens, no spaces, `>` at the end only."""
    tokens = subject.split(".")
    return all(tokens) and not any(c in subject for c in " \t\r\n") and _REST not in tokens[:-1]


def matches(subject: str, pattern: str) -> bool:
    """Say whether a subject, which may itself have wildcards, is within a pattern."""
    return subject == pattern or _within(subject.split("."), pattern.split("."))


def _within(tokens: Sequence[str], pattern: Sequence[str]) -> bool:
    for at, wanted in enumerate(pattern):
        if wanted == _REST:
            return at < len(tokens)
        if at >= len(tokens) or tokens[at] == _REST:
            return False
        if wanted != _ONE and wanted != tokens[at]:
            return False
    return len(tokens) == len(pattern)


def collide(one: str, other: str) -> bool:
    """Say whether a subject can match both patterns."""
    for mine, theirs in _pairs(one.split("."), other.split(".")):
        if _REST in (mine, theirs):
            return bool(mine and theirs)
        if not mine or not theirs:
            return False
        if mine != theirs and _ONE not in (mine, theirs):
            return False
    return True


def _pairs(one: Sequence[str], other: Sequence[str]) -> Iterator[tuple[str, str]]:
    for at in range(max(len(one), len(other))):
        yield one[at] if at < len(one) else "", other[at] if at < len(other) else ""

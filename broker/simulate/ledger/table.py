"""Tables in memory, with indexes, of which a transaction changes all or nothing.

Rows are frozen: whoever has read one keeps it as it was. A change puts another row in its place, and the old one into the
log of the transaction, by which it is undone if something is raised.
"""

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from msgspec.structs import replace

from broker.errors import Conflict

K = TypeVar("K", bound=Hashable)
R = TypeVar("R", bound=Any)
T = TypeVar("T")
Order = tuple[Any, ...]
"""What rows are sorted by. It ends with something that no two rows share, or the key does."""
ALL = ()
"""The group of an index that has one."""


class Undoable(Protocol):
    def restore(self, key: Any, old: Any) -> None: ...


Log = list[tuple[Undoable, Any, Any]]
"""What a transaction has changed so far, with what was there before."""


class Index(Generic[K, R]):
    """The keys of a table's rows, apart for each group, in an order. A row whose group is None is not in it."""

    __slots__ = ("_entry", "_groups")

    def __init__(self, entry: Callable[[R], tuple[Hashable, Order] | None]) -> None:
        """`entry` says where a row stands: its group, and what it is sorted by there; None if nowhere."""
        self._entry = entry
        self._groups: dict[Hashable, list[tuple[Order, K]]] = {}

    def groups(self) -> list[Any]:
        """List the groups that have rows, sorted."""
        return sorted(self._groups)

    def has(self, group: Hashable) -> bool:
        return group in self._groups

    def count(self, group: Hashable = ALL) -> int:
        return len(self._groups.get(group, ()))

    def keys(self, group: Hashable = ALL, *, limit: int | None = None) -> list[K]:
        """List keys in order. It is a copy: rows may be changed meanwhile."""
        return [key for _, key in self._groups.get(group, [])[:limit]]

    def after(self, group: Hashable, order: Order, *, limit: int | None = None) -> list[K]:
        """List the keys that come after `order`, whether a row stands there or not."""
        entries = self._groups.get(group, [])
        start = bisect_left(entries, (order,))
        if start < len(entries) and entries[start][0] == order:
            start += 1
        return [key for _, key in entries[start : None if limit is None else start + limit]]

    def before(self, group: Hashable, order: Order, *, limit: int | None = None) -> list[K]:
        """List the keys that come before `order`, the nearest first."""
        entries = self._groups.get(group, [])
        end = bisect_left(entries, (order,))
        start = 0 if limit is None else max(0, end - limit)
        return [key for _, key in reversed(entries[start:end])]

    def count_before(self, group: Hashable, order: Order) -> int:
        return bisect_left(self._groups.get(group, []), (order,))

    def first(self, group: Hashable = ALL) -> tuple[Order, K] | None:
        entries = self._groups.get(group)
        return entries[0] if entries else None

    def last(self, group: Hashable = ALL) -> tuple[Order, K] | None:
        entries = self._groups.get(group)
        return entries[-1] if entries else None

    def newest(self, group: Hashable = ALL, *, limit: int | None = None) -> list[K]:
        """List keys in reverse order."""
        entries = self._groups.get(group, [])
        start = 0 if limit is None else max(0, len(entries) - limit)
        return [key for _, key in reversed(entries[start:])]

    def follow(self, key: K, old: R | None, new: R | None) -> None:
        """Let the index follow a change of a row."""
        was = None if old is None else self._entry(old)
        now = None if new is None else self._entry(new)
        if was == now:
            return
        if was is not None:
            group, order = was
            entries = self._groups[group]
            del entries[bisect_left(entries, (order,))]
            if not entries:
                del self._groups[group]
        if now is not None:
            group, order = now
            entries = self._groups.setdefault(group, [])
            if not entries or entries[-1][0] < order:
                entries.append((order, key))
            else:
                entries.insert(bisect_left(entries, (order,)), (order, key))


class Table(Generic[K, R]):
    """Rows by their primary key."""

    __slots__ = ("_indexes", "_key", "_log", "_name", "_rows", "trigger")

    def __init__(self, name: str, log: Log, key: Callable[[R], K], *indexes: Index[K, R]) -> None:
        self._name = name
        self._log = log
        self._key = key
        self._indexes = indexes
        self._rows: dict[K, R] = {}
        self.trigger: Callable[[R | None, R | None], None] | None = None
        """Called after each change with the row as it was and is; None: it was or is not there."""

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: K) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[R]:
        """Go through a copy of all rows, in the order in which they were inserted."""
        return iter(list(self._rows.values()))

    def __getitem__(self, key: K) -> R:
        return self._rows[key]

    def get(self, key: K) -> R | None:
        return self._rows.get(key)

    def insert(self, row: R) -> None:
        """Raises: Conflict, if there is a row with its key."""
        key = self._key(row)
        if key in self._rows:
            raise Conflict(f"{self._name}_pkey")
        self._set(key, None, row)

    def add(self, row: R) -> bool:
        """Insert a row unless there is one with its key (`on conflict do nothing`). Return whether it was."""
        key = self._key(row)
        if key in self._rows:
            return False
        self._set(key, None, row)
        return True

    def put(self, row: R) -> None:
        """Insert a row, or put it in the place of the one with its key."""
        key = self._key(row)
        self._set(key, self._rows.get(key), row)

    def change(self, key: K, **changes: object) -> R:
        """Change columns of a row, but not its key. Return how it is now."""
        old = self._rows[key]
        new = replace(old, **changes)
        self._set(key, old, new)
        return new

    def remove(self, key: K) -> R:
        old = self._rows[key]
        self._set(key, old, None)
        return old

    def restore(self, key: K, old: R | None) -> None:
        """Undo a change."""
        self._apply(key, self._rows.get(key), old)

    def _set(self, key: K, old: R | None, new: R | None) -> None:
        self._log.append((self, key, old))
        self._apply(key, old, new)
        if self.trigger is not None:
            self.trigger(old, new)

    def _apply(self, key: K, old: R | None, new: R | None) -> None:
        if new is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = new
        for index in self._indexes:
            index.follow(key, old, new)


class Value(Generic[T]):
    """A table of one row and one column."""

    __slots__ = ("_log", "now")

    def __init__(self, log: Log, first: T) -> None:
        self._log = log
        self.now = first

    def set(self, value: T) -> None:
        self._log.append((self, None, self.now))
        self.now = value

    def restore(self, _: object, old: T) -> None:
        self.now = old

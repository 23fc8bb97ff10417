"""Reads rows by ranges of ids and by filters, as statements do."""

from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

import msgspec

from broker.simulate.ledger.stored import MemoryRow
from broker.simulate.ledger.table import ALL, Index

Columns = dict[str, Any]
"""A row that is made of several."""
_texts = msgspec.json.Decoder(dict[str, str])


class _Kind(msgspec.Struct, frozen=True):
    type: str | None = None
    code: str | None = None


_kind = msgspec.json.Decoder(_Kind)


class Timed(Protocol):
    @property
    def expires_ms(self) -> int | None: ...


def columns_of(row: MemoryRow) -> Columns:
    return msgspec.structs.asdict(row)


def ids_within(index: Index[UUID, Any], low: UUID, high: UUID, *, newest_first: bool) -> list[UUID]:
    """List the ids of an index by id from `low` to below `high`."""
    found = index.before(ALL, (high.int,))
    kept = [key for key in found if key.int >= low.int]
    return kept if newest_first else kept[::-1]


def failure_kind(state: str, failure: str | None) -> str:
    """Say what `infermq.failure_kind` says: of a refusal its code, else the kind of the failure, else the state."""
    if failure is None:
        return str(state)
    said = _kind.decode(failure)
    return (said.code if said.type == "refused" else said.type) or str(state)


def has_all(metadata: str | None, wanted: str | None) -> bool:
    """Tell whether metadata contain what is wanted; null: anything."""
    if wanted is None:
        return True
    return metadata is not None and _texts.decode(wanted).items() <= _texts.decode(metadata).items()


def is_any(value: str | None, wanted: Sequence[str] | None) -> bool:
    """Tell whether a value is one of those wanted; none: any is."""
    return not wanted or value in wanted


def least(*values: int | None) -> int | None:
    """Return the least of those that are not null."""
    return min((value for value in values if value is not None), default=None)

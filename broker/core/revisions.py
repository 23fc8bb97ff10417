"""Decides which revision of the catalog is in force: the ledger orders them, and NATS holds a copy of the newest."""

from dataclasses import dataclass

from schemas.catalog import Catalog, Revision
from schemas.units import Ms

NONE = Revision(number=0, applied_ms=Ms(0), catalog=Catalog())
"""The revision before any catalog is applied: it has no model."""


@dataclass(frozen=True, slots=True)
class Compared:
    in_force: Revision
    copy_is_wrong: bool = False
    """NATS must be told what is in force."""
    note: str | None = None
    """What is unusual, for people to read."""


def compare(recorded: Revision | None, copy: Revision | None) -> Compared:
    """Compare the ledger's newest revision with the copy in NATS. A ledger that has none says nothing about it."""
    if recorded is None:
        if copy is None or copy == NONE:
            return Compared(NONE)
        note = f"the ledger has no catalog: revision {copy.number} of NATS is in force until one is applied"
        return Compared(copy, note=note)
    if copy == recorded:
        return Compared(recorded)
    held = (
        "no catalog" if copy is None else f"revision {copy.number}" if copy.number != recorded.number else "another"
    )
    note = f"NATS held {held} instead of the ledger's revision {recorded.number}"
    return Compared(recorded, copy_is_wrong=True, note=note)


def unread(in_force: Revision, copy: Revision | None, why: str) -> Compared:
    """Go on with the copy in NATS while the ledger cannot be read, or with what is in force if there is no copy."""
    chosen = in_force if copy is None else copy
    return Compared(chosen, note=f"revision {chosen.number} of NATS is in force and was not compared: {why}")

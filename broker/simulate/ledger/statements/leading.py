"""The lease of the leader, what is paused, the revisions of the catalog, and the key of the seals."""

from typing import Any

import msgspec

from broker.simulate.ledger.statements.named import Rows, statement
from broker.simulate.ledger.statements.reading import columns_of
from broker.simulate.ledger.stored import CatalogRow, LeaderRow, PauseRow
from broker.simulate.ledger.table import ALL
from broker.simulate.ledger.tables import Tables


@statement
def lead(t: Tables, holder: str, lease_ms: int, shard: int) -> Rows:
    now_ns, term = t.timers.wall_ns(), 1
    if (row := t.leader.get(shard)) is not None:
        is_over = row.until_ns <= now_ns
        if row.holder != holder and not is_over:
            return []
        term = row.term + 1 if is_over else row.term
    t.leader.put(LeaderRow(shard=shard, holder=holder, term=term, until_ns=now_ns + lease_ms * 1_000_000))
    return [{"term": term}]


@statement
def step_down(t: Tables, holder: str, term: int, shard: int) -> Rows:
    row = t.leader.get(shard)
    if row is None or row.holder != holder or row.term != term:
        return []
    return [t.leader.change(shard, until_ns=t.timers.wall_ns())]


@statement
def leader(t: Tables, shard: int) -> Rows:
    row = t.leader.get(shard)
    return [row] if row is not None and row.until_ns > t.timers.wall_ns() else []


@statement
def database_now(t: Tables) -> Rows:
    return [{"now": t.timers.wall_ns() // 1_000_000}]


@statement
def agree_on_seal_key(t: Tables, candidate: bytes) -> Rows:
    if t.seal_key.now is None:
        t.seal_key.set(candidate)
    return seal_key(t)


@statement
def seal_key(t: Tables) -> Rows:
    return [] if t.seal_key.now is None else [{"key": t.seal_key.now}]


@statement
def controls(t: Tables) -> Rows:
    pauses = [columns_of(row) for row in sorted(t.pauses, key=lambda row: (row.kind, row.name))]
    instructions = [t.instructions[key] for key in sorted(t.instructions_open.keys(ALL))]
    orders = [msgspec.Raw(row.what.encode()) for row in instructions if row.kind == "cancel"]
    return [
        {
            "number": t.control_version.now,
            "pauses": _json(pauses),
            "cancelling": t.batches_cancelling.keys(),
            "orders": _json(orders),
        }
    ]


def _json(values: list[Any]) -> str | None:
    return msgspec.json.encode(values).decode() if values else None


@statement
def pause(t: Tables, kind: str, name: str, paused_ms: int, tenant: str, key: str, reason: str | None) -> Rows:
    row = PauseRow(kind=kind, name=name, paused_ms=paused_ms, tenant=tenant, key=key, reason=reason)
    return [row] if t.pauses.add(row) else []


@statement
def pause_of(t: Tables, kind: str, name: str) -> Rows:
    row = t.pauses.get((kind, name))
    return [] if row is None else [row]


@statement
def resume(t: Tables, kind: str, name: str) -> Rows:
    return [t.pauses.remove((kind, name))] if (kind, name) in t.pauses else []


@statement
def apply_catalog(t: Tables, now: int, by: str, toml: str, after: int | None) -> Rows:
    newest = max((row.number for row in t.catalog), default=0)
    if after is not None and after != newest:
        return []
    row = CatalogRow(number=newest + 1, applied_ms=now, applied_by=by, toml=toml)
    t.catalog.insert(row)
    return [row]

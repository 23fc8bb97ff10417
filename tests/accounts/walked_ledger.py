"""What is in the ledger, to see whether somebody has changed it."""

from collections.abc import Iterable

from broker.ledger.connection import Connection

_MOVES = {"leader", "key_uses", "dead_letters", "jobs", "bodies", "results", "failures"}
"""What changes by itself, or by what anybody may send: a submission that is no job is a failed one, and a dead letter."""


async def snapshot(database: Connection, *, of: Iterable[str] = (), but: str = "nothing has this") -> dict[str, str]:
    """Return a digest of each table: of the rows that hold one of the texts `of`, if some are given, and not `but`."""
    names = await database.fetch(
        "select c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = 'infermq' and c.relkind in ('r', 'p') and not c.relispartition order by 1"
    )
    held = [f"%{text}%" for text in of] or ["%"]
    return {
        row["name"]: await database.fetchval(
            f"select coalesce(md5(string_agg(t::text, ' ' order by t::text)), '') from infermq.{row['name']} t"  # noqa: S608
            " where t::text like any($1) and t::text not like $2",
            held,
            f"%{but}%",
        )
        for row in names
        if row["name"] not in _MOVES
    }

"""Where the code of brokers and workers may wait: the places at which a process may be made to die."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from broker.simulate.world.waiting import ROOT

_PARTS = (
    "broker/bus",
    "broker/doors",
    "broker/ledger",
    "broker/roles",
    "broker/service",
    "schemas/jetstream",
    "workers",
)
_APART = frozenset({
    "broker/bus/callout.py", "broker/bus/connect.py", "broker/bus/connections.py", "broker/doors/health.py",
    "broker/doors/nats_api.py", "broker/doors/server.py", "broker/ledger/connection.py", "broker/ledger/copies.py",
    "broker/ledger/migrate.py", "broker/roles/callout.py", "schemas/jetstream/client.py", "workers/__main__.py",
    "workers/bench.py", "workers/cli.py", "workers/config.py", "workers/health.py", "workers/http.py",
})  # fmt: skip
"""What a simulated world has not got: commands, sockets, a real database, keys of NATS."""
_FOLDERS_APART = ("workers/engines/",)


@cache
def waits() -> tuple[str, ...]:
    """List the places, by file and line, in an order that is the same on each machine."""
    return tuple(f"{file}:{line}" for file in files() for line in sorted(lines_of(file)))


def files() -> list[str]:
    """List the files whose code runs in a simulated world."""
    found = (path.relative_to(ROOT).as_posix() for part in _PARTS for path in sorted(Path(ROOT, part).rglob("*.py")))
    return [file for file in found if file not in _APART and not file.startswith(_FOLDERS_APART)]


def lines_of(file: str) -> set[int]:
    """Find the lines at which a file's code may wait here: in the ledger, where transactions begin and end."""
    source = Path(ROOT, file).read_text()
    return lines(source, (ast.AsyncWith,)) if file.startswith("broker/ledger/") else lines(source)


def lines(source: str, kinds: tuple[type[ast.AST], ...] = (ast.AST,)) -> set[int]:
    """Find the lines at which a coroutine of a source may wait."""
    return {line for node in ast.walk(ast.parse(source)) if isinstance(node, kinds) for line in _of(node)}


def _of(node: ast.AST) -> Iterator[int]:
    match node:
        case ast.Await():
            yield node.lineno
        case ast.AsyncFor():
            yield node.iter.lineno
        case ast.AsyncWith():
            yield from (item.context_expr.lineno for item in node.items)
        case ast.ListComp() | ast.SetComp() | ast.DictComp() if any(one.is_async for one in node.generators):
            yield node.lineno

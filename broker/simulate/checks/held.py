"""Lists what a simulated process holds: subscriptions, tasks, and all that lies in the containers of its objects."""

import asyncio
import re
from collections import Counter, deque
from collections.abc import Iterator
from functools import partial
from types import CellType, CoroutineType, FunctionType, MethodType
from typing import Any

from broker.simulate.nats.server import Server
from broker.simulate.world.world import Process

_OURS = ("broker.", "workers.", "schemas.")
_NOT_OF_A_PROCESS = ("broker.simulate.",)
_CONTAINERS = (dict, list, set, frozenset, deque, tuple)
_ID = re.compile(r"[0-9a-z]*[0-9][0-9a-z]*")
"""A token of a subject that differs from process to process."""


def held(server: Server, process: Process, *, with_noughts: bool = False) -> Counter[str]:
    """Count what a process holds, by what it is. What is counted in a container and is nought counts only if asked for."""
    tasks = sorted(asyncio.all_tasks(process.loop), key=hash)
    found: Counter[str] = Counter()
    for session in server.sessions:
        if session.name == process.name:
            found["connection"] += 1
            found.update(f"subscription {_ID.sub('#', subject)}" for subject in session.subjects())
    found.update(f"task {_name(task)}" for task in tasks)
    for owner, container in _containers([task.get_coro() for task in tasks]):
        found[owner] += len(container) if with_noughts else _size(container)
    return +found


def held_by_server(server: Server) -> Counter[str]:
    """Count what a server holds: its consumers, and the messages in its streams."""
    found: Counter[str] = Counter()
    for name, stream in server.streams.items():
        found[f"message in {name}"] = len(stream.store)
        found.update(f"consumer {_ID.sub('#', consumer)} of {name}" for consumer in stream.consumers)
    return +found


def _size(container: Any) -> int:
    """Return how much is in a container, without what is nought."""
    within = container.values() if isinstance(container, dict) else container
    return sum(not (type(one) is int and one == 0) for one in within)


def _name(task: "asyncio.Task[Any]") -> str:
    return str(getattr(task.get_coro(), "__qualname__", "?"))


def _containers(roots: list[Any]) -> Iterator[tuple[str, Any]]:
    """Walk through all objects of ours within reach, and yield their containers, named by class and attribute."""
    seen: set[int] = set()
    to_see: list[tuple[str, Any]] = [("", root) for root in roots]
    while to_see:
        owner, thing = to_see.pop()
        if id(thing) in seen or isinstance(thing, type | str | bytes | int | float | None):
            continue
        seen.add(id(thing))
        if isinstance(thing, _CONTAINERS):
            if owner and not isinstance(thing, tuple):
                yield owner, thing
            within = [*thing, *thing.values()] if isinstance(thing, dict) else list(thing)
            to_see += [("", one) for one in within]
        else:
            to_see += _within(thing)


def _within(thing: Any) -> Iterator[tuple[str, Any]]:
    match thing:
        case CoroutineType():
            if thing.cr_frame is not None:
                yield "", thing.cr_frame.f_locals.get("self")
            yield "", thing.cr_await
        case MethodType():
            yield "", thing.__self__
        case FunctionType():
            yield from (("", cell) for cell in thing.__closure__ or ())
        case CellType():
            try:
                yield "", thing.cell_contents
            except ValueError:  # it is empty
                return
        case partial():
            yield "", thing.func
            yield "", thing.args
            yield "", thing.keywords
        case asyncio.Task():
            yield "", thing.get_coro()
        case _ if _is_of_a_process(type(thing)):
            yield from ((f"{type(thing).__name__}.{name}", one) for name, one in _attributes(thing))


def _is_of_a_process(kind: type) -> bool:
    return kind.__module__.startswith(_OURS) and not kind.__module__.startswith(_NOT_OF_A_PROCESS)


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(thing, "__dict__", {}).items()
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, name):
                yield name, getattr(thing, name)

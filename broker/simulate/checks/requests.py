"""What must hold of requests for answers: each ends as it may, in time, and as what really became of it.

Whoever asks is told nothing, or hears late, if a fault was near; that nothing is said which is not true holds always.
"""

from collections.abc import Iterator

from broker.simulate.cast.told import SUCCEEDED, Asked
from broker.simulate.faults.kinds import FaultKind
from broker.simulate.system import System

_LATE_S = 1.5
"""By how much an answer may come after the time-out of its request: it must be noticed, and travel."""
_TRAVELS_S = 0.5
"""How long an answer may take from an engine to whoever asked."""
_NOT_STORED = "NATS is away"
_NOT_TAKEN = "no worker took the request within"
_MAY_FAIL = {"timed_out", "paused", "no_worker", "worker_lost", "queue_full", "key_revoked"}
"""What may become of any request: slots are taken, people pause things, workers die of other requests, keys are revoked."""
_SCRIPTED = {
    "once": {"engine_fault"},
    "raises": {"engine_fault"},
    "hopeless": {"engine_fault"},
    "throttled": {"throttled"},
    "filtered": {"filtered"},
    "poison": {"poison", "engine_fault"},
    "refused": {"unknown_model"},
    "too large": {"response_too_large"},
}


def broken_requests(system: System) -> Iterator[str]:
    for asked in system.told.asked:
        yield from _ended_for_nothing(system, asked)
        if not system.troubles.near(asked.at_s, asked.at_s + asked.within_s + _LATE_S) and not asked.has_left:
            yield from _in_calm(system, asked)


def _ended_for_nothing(system: System, asked: Asked) -> Iterator[str]:
    """Nobody hears that NATS took no attempt if it has the last one."""
    if (
        asked.job is None
        or _NOT_STORED not in asked.message
        or any(one.kind is FaultKind.SKEW for one in system.happened)
    ):
        return
    if system.published.last_is_stored(asked.job):
        yield f"{_named(asked)}: {asked.message}; and NATS has its last attempt"


def _in_calm(system: System, asked: Asked) -> Iterator[str]:
    """Without a fault near it, a request is answered in time, and fails only as it is scripted, or as any may."""
    if not asked.code:
        yield f"{_named(asked)}: nothing was heard of it"
    elif asked.told_s > asked.at_s + asked.within_s + _LATE_S:
        yield f"{_named(asked)}: {asked.code} was heard after {asked.told_s - asked.at_s:.1f} s"
    if asked.code == SUCCEEDED or asked.job is None:
        return
    if asked.code and asked.code not in _MAY_FAIL | _SCRIPTED.get(asked.kind.words, set()):
        yield f"{_named(asked)} failed: {asked.code}: {asked.message}"
    if _NOT_TAKEN in asked.message:
        yield f"{_named(asked)}: {asked.message}; and nothing kept its workers from it"
    done_s = system.ran.succeeded_s.get(asked.job)
    if done_s is not None and done_s + _TRAVELS_S < min(asked.told_s or done_s, asked.at_s + asked.within_s):
        yield f"{_named(asked)} failed: {asked.code}, and an engine had answered it"
    if asked.job in system.ran.bodies:
        row = system.tables.jobs.get(asked.job)
        if row is None or row.state == "open":
            yield f"{_named(asked)} failed: {asked.code}, and is {row and row.state}"
        elif row.state == "succeeded" and asked.code != "timed_out":
            yield f"{_named(asked)} failed: {asked.code}, and is recorded as succeeded"


def _named(asked: Asked) -> str:
    return f"request {asked.job} ({asked.kind.words}, at {asked.at_s:.1f} s)"

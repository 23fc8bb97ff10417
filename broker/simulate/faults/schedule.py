"""Draws from a seed what goes wrong in a simulated world, with whom, and when."""

import random

from broker.simulate.faults.kinds import Fault, FaultKind
from broker.simulate.faults.waits import waits
from broker.simulate.system import System
from schemas import subjects

_FAULTS_S = 40.0
"""How long faults begin."""
_WEIGHTS = {
    FaultKind.KILL: 8,
    FaultKind.KILL_AT_WAIT: 14,
    FaultKind.STOP: 4,
    FaultKind.SLOW: 3,
    FaultKind.SKEW: 3,
    FaultKind.CUT: 4,
    FaultKind.STALL: 3,
    FaultKind.NATS_AWAY: 2,
    FaultKind.FORGETFUL: 2,
    FaultKind.TWICE: 3,
    FaultKind.FULL: 4,
    FaultKind.STREAM_LOST: 0.7,
    FaultKind.STORE_LOST: 0.4,
    FaultKind.POSTGRES_AWAY: 2,
    FaultKind.POSTGRES_FAILS: 3,
    FaultKind.POSTGRES_SLOW: 2,
    FaultKind.FILES_AWAY: 2,
    FaultKind.FILES_FAIL: 2,
    FaultKind.LEAVE: 4,
    FaultKind.RUBBISH: 2,
    FaultKind.STOP_IN_TRANSACTION: 6,
    FaultKind.KILL_IN_TRANSACTION: 6,
}
_AREAS = (
    "attempts", "attempts", "attempts", "attempts", "intake", "settlement", "settlement", "instructions", "suspects",
    "cancels", "deliveries", "leadership", "files", "file_batches", "blobs",
)  # fmt: skip
"""Of the ledger: where a broker is caught in a transaction."""
_OF_A_PROCESS = {
    FaultKind.KILL, FaultKind.STOP, FaultKind.SLOW, FaultKind.SKEW, FaultKind.CUT, FaultKind.STALL, FaultKind.LEAVE,
}  # fmt: skip
_AMOUNTS: dict[FaultKind, tuple[float, ...]] = {
    FaultKind.KILL: (1, 5, 20, 100),
    FaultKind.KILL_AT_WAIT: (1, 1, 2, 3, 6),
    FaultKind.SKEW: (-60_000, -3000, -300, 300, 3000, 60_000),
    FaultKind.POSTGRES_FAILS: (0.02, 0.1, 0.5),
    FaultKind.FILES_FAIL: (0.05, 0.2, 0.5),
    FaultKind.POSTGRES_SLOW: (10, 50),
    FaultKind.SLOW: (0.2, 0.02),
    FaultKind.FULL: (0, 1, 3.2, 4.5),
    FaultKind.STOP_IN_TRANSACTION: (0, 1),
    FaultKind.KILL_IN_TRANSACTION: (0, 1),
}


def draw(chance: random.Random, system: System) -> list[Fault]:
    """Draw a schedule: mostly a few faults, sometimes many, sometimes none."""
    number = chance.choice((0, 1, 2, 3, 3, 5, 8, 13, 20))
    who = [*system.members, *(one.name for one in system.callers)]
    brokers = [name for name in system.members if name.startswith("broker")]
    found = []
    for _ in range(number):
        kind = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        name = ""
        if kind in _OF_A_PROCESS:
            name = chance.choice(list(system.members) if kind is FaultKind.LEAVE else who)
        elif kind in (FaultKind.STOP_IN_TRANSACTION, FaultKind.KILL_IN_TRANSACTION):
            name = chance.choice(brokers)
        elif kind is FaultKind.KILL_AT_WAIT:
            found.append(_drawn_wait(chance, list(system.members)))
            continue
        elif kind in (FaultKind.STREAM_LOST, FaultKind.FORGETFUL, FaultKind.TWICE):
            name = chance.choice((subjects.SUBMIT, subjects.RUN, subjects.RUN, subjects.OUTCOME, subjects.OUTCOME))
        elif kind is FaultKind.FULL:
            name = chance.choice((subjects.SUBMIT, subjects.RUN, subjects.OUTCOME, subjects.NOW, subjects.NOW))
        found.append(_drawn(chance, kind, name))
    if system.size.spares_workers:
        found = [fault for fault in found if fault.who in brokers or fault.kind in _OF_NOBODYS_WORK]
    return sorted(found, key=lambda fault: fault.at_s)


def _drawn(chance: random.Random, kind: FaultKind, who: str) -> Fault:
    at_s = round(3.0 + chance.random() * _FAULTS_S, 3)
    for_s = round(chance.choice((0.3, 1.0, 3.0, 8.0, 20.0)) * (0.5 + chance.random()), 3)
    amount = chance.choice(_AMOUNTS.get(kind, (0.0,)))
    if kind is FaultKind.KILL:
        amount = amount * chance.random() + 1
    if kind is FaultKind.SKEW and who.startswith("worker") and chance.random() < _WRONG_DAY:
        amount = chance.choice(_DAYS_MS)
    where = chance.choice(_AREAS) if kind in _IN_TRANSACTION else ""
    if kind is FaultKind.STOP_IN_TRANSACTION:
        for_s = round(chance.choice(_DEPOSED_S) * (1 + chance.random()), 3)
    return Fault(at_s, kind, who, where, for_s if kind not in _MOMENTARY else 0.0, round(amount, 3))


def _drawn_wait(chance: random.Random, members: list[str]) -> Fault:
    """Draw a place, then somebody who may come by, from the beginning on."""
    place = chance.choice(waits())
    who = chance.choice([name for name in members if place.startswith(_CODE_OF[name.partition("-")[0]])])
    leaves_after_s = round(chance.choice((0.0, 2.0, 8.0)) * (0.5 + chance.random()), 3)
    at_s = round(chance.choice((0.0, chance.random() * _FAULTS_S, chance.random() * _FAULTS_S)), 3)
    times = chance.choice(_AMOUNTS[FaultKind.KILL_AT_WAIT])
    return Fault(at_s, FaultKind.KILL_AT_WAIT, who, place, leaves_after_s, times)


_CODE_OF = {"broker": ("broker/", "schemas/"), "worker": ("workers/", "schemas/")}
_OF_NOBODYS_WORK = {
    FaultKind.POSTGRES_AWAY, FaultKind.POSTGRES_FAILS, FaultKind.POSTGRES_SLOW, FaultKind.FILES_AWAY,
    FaultKind.FILES_FAIL, FaultKind.RUBBISH,
}  # fmt: skip
"""What leaves workers alone, and their way to brokers."""
_DEPOSED_S = (2.0, 5.0, 5.0, 10.0)
"""Mostly longer than the lease of a leader."""
_DAYS_MS = tuple(days * 86_400_000.0 for days in (-400, -2, 2, 400))
_WRONG_DAY = 0.5
"""How many of the workers whose clocks are wrong do not even know the day. A broker's clock decides on deadlines."""
_IN_TRANSACTION = {FaultKind.STOP_IN_TRANSACTION, FaultKind.KILL_IN_TRANSACTION}
_MOMENTARY = {
    FaultKind.KILL, FaultKind.SKEW, FaultKind.CUT, FaultKind.TWICE, FaultKind.FORGETFUL, FaultKind.KILL_IN_TRANSACTION,
    FaultKind.LEAVE, FaultKind.RUBBISH,
}  # fmt: skip

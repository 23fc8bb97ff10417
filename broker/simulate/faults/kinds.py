"""What can go wrong in a simulated world."""

from enum import StrEnum

import msgspec


class FaultKind(StrEnum):
    KILL = "kill"
    """A process dies at one of its next steps, whatever it waits for there, and is started again."""
    KILL_AT_WAIT = "kill_at_wait"
    """A process dies as soon as a task of it waits at a given line of ours: lines that are passed seldom, too, at which a
    death at any step would hardly ever hit. If none waits there for a while, it may be told to leave, so that it passes what
    ends and begins a life."""
    STOP = "stop"
    """A process makes no step for a while: a machine that swaps, a debugger, a paused container."""
    SLOW = "slow"
    """A process makes fewer steps than others for a while."""
    SKEW = "skew"
    """The clock of a process jumps. A worker reads it as it starts, so it starts again."""
    CUT = "cut"
    """The connections of a process are lost, to NATS and over HTTP. What is on its way may be lost with them."""
    STALL = "stall"
    """The connections of a process carry nothing for a while, to NATS and over HTTP."""
    NATS_AWAY = "nats_away"
    """NATS ends, and starts again with what is on its disk."""
    FORGETFUL = "forgetful"
    """NATS forgets what a consumer has delivered and acknowledged: it comes again, counted from one."""
    TWICE = "twice"
    """NATS delivers again, at once, what is not acknowledged yet."""
    FULL = "full"
    """A stream has no room for a while, and says so at once or late."""
    STREAM_LOST = "stream_lost"
    """A stream is gone, with all that is in it."""
    STORE_LOST = "store_lost"
    """NATS ends, and starts again with an empty disk."""
    POSTGRES_AWAY = "postgres_away"
    POSTGRES_FAILS = "postgres_fails"
    """Some transactions fail, before their commit or after it."""
    POSTGRES_SLOW = "postgres_slow"
    FILES_AWAY = "files_away"
    """The store of files beside Postgres refuses all, or does not answer, if there is one."""
    FILES_FAIL = "files_fail"
    """Some calls of the store of files fail, before they are carried out or after it."""
    STOP_IN_TRANSACTION = "stop_in_transaction"
    """A broker makes no step for a while from just before or just after a commit of its own on."""
    KILL_IN_TRANSACTION = "kill_in_transaction"
    """A broker dies just before or just after a commit of its own."""
    LEAVE = "leave"
    """A worker or a broker is told to leave, and is started again."""
    RUBBISH = "rubbish"
    """Somebody publishes what nobody can read."""


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    at_s: float
    kind: FaultKind
    who: str = ""
    """The process, or the stream."""
    where: str = ""
    """The area of the ledger in whose transaction it happens, or the file and line at which a task waits."""
    for_s: float = 0.0
    amount: float = 0.0
    """Steps until it dies, steps that end in a wait there until it does, milliseconds of a skew, how likely a transaction
    fails, how many times slower it is, how many seconds late NATS refuses."""

    def __str__(self) -> str:
        how_long = f" for {self.for_s:.2f} s" if self.for_s else ""
        where = self.where and f" {'after' if self.amount else 'before'} a commit of {self.where}"
        if self.kind is FaultKind.KILL_AT_WAIT:
            where = f" at {self.where}"
        return f"{self.kind}{self.who and ' of ' + self.who}{where}{how_long}"

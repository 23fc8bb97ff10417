"""The exceptions that the adapters to NATS, Postgres and HTTP raise instead of their drivers' own."""


class Unavailable(Exception):
    """NATS or Postgres, as `what` says, cannot answer now: try again later."""

    def __init__(self, what: str, why: str = "") -> None:
        super().__init__(f"{what} is unavailable{why and ': ' + why}")
        self.what = what
        self.why = why


class NoConnection(Unavailable):
    """There is no connection to it. Where that is noticed, it is logged, once."""


class NoRoom(Exception):
    """A stream takes no more messages until some are taken out of it; the message says which limit was reached."""


class CannotListen(Exception):
    """A port or an address of this machine cannot be listened on; the message names its option."""


class Conflict(Exception):
    """Another writer came first, or the name is taken by something else."""


class LastOperator(Exception):
    """Nobody would be an operator after this change of keys or tenants."""


class Deposed(Exception):
    """A dispatch carried a term that has ended: another broker leads, or has led since."""


class ControlsChanged(Exception):
    """A dispatch was chosen by controls that have changed since: somebody paused, resumed or cancelled something."""


class BadData(Exception):
    """Postgres cannot store a value of this group, such as a NUL in a text.

    The group is bisected to find the culprit. Intake makes a dead letter of it; settle ends its job as failed.
    """


class DayNotKept(BadData):
    """A row belongs to a day that the ledger does not keep: the day was dropped, or no job was ever dated then."""

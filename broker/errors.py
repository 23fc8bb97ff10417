"""The exceptions that adapters raise; everything a driver throws ends as one of these."""


class Unavailable(Exception):
    """NATS or Postgres cannot answer now: try later. `what` says which."""

    def __init__(self, what: str, why: str = "") -> None:
        super().__init__(f"{what} is unavailable{why and ': ' + why}")
        self.what = what


class Conflict(Exception):
    """Someone was first, or the same name means something else."""


class Deposed(Exception):
    """A dispatch carried a term that is no longer the leader's."""


class BadData(Exception):
    """Postgres cannot store a value of this group (such as a NUL in a text). The group is parted until
    the culprit is found: intake makes a dead letter of it, settle ends its job as failed.
    """


class DayNotKept(BadData):
    """A row belongs to a day that the ledger does not keep: it was dropped, or no job was ever dated so."""

"""Decides how long to send nothing to an API that serves nobody, and how to try it again."""

from schemas.units import Ms
from schemas.worker import Paused

FIRST_MS, LONGEST_MS = Ms(1_000), Ms(60_000)
"""Bounds of a pause whose length the API did not say; each one doubles the last. Guesses: a hiccup costs a second, an
outage one request a minute."""
LONGEST_REQUESTED_MS = Ms(600_000)
"""The longest pause that an API can ask for. A guess."""


class Pause:
    """The pauses of one API. After a pause a single request tries; the others follow once the API has answered."""

    def __init__(self) -> None:
        self._until = Ms(0)
        self._next_ms = FIRST_MS
        self._why = ("", "")
        """Cause and detail of the failure that set `_until`."""
        self.is_in_doubt = False
        """Whether the API has answered no request since the last pause began."""

    def begin(self, now: Ms, *, cause: str, detail: str, for_ms: Ms | None = None) -> None:
        """Begin a pause, for `for_ms` if the API said how long; otherwise for twice as long as the last time.

        A request that fails during a pause was sent before it, so it does not lengthen the next one.
        """
        self.is_in_doubt = True
        if for_ms is not None:
            until = Ms(now + max(FIRST_MS, min(for_ms, LONGEST_REQUESTED_MS)))
        elif now >= self._until:
            until = Ms(now + self._next_ms)
            self._next_ms = Ms(min(LONGEST_MS, 2 * self._next_ms))
        else:
            return
        if until > self._until:
            self._until, self._why = until, (cause, detail)

    def answered(self) -> None:
        """Note that the API served a request: all slots are offered again."""
        self._next_ms = FIRST_MS
        self.is_in_doubt = False

    def left_ms(self, now: Ms) -> Ms:
        return Ms(max(0, self._until - now))

    def state(self, now: Ms) -> Paused | None:
        """Return what the worker's beat says of the pause; None once it is over and the API has answered."""
        if not self.is_in_doubt and not self.left_ms(now):
            return None
        return Paused(*self._why, self.left_ms(now))

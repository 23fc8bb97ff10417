"""When an API that serves nobody is left alone, and how it is tried again."""

from schemas.units import Ms
from schemas.worker import Paused

FIRST_MS, LONGEST_MS = Ms(1_000), Ms(60_000)
"""Of a pause whose length nobody said: doubled each time. Guesses: a hiccup costs a second, an outage a try a minute."""
LONGEST_ASKED_MS = Ms(600_000)


class Pause:
    """After one, a single request tries; the rest follows once the API has answered."""

    def __init__(self) -> None:
        self._until = Ms(0)
        self._next = FIRST_MS
        self._why = ("", "")
        """Cause and detail of the failure that set `_until`."""
        self.is_in_doubt = False
        """It has answered nothing since."""

    def begin(self, now: Ms, *, cause: str, detail: str, asked: Ms | None = None) -> None:
        """`asked`: for how long, if somebody said. What fails during a pause was sent before it and doubles nothing."""
        self.is_in_doubt = True
        if asked is not None:
            until = Ms(now + max(FIRST_MS, min(asked, LONGEST_ASKED_MS)))
        elif now >= self._until:
            until = Ms(now + self._next)
            self._next = Ms(min(LONGEST_MS, 2 * self._next))
        else:
            return
        if until > self._until:
            self._until, self._why = until, (cause, detail)

    def answered(self) -> None:
        self._next = FIRST_MS
        self.is_in_doubt = False

    def left_ms(self, now: Ms) -> Ms:
        return Ms(max(0, self._until - now))

    def state(self, now: Ms) -> Paused | None:
        """What the worker says of it: until the pause is over and the API has answered."""
        if not self.is_in_doubt and not self.left_ms(now):
            return None
        return Paused(*self._why, self._until)

"""Decides which relays are offered the slots that come free while interactive requests wait for them.

Relays say how many of their requests wait, and say it again and again: what is not heard for a second is forgotten. Free
slots are dealt out to the relays in turns. An offer stands for a moment, in which its slot is nobody else's.
"""

from collections import Counter, OrderedDict

from schemas.units import Ms

WANTED_MS = Ms(1_000)
"""How long a relay's word counts: four times as long as until it says it again."""
OFFER_MS = Ms(200)
"""How long an offered slot waits for its request: many times as long as that takes."""


class Wanted:
    """How many requests wait at each relay, and which slots they were offered."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[int, Ms]] = OrderedDict()
        """By relay, the one whose turn is next first: how many wait, and when that was heard."""
        self._offers: list[tuple[Ms, str]] = []
        """A relay for each slot that is offered, and until when."""

    def __repr__(self) -> str:
        return f"Wanted({ {relay: count for relay, (count, _) in self._counts.items()} }, offers={len(self._offers)})"

    def __bool__(self) -> bool:
        """Whether a relay may want slots, as far as was heard lately."""
        return bool(self._counts)

    def heard(self, relay: str, count: int, now: Ms) -> None:
        """Note how many requests wait at a relay."""
        if count > 0:
            self._counts[relay] = count, now
        else:
            self._counts.pop(relay, None)
            self._offers = [(until, to) for until, to in self._offers if to != relay]

    def came(self, relay: str) -> None:
        """Note that a request of a relay is here: it waits there no longer."""
        if relay in self._counts:
            count, heard = self._counts[relay]
            self._counts[relay] = max(0, count - 1), heard
        if (mine := next((one for one in self._offers if one[1] == relay), None)) is not None:
            self._offers.remove(mine)

    def waiting(self, now: Ms) -> int:
        """Return how many requests wait: as many free slots are not for dispatched attempts."""
        if self._counts:
            self._forget(now)
        return sum([count for count, _ in self._counts.values()])

    def offers(self, free: int, now: Ms) -> Counter[str]:
        """Deal out the free slots that are not offered yet: how many each relay is offered now."""
        self._forget(now)
        dealt = Counter[str]()
        offered = Counter([relay for _, relay in self._offers])
        left = free - len(self._offers)
        wants = [relay for relay, (count, _) in self._counts.items() if count > offered[relay]]
        while left > 0 and wants:
            relay = wants.pop(0)
            self._counts.move_to_end(relay)
            self._offers.append((Ms(now + OFFER_MS), relay))
            dealt[relay] += 1
            left -= 1
            if self._counts[relay][0] > offered[relay] + dealt[relay]:
                wants.append(relay)
        return dealt

    def _forget(self, now: Ms) -> None:
        self._offers = [one for one in self._offers if one[0] > now]
        for relay, (_, heard) in list(self._counts.items()):
            if now - heard >= WANTED_MS:
                del self._counts[relay]

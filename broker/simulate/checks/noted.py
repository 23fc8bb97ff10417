"""What a simulated world notes of itself while it runs: what NATS took of requests, and when something was wrong."""

from uuid import UUID

from schemas import subjects

_NEAR_S = 8.0
"""How long a fault may still be felt: workers come back, a relay notices a silence, streams are declared again."""


class Published:
    """What became of the attempts of requests that brokers published."""

    def __init__(self) -> None:
        self._stored: dict[UUID, dict[str, bool]] = {}

    def took(self, stream: str, message_id: str, is_stored: bool) -> None:  # noqa: FBT001 - it is called so
        if stream == subjects.NOW:
            job, _, token = message_id.partition(".")
            tokens = self._stored.setdefault(UUID(job), {})
            tokens[token] = tokens.get(token, False) or is_stored

    def last_is_stored(self, job: UUID) -> bool:
        """Say whether NATS has stored the last attempt of a request."""
        return list(self._stored.get(job, {"": False}).values())[-1]


class Troubles:
    """When something was wrong."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []

    def add(self, at_s: float, for_s: float = 0.0) -> None:
        self._spans.append((at_s, at_s + for_s))

    def near(self, from_s: float, to_s: float) -> bool:
        return any(begins < to_s and ends + _NEAR_S > from_s for begins, ends in self._spans)

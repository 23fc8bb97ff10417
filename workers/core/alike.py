"""Notices that an API answers everything alike, so that the fault may be the deployment's and not the requests'."""

import re
from typing import Final

from schemas.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, Endpoint

SUSPICIOUS: Final = 4
"""How many failures in a row, each the same, make one wonder. A guess: a batch may have a few bad lines in a row."""
_NUMBERS = re.compile(r"[0-9a-f-]*[0-9][0-9a-f-]*")
_SIMPLEST = {
    CHAT.path: b'{"messages":[{"role":"user","content":"Hi"}]}',
    COMPLETIONS.path: b'{"prompt":"Hi"}',
    EMBEDDINGS.path: b'{"input":"Hi"}',
}
PROBE_TOKENS = 16
"""The most output of the simplest request. Some APIs refuse a lower limit."""
_TOO_SHORT = re.compile(
    r"limit was reached|higher max_|(minimum|at least|below).{0,40}tokens|tokens.{0,60}(minimum|at least|greater than)",
    re.IGNORECASE,
)
"""How APIs say that so few tokens are too few."""


def is_too_short(message: str) -> bool:
    """Say whether an API refuses the simplest request for its few tokens: OpenAI's models that reason before they answer."""
    return _TOO_SHORT.search(message) is not None


def simplest_request(endpoint: Endpoint) -> bytes:
    """Return a body that every API serves which serves the endpoint at all."""
    return _SIMPLEST[endpoint.path]


class Alike:
    """Counts failures in a row that are the same but for the numbers in them.

    Each time the simplest request is served although these fail, twice as many of them make one wonder again.
    """

    def __init__(self) -> None:
        self._last = ""
        self._count = 0
        self._enough = SUSPICIOUS

    @property
    def is_suspicious(self) -> bool:
        """Whether so many have been the same that the simplest request should be tried."""
        return self._count >= self._enough

    def failed(self, message: str) -> None:
        words = _NUMBERS.sub("#", message)
        if words != self._last:
            self._last, self._count, self._enough = words, 0, SUSPICIOUS
        self._count += 1

    def answered(self) -> None:
        """Note that a request was served."""
        self._count = 0

    def exonerated(self) -> None:
        """Note that the simplest request is served, so that the fault is that of the others."""
        self._count, self._enough = 0, 2 * self._enough

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


def simplest_request(endpoint: Endpoint) -> bytes:
    """Return a body that every API serves which serves the endpoint at all."""
    return _SIMPLEST[endpoint.path]


class Alike:
    """Counts failures in a row that are the same but for the numbers in them."""

    def __init__(self) -> None:
        self._last = ""
        self._count = 0

    @property
    def is_suspicious(self) -> bool:
        """Whether so many have been the same that the simplest request should be tried."""
        return self._count >= SUSPICIOUS

    def failed(self, message: str) -> None:
        words = _NUMBERS.sub("#", message)
        self._count = self._count + 1 if words == self._last else 1
        self._last = words

    def answered(self) -> None:
        """Note that a request was served."""
        self._last, self._count = "", 0

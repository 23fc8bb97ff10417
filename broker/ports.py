"""Time and chance, as arguments: only the composition root knows the real ones."""

from collections.abc import Callable

from schemas.units import Ms

Clock = Callable[[], Ms]
"""Milliseconds since the epoch."""

Entropy = Callable[[], int]
"""At least 74 uniformly random bits, for ids."""

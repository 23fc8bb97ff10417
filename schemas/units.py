"""Units. Money and time are integers; the unit is in the type and in the name."""

from typing import NewType

Ms = NewType("Ms", int)
"""Milliseconds: an instant since the Unix epoch, or a duration; the name says which."""

NanoUsd = NewType("NanoUsd", int)
"""10^-9 US dollars."""

"""Writes instants as the server does, and reads its durations."""

import re
from datetime import UTC, datetime
from typing import Final

NS: Final = 1_000_000_000
_UNITS: Final = {"ns": 1, "us": 1000, "µs": 1000, "ms": 1_000_000, "s": NS, "m": 60 * NS, "h": 3600 * NS}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
NEVER: Final = -1
ZERO: Final = "0001-01-01T00:00:00Z"


def instant(at_ns: int) -> str:
    """Write an instant as RFC 3339, without zeros at the end of the fraction."""
    whole, fraction = divmod(at_ns, NS)
    text = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"


def duration_ns(text: str) -> int | None:
    """Read a duration as Go writes it, such as 1m30s. None: it is none."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return int(sum(float(number) * _UNITS[unit] for number, unit in parts))


def lifetime_s(text: str) -> int | None:
    """Read a message's time to live: whole seconds, or NEVER. None: it is none."""
    if text == "never":
        return NEVER
    if text.isdigit():
        return int(text)
    found = duration_ns(text)
    return None if found is None or found < NS else found // NS

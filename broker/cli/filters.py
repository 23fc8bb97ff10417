"""The options by which commands say which jobs or batches they mean, and what is made of them."""

import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from broker.cli.terminal import Exit, fail
from broker.core.admit import LONGEST_MS
from schemas.api import State
from schemas.job import Lane
from schemas.listing import JobFilter
from schemas.units import Ms

_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_AGO = re.compile(r"(\d{1,9})([smhdw])")


def parse_instant(text: str, now: Ms) -> Ms:
    """Read an instant: so long ago (`90s`, `30m`, `2h`, `7d`, `1w`), or ISO 8601, in UTC unless it says another zone.

    Raises: typer.BadParameter.
    """
    if ago := _AGO.fullmatch(text.strip()):
        return Ms(max(0, now - int(ago[1]) * _UNITS_MS[ago[2]]))
    try:
        at = datetime.fromisoformat(text.strip().replace(" UTC", "Z"))
        ms = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() * 1000
    except (ValueError, OverflowError) as error:
        wanted = "an instant such as 2h, 30m, 7d (so long ago), 2026-05-01 or 2026-05-01T12:30:00Z"
        raise typer.BadParameter(f"{text!r} is not {wanted}") from error
    return Ms(max(0, int(ms)))


def window_ms(text: str | None) -> int | None:
    """Read a time from now, in ms. Raises: typer.Exit."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,12})([smhd])", text)
    window_ms = int(found[1]) * _UNITS_MS[found[2]] if found else LONGEST_MS + 1
    if window_ms > LONGEST_MS:
        fail(f"--deadline: {text!r} is not a time such as 90s, 30m, 24h, and at most 7d", Exit.USAGE)
    return window_ms


def checked_instant(text: str | None) -> str | None:
    """Check an option that is an instant. Raises: typer.BadParameter."""
    if text is not None:
        parse_instant(text, Ms(0))
    return text


def instant_of(text: str | None) -> Ms | None:
    """Read an option that `parse_instant` has checked."""
    return None if text is None else parse_instant(text, Ms(time.time_ns() // 1_000_000))


def _pairs(texts: list[str] | None) -> list[str] | None:
    metadata_of(texts)
    return texts


def metadata_of(texts: Iterable[str] | None) -> dict[str, str]:
    """Read pairs `NAME=VALUE`. Raises: typer.BadParameter."""
    pairs = [text.partition("=") for text in texts or ()]
    for name, sign, _ in pairs:
        if not name or not sign:
            raise typer.BadParameter(f"{name!r} is not NAME=VALUE")
    return {name: value for name, _, value in pairs}


Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many at most.")]
Before = Annotated[UUID | None, typer.Option(help="The last id of the page before.")]
States = Annotated[
    list[State] | None, typer.Option("--state", help="Any of these states; give it again for another.")
]
Codes = Annotated[
    list[str] | None,
    typer.Option("--code", help="Any of these failures, as `dead list` and results name them, such as engine_fault."),
]
Model = Annotated[str | None, typer.Option("--model", help="The model that was asked for.")]
OfLane = Annotated[Lane | None, typer.Option("--lane", help="Only of this lane.")]
OfBatch = Annotated[UUID | None, typer.Option("--batch", help="The batch.")]
CustomIdOption = Annotated[str | None, typer.Option("--custom-id", help="The producer's own id of a line.")]
Since = Annotated[
    str | None,
    typer.Option(
        "--since", callback=checked_instant, help="From this instant on: 2h, 30m, 7d (ago), or 2026-05-01T12:30Z."
    ),
]
Until = Annotated[str | None, typer.Option("--until", callback=checked_instant, help="Before this instant.")]
MetadataOption = Annotated[
    list[str] | None,
    typer.Option("--metadata", callback=_pairs, help="NAME=VALUE of its metadata; give it again for another."),
]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Another tenant's (operators only).")]


def job_filter(
    *,
    states: Iterable[State] | None = None,
    codes: Iterable[str] | None = None,
    model: str | None = None,
    lane: Lane | None = None,
    batch: UUID | None = None,
    custom_id: str | None = None,
    since: str | None = None,
    until: str | None = None,
    metadata: Iterable[str] | None = None,
) -> JobFilter:
    """Make the filter of what the options say."""
    return JobFilter(
        states=tuple(states or ()),
        kinds=tuple(codes or ()),
        model=model,
        lane=lane,
        batch=batch,
        custom_id=custom_id,
        since_ms=instant_of(since),
        until_ms=instant_of(until),
        metadata=metadata_of(metadata),
    )

"""What the options of commands say of the jobs that they mean."""

import time
from datetime import UTC, datetime

import pytest
import typer

from broker.cli.filters import metadata_of, parse_instant
from schemas.units import Ms

NOW = Ms(1_800_000_000_000)


@pytest.mark.parametrize(
    ("text", "ago_s"), [("90s", 90), ("30m", 1800), ("2h", 7200), (" 7d ", 7 * 86400), ("1w", 7 * 86400), ("0s", 0)]
)
def test_an_instant_may_be_so_long_ago(text: str, ago_s: int) -> None:
    assert parse_instant(text, NOW) == NOW - 1000 * ago_s


@pytest.mark.parametrize("text", ["2026-05-01T12:30:00Z", "2026-05-01T14:30:00+02:00", "2026-05-01 12:30:00 UTC"])
def test_an_instant_may_be_a_date_and_time(text: str) -> None:
    assert parse_instant(text, NOW) == datetime(2026, 5, 1, 12, 30, tzinfo=UTC).timestamp() * 1000


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_a_date_without_a_zone_is_in_utc_wherever_the_machine_is(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()

    try:
        assert parse_instant("2026-05-01", NOW) == datetime(2026, 5, 1, tzinfo=UTC).timestamp() * 1000
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_is_before_1970_is_1970() -> None:
    assert parse_instant("999999999w", NOW) == 0
    assert parse_instant("1960-01-01T00:00:00Z", NOW) == 0


@pytest.mark.parametrize("text", ["", "2", "h", "yesterday", "2026-13-01", "-2h", "9999999999s", "2 h"])
def test_what_is_no_instant_is_refused_with_what_would_be(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not an instant such as 2h"):
        parse_instant(text, NOW)


def test_pairs_are_read_up_to_their_first_sign() -> None:
    assert metadata_of(["team=search", "why=a=b", "empty="]) == {"team": "search", "why": "a=b", "empty": ""}
    assert metadata_of(None) == {}


@pytest.mark.parametrize("text", ["team", "=x", ""])
def test_what_is_no_pair_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not NAME=VALUE"):
        metadata_of([text])

"""How commands and clients find a running system."""

from pathlib import Path

import pytest

from broker.config import NotFound, find

HTTP, NATS = "https://infermq.example", "nats://nats1:4222"


@pytest.mark.parametrize(
    ("url", "environ", "found"),
    [
        (HTTP, {}, (HTTP, None, HTTP)),
        (NATS, {}, (NATS, NATS, None)),
        (None, {"INFERMQ_URL": HTTP}, (HTTP, None, HTTP)),
        (None, {"INFERMQ_URL": NATS}, (NATS, NATS, None)),
        (None, {"INFERMQ_NATS_URL": NATS}, (NATS, NATS, None)),
        (None, {"INFERMQ_URL": HTTP, "INFERMQ_NATS_URL": NATS}, (HTTP, NATS, HTTP)),
        (HTTP.upper(), {"INFERMQ_URL": NATS, "INFERMQ_NATS_URL": NATS}, (HTTP.upper(), NATS, HTTP.upper())),
        ("nats1:4222,nats2:4222", {"INFERMQ_URL": HTTP}, ("nats1:4222,nats2:4222", "nats1:4222,nats2:4222", None)),
    ],
)
def test_a_system_is_found_at_either_door(
    tmp_path: Path, url: str | None, environ: dict[str, str], found: tuple[str, str | None, str | None]
) -> None:
    place = find(url=url, environ={**environ, "INFERMQ_API_KEY": "k"}, folder=tmp_path)

    assert (place.url, place.nats_url, place.api_url) == found
    assert place.api_key == "k"


def test_where_nothing_runs_and_nothing_is_named_one_is_told_how_to_name_it(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="INFERMQ_URL"):
        find(environ={"INFERMQ_URL": "", "INFERMQ_NATS_URL": ""}, folder=tmp_path)

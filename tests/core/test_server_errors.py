import json
from typing import Any

import pytest
from nats.aio.msg import Msg

from schemas.jetstream import Kind, NotStored, acknowledged
from schemas.jetstream.errors import ServerError


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (503, 10023, Kind.FULL),
        (400, 10002, Kind.FULL),
        (503, 10077, Kind.FULL),
        (500, 10047, Kind.NO_ROOM),
        (400, 10005, Kind.NO_ROOM),
        (503, 10008, Kind.BUSY),
        (500, 10009, Kind.BUSY),
        (429, 10167, Kind.BUSY),
        (404, 10059, Kind.MISSING),
        (400, 10058, Kind.DIFFERENT),
        (503, 10076, Kind.OFF),
        (400, 10054, Kind.REFUSED),
        (500, 10012, Kind.REFUSED),
        (503, 19999, Kind.BUSY),
        (429, 19999, Kind.BUSY),
        (500, 19999, Kind.REFUSED),
        (400, 19999, Kind.REFUSED),
    ],
)
def test_each_error_of_the_server_has_one_meaning(status: int, code: int, kind: Kind) -> None:
    assert ServerError(status, code).kind is kind


def _answer(**body: Any) -> Msg:
    return Msg(None, data=json.dumps(body).encode())  # type: ignore[arg-type]


def test_what_was_stored_before_is_stored_and_what_was_refused_is_not() -> None:
    assert acknowledged(_answer(seq=7)) == 7
    assert acknowledged(_answer(error={"code": 400, "err_code": 10201})) == 0
    with pytest.raises(NotStored, match=r"insufficient resources \(10023\)") as caught:
        acknowledged(_answer(error={"code": 503, "err_code": 10023, "description": "insufficient resources"}))
    assert (caught.value.code, caught.value.kind) == (10023, Kind.FULL)

"""The numbers that README and docs state."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from broker.bus.desired import ack_pending
from broker.core.admit import AdmissionContext, admit
from broker.core.explain import accepted
from broker.core.fairness import Order
from broker.core.principal import open_principal
from broker.core.records import Entry, Flow, Place, WaitingJob
from schemas.api import BatchList, BatchResults
from schemas.catalog import Catalog, Retry
from schemas.codec import BUNDLE_BYTES, Undecodable, bundled, decode_job, decode_jobs, packed
from schemas.ids import uuid7
from schemas.job import Lane
from schemas.outcome import Failed, ResponseTooLarge
from schemas.subjects import Source
from schemas.units import LONGEST_NAME, Ms
from tests.builders import BODY, a_catalog, a_job, a_success, an_attempt, an_id, now
from workers.ports import LARGEST_BODY
from workers.report import largest_body, within_limit

AT = now()
MINUTE_MS, DAY_MS = 60_000, 24 * 3_600_000


def admitted(*, lane: Lane = Lane.BULK, catalog: Catalog | None = None, **changes: Any) -> Entry:
    context = AdmissionContext(
        principal=open_principal("t", "k"),
        lane=lane,
        model="m",
        catalog=catalog or a_catalog(),
        now=AT,
        new_id=lambda _: an_id(),
    )
    return admit(a_job(**changes), context)


def refusal(**changes: Any) -> str | None:
    refused = admitted(**changes).refused
    return None if refused is None else refused.code


def test_lanes_share_capacity_as_sixteen_to_four_to_one() -> None:
    flows = {lane: Flow("m", lane, "t") for lane in Lane}
    waiting = {flow: [WaitingJob(Place(0, Ms(10**12), an_id()), 0) for _ in range(500)] for flow in flows.values()}

    picks = Order().choose(waiting, room={"d": 210}, catalog=a_catalog(), limit=1000)

    served = [sum(pick.flow.lane is lane for pick in picks) for lane in flows]
    assert [round(count / 10) for count in served] == [16, 4, 1]


@pytest.mark.parametrize(("lane", "minutes"), [(Lane.INTERACTIVE, 2), (Lane.STANDARD, 60), (Lane.BULK, 24 * 60)])
def test_a_job_has_the_time_of_its_lane(lane: Lane, minutes: int) -> None:
    assert admitted(lane=lane).deadline_ms - AT == minutes * MINUTE_MS


def test_a_job_has_three_attempts_unless_it_says_otherwise() -> None:
    assert [admitted(max_attempts=asked).max_attempts for asked in (None, 1, 20)] == [3, 1, 20]


def test_the_models_policy_says_how_many_attempts_a_job_has_that_does_not_say_it_itself() -> None:
    base = a_catalog()
    catalog = replace(base, models={"m": replace(base.models["m"], retry=Retry(max_attempts=6))})

    assert [admitted(catalog=catalog, max_attempts=asked).max_attempts for asked in (None, 1, 20)] == [6, 1, 20]
    on_its_way = accepted(an_id(), Source(Lane.BULK, "m", "t", "k"), a_job(), catalog=catalog)
    assert on_its_way.max_attempts == 6


@pytest.mark.parametrize("priority", [-101, 101])
def test_priorities_are_100_on_either_side(priority: int) -> None:
    with pytest.raises(Undecodable, match="priority"):
        decode_job(packed(a_job(priority=priority)), None)
    assert [admitted(priority=most).priority for most in (-100, 100)] == [-100, 100]


@pytest.mark.parametrize("attempts", [0, 21])
def test_attempts_are_one_to_twenty(attempts: int) -> None:
    with pytest.raises(Undecodable, match="max_attempts"):
        decode_job(packed(a_job(max_attempts=attempts)), None)


def test_a_deadline_is_ahead_by_seven_days_at_most() -> None:
    asked = (AT, AT + 1, AT + 7 * DAY_MS, AT + 7 * DAY_MS + 1)

    assert [refusal(deadline_ms=at) for at in asked] == ["deadline_past", None, None, "deadline_too_far"]


def test_an_id_is_of_the_last_seven_days_or_the_next_hour() -> None:
    dates = (AT - 7 * DAY_MS - 1, AT - 7 * DAY_MS, AT + 60 * MINUTE_MS, AT + 60 * MINUTE_MS + 1)

    assert [refusal(id=uuid7(Ms(at), 1)) for at in dates] == ["bad_id", None, None, "bad_id"]


def test_a_body_has_256_kib_at_most() -> None:
    fits = BODY + b" " * (256 * 1024 - len(BODY))

    assert [refusal(body=body) for body in (fits, fits + b" ")] == [None, "body_too_large"]


@pytest.mark.parametrize("is_json", [False, True])
def test_a_message_holds_a_thousand_jobs_at_most(*, is_json: bool) -> None:
    one = b'{"endpoint":"e","body":{}}' if is_json else packed(a_job())
    headers = {"Content-Type": "application/json"} if is_json else None

    def of(count: int) -> bytes:
        return b"[" + b",".join([one] * count) + b"]" if is_json else bundled([one] * count)

    assert len(decode_jobs(of(1000), headers)[0]) == 1000
    for count in (0, 1001):
        with pytest.raises(Undecodable, match="a message holds 1 to 1000"):
            decode_jobs(of(count), headers)


def test_sizes_are_as_documented() -> None:
    assert (BUNDLE_BYTES, LARGEST_BODY, LONGEST_NAME) == (256 * 1024, 7 * 1024 * 1024, 200)


def test_pages_that_say_no_limit_hold_the_documented_number() -> None:
    assert (BatchList().limit, BatchResults(an_id()).limit) == (20, 500)


@pytest.mark.parametrize(("slots", "leases"), [(0, 4096), (2000, 4096), (2048, 8192), (5000, 16384)])
def test_a_pool_may_lease_twice_its_slots_in_powers_of_two(slots: int, leases: int) -> None:
    assert ack_pending(slots) == leases


@pytest.mark.parametrize(("kind", "most"), [(BatchList, 1000), (BatchResults, 5000)])
def test_a_page_has_a_limit(kind: type[msgspec.Struct], most: int) -> None:
    def asked(limit: int) -> msgspec.Struct:
        return msgspec.convert({"id": str(an_id()), "limit": limit}, kind)

    assert asked(1) != asked(most)
    for limit in (0, most + 1):
        with pytest.raises(msgspec.ValidationError, match="limit"):
            asked(limit)


def test_a_response_that_no_message_can_carry_is_a_failure_and_its_cost_stays() -> None:
    fits, too_large = a_success(body=b"x" * 7), a_success(body=b"x" * 8)

    assert within_limit(fits, 7) == fits
    assert within_limit(too_large, 7) == Failed(ResponseTooLarge(8, 7), too_large.usage, too_large.charge)


def test_a_response_has_room_beside_its_request_in_one_message() -> None:
    attempt = an_attempt(body=b"x" * 200_000)

    assert largest_body(8 * 1024 * 1024, attempt) == LARGEST_BODY
    assert largest_body(1024 * 1024, attempt) == 1024 * 1024 - 200_000 - 64 * 1024
    assert largest_body(1024, attempt) == 0

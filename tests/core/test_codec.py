"""Values in messages: how many fit, and what a broken one costs."""

import json
from itertools import chain, zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import (
    JSON,
    Bundle,
    Undecodable,
    bundled,
    bundles,
    decode_job,
    decode_jobs,
    field_of,
    grouped,
    packed,
    place_of,
)
from schemas.job import Job
from tests.builders import BODY, CHAT, a_job, an_id

sizes = st.lists(st.integers(0, 12), max_size=40)


@given(sizes, st.integers(1, 6), st.integers(1, 20))
def test_groups_hold_everything_in_order_and_are_as_large_as_they_may_be(
    values: list[int], most: int, most_bytes: int
) -> None:
    groups = list(grouped(values, lambda size: size, most=most, most_bytes=most_bytes))

    assert list(chain(*groups)) == values
    for group, following in zip_longest(groups, groups[1:]):
        assert len(group) == 1 or (len(group) <= most and sum(group) <= most_bytes)
        if following is not None:
            assert len(group) == most or sum(group) + following[0] > most_bytes


def test_bundles_hold_a_thousand_values_and_256_kib() -> None:
    by_count = list(bundles([b"x"] * 2500))
    by_bytes = list(bundles([b"x" * 128 * 1024] * 3))
    too_large = list(bundles([b"x", b"x" * 300_000, b"x"]))

    assert [len(bundle) for bundle in by_count] == [1000, 1000, 500]
    assert [len(bundle) for bundle in by_bytes] == [2, 1]
    assert [len(bundle) for bundle in too_large] == [1, 1, 1]


@given(st.lists(st.one_of(st.integers(), st.text(), st.none()), max_size=20))
def test_of_a_bundle_all_values_that_can_be_read_are_read_in_order(values: list[int | str | None]) -> None:
    fine = [value for value in values if isinstance(value, str)]

    read, why = Bundle(str).unpack(bundled([packed(value) for value in values if not _is_huge(value)]))

    assert read == fine
    assert (why is None) == all(isinstance(value, str) for value in values if not _is_huge(value))


def _is_huge(value: object) -> bool:
    """An integer that MessagePack cannot hold."""
    return isinstance(value, int) and not -(2**63) <= value < 2**64


def of_both_kinds(*jobs: object) -> list[tuple[bytes, dict[str, str] | None]]:
    """The same array as MessagePack and as JSON."""
    text = [{**job, "body": json.loads(BODY)} if isinstance(job, dict) and "body" in job else job for job in jobs]
    return [(packed(list(jobs)), None), (json.dumps(text).encode(), {"Content-Type": JSON})]


FINE = {"endpoint": CHAT, "body": BODY}


def test_a_broken_job_costs_no_other_and_is_named_by_its_place() -> None:
    for data, headers in of_both_kinds(FINE, {**FINE, "custom_id": 5}, 7, FINE):
        jobs, why = decode_jobs(data, headers)

        assert list(jobs) == [1, 4]
        assert why is not None
        assert "job 2 of 4" in why
        assert "custom_id" in why
        assert "job 3 of 4" in why


def test_of_many_broken_jobs_five_are_named() -> None:
    for data, headers in of_both_kinds(*[7] * 9):
        jobs, why = decode_jobs(data, headers)

        assert not jobs
        assert why is not None
        assert why.count(" of 9 is ") == 5


def test_a_job_alone_has_no_place() -> None:
    for data, headers in ((packed(a_job()), None), (b' {"endpoint":"e","body":{}}', {"Content-Type": JSON})):
        jobs, why = decode_jobs(data, headers)

        assert list(jobs) == [None]
        assert why is None


def test_arrays_of_every_length_are_arrays() -> None:
    one = packed(a_job())
    for count in (1, 15, 16, 1000):
        assert list(decode_jobs(bundled([one] * count), None)[0]) == list(range(1, count + 1))

    assert list(decode_jobs(b"\xdd\0\0\0\x01" + one, None)[0]) == [1]
    assert list(decode_jobs(b' \n[{"endpoint":"e","body":{}}]', {"Content-Type": JSON})[0]) == [1]


@pytest.mark.parametrize("data", [b"[", b"[1,", b'["a"', b"[}"])
def test_what_begins_as_an_array_and_is_none_is_undecodable(data: bytes) -> None:
    with pytest.raises(Undecodable, match="not an array of jobs"):
        decode_jobs(data, {"Content-Type": JSON})


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON", " application/json ; charset=utf-8"])
def test_a_content_type_is_read_as_http_has_it(kind: str) -> None:
    assert decode_job(b'{"endpoint":"e","body":{"a": 1}}', {"Content-Type": kind}) == Job(
        endpoint="e", body=b'{"a": 1}'
    )


def test_a_job_of_another_content_type_is_undecodable() -> None:
    for decode in (decode_job, decode_jobs):
        with pytest.raises(Undecodable, match=r"'text/plain' is neither application/msgpack nor application/json"):
            decode(packed([a_job()]), {"Content-Type": "text/plain"})


def test_without_a_content_type_it_is_messagepack() -> None:
    job = a_job(id=an_id())

    assert decode_job(packed(job), {}) == decode_job(packed(job), None) == job
    assert job.id is not None
    assert job.id.bytes in packed(job)  # sixteen bytes, not a text of 36


@pytest.mark.parametrize(
    ("message", "what", "path"),
    [
        ("Expected `int`, got `str` - at `$.a[0]`", "Expected `int`, got `str`", ".a[0]"),
        ("Expected `object`, got `array` - at `$`", "Expected `object`, got `array`", ""),
        ("JSON is malformed", "JSON is malformed", ""),
    ],
)
def test_msgspecs_words_are_told_from_their_place(message: str, what: str, path: str) -> None:
    assert place_of(message) == (what, path)
    assert field_of(message) == (what, path)


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ("Object missing required field `a`", ".a"),
        ("Object missing required field `a` - at `$.b[0]`", ".b[0].a"),
        ("Object contains unknown field `a b` - at `$.c`", ".c.a b"),
        ("Object contains unknown field `a\n` - at `$`", ".a\n"),
    ],
)
def test_a_field_that_is_missing_or_unknown_is_part_of_the_place(message: str, path: str) -> None:
    assert field_of(message)[1] == path

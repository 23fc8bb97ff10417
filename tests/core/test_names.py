"""Names that cross a process: building and parsing are inverse."""

import contextlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import subjects
from schemas.codec import JSON, Undecodable, decode_job, packed
from schemas.ids import NEWEST_MS, OLDEST_MS, derived_id, line_id, ms_of, uuid7, why_not
from schemas.jetstream import delivered
from schemas.job import Job, Lane
from schemas.subjects import Source, token, untoken
from schemas.units import Ms
from tests.builders import a_job, an_id, now

names = st.text(min_size=1, max_size=40)


@given(names)
def test_a_name_survives_its_token(name: str) -> None:
    escaped = token(name)

    assert untoken(escaped) == name
    assert not set(escaped) & set(" .*>\r\n\t\0")


@given(st.sampled_from(list(Lane)), names, names, names)
def test_a_source_survives_its_subject(lane: Lane, model: str, tenant: str, key: str) -> None:
    source = Source(lane, model, tenant, key)

    assert subjects.parse_submit(subjects.submit(source)) == source
    assert subjects.parse_infer(subjects.infer(model, tenant, key)) == Source(Lane.INTERACTIVE, model, tenant, key)


@pytest.mark.parametrize(
    "subject",
    [
        "x",
        "infermq.submit.bulk.m.t",
        "infermq.submit.none.m.t.k",
        "infermq.submit.bulk.a_.t.k",
        "infermq.submit.bulk._ffffffffffffffffffff_.t.k",
        "infermq.submit.bulk._110000_.t.k",
        "infermq.submit.bulk._d800_.t.k",
    ],
)
def test_a_subject_that_we_cannot_have_built_is_refused(subject: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        subjects.parse_submit(subject)


def test_a_name_cannot_be_empty() -> None:
    with pytest.raises(ValueError, match="empty"):
        token("")


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**80))
def test_an_id_is_a_v7_of_its_time(ms: int, entropy: int) -> None:
    made = uuid7(Ms(ms), entropy)

    assert made.version == 7
    assert made.variant == "specified in RFC 4122"
    assert ms_of(made) == ms


@given(st.integers(1, 2**31 - 2))
def test_lines_ids_stand_in_the_order_of_the_lines(line: int) -> None:
    batch = an_id()

    assert line_id(batch, line) < line_id(batch, line + 1)
    assert line_id(batch, line) == line_id(batch, line)
    assert line_id(batch, line).version == 7


def test_a_redelivered_message_derives_the_same_id() -> None:
    assert derived_id("S", 5, Ms(1000)) == derived_id("S", 5, Ms(1000))
    assert derived_id("S", 5, Ms(1000)) != derived_id("S", 6, Ms(1000))


def test_ids_are_accepted_within_their_bounds() -> None:
    at = now()

    assert why_not(uuid7(Ms(at + NEWEST_MS), 1), at) is None
    assert why_not(uuid7(Ms(at - OLDEST_MS), 1), at) is None
    assert why_not(uuid7(Ms(at + NEWEST_MS + 1), 1), at) is not None
    assert why_not(UUID(int=0), at) is not None


def test_a_job_is_the_same_in_both_encodings() -> None:
    job = a_job(id=an_id(), custom_id="a", metadata={"k": "v"})
    text = b'{"id":"%s","custom_id":"a","metadata":{"k":"v"},"endpoint":"%s","body":%s,"new_field":1}' % (
        str(job.id).encode(),
        job.endpoint.encode(),
        job.body,
    )

    assert decode_job(packed(job), None) == job
    assert decode_job(text, {"Content-Type": f"{JSON}; charset=utf-8"}) == job


@given(st.binary(max_size=200), st.sampled_from([None, {"Content-Type": JSON}, {"Content-Type": "text/plain"}]))
def test_any_bytes_are_a_job_or_undecodable(data: bytes, headers: dict[str, str] | None) -> None:
    with contextlib.suppress(Undecodable):
        assert isinstance(decode_job(data, headers), Job)


def test_ack_subjects_of_both_shapes_are_read() -> None:
    old = delivered("$JS.ACK.S.c.2.10.3.1700000000123456789.7")
    new = delivered("$JS.ACK._.hash.S.c.2.10.3.1700000000123456789.7.x")

    assert (old.deliveries, old.sequence, old.at_ms, old.pending) == (2, 10, 1_700_000_000_123, 7)
    assert new == old

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from broker.core.seals import are_truly_ruled, has_true_seal, leased_seal, request_seal, ruling_seal, sealed_request
from schemas.codec import packed, unpacker
from schemas.job import Attempt, Lane
from schemas.outcome import Failed, Filtered, Report
from schemas.units import Ms
from tests.builders import SEAL_KEY, a_report, an_attempt, an_id, sealed

OTHER_KEY = bytes(32)
A_REQUEST = an_attempt(
    lane=Lane.INTERACTIVE, reply_to="x", key="k", custom_id="c", metadata={"a": "b"}, traceparent="t", number=2
)
CHANGES: dict[str, Any] = {
    "job": an_id(),
    "number": 3,
    "tenant": "other",
    "key": "other",
    "lane": Lane.BULK,
    "model": "other",
    "deployment": "other",
    "endpoint": "/v1/completions",
    "body": b"{}",
    "admitted_ms": Ms(1),
    "deadline_ms": Ms(1),
    "custom_id": None,
    "metadata": {"a": "c"},
    "traceparent": None,
}


def a_report_on(request: Attempt) -> Report:
    return a_report(job=request.job, attempt=request.number, deployment=request.deployment, interactive=request)


def test_a_report_on_a_sealed_attempt_is_believed_whatever_it_says() -> None:
    report = a_report()

    assert has_true_seal(report, SEAL_KEY)
    assert has_true_seal(replace(report, execution=an_id(), outcome=Failed(Filtered("x")), worker="v"), SEAL_KEY)


@pytest.mark.parametrize("changes", [{"job": an_id()}, {"attempt": 2}, {"deployment": "e"}, {"seal": b""}])
def test_a_report_on_another_attempt_than_the_sealed_one_is_not_believed(changes: dict[str, Any]) -> None:
    assert not has_true_seal(replace(a_report(), **changes), SEAL_KEY)


def test_a_seal_of_another_key_is_false() -> None:
    report = a_report()
    other = leased_seal(report.job, report.attempt, report.deployment, OTHER_KEY)

    assert not has_true_seal(replace(report, seal=other), SEAL_KEY)
    assert not has_true_seal(report, OTHER_KEY)


def test_a_report_on_a_sealed_request_is_believed_after_it_went_over_the_wire() -> None:
    request = unpacker(Attempt).decode(packed(sealed_request(A_REQUEST, SEAL_KEY)))
    report = replace(a_report_on(request), seal=request.seal)

    assert has_true_seal(unpacker(Report).decode(packed(report)), SEAL_KEY)


@pytest.mark.parametrize("field", CHANGES)
def test_a_request_is_sealed_with_all_that_settle_records_of_it(field: str) -> None:
    other = replace(A_REQUEST, **{field: CHANGES[field]})

    assert not has_true_seal(replace(a_report_on(other), seal=request_seal(A_REQUEST, SEAL_KEY)), SEAL_KEY)


@pytest.mark.parametrize("changes", [{"job": an_id()}, {"attempt": 1}, {"deployment": "e"}])
def test_a_report_that_says_another_attempt_than_the_request_it_carries_is_not_believed(
    changes: dict[str, Any],
) -> None:
    report = sealed(a_report_on(A_REQUEST))

    assert has_true_seal(report, SEAL_KEY)
    assert not has_true_seal(replace(report, **changes), SEAL_KEY)


def test_a_seal_of_one_kind_is_none_of_another() -> None:
    leased = leased_seal(A_REQUEST.job, A_REQUEST.number, A_REQUEST.deployment, SEAL_KEY)
    report = a_report_on(A_REQUEST)

    assert not has_true_seal(replace(report, seal=leased), SEAL_KEY)
    assert not has_true_seal(replace(report, interactive=None), SEAL_KEY)
    same = A_REQUEST.job.bytes + A_REQUEST.number.to_bytes(8) + A_REQUEST.deployment.encode()
    assert not are_truly_ruled(same, leased.hex(), SEAL_KEY)


names = st.text(min_size=1, max_size=4)


@given(names, names, names, names)
def test_no_part_of_a_name_passes_for_a_part_of_the_next(
    tenant: str, key: str, other_tenant: str, other: str
) -> None:
    ours = replace(A_REQUEST, tenant=tenant, key=key)
    theirs = replace(A_REQUEST, tenant=other_tenant, key=other)

    is_same = request_seal(ours, SEAL_KEY) == request_seal(theirs, SEAL_KEY)

    assert is_same == ((tenant, key) == (other_tenant, other))


def test_rulings_are_believed_with_the_seal_of_their_message() -> None:
    seal = ruling_seal(b"rulings", SEAL_KEY)

    assert are_truly_ruled(b"rulings", seal, SEAL_KEY)
    assert not are_truly_ruled(b"others", seal, SEAL_KEY)
    assert not are_truly_ruled(b"rulings", None, SEAL_KEY)
    assert not are_truly_ruled(b"rulings", "\udce9", SEAL_KEY)
    assert not are_truly_ruled(b"rulings", seal, OTHER_KEY)

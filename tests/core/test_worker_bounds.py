"""What a worker reports is within the bounds of the wire, whatever its engine or a provider said."""

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.outcome import Charge, EngineFault, Failed, Failure, Outcome, Report, Succeeded, Throttled, Usage
from schemas.units import MOST_NANO_USD, MOST_TOKENS, Ms, NanoUsd
from tests.builders import a_report
from workers.core.bounds import within_bounds

numbers = st.integers(-(2**70), 2**70)
texts = (st.text(max_size=20) | st.just("\ud83d")).map(lambda text: text * 500)
VALUES: dict[Any, st.SearchStrategy[Any]] = {int: numbers, str: texts, bool: st.booleans()}


def failures() -> st.SearchStrategy[Failure]:
    """Of every kind, with any values."""
    kinds = [
        st.builds(kind, **{field.name: VALUES[_plain(field.type)] for field in msgspec.structs.fields(kind)})
        for kind in get_args(Failure)
    ]
    return st.one_of(kinds)


def _plain(annotation: Any) -> Any:
    """The type beneath units and bounds."""
    while annotation not in VALUES:
        annotation = getattr(annotation, "__supertype__", None) or get_args(annotation)[0]
    return annotation


outcomes = st.one_of(
    st.builds(Succeeded, st.just(b"{}"), st.builds(Usage, numbers, numbers, numbers)),
    st.builds(Failed, failures(), st.builds(Usage, numbers, numbers, numbers), st.builds(Charge, numbers, texts)),
)


@given(outcomes)
def test_every_outcome_can_be_read_by_a_broker(outcome: Outcome) -> None:
    report = a_report(within_bounds(outcome))

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=Report) == report


@pytest.mark.parametrize(
    "outcome",
    [
        Succeeded(b"{}", Usage(1, 2, 1), Charge(NanoUsd(5), "provider")),
        Failed(EngineFault("why"), Usage(MOST_TOKENS, 0)),
        Failed(Throttled(Ms(5))),
        Failed(Throttled()),
    ],
)
def test_what_is_within_the_bounds_stays_as_it_is(outcome: Outcome) -> None:
    assert within_bounds(outcome) == outcome


def test_what_nobody_counted_is_an_estimate() -> None:
    outcome = within_bounds(Succeeded(b"{}", Usage(-1, 2**63, 5), Charge(NanoUsd(2**70), "a\0")))

    assert outcome.usage == Usage(0, MOST_TOKENS, 5, estimated=True)
    assert outcome.charge == Charge(MOST_NANO_USD, "a\N{REPLACEMENT CHARACTER}")

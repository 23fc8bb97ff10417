"""Server-sent events are read however their bytes come."""

from hypothesis import given
from hypothesis import strategies as st

from broker.client.events import Events

STREAM = b': keep-alive\n\ndata: {"a": 1}\n\nevent: answer\ndata: {"b": [2]}\n\ndata: [DONE]\n\n'
READ = [(b"", b'{"a": 1}'), (b"answer", b'{"b": [2]}'), (b"", b"[DONE]")]


@given(st.lists(st.integers(0, len(STREAM))).map(sorted))
def test_events_are_the_same_wherever_their_bytes_are_cut(cuts: list[int]) -> None:
    events = Events()
    parts = [STREAM[start:end] for start, end in zip([0, *cuts], [*cuts, len(STREAM)], strict=True)]

    assert [event for part in parts for event in events.of(part)] == READ


def test_an_event_that_has_not_ended_is_kept() -> None:
    events = Events()

    assert list(events.of(b'data: {"a": 1}\n')) == []
    assert list(events.of(b"\n")) == [(b"", b'{"a": 1}')]

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from broker.bus.desired import STORE_BYTES, Found, Stream, desired, difference
from schemas import subjects

POOLS = {"a": 4, "b": 4000}
WANTED = desired(POOLS, lease_s=15.0, replicas=3)


def as_wanted(*wanted: Stream) -> dict[str, Found | None]:
    """What the server says when all is well: it adds settings of its own, and leaves out what is false or zero."""
    return {
        stream.name: Found(
            {**_shown(stream.settings), "max_consumers": -1, "max_bytes": 1000, "metadata": {"_nats.level": "1"}},
            {one.name: {**_shown(one.settings), "num_replicas": 0} for one in stream.consumers},
        )
        for stream in wanted or WANTED
    }


def _shown(settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value not in (0, "", False, None)}


def test_what_is_as_it_should_be_is_left_alone() -> None:
    assert difference(WANTED, as_wanted()) == ()


@given(st.sampled_from([(s.name, None) for s in WANTED] + [(s.name, c.name) for s in WANTED for c in s.consumers]))
def test_what_is_missing_is_made_with_all_its_settings(which: tuple[str, str | None]) -> None:
    stream, consumer = which
    found = as_wanted()
    seen = found[stream]
    assert seen is not None
    if consumer is None:
        found[stream] = None
    else:
        found[stream] = Found(seen.settings, {n: s for n, s in seen.consumers.items() if n != consumer})

    mends = difference(WANTED, found)

    [wanted] = [one for one in WANTED if one.name == stream]
    chosen = wanted.settings if consumer is None else {c.name: c.settings for c in wanted.consumers}[consumer]
    assert (mends[0].stream, mends[0].consumer, mends[0].settings, mends[0].wrong) == (stream, consumer, chosen, ())
    assert [mend.consumer for mend in mends[1:]] == ([] if consumer else [one.name for one in wanted.consumers])


@given(st.data())
def test_another_setting_is_put_back_and_the_operators_own_are_kept(data: st.DataObject) -> None:
    stream = data.draw(st.sampled_from(WANTED))
    setting = data.draw(st.sampled_from(sorted(stream.settings)))
    found = as_wanted()
    seen = found[stream.name]
    assert seen is not None
    other = ["x"] if setting == "subjects" else 1 if setting == "num_replicas" else "other"
    found[stream.name] = Found({**seen.settings, setting: other, "description": "ours"}, seen.consumers)

    [mend] = difference(WANTED, found)

    assert (mend.stream, mend.consumer, mend.wrong) == (stream.name, None, (setting,))
    assert mend.settings == {**seen.settings, **stream.settings, "description": "ours"}


def test_a_stream_without_a_limit_gets_one_and_that_of_the_operator_stays() -> None:
    found = as_wanted()
    seen = found[subjects.SUBMIT]
    assert seen is not None
    found[subjects.SUBMIT] = Found({**seen.settings, "max_bytes": -1}, seen.consumers)

    [mend] = difference(WANTED, found)

    assert (mend.stream, mend.wrong) == (subjects.SUBMIT, ("max_bytes",))
    assert mend.bytes == STORE_BYTES / 2


def test_a_limit_that_is_set_is_shared_out_so_that_outcomes_have_room_of_their_own() -> None:
    wanted = desired(POOLS, lease_s=15.0, store_bytes=16_000)

    limits = {stream.name: stream.settings["max_bytes"] for stream in wanted if stream.settings["storage"] == "file"}

    assert (limits[subjects.SUBMIT], limits[subjects.OUTCOME]) == (8_000, 6_000)
    assert sum(limits.values()) <= 16_000
    assert {mend.wrong for mend in difference(wanted, as_wanted()) if mend.consumer is None} == {("max_bytes",)}


def test_what_could_not_be_read_is_left_alone() -> None:
    found = as_wanted()
    del found[subjects.RUN]

    assert difference(WANTED, found) == ()


def test_replicas_and_leases_are_raised_and_never_lowered() -> None:
    fewer, more = desired({"a": 4}, lease_s=15.0, replicas=1), desired({"a": 4000}, lease_s=15.0, replicas=3)

    lowered, raised = difference(fewer, as_wanted(*more)), difference(more, as_wanted(*fewer))

    assert lowered == ()
    assert {mend.stream for mend in raised if mend.consumer is None} == {stream.name for stream in more}
    assert [(mend.stream, mend.wrong) for mend in raised if mend.consumer] == [(subjects.RUN, ("max_ack_pending",))]


def test_a_mended_setting_lowers_no_other() -> None:
    found = as_wanted(*desired(POOLS, lease_s=15.0, replicas=5))
    seen = found[subjects.OUTCOME]
    assert seen is not None
    found[subjects.OUTCOME] = Found({**seen.settings, "discard": "old"}, seen.consumers)

    [mend] = difference(WANTED, found)

    assert (mend.wrong, mend.settings["num_replicas"]) == (("discard",), 5)

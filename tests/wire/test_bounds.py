"""What no message may hold: decoding refuses it, so nothing behind the decoder ever sees it."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from broker.bus import notices
from schemas.catalog import Revision
from schemas.codec import UNREADABLE
from schemas.job import Attempt, JobFields, Lane
from schemas.outcome import Charge, Failed, Filtered, Report, Throttled, TimedOut
from schemas.ruling import EndRequest, Lost, PutBack
from schemas.units import Ms, NanoUsd
from schemas.worker import Paused, WorkerBeat
from tests.builders import a_beat, a_catalog, a_report, a_success, an_attempt, an_id

ACK = "$JS.ACK.INFERMQ_RUN.d.1.7.7.1764163200000000000.0"
BEYOND: tuple[Any, ...] = (-1, 2**31, 2**40, 2**62, 2**63, 2**64 - 1, None, "1", 1.5, [], {}, True)
LATE: tuple[Any, ...] = (-1, 10**15, 2**62, 2**63, 2**64 - 1, "1", [], True)
"""Of instants and durations, for which 2**40 is right."""
NAMES: tuple[Any, ...] = ("", "a\0", "\0", "x" * 201, b"a", 1, [], {})
TEXTS: tuple[Any, ...] = ("a\0", "x" * 5000, b"a", 1, [], {})
SUBJECTS: tuple[Any, ...] = (
    "",
    "a\r\nPUB b 1\r\nx\r\n",
    "a b",
    "a\n",
    "a\t",
    "a.*",
    ">",
    "a..b",
    ".a",
    "a.",
    "x" * 2001,
    "a\0",
    1,
)
ACKS = (
    *SUBJECTS,
    "infermq.ctl.abort",
    "$JS.ACK.INFERMQ_RUN.d.a.7.7.1.0",
    "$JS.ACK.INFERMQ_RUN.d.1.7.7.1764163200000000000.0\n",
    "$JS.ACK.INFERMQ_SUBMIT.intake-bulk.1.7.7.1764163200000000000.0",
    f"$JS.ACK.INFERMQ_RUN.d.1.{10**30}.7.1.0",
)

REQUEST = an_attempt(
    seal=b"s", reply_to="infermq.reply.d.b.t", key="k", custom_id="c", metadata={"a": "b"}, traceparent="t"
)
REPORT = a_report(a_success(charge=Charge(NanoUsd(1), "provider")), run_ack=ACK, seal=b"s", interactive=REQUEST)
FAILED = [a_report(Failed(failure)) for failure in (Throttled(Ms(1)), TimedOut(Ms(1), "attempt"), Filtered("why"))]
BEAT = a_beat(paused=Paused("denied", "401", Ms(1)))
REVISION = Revision(1, Ms(1), a_catalog())

_OF_AN_ATTEMPT: dict[str, tuple[Any, ...]] = {
    "number": (0, *BEYOND),
    **dict.fromkeys(("tenant", "model", "deployment", "endpoint", "key"), NAMES),
    "lane": ("", "live", 1),
    "body": ("a", 1, b"x" * (256 * 1024 + 1)),
    **dict.fromkeys(("admitted_ms", "deadline_ms", "dispatched_ms", "left_ms"), LATE),
    "reply_to": SUBJECTS,
    **dict.fromkeys(("custom_id", "traceparent", "metadata.a"), TEXTS),
    "metadata": ([], {"a\0": "b"}, {str(n): "" for n in range(17)}),
    "job": (b"", b"x" * 17, 1, "no id"),
    "seal": ("a", 1, b"x" * 65),
}
CASES: list[tuple[Any, dict[str, tuple[Any, ...]]]] = [
    (REQUEST, _OF_AN_ATTEMPT),
    (
        REPORT,
        {
            **dict.fromkeys(("job", "execution"), (b"", b"x" * 17, 1, "no id", None)),
            "seal": ("a", 1, b"x" * 65),
            **dict.fromkeys(("attempt", "delivery"), (0, *BEYOND[2:])),
            **dict.fromkeys(("deployment", "worker", "outcome.charge.source"), NAMES),
            **{f"outcome.usage.{name}_tokens": BEYOND for name in ("input", "output", "cached")},
            "outcome.charge.nano_usd": (-1, *BEYOND[3:]),
            "outcome.body": ("a", 1, b"x" * (8 * 1024 * 1024 + 1)),
            **{f"timings.{name}_ms": LATE for name in ("started", "queue", "run", "ttft")},
            "run_ack": ACKS,
            **{f"interactive.{name}": values for name, values in _OF_AN_ATTEMPT.items()},
        },
    ),
    (FAILED[0], {"outcome.failure.retry_after_ms": LATE, "outcome.failure.type": ("unheard_of", 1)}),
    (FAILED[1], {"outcome.failure.after_ms": LATE, "outcome.failure.stage": NAMES}),
    (FAILED[2], {"outcome.failure.message": TEXTS}),
    (PutBack(an_id(), 1), {"attempt": (0, *BEYOND)}),
    (
        Lost(job=an_id(), attempt=1, deployment="d", execution=an_id(), worker="w", started_ms=Ms(1)),
        {"attempt": (0, *BEYOND), "deployment": NAMES, "worker": NAMES, "started_ms": LATE},
    ),
    (
        EndRequest(REQUEST, Failed(Filtered("why"))),
        {"outcome.failure.message": TEXTS, "interactive.tenant": NAMES, "interactive.deadline_ms": LATE},
    ),
    (
        BEAT,
        {
            **dict.fromkeys(("slots", "reserve", "running", "interactive"), BEYOND),
            **dict.fromkeys(("worker", "deployment", "engine", "version", "paused.cause"), NAMES),
            **dict.fromkeys(("started_ms", "at_ms"), LATE),
            "paused.left_ms": LATE,
            "paused.detail": TEXTS,
            "reconnects": (-1, 2**63, None, "1"),
            "held": ("a", 1, b"x" * (4 * 1024 * 1024 + 1)),
        },
    ),
    (
        REVISION,
        {
            "number": (-1, 2**31, 2**63, "1", None),
            "applied_ms": LATE,
            "catalog.models": ({"": {}}, {"a\0": {"route": [{"deployment": "d"}]}}),
            "catalog.deployments.d.engine": NAMES,
            "catalog.deployments.d.context_tokens": (0, *BEYOND),
            "catalog.deployments.d.source": TEXTS,
        },
    ),
]


def changed(value: Any, path: str, new: Any) -> Any:
    """A copy in builtin types in which the field of this path is `new`."""
    [first, *rest] = path.split(".")
    return {**value, first: changed(value[first], ".".join(rest), new) if rest else new}


@pytest.mark.parametrize(
    ("message", "path", "bad"),
    [
        pytest.param(message, path, bad, id=f"{type(message).__name__}.{path}={repr(bad)[:30]}")
        for message, fields in CASES
        for path, values in fields.items()
        for bad in values
    ],
)
def test_a_field_out_of_its_bounds_is_refused(message: Any, path: str, bad: Any) -> None:
    builtin = msgspec.to_builtins(message, builtin_types=(bytes,))

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(builtin), type=type(message)) == message
    with pytest.raises(UNREADABLE):
        msgspec.msgpack.decode(msgspec.msgpack.encode(changed(builtin, path, bad)), type=type(message))


@pytest.mark.parametrize(
    "notice",
    [
        [("m\0", "bulk", "t", 1, an_id().bytes)],
        [("m", "bulk", "t" * 201, 1, an_id().bytes)],
        [("m", "live", "t", 1, an_id().bytes)],
        [("m", "bulk", "t", 2**63, an_id().bytes)],
        [("m", "bulk", "t", -1, an_id().bytes)],
        [("m", "bulk", "t", 1, b"")],
        [("m", "bulk", "t", 1)],
        [("m", "bulk", "t", 1, an_id().bytes)] * 2001,
    ],
)
def test_a_notice_of_waiting_jobs_is_refused(notice: object) -> None:
    with pytest.raises(UNREADABLE):
        notices.decode_waiting(msgspec.msgpack.encode(notice))


@pytest.mark.parametrize("due", [-1, 2**63, 10**15, "1", None, b"", 1.5])
def test_a_notice_of_a_due_time_is_refused(due: object) -> None:
    with pytest.raises(UNREADABLE):
        notices.decode_delayed(msgspec.msgpack.encode(due))


@pytest.mark.parametrize(
    "notice",
    [
        [("m\0", "bulk", "t", [(an_id().bytes, 1, 1)])],
        [("m", "bulk", "t", [(an_id().bytes, 2**40, 1)])],
        [("m", "bulk", "t", [(an_id().bytes, 1, -1)])],
        [("m", "bulk", "t", [(an_id().bytes, 1, 2**63)])],
        [("m", Lane.BULK, "t", [(b"", 1, 1)])],
    ],
)
def test_a_notice_of_settled_attempts_is_refused(notice: object) -> None:
    with pytest.raises(UNREADABLE):
        notices.decode_settled(msgspec.msgpack.encode(notice))


BOUNDED = (Report, Attempt, WorkerBeat, Revision, PutBack, EndRequest, Lost, JobFields)


@pytest.mark.parametrize("kind", BOUNDED)
def test_every_number_text_and_list_of_a_message_has_bounds(kind: type) -> None:
    """The schema says so, down to the last field. A text that is one of a few words needs none."""
    schema = msgspec.json.schema(kind)

    assert not list(unbounded(schema, "$"))


def unbounded(schema: Any, path: str) -> Iterator[str]:
    """The paths of the numbers, texts and lists without bounds."""
    if isinstance(schema, list):
        schema = dict(enumerate(schema))
    if not isinstance(schema, dict):
        return
    if not _BOUNDS.get(str(schema.get("type")), frozenset(schema)) & set(schema):
        yield path
    for name, value in schema.items():
        if name not in _WORDS:
            yield from unbounded(value, f"{path}.{name}")


_BOUNDS = {
    "integer": {"maximum", "exclusiveMaximum"},
    "number": {"maximum", "exclusiveMaximum"},
    "string": {"maxLength", "format", "enum"},
    "array": {"maxItems"},
}
_WORDS = {"enum", "const", "default", "description", "title", "required", "discriminator"}

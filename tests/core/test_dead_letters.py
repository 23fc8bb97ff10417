"""What is said of dead letters, and what is sent when one is requeued."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from broker.core.dead_letters import CannotRequeue, Counted, advice, again, grouped, newest
from broker.core.repeat import Edit
from schemas import subjects
from schemas.codec import CONTENT_TYPE, JSON
from schemas.dead import DeadCause, DeadWhat
from schemas.job import Lane
from tests.builders import a_dead_letter, an_id

BATCH, JOB = str(an_id()), str(an_id())
GOOD: dict[str, Any] = {"endpoint": "/v1/chat/completions", "id": JOB, "body": b'{"messages":[],"max_tokens":9}'}
BAD: dict[str, Any] = {**GOOD, "batch": BATCH, "line": 7, "custom_id": "c", "max_attempts": 99}


def packed(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def sent(payload: bytes, **edits: Any) -> Any:
    """What is sent again, decoded."""
    return msgspec.msgpack.decode(again(a_dead_letter(payload=payload), **edits).payload)


def test_a_broken_job_is_sent_again_without_what_its_failed_job_has_taken() -> None:
    assert sent(packed(BAD)) == {name: BAD[name] for name in ("endpoint", "body", "custom_id", "max_attempts")}


def test_a_job_that_can_be_read_by_now_is_sent_again_as_a_new_one() -> None:
    assert "id" not in sent(packed(GOOD))
    assert sent(packed([GOOD, GOOD])) == [GOOD, GOOD]


def test_of_several_jobs_only_those_are_sent_again_that_were_not_taken() -> None:
    assert [job["custom_id"] for job in sent(packed([GOOD, BAD, GOOD, BAD]))] == ["c", "c"]


def test_bytes_that_are_no_object_are_sent_again_as_they_were() -> None:
    for payload in (b"nope", b"", b"\xc1", packed(7), packed([7])):
        assert again(a_dead_letter(payload=payload)).payload == payload


def test_a_patch_changes_the_body_in_either_encoding() -> None:
    edit = Edit(patch=b'{"messages":null,"new":{"deep":1}}', max_tokens=3)
    as_json = {**BAD, "body": msgspec.json.decode(BAD["body"])}
    letter = a_dead_letter(payload=msgspec.json.encode(as_json), headers={CONTENT_TYPE: f"{JSON}; charset=utf-8"})

    in_msgpack = msgspec.json.decode(sent(packed(BAD), edit=edit)["body"])
    in_json = msgspec.json.decode(again(letter, edit=edit).payload)["body"]

    assert in_msgpack == in_json == {"max_tokens": 3, "new": {"deep": 1}}


def test_what_cannot_be_patched_is_refused_with_what_to_do() -> None:
    with pytest.raises(CannotRequeue, match="--payload"):
        again(a_dead_letter(payload=b"\xc1"), edit=Edit(max_tokens=3))


def test_other_bytes_are_sent_as_they_are() -> None:
    assert again(a_dead_letter(), payload=b"mine").payload == b"mine"


def test_another_model_is_named_by_the_subject() -> None:
    letter = again(a_dead_letter(tenant="a b", model="old"), model="new.one")

    assert subjects.parse_submit(letter.subject) == subjects.Source(Lane.BULK, "new.one", "a b", "default")


def test_who_sends_a_message_again_submits_it_with_the_rights_of_that_key() -> None:
    letter = a_dead_letter(tenant="a b", model="old")

    assert subjects.parse_submit(again(letter, by=("a b", "mine")).subject).key == "mine"
    assert again(letter, by=("another", "mine")).subject == letter.subject
    assert again(replace(letter, subject="infermq.submit.x"), by=("a b", "mine")).subject == "infermq.submit.x"


def test_headers_of_the_server_are_not_sent_again() -> None:
    letter = a_dead_letter(headers={"Nats-Msg-Id": "1", CONTENT_TYPE: JSON}, payload=b"x")

    assert again(letter).headers == {CONTENT_TYPE: JSON}


def test_an_outcome_is_sent_again_as_it_was_only() -> None:
    outcome = a_dead_letter(stream=subjects.OUTCOME, subject=subjects.outcome("d"), cause=DeadCause.UNRECORDABLE)

    assert again(outcome).payload == outcome.payload
    all_edits: list[dict[str, Any]] = [{"model": "m"}, {"edit": Edit(patch=b"{}")}, {"payload": b"x"}]
    for edits in all_edits:
        with pytest.raises(CannotRequeue, match="its seal"):
            again(outcome, **edits)


@pytest.mark.parametrize("cause", [DeadCause.MAX_DELIVERIES, DeadCause.TERMINATED])
def test_what_jetstream_gave_up_on_is_not_sent_again(cause: DeadCause) -> None:
    with pytest.raises(CannotRequeue, match="from the ledger by itself"):
        again(a_dead_letter(cause=cause))


def test_a_job_that_cannot_be_stored_is_sent_again_if_it_was_alone() -> None:
    alone, several = packed(GOOD), packed([GOOD, GOOD])

    letter = again(a_dead_letter(payload=alone, cause=DeadCause.UNSTORABLE), edit=Edit(max_tokens=1))

    assert "id" not in msgspec.msgpack.decode(letter.payload)
    with pytest.raises(CannotRequeue, match="the others were taken"):
        again(a_dead_letter(payload=several, cause=DeadCause.UNSTORABLE))


def test_causes_are_added_up_over_models_and_the_most_frequent_come_first() -> None:
    ids = sorted(an_id() for _ in range(4))

    rows = [
        ("timed_out", "a", 2, 50, 60, ids[0]),
        ("denied", "b", 4, 10, 20, ids[1]),
        ("timed_out", "b", 7, 40, 55, ids[3]),
        ("timed_out", None, 1, 70, 70, ids[2]),
    ]
    names = ("cause", "model", "count", "first_ms", "last_ms", "newest")
    all_counted = [Counted(what=DeadWhat.JOB, **dict(zip(names, row, strict=True))) for row in rows]  # type: ignore[arg-type]

    found = grouped(all_counted, {ids[3]: "too long"})

    assert [(group.cause, group.count, group.first_ms, group.last_ms) for group in found] == [
        ("timed_out", 10, 40, 70),
        ("denied", 4, 10, 20),
    ]
    assert list(found[0].models.items()) == [("b", 7), ("a", 2)]
    assert (found[0].example, found[0].reason, found[1].reason) == (ids[3], "too long", "")
    assert set(newest(all_counted).values()) == {ids[3], ids[1]}


def test_each_cause_says_what_to_do() -> None:
    kinds = (
        "engine_fault", "engine_lost", "throttled", "denied", "timed_out", "unanswered", "constraint_violated",
        "worker_lost", "cut_while_reasoning",
    )  # fmt: skip
    usual = advice("something new")

    assert all(advice(cause) != usual for cause in (*DeadCause, *kinds))

"""Names that cross a process: building and parsing are inverse."""

import contextlib
import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import subjects
from schemas.codec import JSON, Undecodable, decode_job, packed
from schemas.ids import NEWEST_MS, OLDEST_MS, derived_id, id_problem, line_id, ms_of, process_ids, uuid7
from schemas.jetstream import delivered
from schemas.job import Job, Lane
from schemas.subjects import Source, Verb, token, untoken
from schemas.units import Ms
from tests.builders import a_job, an_id, now

names = st.text(min_size=1, max_size=40)


@given(names)
def test_a_name_survives_its_token(name: str) -> None:
    escaped = token(name)

    assert untoken(escaped) == name
    assert not set(escaped) & set(" .*>\r\n\t\0")


@given(names)
def test_of_a_name_only_ascii_letters_digits_and_hyphens_stand_as_they_are(name: str) -> None:
    escaped = "".join(c if re.fullmatch("[A-Za-z0-9-]", c) else f"_{ord(c):x}_" for c in name)

    assert token(name) == escaped


@given(names, names)
def test_two_names_never_share_a_token(one: str, other: str) -> None:
    assert (token(one) == token(other)) == (one == other)


@pytest.mark.parametrize("escaped", ["", "a.b", "a_", "_", "_2E_", "_02e_", "_61_", "_é_", "é", "a b", "*", ">"])
def test_what_no_name_can_have_become_is_no_token(escaped: str) -> None:
    with pytest.raises(ValueError, match="not an escaped name"):
        untoken(escaped)


@given(st.sampled_from(list(Lane)), names, names, names)
def test_a_source_survives_its_subject(lane: Lane, model: str, tenant: str, key: str) -> None:
    source = Source(lane, model, tenant, key)

    assert subjects.parse_submit(subjects.submit(source)) == source
    assert subjects.parse_infer(subjects.infer(model, tenant, key)) == Source(Lane.INTERACTIVE, model, tenant, key)


@given(st.sampled_from(list(Verb)), names, names)
def test_a_call_survives_its_subject(verb: Verb, tenant: str, key: str) -> None:
    assert subjects.parse_api(subjects.api(verb, tenant, key)) == (verb, tenant, key)


@pytest.mark.parametrize(
    "subject",
    [
        "x",
        "infermq.submit.bulk.m.t",
        "infermq.submit.bulk.m.t.k.x",
        "infermq.infer.bulk.m.t.k",
        "other.submit.bulk.m.t.k",
        "infermq.submit.Bulk.m.t.k",
        "infermq.submit.bulk.m..k",
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


@pytest.mark.parametrize(
    "subject", ["x", "infermq.infer.m.t", "infermq.infer.m.t.k.x", "infermq.submit.m.t.k", "infermq.infer.a_.t.k"]
)
def test_a_request_on_another_subject_is_refused(subject: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        subjects.parse_infer(subject)


@pytest.mark.parametrize(
    "subject",
    ["x", "infermq.api.status.t", "infermq.api.status.t.k.x", "infermq.infer.status.t.k", "infermq.api.none.t.k"],
)
def test_a_call_on_another_subject_is_refused(subject: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        subjects.parse_api(subject)


@given(names)
def test_a_deployment_survives_the_subject_of_its_outcomes(name: str) -> None:
    assert subjects.parse_outcome(subjects.outcome(name)) == name


@pytest.mark.parametrize("subject", ["", "infermq.outcome", "infermq.outcome.a_62_", subjects.RULING, "x.outcome.d"])
def test_what_is_no_subject_of_outcomes_names_no_deployment(subject: str) -> None:
    assert subjects.parse_outcome(subject) is None


def test_a_tenant_or_key_has_200_characters_at_most() -> None:
    fits, too_long = "x" * 200, "x" * 201

    assert subjects.parse_submit(subjects.submit(Source(Lane.BULK, too_long, fits, fits))).tenant == fits
    for tenant, key in ((too_long, "k"), ("t", too_long)):
        with pytest.raises(ValueError, match="the limit is 200"):
            subjects.parse_submit(subjects.submit(Source(Lane.BULK, "m", tenant, key)))
        with pytest.raises(ValueError, match="the limit is 200"):
            subjects.parse_infer(subjects.infer("m", tenant, key))
        with pytest.raises(ValueError, match="the limit is 200"):
            subjects.parse_api(subjects.api(Verb.STATUS, tenant, key))


def test_subjects_are_as_documented() -> None:
    batch = an_id()

    assert subjects.submit(Source(Lane.STANDARD, "a.b", "t", "k")) == "infermq.submit.standard.a_2e_b.t.k"
    assert subjects.infer("a b", "t*", ">") == "infermq.infer.a_20_b.t_2a_._3e_"
    assert subjects.api(Verb.JOB_SHOW, "t.", "k") == "infermq.api.job-show.t_2e_.k"
    assert subjects.result("t.", batch) == f"infermq.result.t_2e_.{batch}"
    assert subjects.result("t", None) == "infermq.result.t.-"
    assert subjects.run("d.") == "infermq.run.d_2e_"
    assert subjects.now("d.") == "infermq.now.d_2e_"
    assert subjects.outcome("d.") == "infermq.outcome.d_2e_"
    assert subjects.RULING == "infermq.ruling"
    assert subjects.pool_consumer("d.") == "d_2e_"
    assert subjects.reply(subjects.ReplyTo("d.", "b.", "1f")) == "infermq.reply.d_2e_.b_2e_.1f"
    assert subjects.replies_to("b.") == "infermq.reply.*.b_2e_.*"


@given(names.filter(lambda name: name != "default"))
def test_a_tenant_has_an_inbox_of_its_own(tenant: str) -> None:
    prefix = subjects.inbox_prefix(tenant)

    assert subjects.inbox_prefix("default") == "_INBOX"
    assert untoken(prefix.removeprefix("_INBOX_")) == tenant


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


def test_lines_of_two_batches_have_ids_of_their_own() -> None:
    one, other = an_id(), an_id()

    assert line_id(one, 1) != line_id(other, 1)
    assert ms_of(line_id(one, 1)) == ms_of(one)


@given(st.integers(0, 2**48 - 2), st.integers(0, 2**74 - 2))
def test_ids_are_in_the_order_of_their_time_then_of_their_entropy(ms: int, entropy: int) -> None:
    assert uuid7(Ms(ms), 2**74 - 1) < uuid7(Ms(ms + 1), 0)
    assert uuid7(Ms(ms), entropy) < uuid7(Ms(ms), entropy + 1)


def test_a_redelivered_message_derives_the_same_id() -> None:
    derived = [
        derived_id("S", 5, Ms(1000)),
        derived_id("T", 5, Ms(1000)),
        derived_id("S", 6, Ms(1000)),
        derived_id("S", 5, Ms(1001)),
        derived_id("S", 5, Ms(1000), 1),
        derived_id("S", 5, Ms(1000), 2),
    ]

    assert derived_id("S", 5, Ms(1000)) == derived[0]
    assert derived_id("S", 5, Ms(1000), 2) == derived[-1]
    assert len(set(derived)) == len(derived)
    assert [ms_of(one) for one in derived] == [1000, 1000, 1000, 1001, 1000, 1000]


def test_ids_are_accepted_within_their_bounds() -> None:
    at = now()

    assert id_problem(uuid7(Ms(at + NEWEST_MS), 1), at) is None
    assert id_problem(uuid7(Ms(at - OLDEST_MS), 1), at) is None
    assert "ahead of now, the limit is 3600 s" in str(id_problem(uuid7(Ms(at + NEWEST_MS + 1), 1), at))
    assert "before now, the limit is 604800 s" in str(id_problem(uuid7(Ms(at - OLDEST_MS - 1), 1), at))
    assert "not a UUIDv7" in str(id_problem(UUID(int=0), at))
    assert "not a UUIDv7" in str(id_problem(UUID(int=uuid7(at, 1).int ^ (3 << 76)), at))


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


def test_an_answer_goes_only_to_an_inbox_of_the_tenant() -> None:
    assert subjects.may_answer("_INBOX.a.b", "default")
    assert subjects.may_answer("_INBOX_bob.a", "bob")
    assert not subjects.may_answer("_INBOX.a", "bob")
    assert not subjects.may_answer("_INBOX_bob.a", "default")
    assert not subjects.may_answer("_INBOX_bobby.a", "bob")
    assert not subjects.may_answer("infermq.now.d", "default")


@pytest.mark.parametrize("character", ["*", ">", " "])
def test_an_answer_never_goes_to_many_subjects_or_to_none(character: str) -> None:
    assert not subjects.may_answer(f"_INBOX.{character}", "default")
    assert not subjects.may_answer(f"_INBOX.a.{character}.b", "default")


@given(names, names, names)
def test_the_token_of_a_reply_is_read_from_its_subject(deployment: str, relay: str, token: str) -> None:
    to = subjects.ReplyTo(deployment, relay, token)

    assert subjects.reply_token(subjects.reply(to)) == token
    assert fits(subjects.reply(to), subjects.replies_to(relay))


@given(names, names)
def test_a_relay_hears_no_other_relays_replies(relay: str, other: str) -> None:
    subject = subjects.reply(subjects.ReplyTo("d", relay, "t"))

    assert fits(subject, subjects.replies_to(other)) == (relay == other)


def fits(subject: str, pattern: str) -> bool:
    """As NATS compares them."""
    tokens, wanted = subject.split("."), pattern.split(".")
    return len(tokens) == len(wanted) and all(w in {"*", t} for t, w in zip(tokens, wanted, strict=True))


def test_a_process_gives_each_id_once_and_none_of_another_process() -> None:
    processes = [process_ids(7, b"one"), process_ids(7, b"two"), process_ids(8, b"one")]

    given = [next(ids) for ids in processes for _ in range(3)]

    assert len(set(given)) == 9


@pytest.mark.parametrize(
    "subject", ["a", "a.b", "infermq.reply.a_2e_b.c.d", "$JS.ACK.S.c.1.1.1.1.0", "_INBOX.x.y", "\u00e9"]
)
def test_one_may_publish_on_a_subject(subject: str) -> None:
    assert subjects.is_subject(subject)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a b",
        "a\t",
        "a\n",
        "a\r\nPUB b 1\r\nx\r\n",
        "*",
        "a.*",
        "a.>",
        "a*",
        "a\0",
        "a\x7f",
        "a\u2028b",
    ],
)
def test_one_may_not_publish_on_what_is_no_subject(subject: str) -> None:
    assert not subjects.is_subject(subject)


@given(st.lists(names, min_size=1, max_size=5))
def test_tokens_make_a_subject(parts: list[str]) -> None:
    assert subjects.is_subject(".".join(map(token, parts)))


def test_an_answer_goes_to_no_subject_that_is_none() -> None:
    assert subjects.may_answer("_INBOX.a.b", "default")
    for reply in (
        "_INBOX.",
        "_INBOX.a b",
        "_INBOX.a\r\n",
        "_INBOX..a",
        "_INBOX.>",
        "_INBOX." + "x" * 2000,
        "_INBOX.a\n",
    ):
        assert not subjects.may_answer(reply, "default")

from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from broker.core.admit import DEFAULT_DEADLINE_MS, LONGEST_MS, AdmissionContext, admit
from broker.core.body import MOST_LOGPROBS
from broker.core.principal import Principal, open_principal
from broker.core.records import BatchInfo, Entry
from schemas.accounts import Role
from schemas.api import Problem
from schemas.catalog import Catalog
from schemas.changes import Change
from schemas.endpoints import COMPLETIONS
from schemas.ids import NEWEST_MS, OLDEST_MS, uuid7
from schemas.job import BODY_BYTES, Job, Lane
from schemas.outcome import Refused
from schemas.units import Ms
from tests.builders import CHAT, a_catalog, a_job, an_id, now

AT = now()
DERIVED = an_id()


def admitted(
    job: Job | None = None,
    *,
    lane: Lane = Lane.BULK,
    model: str = "m",
    batch: BatchInfo | None = None,
    streams: bool = False,
    catalog: Catalog | None = None,
    principal: Principal | None = None,
    denied: Problem | None = None,
) -> Entry:
    context = AdmissionContext(
        principal=principal or open_principal("tenant", "key"),
        denied=denied,
        lane=lane,
        model=model,
        catalog=a_catalog() if catalog is None else catalog,
        now=AT,
        new_id=lambda _: DERIVED,
        batches={batch.id: batch} if batch else {},
        streams=streams,
    )
    return admit(job or a_job(), context)


def refused(job: Job | None = None, **changes: Any) -> Refused:
    entry = admitted(job, **changes)
    assert entry.refused is not None
    return entry.refused


def a_body(more: str) -> bytes:
    return b'{"messages":[{"role":"user","content":"x"}]%s}' % more.encode()


def a_batch(**changes: Any) -> BatchInfo:
    fields = {"id": an_id(), "tenant": "tenant", "lane": Lane.BULK, "deadline_ms": None}
    return BatchInfo(**{**fields, **changes})


def test_a_good_job_waits_with_its_lanes_deadline() -> None:
    entry = admitted()

    assert entry.refused is None
    assert entry.id == DERIVED
    assert entry.deadline_ms == AT + DEFAULT_DEADLINE_MS[Lane.BULK]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"role": Role.DEPLOYER}, None),
        ({"models": frozenset({"other"})}, "model"),
        ({"lanes": frozenset({Lane.STANDARD})}, "lane"),
        ({"endpoints": frozenset({"/v1/embeddings"})}, "endpoint"),
    ],
)
def test_a_principal_that_may_not_submit_it_is_refused(changes: dict[str, Any], field: str | None) -> None:
    principal = Principal(**{"tenant": "t", "key": "k", "role": Role.PRODUCER, **changes})

    why = refused(principal=principal)

    assert (why.code, why.field) == ("forbidden", field)


def test_what_comes_with_a_key_that_is_not_let_in_is_refused_for_that_alone() -> None:
    denied = Problem("key_revoked", "the key k was revoked")

    for model in ("m", "no such model", "m@d"):
        why = refused(denied=denied, model=model)

        assert (why.code, why.message) == (denied.code, denied.message)


def test_a_principal_is_not_told_which_models_there_are_beside_its_own() -> None:
    principal = Principal(tenant="t", key="k", role=Role.PRODUCER, models=frozenset({"other"}))

    assert refused(principal=principal, model="no such model").code == "forbidden"


def test_a_job_keeps_its_own_id_and_deadline() -> None:
    job = a_job(id=an_id(), deadline_ms=AT + 5000)

    entry = admitted(job)

    assert (entry.id, entry.deadline_ms) == (job.id, AT + 5000)


def test_a_batchs_deadline_holds_for_its_jobs() -> None:
    batch = a_batch(deadline_ms=AT + 9000)

    assert admitted(a_job(batch=batch.id), batch=batch).deadline_ms == AT + 9000
    assert admitted(a_job(batch=batch.id, deadline_in_ms=70), batch=batch).deadline_ms == AT + 70


def test_what_was_changed_of_a_batch_holds_for_jobs_that_come_later_whatever_they_say() -> None:
    change = Change(lane=Lane.STANDARD, deadline_ms=AT + 70_000, priority=-4)
    batch = a_batch(lane=Lane.STANDARD, submit_lane=Lane.BULK, change=change, deadline_ms=AT + 70_000, priority=-4)

    for job in (a_job(batch=batch.id), a_job(batch=batch.id, priority=9, deadline_ms=AT + 5_000)):
        entry = admitted(job, batch=batch)
        assert entry.refused is None
        assert (entry.lane, entry.deadline_ms, entry.priority) == (Lane.STANDARD, AT + 70_000, -4)


def test_a_batch_of_which_only_the_priority_was_changed_leaves_the_rest_to_its_jobs() -> None:
    batch = a_batch(submit_lane=Lane.BULK, change=Change(priority=0), priority=0)

    entry = admitted(a_job(batch=batch.id, priority=9, deadline_ms=AT + 5_000), batch=batch)

    assert (entry.lane, entry.deadline_ms, entry.priority) == (Lane.BULK, AT + 5_000, 0)


def test_a_job_has_its_own_priority_else_its_batchs() -> None:
    batch = a_batch(priority=7)

    assert [admitted(a_job(batch=batch.id, priority=own), batch=batch).priority for own in (None, 0, -9)] == [
        7,
        0,
        -9,
    ]
    assert admitted(a_job()).priority == 0
    assert admitted(a_job(priority=100)).place.rank == -100


@pytest.mark.parametrize(
    ("more", "code", "field"),
    [
        (',"n":0', "n_out_of_range", "body.n"),
        (',"n":129', "n_out_of_range", "body.n"),
        (',"n":"two"', "body_shape", "body.n"),
        (',"max_tokens":0', "max_tokens_out_of_range", "body.max_tokens"),
        (',"max_tokens":1000000', "max_tokens_out_of_range", "body.max_tokens"),
        (',"max_completion_tokens":-1', "max_tokens_out_of_range", "body.max_completion_tokens"),
        (',"max_tokens":1e400', "body_shape", "body.max_tokens"),
        (',"max_tokens":12.5', "body_shape", "body.max_tokens"),
        (',"n":1.5', "body_shape", "body.n"),
        (',"logprobs":true,"top_logprobs":21', "logprobs_out_of_range", "body.top_logprobs"),
        (',"top_logprobs":-1', "logprobs_out_of_range", "body.top_logprobs"),
        (',"top_logprobs":1e9', "logprobs_out_of_range", "body.top_logprobs"),
        (',"logprobs":1000000', "logprobs_out_of_range", "body.logprobs"),
        (',"logprobs":"5"', "body_shape", "body.logprobs"),
        (',"stream":true', "stream_not_allowed", "body.stream"),
        (',"user":"a\\u0000b"', "nul_character", "body"),
    ],
)
def test_a_body_out_of_bounds_is_refused_by_field(more: str, code: str, field: str) -> None:
    refusal = refused(a_job(body=a_body(more)))

    assert (refusal.code, refusal.field) == (code, field), refusal


def test_probabilities_beyond_the_limit_are_refused_with_it() -> None:
    refusal = refused(a_job(endpoint=COMPLETIONS.path, body=b'{"prompt":"x","logprobs":21}'))

    assert (refusal.field, refusal.limit) == ("body.logprobs", MOST_LOGPROBS)
    assert "21" in refusal.message


@pytest.mark.parametrize("more", [',"logprobs":true,"top_logprobs":20', ',"logprobs":false', ',"logprobs":null'])
def test_probabilities_within_the_limit_are_admitted(more: str) -> None:
    assert admitted(a_job(body=a_body(more))).refused is None


@pytest.mark.parametrize(
    "body", [b"", b"nope", b"\xff\xfe", b"[1]", b"5", b"{}", b'{"messages":[]}', b'{"messages":"x"}', b"[" * 100_000]
)
def test_a_body_that_is_not_the_endpoints_is_refused(body: bytes) -> None:
    assert refused(a_job(body=body)).code in {"body_not_json", "body_shape"}


def test_a_text_that_is_no_text_is_refused_by_its_place() -> None:
    refusal = refused(a_job(body=b'{"messages":[{"role":"user","content":[{"type":"text","text":5}]}]}'))

    assert (refusal.code, refusal.field) == ("body_shape", "body.messages[0].content[0].text")


def test_a_body_over_the_limit_is_refused_with_the_limit() -> None:
    assert refused(a_job(body=b" " * (BODY_BYTES + 1))).limit == BODY_BYTES


def test_a_deep_body_is_refused_and_does_no_harm() -> None:
    deep = b'{"messages":[{"role":"user","content":[' + b"[" * 50_000 + b"]" * 50_000 + b"]}]}"

    assert refused(a_job(body=deep)).code in {"body_not_json", "body_shape"}


@pytest.mark.parametrize(
    "part",
    [
        '{"type":"image_url","image_url":{"url":"http://169.254.169.254/x"}}',
        '{"type":"image_url","image_url":"https://example.org/x.png"}',
        '{"type":"video_url","video_url":{"url":"file:///etc/passwd"}}',
        '{"type":"image_url","image_url":{"url":"ftp://[bad"}}',
    ],
)
def test_an_address_to_fetch_is_refused(part: str) -> None:
    body = b'{"messages":[{"role":"user","content":[%s]}]}' % part.encode()

    assert refused(a_job(body=body)).code == "media_url"


def test_media_inside_the_request_is_admitted() -> None:
    part = b'{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}'

    assert admitted(a_job(body=b'{"messages":[{"role":"user","content":[%s]}]}' % part)).refused is None


def test_a_stream_is_admitted_where_somebody_reads_it() -> None:
    streaming = a_job(body=a_body(',"stream":true'))

    assert admitted(streaming, lane=Lane.INTERACTIVE, streams=True).refused is None
    assert refused(streaming, lane=Lane.INTERACTIVE).code == "stream_not_allowed"


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    refusal = refused(model="other")

    assert refusal.code == "unknown_model"
    assert "known: m" in refusal.message


@pytest.mark.parametrize(("models", "known"), [(0, "none, see apply"), (8, "0, 1, 2, 3, 4, 5, 6, 7"), (9, "6, 7, …")])
def test_of_many_models_the_first_eight_are_named(models: int, known: str) -> None:
    model = a_catalog().models["m"]
    catalog = Catalog(models={str(n): model for n in range(models)}, deployments={})

    assert refused(model="other", catalog=catalog).message.endswith(known)


def test_an_endpoint_that_is_not_served_is_refused_with_those_that_are() -> None:
    refusal = refused(a_job(endpoint="/v1/images"))

    assert refusal.code == "endpoint_not_served"
    assert CHAT in refusal.message


def test_an_endpoint_that_only_a_newer_catalog_knows_is_refused() -> None:
    later = "/v2/later"
    model = msgspec.structs.replace(a_catalog().models["m"], endpoints=(later,))

    refusal = refused(a_job(endpoint=later), catalog=Catalog(models={"m": model}))

    assert refusal.code == "endpoint_not_served"


def test_a_refusal_does_not_repeat_a_long_endpoint() -> None:
    assert len(refused(a_job(endpoint="/v1/" + "x" * 100_000)).message) < 250


@pytest.mark.parametrize(
    "bad", [uuid4(), uuid7(Ms(AT + NEWEST_MS + 1000), 1), uuid7(Ms(AT - OLDEST_MS - 1000), 1), UUID(int=0)]
)
def test_an_id_that_is_no_recent_v7_is_refused_and_recorded_under_another(bad: UUID) -> None:
    entry = admitted(a_job(id=bad))

    assert entry.refused is not None
    assert entry.refused.code == "bad_id"
    assert str(bad) in entry.refused.message
    assert entry.id == DERIVED


def test_deadlines_must_be_ahead_but_not_too_far() -> None:
    assert refused(a_job(deadline_ms=AT - 1)).code == "deadline_past"
    assert refused(a_job(deadline_ms=AT + 1, deadline_in_ms=1)).code == "two_deadlines"
    assert refused(a_job(deadline_in_ms=LONGEST_MS + 1)).field == "deadline_in_ms"
    too_far = refused(a_job(deadline_ms=AT + LONGEST_MS + 1))
    assert (too_far.code, too_far.limit) == ("deadline_too_far", LONGEST_MS)
    assert "more than 7 days ahead" in too_far.message


def test_a_deadline_in_seconds_is_refused_with_the_unit() -> None:
    unit = "milliseconds since the epoch"

    assert unit in refused(a_job(deadline_ms=AT // 1000 + 60)).message
    assert unit not in refused(a_job(deadline_ms=AT - 1)).message


def test_a_batch_must_be_known_and_ones_own() -> None:
    theirs = a_batch(tenant="other")

    assert refused(a_job(batch=an_id())).code == "unknown_batch"
    assert refused(a_job(batch=theirs.id), batch=theirs).code == "unknown_batch"
    assert admitted(a_job(batch=theirs.id), batch=theirs).batch is None


def test_a_batch_has_one_lane() -> None:
    batch = a_batch(lane=Lane.STANDARD)

    assert refused(a_job(batch=batch.id), batch=batch).code == "wrong_lane"


def test_a_nul_in_a_label_is_refused_and_recorded_without_it() -> None:
    entry = admitted(a_job(custom_id="a\0b", metadata={"k": "v\0"}))

    assert entry.refused is not None
    assert entry.refused.code == "nul_character"
    assert "\0" not in (entry.custom_id or "") + str(entry.metadata)

"""Jobs that repeat others: their bytes, what is changed of them, where they go, and what they are estimated to cost."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import route
from broker.core.admit import AdmissionContext
from broker.core.controls import Controls
from broker.core.principal import Principal
from broker.core.records import BatchInfo, Flow
from broker.core.repeat import Edit, Source, edited, patch_problem, patched, repeat_id, repeated
from broker.core.replay import SETTLED, chosen, estimate, problem, summed, target
from schemas.accounts import Role
from schemas.api import State
from schemas.catalog import Catalog, Deployment, Model, Price, Route
from schemas.control import Pause, PauseKind
from schemas.ids import ms_of
from schemas.job import Lane
from schemas.listing import JobFilter, JobLine
from schemas.outcome import Refused, Usage
from schemas.repeats import ReplayChoice, ReplayEstimate
from schemas.units import Ms, NanoUsd
from tests.builders import CHAT, an_id, now

EMBEDDINGS = "/v1/embeddings"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=3), JSON, max_size=4)
CATALOG = Catalog(
    models={
        "m": Model(route=(Route("d", 300), Route("e", 100), Route("spare", 0)), max_output_tokens=77),
        "other": Model(route=(Route("free"),)),
        "a@d": Model(route=(Route("e"),)),
    },
    deployments={
        "d": Deployment(engine="simulated", price=Price(input=1.0, output=2.0)),
        "e": Deployment(engine="simulated", price=Price(input=5.0, output=6.0)),
        "spare": Deployment(engine="simulated", price=Price(input=1000.0)),
        "free": Deployment(engine="simulated"),
    },
)


def a_source(body: bytes, **changes: Any) -> Source:
    fields: dict[str, Any] = {
        "id": an_id(),
        "model": "m",
        "endpoint": CHAT,
        "max_attempts": 3,
        "priority": 0,
        "line": 1,
        "custom_id": "a",
        "metadata": {},
        "body": body,
    }
    return Source(**{**fields, **changes})


def a_context(
    model: str = "m", *, role: Role = Role.OPERATOR, models: frozenset[str] | None = None
) -> AdmissionContext:
    batch = BatchInfo(id=an_id(), tenant="t", lane=Lane.BULK, deadline_ms=None)
    return AdmissionContext(
        principal=Principal(tenant="t", key="k", role=role, models=models),
        lane=Lane.BULK,
        model=model,
        catalog=CATALOG,
        now=now(),
        new_id=lambda _: an_id(),
        batches={batch.id: batch},
    )


def rfc_7396(target: Any, patch: Any) -> Any:
    """The algorithm as the RFC has it."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = rfc_7396(merged.get(name), value)
    return merged


# bodies


@pytest.mark.parametrize(
    "body",
    [
        b'{ "messages" : [{"role":"user","content":"x"}] ,"max_tokens":8.0}',
        '{"messages":[{"role":"user","content":"é \\u00e9 😀"}]}'.encode(),
        b'{"messages":[{"role":"user","content":"say \\"stream\\""}],"n":1e0}',
        b'{"messages":[],"stream":false}',
        b"not JSON",
        b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}]}',
    ],
)
def test_a_body_of_which_nothing_is_changed_keeps_its_bytes(body: bytes) -> None:
    assert edited(body, CHAT, Edit()) == body


def test_a_stream_is_not_asked_for_again() -> None:
    body = b'{"stream":true,"messages":[ 1.50 ],"stream_options":{"include_usage":true}}'

    assert edited(body, CHAT, Edit()) == b'{"messages":[ 1.50 ]}'


@given(OBJECTS, OBJECTS)
def test_a_patch_is_applied_as_the_rfc_says(body: Any, patch: Any) -> None:
    patched_body = patched(json.dumps(body).encode(), json.dumps(patch).encode())

    assert json.loads(patched_body) == rfc_7396(body, patch)


def test_what_a_patch_does_not_name_keeps_its_bytes() -> None:
    body = b'{"a":1.50,"b":{"c":1e2,"d":[ 1 ]},"big":123456789012345678901234567890}'

    assert patched(body, b'{"b":{"d":null}}') == b'{"a":1.50,"b":{"c":1e2},"big":123456789012345678901234567890}'


@pytest.mark.parametrize(
    ("body", "endpoint", "changed"),
    [
        (b"{}", CHAT, b'{"max_tokens":9}'),
        (b'{"max_tokens":1}', CHAT, b'{"max_tokens":9}'),
        (b'{"max_completion_tokens":1}', CHAT, b'{"max_completion_tokens":9}'),
        (b'{"max_tokens":1,"max_completion_tokens":1}', CHAT, b'{"max_tokens":9,"max_completion_tokens":9}'),
        (b"{}", EMBEDDINGS, b"{}"),
        (b"{}", "/nothing", b"{}"),
    ],
)
def test_the_limit_of_tokens_is_set_in_the_field_that_has_it(body: bytes, endpoint: str, changed: bytes) -> None:
    assert edited(body, endpoint, Edit(max_tokens=9)) == changed


@pytest.mark.parametrize("patch", ["[1]", "1", "nope", "", "{", '{"a":' * 5000])
def test_a_patch_that_is_no_object_is_refused(patch: str) -> None:
    found = patch_problem(patch)

    assert found is not None
    assert found.field == "patch"


@pytest.mark.parametrize("patch", [None, "{}", '{"a":null,"b":{"c":null}}'])
def test_a_patch_that_is_an_object_is_none_to_complain_of(patch: str | None) -> None:
    assert patch_problem(patch) is None


# ids and entries


def test_the_id_of_a_new_job_is_the_same_each_time_and_each_instructions_own() -> None:
    instruction, other, source = an_id(), an_id(), an_id()
    made = Ms(1_700_000_000_000)

    job = repeat_id(instruction, made, source)

    assert (job, ms_of(job), job.version) == (repeat_id(instruction, made, source), made, 7)
    assert len({job, repeat_id(other, made, source), repeat_id(instruction, made, other)}) == 3


def test_a_new_job_is_as_the_old_one() -> None:
    body = b'{"messages":[{"role":"user","content":"x"}]}'
    source, context = a_source(body, metadata={"a": "b"}, max_attempts=7, priority=5), a_context()
    [batch] = context.batches

    entry = repeated(source, an_id(), batch, context)

    assert entry.refused is None
    assert (entry.body, entry.line, entry.custom_id, entry.metadata) == (body, 1, "a", {"a": "b"})
    assert (entry.max_attempts, entry.priority, entry.batch, entry.tenant, entry.key) == (7, 5, batch, "t", "k")


@pytest.mark.parametrize(
    ("body", "model", "code"),
    [
        (b'{"messages":[{"role":"user","content":"x"}]}', "gone", "unknown_model"),
        (b'{"messages":[]}', "m", "body_shape"),
        (b"", "m", "body_not_json"),
    ],
)
def test_a_job_that_cannot_be_admitted_again_is_refused(body: bytes, model: str, code: str) -> None:
    context = a_context(model)

    entry = repeated(a_source(body), an_id(), next(iter(context.batches)), context)

    assert isinstance(entry.refused, Refused)
    assert entry.refused.code == code


# pins


def test_a_pinned_model_runs_on_its_deployment_only() -> None:
    [entry] = route.entries("m@free", CATALOG)
    pinned = CATALOG.model("m@free")

    assert entry.deployment == "free"
    assert pinned is not None
    assert pinned.max_output_tokens == 77


@pytest.mark.parametrize("name", ["m@", "@d", "m@nothing", "nothing@d", "m", "@", "m@d" + "x" * 200])
def test_what_names_no_model_and_deployment_is_no_pin(name: str) -> None:
    assert CATALOG.pin(name) is None


def test_a_model_that_is_called_like_a_pin_is_the_model() -> None:
    assert [entry.deployment for entry in route.entries("a@d", CATALOG)] == ["e"]
    assert [entry.deployment for entry in route.entries("a@d@free", CATALOG)] == ["free"]


@pytest.mark.parametrize(
    ("role", "models", "code"),
    [
        (Role.OPERATOR, None, None),
        (Role.TENANT_ADMIN, frozenset({"m"}), None),
        (Role.OPERATOR, frozenset({"other"}), "forbidden"),
        (Role.PRODUCER, None, "forbidden"),
    ],
)
def test_only_some_may_choose_a_deployment(role: Role, models: frozenset[str] | None, code: str | None) -> None:
    context = a_context("m@d", role=role, models=models)
    body = b'{"messages":[{"role":"user","content":"x"}]}'

    entry = repeated(a_source(body), an_id(), next(iter(context.batches)), context)

    assert (entry.refused and entry.refused.code) == code


def test_a_pinned_job_is_paused_with_its_model() -> None:
    controls = Controls(1, (Pause(kind=PauseKind.MODEL, name="m", paused_ms=now(), tenant="t", key="k"),))

    assert controls.of_flow(Flow("m@d", Lane.BULK, "t"))
    assert not controls.of_flow(Flow("n@m", Lane.BULK, "t"))


# replays


@pytest.mark.parametrize(
    ("ask", "model", "name"),
    [
        ({}, "m", "m"),
        ({"model": "other"}, "m", "other"),
        ({"deployment": "e"}, "m", "m@e"),
        ({"deployment": "e", "model": "other"}, "m", "other@e"),
        ({"deployment": "e"}, "m@d", "m@e"),
        ({}, "m@d", "m@d"),
    ],
)
def test_a_replay_goes_where_it_is_told_to(ask: dict[str, Any], model: str, name: str) -> None:
    assert target(ReplayChoice(**ask), model, CATALOG) == name


def test_a_replay_takes_settled_jobs_that_were_there_before_it() -> None:
    early, late = Ms(5), Ms(50)

    assert chosen(ReplayChoice(filter=JobFilter(model="m")), late).states == SETTLED
    assert chosen(ReplayChoice(filter=JobFilter(states=(State.DEAD,))), late).states == (State.DEAD,)
    assert chosen(ReplayChoice(), late).until_ms == late
    assert chosen(ReplayChoice(filter=JobFilter(until_ms=early)), late).until_ms == early
    assert chosen(ReplayChoice(filter=JobFilter(until_ms=late)), early).until_ms == early


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        ({}, "no_choice"),
        ({"filter": JobFilter(states=(State.DEAD, State.RUNNING))}, "bad_state"),
        ({"jobs": (an_id(),), "model": "gone"}, "unknown_model"),
        ({"jobs": (an_id(),), "deployment": "gone"}, "unknown_deployment"),
        ({"jobs": (an_id(),), "deployment": "d", "model": "m"}, None),
        ({"filter": JobFilter(batch=an_id())}, None),
    ],
)
def test_a_replay_of_what_cannot_be_is_refused(ask: dict[str, Any], code: str | None) -> None:
    found = problem(ReplayChoice(**ask), CATALOG)

    assert (found and found.code) == code


def a_line(model: str = "m", **changes: Any) -> JobLine:
    fields: dict[str, Any] = {
        "id": an_id(),
        "state": State.SUCCEEDED,
        "lane": Lane.BULK,
        "model": model,
        "admitted_ms": now(),
        "deadline_ms": now(),
        "usage": Usage(1000, 100),
        "cost_nano_usd": NanoUsd(7),
    }
    return JobLine(**{**fields, **changes})


def test_an_estimate_takes_recorded_tokens_at_the_price_of_the_target() -> None:
    on_m = estimate([a_line("other")], ReplayChoice(model="m"), CATALOG)
    on_e = estimate([a_line(), a_line()], ReplayChoice(deployment="e"), CATALOG)

    by_weight = (3 * (1000 * 1000 + 100 * 2000) + (1000 * 5000 + 100 * 6000)) // 4
    assert (on_m.by_price, on_m.cost_nano_usd) == (1, by_weight), "spares do not count"
    assert (on_e.jobs, on_e.by_price, on_e.cost_nano_usd) == (2, 2, 2 * (1000 * 5000 + 100 * 6000))


def test_an_estimate_counts_no_more_output_than_is_allowed() -> None:
    found = estimate([a_line()], ReplayChoice(deployment="d", max_tokens=10), CATALOG)

    assert (found.usage, found.cost_nano_usd) == (Usage(1000, 10), 1000 * 1000 + 10 * 2000)


def test_an_estimate_says_what_it_goes_by() -> None:
    same = estimate([a_line("other")], ReplayChoice(), CATALOG)
    changed = estimate([a_line("other")], ReplayChoice(max_tokens=1), CATALOG)
    elsewhere = estimate([a_line("m")], ReplayChoice(model="other"), CATALOG)
    never_ran = estimate([a_line(usage=Usage())], ReplayChoice(), CATALOG)

    assert (same.by_record, same.cost_nano_usd) == (1, 7)
    for found in (changed, elsewhere, never_ran):
        assert (found.jobs, found.unknown, found.cost_nano_usd) == (1, 1, 0)


def test_estimates_of_parts_add_up() -> None:
    lines = [a_line(), a_line("other"), a_line(usage=Usage())]
    ask = ReplayChoice()

    total = ReplayEstimate()
    for line in lines:
        total = summed(total, estimate([line], ask, CATALOG))

    assert total == estimate(lines, ask, CATALOG)

"""The use-cases as a door calls them, and the API at both doors with principals of every role."""

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import msgspec
import pytest

from broker.bus.beats import Beats
from broker.bus.catalogs import Catalogs
from broker.bus.dead_letters import publish_again
from broker.bus.notices import announce_instruction
from broker.bus.results import hearing_job, hearing_results
from broker.bus.submissions import store
from broker.bus.submitted import SubmittedJobs
from broker.client import RequestRefused
from broker.client.http_door import HttpDoor
from broker.core.authorise import Action, forbidden, may_call
from broker.core.principal import Principal, open_principal
from broker.core.revisions import NONE
from broker.core.targets import Targets
from broker.doors.http.app import Front
from broker.doors.nats_api import nats_api
from broker.doors.operations import operations
from broker.doors.server import listening
from broker.errors import Conflict
from broker.metrics import BrokerMetrics
from broker.ports import Ledger
from broker.roles.controls_watch import ControlsWatch
from broker.service import (
    BatchService,
    CancelService,
    CatalogService,
    ChangeService,
    ControlService,
    DeadLetterService,
    FileBatchService,
    FileService,
    InstructionService,
    JobService,
    KeyService,
    RepeatService,
    Services,
    SingleJobService,
    StatusService,
    SubmissionService,
    TenantService,
    WebhookService,
)
from broker.service.refusal import Refusal
from schemas import subjects
from schemas.accounts import (
    KeyCreate,
    KeyList,
    KeyRef,
    KeyRevoke,
    KeyRotate,
    Role,
    TenantCreate,
    TenantDisable,
    TenantList,
    TenantRef,
)
from schemas.api import (
    Batch,
    BatchCreate,
    Batches,
    BatchList,
    BatchRef,
    BatchResults,
    BatchSeal,
    CatalogApply,
    ErrorBody,
    JobCancel,
    JobRef,
    Nothing,
    Problem,
    State,
)
from schemas.api_keys import SECRET_BYTES
from schemas.cancel import CancelChoice, CancelMany
from schemas.catalog import Catalog
from schemas.changes import BatchChange, Change, JobChange
from schemas.codec import ERROR, KIND, jsoned, packed
from schemas.control import AuditList, PauseAsk, PauseKind, ResumeAsk
from schemas.dead import DeadDrop, DeadEach, DeadList, DeadRef, DeadRequeue
from schemas.instructions import InstructionList, InstructionRef
from schemas.jetstream.client import NatsClient
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Lane
from schemas.listing import JobFilter, JobList
from schemas.repeats import BatchRetry, Replay, ReplayDiff, ReplayEstimateAsk, RetryCheck
from schemas.subjects import DEFAULT, Verb
from schemas.units import Ms
from schemas.webhooks import (
    DeliveryList,
    DeliveryResend,
    WebhookChange,
    WebhookCreate,
    WebhookList,
    WebhookRef,
    WebhookRotate,
)
from tests.builders import a_dead_letter, a_job, an_entropy, an_entry, an_id, now
from tests.calling import called
from tests.declared import declare_streams
from tests.instructing import an_instruction

pytestmark = pytest.mark.real
ACTIONS = {
    Verb.BATCH_CREATE: Action.SUBMIT,
    Verb.BATCH_SEAL: Action.SUBMIT,
    Verb.BATCH_SHOW: Action.READ_JOBS,
    Verb.BATCH_LIST: Action.READ_JOBS,
    Verb.BATCH_RESULTS: Action.READ_JOBS,
    Verb.JOB_SHOW: Action.READ_JOBS,
    Verb.BATCH_RETRY: Action.CONTROL_JOBS,
    Verb.REPLAY: Action.CONTROL_JOBS,
    Verb.REPLAY_ESTIMATE: Action.CONTROL_JOBS,
    Verb.REPLAY_DIFF: Action.READ_JOBS,
    Verb.BATCH_RETRY_CHECK: Action.READ_JOBS,
    Verb.JOB_CHANGE: Action.CONTROL_JOBS,
    Verb.BATCH_CHANGE: Action.CONTROL_JOBS,
    Verb.BATCH_CANCEL: Action.CONTROL_JOBS,
    Verb.CANCEL: Action.CONTROL_JOBS,
    Verb.CANCEL_COUNT: Action.CONTROL_JOBS,
    Verb.JOB_CANCEL: Action.CONTROL_JOBS,
    Verb.INSTRUCTION_SHOW: Action.READ_JOBS,
    Verb.INSTRUCTION_LIST: Action.READ_JOBS,
    Verb.JOB_LIST: Action.READ_JOBS,
    Verb.DEAD_LIST: Action.READ_JOBS,
    Verb.DEAD_EACH: Action.READ_JOBS,
    Verb.DEAD_SHOW: Action.READ_JOBS,
    Verb.DEAD_REQUEUE: Action.CONTROL_JOBS,
    Verb.DEAD_DROP: Action.CONTROL_JOBS,
    Verb.CATALOG_APPLY: Action.APPLY_CATALOG,
    Verb.CATALOG_SHOW: Action.READ_CATALOG,
    Verb.STATUS: Action.READ_STATUS,
    Verb.PAUSE: Action.CONTROL_JOBS,
    Verb.RESUME: Action.CONTROL_JOBS,
    Verb.PAUSES: Action.READ_JOBS,
    Verb.AUDIT: Action.READ_AUDIT,
    Verb.TENANT_CREATE: Action.MANAGE_TENANTS,
    Verb.TENANT_LIST: Action.MANAGE_TENANTS,
    Verb.TENANT_SHOW: Action.READ_OWN,
    Verb.TENANT_DISABLE: Action.MANAGE_TENANTS,
    Verb.TENANT_ENABLE: Action.MANAGE_TENANTS,
    Verb.KEY_CREATE: Action.MANAGE_KEYS,
    Verb.KEY_LIST: Action.MANAGE_KEYS,
    Verb.KEY_SHOW: Action.MANAGE_KEYS,
    Verb.KEY_REVOKE: Action.MANAGE_KEYS,
    Verb.KEY_ROTATE: Action.MANAGE_KEYS,
    **{verb: Action.MANAGE_WEBHOOKS for verb in Verb if verb.startswith("webhook-")},
}
"""What each verb asks to do."""
LOOKUPS = {
    Verb.BATCH_SEAL,
    Verb.BATCH_SHOW,
    Verb.BATCH_RESULTS,
    Verb.JOB_SHOW,
    Verb.JOB_LIST,
    Verb.BATCH_RETRY,
    Verb.BATCH_RETRY_CHECK,
    Verb.REPLAY_DIFF,
    Verb.JOB_CHANGE,
    Verb.BATCH_CHANGE,
    Verb.INSTRUCTION_SHOW,
}
"""Those that name what must be there."""
TOML = "# nothing is served yet\n"


@pytest.fixture
async def services(nc: Nats, ledger: Ledger) -> Services:
    await declare_streams(nc)
    catalogs, watch = Catalogs(nc), ControlsWatch(nc, ledger.controls)
    catalogs.use(NONE)
    jobs = JobService(
        ledger=ledger.jobs,
        batches=ledger.batches,
        submitted=SubmittedJobs(nc),
        catalogs=catalogs,
        pools=dict,
        clock=now,
        controls=lambda: watch.active,
    )
    submissions = SubmissionService(store=partial(store, nc))
    repeats = RepeatService(
        retries=ledger.retries,
        replays=ledger.replays,
        catalogs=catalogs,
        tell=partial(announce_instruction, nc),
        clock=now,
        entropy=an_entropy,
    )
    return Services(
        batches=BatchService(
            ledger=ledger.batches,
            webhooks=ledger.webhooks,
            clock=now,
            hearing=partial(hearing_results, nc),
            controls=lambda: watch.active,
        ),
        repeats=repeats,
        instructions=InstructionService(ledger=ledger.instructions),
        files=FileService(
            ledger=ledger.files,
            stores=ledger.stores,
            file_batches=ledger.file_batches,
            clock=now,
            entropy=an_entropy,
        ),
        file_batches=FileBatchService(
            ledger=ledger.file_batches,
            webhooks=ledger.webhooks,
            tell=partial(announce_instruction, nc),
            repeats=repeats,
            clock=now,
            entropy=an_entropy,
        ),
        jobs=jobs,
        webhooks=WebhookService(
            ledger=ledger.webhooks, targets=Targets(), clock=now, entropy=an_entropy, secret=lambda: bytes(32)
        ),
        cancels=CancelService(
            nc=nc,
            ledger=ledger.cancels,
            orders=ledger.cancel_orders,
            batches=ledger.batches,
            submitted=SubmittedJobs(nc),
            catalog=Catalog,
            announce=watch.announce,
            tell=partial(announce_instruction, nc),
            metrics=BrokerMetrics(),
            clock=now,
            entropy=an_entropy,
        ),
        changes=ChangeService(
            nc=nc,
            ledger=ledger.changes,
            batches=ledger.batches,
            tell=partial(announce_instruction, nc),
            clock=now,
            entropy=an_entropy,
        ),
        catalogs=CatalogService(ledger=ledger.catalogs, status=ledger.status, catalogs=catalogs, clock=now),
        controls=ControlService(
            ledger=ledger.controls,
            audit=ledger.audit,
            batches=ledger.batches,
            catalogs=catalogs,
            announce=watch.announce,
            clock=now,
            entropy=an_entropy,
        ),
        dead_letters=DeadLetterService(
            ledger=ledger.dead_letters,
            publish=partial(publish_again, nc),
            clock=now,
            entropy=an_entropy,
            tell=partial(announce_instruction, nc),
        ),
        status=StatusService(
            name="b",
            version="0",
            ledger=ledger.status,
            catalogs=catalogs,
            beats=Beats(nc, clock=now),
            pools=dict,
            clock=now,
            controls=lambda: watch.active,
        ),
        tenants=TenantService(ledger=ledger.tenants, announce=nothing, clock=now, entropy=an_entropy),
        keys=KeyService(
            ledger=ledger.api_keys,
            announce=nothing,
            clock=now,
            entropy=an_entropy,
            secret=partial(secrets.token_bytes, SECRET_BYTES),
        ),
        submissions=submissions,
        single_jobs=SingleJobService(
            submissions=submissions,
            jobs=jobs,
            ledger=ledger.jobs,
            hearing=partial(hearing_job, nc),
            catalog=lambda: catalogs.active.catalog,
            clock=now,
            entropy=an_entropy,
        ),
    )


async def nothing() -> None:
    """Announce to nobody."""


def a_door(url: str, services: Services, *, role: Role) -> AbstractAsyncContextManager[object]:
    """The NATS API, whose callers are all of one role."""

    async def identify(tenant: str, key: str, _: Ms) -> Principal:
        return a_principal(role, tenant, key)

    return nats_api(url, services, name="b", connection=NatsClient, identify=identify, clock=now)


@asynccontextmanager
async def an_http_door(services: Services, principal: Principal) -> AsyncIterator[HttpDoor]:
    """The same API over HTTP, asked by the client of whoever all callers are."""

    async def identify(_: str | None) -> Principal:
        return principal

    front = Front(identify=identify, catalog=Catalog, clock=now, entropy=an_entropy)
    async with (
        front.serving(services),
        listening(front, option="api", host="127.0.0.1", port=0) as url,
        HttpDoor.connect(url, api_key=None, trust=None, tenant=DEFAULT, key=DEFAULT) as door,
    ):
        yield door


async def by_http(door: HttpDoor, verb: Verb, ask: msgspec.Struct) -> Problem | None:
    """What the client is told that calls over HTTP."""
    try:
        await door.call(verb, jsoned(ask), within_s=10)
    except RequestRefused as refused:
        return refused.problem
    return None


def a_principal(role: Role, tenant: str = "t", key: str = "k") -> Principal:
    return Principal(tenant=tenant, key=key, role=role)


@pytest.fixture
async def asks(services: Services, ledger: Ledger, ledger_url: str) -> Mapping[Verb, msgspec.Struct]:
    """A request of each verb that tenant `t` is answered."""
    batch = await services.batches.create(open_principal("t", "k"), BatchCreate(id=an_id()))
    entry = an_entry(tenant="t", batch=batch.id)
    await ledger.intake.admit([entry])
    letter = a_dead_letter(tenant="t")
    await ledger.dead_letters.record([letter])
    await services.catalogs.apply(open_principal("t", "k"), CatalogApply(TOML))
    operator = a_principal(Role.OPERATOR)
    await services.tenants.create(operator, TenantCreate("t"))
    key = (await services.keys.create(operator, KeyCreate(role=Role.PRODUCER))).key.id
    made = await services.webhooks.create(operator, WebhookCreate(url="https://example.com"))
    webhook = made.webhook.id
    return {
        Verb.BATCH_CREATE: BatchCreate(id=batch.id),
        Verb.BATCH_SEAL: BatchSeal(batch.id, 7),
        Verb.BATCH_SHOW: BatchRef(batch.id),
        Verb.BATCH_LIST: BatchList(),
        Verb.BATCH_RESULTS: BatchResults(batch.id),
        Verb.JOB_SHOW: JobRef(entry.id),
        Verb.BATCH_RETRY: BatchRetry(id=an_id(), batch=batch.id),
        Verb.REPLAY: Replay(id=an_id(), filter=JobFilter(batch=batch.id)),
        Verb.REPLAY_ESTIMATE: ReplayEstimateAsk(filter=JobFilter(batch=batch.id)),
        Verb.REPLAY_DIFF: ReplayDiff(batch.id),
        Verb.BATCH_RETRY_CHECK: RetryCheck(batch=batch.id, custom_ids=("a",)),
        Verb.JOB_CHANGE: JobChange(entry.id, Change(priority=1)),
        Verb.BATCH_CHANGE: BatchChange(an_id(), batch.id, Change(priority=2)),
        Verb.BATCH_CANCEL: BatchRef(batch.id),
        Verb.CANCEL: CancelMany(id=an_id(), model="other"),
        Verb.CANCEL_COUNT: CancelChoice(),
        Verb.JOB_CANCEL: JobCancel((entry.id,)),
        Verb.INSTRUCTION_SHOW: InstructionRef(await an_instruction(ledger_url, tenant="t")),
        Verb.INSTRUCTION_LIST: InstructionList(),
        Verb.JOB_LIST: JobList(filter=JobFilter(batch=batch.id)),
        Verb.DEAD_LIST: DeadList(),
        Verb.DEAD_EACH: DeadEach(),
        Verb.DEAD_SHOW: DeadRef(letter.id),
        Verb.DEAD_REQUEUE: DeadRequeue(ids=(letter.id,), dry_run=True),
        Verb.DEAD_DROP: DeadDrop(ids=(letter.id,), dry_run=True),
        Verb.CATALOG_APPLY: CatalogApply(TOML),
        Verb.CATALOG_SHOW: Nothing(),
        Verb.STATUS: Nothing(),
        Verb.PAUSE: PauseAsk(PauseKind.BATCH, str(batch.id)),
        Verb.RESUME: ResumeAsk(PauseKind.BATCH, str(batch.id)),
        Verb.PAUSES: Nothing(),
        Verb.AUDIT: AuditList(),
        Verb.TENANT_CREATE: TenantCreate("another"),
        Verb.TENANT_LIST: TenantList(),
        Verb.TENANT_SHOW: TenantRef("t"),
        Verb.TENANT_DISABLE: TenantDisable("t"),
        Verb.TENANT_ENABLE: TenantRef("t"),
        Verb.KEY_CREATE: KeyCreate(role=Role.PRODUCER),
        Verb.KEY_LIST: KeyList(),
        Verb.KEY_SHOW: KeyRef(key),
        Verb.KEY_ROTATE: KeyRotate(key),
        Verb.KEY_REVOKE: KeyRevoke(key),
        Verb.WEBHOOK_CREATE: WebhookCreate(url="https://example.com"),
        Verb.WEBHOOK_LIST: WebhookList(),
        Verb.WEBHOOK_SHOW: WebhookRef(webhook),
        Verb.WEBHOOK_CHANGE: WebhookChange(id=webhook, label="a"),
        Verb.WEBHOOK_ROTATE: WebhookRotate(webhook),
        Verb.WEBHOOK_TEST: WebhookRef(webhook),
        Verb.WEBHOOK_DELIVERIES: DeliveryList(),
        Verb.WEBHOOK_RESEND: DeliveryResend(),
        Verb.WEBHOOK_DELETE: WebhookRef(webhook),
    }


FIRST = """
[models.m]
[[models.m.route]]
deployment = "d"
[models.gone]
[[models.gone.route]]
deployment = "d"
[deployments.d]
engine = "simulated"
"""
SECOND = """
[models.m]
max_output_tokens = 64
[[models.m.route]]
deployment = "d"
weight = 90
[[models.m.route]]
deployment = "e"
weight = 10
[deployments.d]
engine = "simulated"
options = {seed = 7}
[deployments.e]
engine = "openai"
base_url = "http://127.0.0.1:9/v1"
"""


async def test_an_applied_catalog_says_what_it_changes_and_whom_it_leaves_behind(
    services: Services, ledger: Ledger
) -> None:
    operator = a_principal(Role.OPERATOR)
    first = await services.catalogs.apply(operator, CatalogApply(FIRST))
    await ledger.intake.admit([an_entry(model="gone") for _ in range(3)])

    tried = await services.catalogs.apply(operator, CatalogApply(SECOND, dry_run=True))
    second = await services.catalogs.apply(operator, CatalogApply(SECOND))
    again = await services.catalogs.apply(operator, CatalogApply(SECOND))

    assert first.changes == ("+ models.gone", "+ models.m", "+ deployments.d")
    assert (tried.number, tried.is_new) == (first.number, False)
    assert (second.number, second.is_new) == (first.number + 1, True)
    assert (again.number, again.is_new, again.changes) == (second.number, False, ())
    assert tried.changes == second.changes
    assert second.changes == (
        "- models.gone",
        "~ models.m.max_output_tokens: 1024 → 64",
        "~ models.m.route: d 100 → d 90, e 10",
        "~ deployments.d.options.seed: none → 7",
        "+ deployments.e",
    )
    assert second.warnings == ("3 jobs wait for the model gone, which you remove: they expire unless it comes back",)


@pytest.mark.parametrize(
    ("engine", "fault"),
    [
        (
            'engine = "tgi"',
            "deployments.d.engine: there is no engine 'tgi'; known: llamacpp, openai, simulated, vllm",
        ),
        (
            'engine = "llamacpp"\noptions = {thread = 4}',
            "deployments.d.options: Object contains unknown field `thread`",
        ),
        ('engine = "openai"\noptions = {headers = 4}', "deployments.d.options: Expected `object`, got `int`"),
        ('engine = "vllm"\noptions = {anything = 1}', None),
    ],
)
async def test_unknown_engines_and_options_are_refused_before_a_worker_meets_them(
    services: Services, engine: str, fault: str | None
) -> None:
    toml = f'[models.m]\n[[models.m.route]]\ndeployment = "d"\n[deployments.d]\n{engine}\n'

    problem = await by_service(services, Verb.CATALOG_APPLY, a_principal(Role.OPERATOR), CatalogApply(toml))

    if fault is None:
        assert problem is None
    else:
        assert problem is not None
        assert problem.code == "bad_catalog"
        assert fault in problem.message


async def by_service(services: Services, verb: Verb, principal: Principal, ask: msgspec.Struct) -> Problem | None:
    try:
        await operations(services)[verb].use_case(principal, ask)
    except Refusal as refusal:
        return refusal.problem
    return None


async def by_door(nc: Nats, verb: Verb, principal: Principal, ask: msgspec.Struct) -> Problem | None:
    answer = await called(nc, verb, principal.tenant, principal.key, ask)
    if (answer.headers or {}).get(KIND) != ERROR:
        return None
    return msgspec.json.decode(answer.data, type=ErrorBody).error


async def test_a_deployer_changes_its_models_and_nothing_of_others(services: Services) -> None:
    two = FIRST.replace("models.gone", "models.other")
    await services.catalogs.apply(a_principal(Role.OPERATOR), CatalogApply(two))
    deployer = Principal(tenant="t", key="k", role=Role.DEPLOYER, models=frozenset({"m"}))
    mine = two.replace("[models.m]", "[models.m]\nmax_output_tokens = 9", 1)

    applied = await services.catalogs.apply(deployer, CatalogApply(mine))
    for dry_run in (True, False):
        ask = CatalogApply(mine.replace("[models.other]", "[models.other]\nmax_output_tokens = 9"), dry_run=dry_run)
        with pytest.raises(Refusal) as refusal:
            await services.catalogs.apply(deployer, ask)
        assert (refusal.value.problem.code, refusal.value.problem.field) == ("forbidden", "toml")
        assert "not models.other: start from" in refusal.value.problem.message

    assert applied.changes == ("~ models.m.max_output_tokens: 1024 → 9",)
    assert (await services.catalogs.show(deployer)).toml == mine


async def test_a_catalog_that_was_compared_with_another_than_the_newest_is_refused(ledger: Ledger) -> None:
    first = await ledger.catalogs.apply(FIRST, "a", now())
    second = await ledger.catalogs.apply(SECOND, "b", now(), after=first.number)

    with pytest.raises(Conflict):
        await ledger.catalogs.apply(FIRST, "c", now(), after=first.number)

    active = await ledger.catalogs.active()
    assert active is not None
    assert active[0].number == second.number


@pytest.mark.parametrize("role", list(Role))
async def test_each_verb_is_refused_to_the_roles_that_may_not_by_service_and_door_alike(
    role: Role, services: Services, nats_url: str, nc: Nats, asks: Mapping[Verb, msgspec.Struct]
) -> None:
    assert asks.keys() == ACTIONS.keys() == set(Verb), "a verb is missing here"

    principal = a_principal(role)
    async with a_door(nats_url, services, role=role), an_http_door(services, principal) as http:
        for verb, ask in asks.items():
            expected = forbidden(principal, ACTIONS[verb])
            assert may_call(role, verb) or expected is not None, verb
            assert await by_service(services, verb, principal, ask) == expected, verb
            if verb is Verb.TENANT_CREATE and expected is None:
                expected = Problem("tenant_exists", "there is a tenant another already", "name")
            if verb is Verb.WEBHOOK_DELETE and expected is None:
                expected = Problem("unknown_webhook", f"there is no webhook {ask.id}", "id")  # type: ignore[attr-defined]
            assert await by_door(nc, verb, principal, ask) == expected, verb
            assert await by_http(http, verb, ask) == expected, verb


async def test_what_is_refused_changes_nothing(services: Services, asks: Mapping[Verb, msgspec.Struct]) -> None:
    stranger = BatchCreate(id=an_id())
    before = await everything(services)

    for verb, ask in {**asks, Verb.BATCH_CREATE: stranger}.items():
        assert await by_service(services, verb, a_principal(Role.WORKER), ask) is not None

    assert await everything(services) == before


async def everything(services: Services) -> tuple[Batches, int]:
    """All that a verb could have changed for tenant `t`."""
    principal = open_principal("t", "k")
    return await services.batches.list(principal, BatchList()), (await services.catalogs.show(principal)).number


@pytest.mark.parametrize("role", [Role.PRODUCER, Role.TENANT_ADMIN, Role.OPERATOR])
async def test_no_role_reaches_what_is_another_tenants_by_service_or_door(
    role: Role, services: Services, nats_url: str, nc: Nats, asks: Mapping[Verb, msgspec.Struct]
) -> None:
    stranger = a_principal(role, tenant="u", key="t")  # a key may be called like a tenant
    lookups = {verb: ask for verb, ask in asks.items() if verb in LOOKUPS}

    async with a_door(nats_url, services, role=role), an_http_door(services, stranger) as http:
        for verb, ask in lookups.items():
            told = await by_service(services, verb, stranger, ask)
            assert told is not None
            assert told.code in {"unknown_batch", "unknown_job", "unknown_instruction"}
            assert await by_door(nc, verb, stranger, ask) == told
            assert await by_http(http, verb, ask) == told

    assert (await services.batches.list(stranger, BatchList())).batches == ()
    assert (await services.jobs.list(stranger, JobList())).jobs == ()


@pytest.mark.parametrize("role", [Role.PRODUCER, Role.TENANT_ADMIN])
@pytest.mark.parametrize("ask", [BatchList(tenant="t"), JobList(tenant="t")], ids=lambda ask: type(ask).__name__)
async def test_only_operators_may_name_another_tenant(
    role: Role, services: Services, asks: Mapping[Verb, msgspec.Struct], ask: BatchList | JobList
) -> None:
    verb = Verb.BATCH_LIST if isinstance(ask, BatchList) else Verb.JOB_LIST

    told = await by_service(services, verb, a_principal(role, tenant="u"), ask)

    assert verb in asks
    assert told == Problem("forbidden", f"a key of the role {role} reaches its own tenant only", "tenant")
    assert await by_service(services, verb, a_principal(role, tenant="t"), ask) is None


async def test_an_operator_lists_what_is_another_tenants_by_its_name(
    services: Services, asks: Mapping[Verb, msgspec.Struct]
) -> None:
    operator = a_principal(Role.OPERATOR, tenant="u")

    batches = (await services.batches.list(operator, BatchList(tenant="t"))).batches
    jobs = (await services.jobs.list(operator, JobList(tenant="t"))).jobs

    assert [batch.id for batch in batches] == [job.batch for job in jobs]
    assert [JobRef(job.id) for job in jobs] == [asks[Verb.JOB_SHOW]]


async def test_a_list_of_accepted_jobs_is_refused_with_what_to_do(services: Services) -> None:
    with pytest.raises(Refusal, match="infermq job show"):
        await services.jobs.list(open_principal("t", "k"), JobList(filter=JobFilter(states=(State.ACCEPTED,))))


async def test_a_batch_is_created_in_the_lanes_of_the_key_only(services: Services) -> None:
    principal = Principal(tenant="t", key="k", role=Role.PRODUCER, lanes=frozenset({Lane.STANDARD}))

    created = await services.batches.create(principal, BatchCreate(id=an_id(), lane=Lane.STANDARD))
    with pytest.raises(Refusal) as refusal:
        await services.batches.create(principal, BatchCreate(id=an_id(), lane=Lane.BULK))

    assert isinstance(created, Batch)
    assert (refusal.value.problem.code, refusal.value.problem.field) == ("forbidden", "lane")


@pytest.mark.parametrize("names", ["_.k", "t._zz_", f"t.{'k' * 201}"])
async def test_names_that_no_client_writes_are_refused(
    names: str, services: Services, nats_url: str, nc: Nats
) -> None:
    async with a_door(nats_url, services, role=Role.OPERATOR):
        answer = await nc.request(f"infermq.api.{Verb.STATUS}.{names}", b"{}", timeout=5)

    problem = msgspec.json.decode(answer.data, type=ErrorBody).error
    assert problem.code == "bad_name"


@pytest.mark.parametrize("role", list(Role))
async def test_jobs_are_stored_for_those_who_may_submit(role: Role, services: Services, nc: Nats) -> None:
    told = await submitted(services, a_principal(role))

    assert told == forbidden(a_principal(role), Action.SUBMIT)
    assert await messages(nc) == (1 if told is None else 0)


async def test_a_key_whose_models_and_lanes_are_named_submits_to_no_others(services: Services, nc: Nats) -> None:
    bound = Principal(
        tenant="t", key="k", role=Role.PRODUCER, models=frozenset({"m"}), lanes=frozenset({Lane.STANDARD})
    )

    told = [
        await submitted(services, bound, model=model, lane=lane)
        for model, lane in (("m", Lane.STANDARD), ("n", Lane.STANDARD), ("m", Lane.BULK))
    ]

    assert [one and one.code for one in told] == [None, "forbidden", "forbidden"]
    assert await messages(nc) == 1


async def test_no_key_takes_the_name_of_anothers_message(services: Services, nc: Nats) -> None:
    for tenant, key in (("t", "k"), ("t", "l"), ("u", "k"), ("t", "k")):
        assert await submitted(services, a_principal(Role.PRODUCER, tenant, key)) is None

    assert await messages(nc) == 3


async def submitted(
    services: Services, principal: Principal, *, model: str = "m", lane: Lane = Lane.BULK
) -> Problem | None:
    try:
        await services.submissions.bundle(principal, lane, model, packed(a_job()), headers={}, name="one")
    except Refusal as refused:
        return refused.problem
    return None


async def messages(nc: Nats) -> int:
    return int((await nc.jetstream().stream_info(subjects.SUBMIT)).state.messages)

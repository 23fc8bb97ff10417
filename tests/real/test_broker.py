"""A broker with all its roles, and one simulated worker, in the test's own process."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError

from broker.client import BacklogFull, Client, Piece, Reply, RequestRefused, RequestTimedOut, Submission
from broker.config import LEASE_S, ApiConfig, BrokerConfig, WebhookConfig
from broker.core.file_stores import POSTGRES
from broker.errors import Unavailable
from broker.serve import Addresses, serve
from schemas import subjects
from schemas.api import BatchStatus, JobShow, State
from schemas.catalog import Revision, parse
from schemas.codec import FINAL, JSON, KEEPALIVE, KIND, MSGPACK, packed
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Job, Lane
from schemas.subjects import Source, Verb
from schemas.units import Ms
from schemas.worker import WorkerBeat
from tests.builders import BODY, CHAT, a_job, an_entropy, an_id, now
from tests.system import CATALOG, until
from workers.beat import beat
from workers.catalog import ActiveCatalog
from workers.engines.simulated import make
from workers.metrics import WorkerMetrics
from workers.ports import Clock, Overrides
from workers.worker import Worker

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
SCRIPT = """
decode_tokens_per_s = 200.0
output_tokens = 8
failures = [
  {match = "once", kind = "engine_fault", times = 1},
  {match = "never", kind = "engine_fault"},
  {match = "wrong", kind = "bad_request"},
  {match = "hang", kind = "hang"},
]
"""


class Running:
    """A broker, and what one asks of it."""

    def __init__(self, nc: Nats, client: Client, ledger_url: str, url: str, api: str = "") -> None:
        self.nc = nc
        self.client = client
        self.ledger_url = ledger_url
        self.url = url
        self.api = api

    async def ended(self, job: UUID) -> JobShow:
        async with asyncio.timeout(30):
            while (shown := await self.shown(job)) is None or shown.settled_ms is None:
                await asyncio.sleep(0.02)
            return shown

    async def shown(self, job: UUID) -> JobShow | None:
        """None while it is not taken in yet, or nobody answers."""
        try:
            shown = await self.client.job(job)
        except (RequestRefused, Unavailable):
            return None
        return None if shown.state is State.ACCEPTED else shown

    async def has_a_worker(self) -> None:
        """Wait until the broker has heard of one."""
        async with asyncio.timeout(20):
            while not (await self.client.status()).workers:
                await asyncio.sleep(0.02)

    async def submit(self, text: str, **changes: object) -> UUID:
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 4}
        return await self.client.submit("m", body, lane=Lane.BULK, **changes)  # type: ignore[arg-type]

    async def rows(self, query: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.ledger_url)
        try:
            return await connection.fetch(query)
        finally:
            await connection.close()


@asynccontextmanager
async def a_worker(
    nc: Nats,
    *,
    slots: int = 4,
    reconnected: asyncio.Event | None = None,
    clock: Clock = now,
    script: str = SCRIPT,
) -> AsyncIterator[Worker]:
    text = CATALOG.format(slots=slots, options=script).replace("reserve = 4", "reserve = 2")
    catalog = ActiveCatalog(Revision(1, Ms(0), parse(text)), "d")
    worker = Worker(
        nc,
        make(catalog.deployment, Overrides(slots)),
        name="w1",
        catalog=catalog,
        lease_ms=Ms(15_000),
        clock=clock,
        entropy=an_entropy,
        message_ids=lambda: str(an_id()),
        metrics=WorkerMetrics(),
        reconnected=reconnected or asyncio.Event(),
    )

    def state() -> WorkerBeat:
        """Brokers do not hear that it drains."""
        return msgspec.structs.replace(worker.beat(), draining=False)

    tasks = [asyncio.create_task(worker.serve()), asyncio.create_task(beat(nc, state))]
    try:
        yield worker
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def a_broker(
    nats_url: str,
    ledger_url: str,
    nc: Nats,
    *,
    lease_s: float = LEASE_S,
    api: ApiConfig | None = None,
    webhooks: WebhookConfig | None = None,
    door: str = "nats",
    files: str = POSTGRES,
    **pace: Any,
) -> AsyncIterator[Running]:
    """Its client comes in by the `door`, `nats` or `http`."""
    ready: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    config = BrokerConfig(
        nats_url=nats_url,
        postgres_url=ledger_url,
        name=f"b-{an_id()}",
        lease_s=lease_s,
        api=api or ApiConfig(),
        webhooks=webhooks or WebhookConfig(),
        files=files,
    )
    serving = asyncio.create_task(serve(config, ready=ready.set_result, **pace))
    serving.add_done_callback(lambda _: ready.done() or ready.cancel())
    listens = await ready
    async with Client.connect(listens.api if door == "http" else nats_url) as client:
        await client.apply_catalog(CATALOG.format(slots=4, options=SCRIPT))
        try:
            yield Running(nc, client, ledger_url, listens.http, listens.api)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


by_either_door = pytest.mark.parametrize("door", ["nats", "http"])
"""The client of the test comes in by one, and then by the other."""


@pytest.fixture
def door() -> str:
    return "nats"


@pytest.fixture
async def broker_alone(nats_url: str, ledger_url: str, nc: Nats, door: str) -> AsyncIterator[Running]:
    async with a_broker(nats_url, ledger_url, nc, door=door) as running:
        yield running


@pytest.fixture
async def running(broker_alone: Running) -> AsyncIterator[Running]:
    async with a_worker(broker_alone.nc):
        await broker_alone.has_a_worker()
        yield broker_alone


@by_either_door
async def test_a_job_goes_all_the_way(running: Running) -> None:
    job = await running.ended(await running.submit("hello", custom_id="c", metadata={"k": "v"}))

    assert job.state is State.SUCCEEDED
    assert job.metadata == {"k": "v"}
    assert json.loads(bytes(job.body))["choices"]
    assert job.executions[0].cost_nano_usd == job.cost_nano_usd > 0


@by_either_door
async def test_a_failed_attempt_is_tried_again_and_both_are_paid_for(running: Running) -> None:
    job = await running.ended(await running.submit("once"))

    assert job.state is State.SUCCEEDED
    assert [(run.attempt, run.outcome, run.waste) for run in job.executions] == [
        (1, "failed", True),
        (2, "succeeded", False),
    ]


async def test_out_of_attempts_a_job_is_dead(running: Running) -> None:
    job = await running.ended(await running.submit("never"))

    assert job.state is State.DEAD
    assert job.attempt == len(job.executions) == 3


async def test_what_no_retry_mends_fails_at_once(running: Running) -> None:
    job = await running.ended(await running.submit("wrong"))

    assert (job.state, job.attempt) == (State.FAILED, 1)


async def test_a_job_that_waits_beyond_its_deadline_expires(broker_alone: Running) -> None:
    job = await broker_alone.ended(await broker_alone.submit("hello", deadline_ms=now() + 400))

    assert job.state is State.EXPIRED
    assert not job.executions


async def test_jobs_wait_for_a_worker_and_run_when_one_comes(broker_alone: Running) -> None:
    job = await broker_alone.submit("hello")
    async with asyncio.timeout(20):
        while not (await broker_alone.client.status()).backlog:
            await asyncio.sleep(0.02)

    async with a_worker(broker_alone.nc):
        assert (await broker_alone.ended(job)).state is State.SUCCEEDED


async def test_bytes_that_are_no_job_are_kept_as_dead_letters(running: Running) -> None:
    js = running.nc.jetstream()
    subject = subjects.submit(Source(Lane.BULK, "m", "default", "default"))
    await js.publish(subject, b"\xff\0nope")
    await js.publish(subject, b"{", headers={"Content-Type": "application/json"})
    await js.publish("infermq.submit.bulk.a_.b_.c_", b"x")

    job = await running.ended(await running.submit("hello"))

    letters = await running.rows("select reason, payload, subject from infermq.dead_letters order by sequence")
    assert job.state is State.SUCCEEDED
    assert [bytes(letter["payload"]) for letter in letters] == [b"\xff\0nope", b"{", b"x"]
    assert all(letter["reason"] for letter in letters)


@pytest.mark.parametrize("content_type", [MSGPACK, JSON])
async def test_a_message_may_hold_many_jobs_and_a_bad_one_costs_no_other(running: Running, content_type: str) -> None:
    batch = await running.client.create_batch()
    body = json.loads(BODY)
    jobs = [
        {
            "endpoint": CHAT,
            "body": body if content_type == JSON else BODY,
            "custom_id": f"c{n}",
            "batch": str(batch.id),
        }
        for n in range(5)
    ]
    jobs[2]["custom_id"] = ""
    encode = msgspec.json.encode if content_type == JSON else msgspec.msgpack.encode
    subject = subjects.submit(Source(Lane.BULK, "m", "default", "default"))
    await running.nc.jetstream().publish(subject, encode(jobs), headers={"Content-Type": content_type})
    await running.client.seal(batch.id, jobs=5)

    results = {result.custom_id: result.state async for result in running.client.results(batch.id)}

    assert results.pop(None) is State.FAILED
    assert results == dict.fromkeys(["c0", "c1", "c3", "c4"], State.SUCCEEDED)
    [letter] = await running.rows("select reason from infermq.dead_letters")
    assert "job 3 of 5" in letter["reason"]
    assert "custom_id" in letter["reason"]


async def test_a_message_holds_a_thousand_jobs_at_most(running: Running) -> None:
    subject = subjects.submit(Source(Lane.BULK, "m", "default", "default"))
    for count in (0, 1001):
        await running.nc.jetstream().publish(subject, msgspec.msgpack.encode([{}] * count))

    await running.ended(await running.submit("after"))

    letters = await running.rows("select reason from infermq.dead_letters order by sequence")
    assert ["1 to 1000" in letter["reason"] for letter in letters] == [True, True]


@by_either_door
async def test_refused_jobs_of_a_batch_complete_it(running: Running) -> None:
    batch = await running.client.create_batch()
    jobs = [
        Submission("m", a_job(body=b"nope", custom_id="bad")),
        Submission("other", a_job(custom_id="unknown")),
        Submission("m", a_job(custom_id="good")),
    ]
    sent = await running.client.submit_many(jobs, batch_id=batch.id)
    await running.client.seal(batch.id, jobs=sent)

    results = {result.custom_id: result.state async for result in running.client.results(batch.id)}

    assert results == {"bad": State.FAILED, "unknown": State.FAILED, "good": State.SUCCEEDED}
    assert (await running.client.batch(batch.id)).status is BatchStatus.COMPLETED


@by_either_door
async def test_a_batch_cannot_be_sealed_with_another_number(running: Running) -> None:
    client = running.client
    batch = await client.create_batch()
    await client.seal(batch.id, jobs=0)

    again = await client.seal(batch.id, jobs=0)
    with pytest.raises(RequestRefused) as refused:
        await client.seal(batch.id, jobs=1)

    assert again.jobs == 0
    assert (refused.value.problem.code, refused.value.problem.limit) == ("batch_sealed", 0)


async def test_results_of_an_open_batch_end_with_those_that_are_there(running: Running) -> None:
    batch = await running.client.create_batch()
    await running.client.submit_many([Submission("m", a_job(custom_id="one"))], batch_id=batch.id)
    async for _ in running.client.results(batch.id):
        break
    asked = running.client.nats.stats["out_msgs"]

    there = [result.custom_id async for result in running.client.results(batch.id, wait=False)]

    assert there == ["one"]
    assert running.client.nats.stats["out_msgs"] - asked == 1


async def test_a_brokers_lease_is_that_of_its_pools(nats_url: str, ledger_url: str, nc: Nats) -> None:
    async with a_broker(nats_url, ledger_url, nc, lease_s=4.0):

        async def leased() -> bool:
            with contextlib.suppress(NotFoundError):
                info = await nc.jetstream().consumer_info(subjects.RUN, subjects.pool_consumer("d"))
                return bool(info.config.ack_wait == 4.0)
            return False

        await until(leased, "the pool's lease is the broker's")


@by_either_door
async def test_sending_a_batch_again_changes_nothing(running: Running) -> None:
    batch = await running.client.create_batch()
    short = BODY.replace(b"8}", b"1}")
    jobs = [Submission("m", a_job(custom_id=str(n), body=short)) for n in range(1100)]

    for _ in range(2):
        await running.client.submit_many(jobs, batch_id=batch.id)
    await running.client.seal(batch.id, jobs=1100)

    assert len([result async for result in running.client.results(batch.id)]) == 1100
    counts = (await running.client.batch(batch.id)).counts
    assert (counts.admitted, counts.succeeded) == (1100, 1100)


@by_either_door
async def test_an_answer_comes_whole_or_streamed_and_is_recorded(running: Running) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}

    whole = await running.client.infer("m", body)
    steps = [step async for step in running.client.infer_stream("m", body)]

    pieces = [step.text for step in steps if isinstance(step, Piece)]
    reply = steps[-1]
    assert isinstance(reply, Reply)
    assert len(pieces) == 4
    assert "".join(pieces) == reply.text()
    assert whole.text()
    for answer in (whole, reply):
        assert answer.job is not None
        job = await running.ended(answer.job)
        assert (job.lane, job.state) == (Lane.INTERACTIVE, State.SUCCEEDED)


@by_either_door
@pytest.mark.parametrize(
    ("model", "text", "code"),
    [("m", "wrong", "bad_request"), ("none", "hello", "unknown_model"), ("m", "never", "engine_fault")],
)
async def test_an_ask_that_fails_says_why(running: Running, model: str, text: str, code: str) -> None:
    with pytest.raises(RequestRefused) as refusal:
        await running.client.infer(model, {"messages": [{"role": "user", "content": text}]})

    assert refusal.value.problem.code == code


@by_either_door
async def test_an_ask_without_a_worker_is_refused_at_once(broker_alone: Running) -> None:
    with pytest.raises(RequestRefused) as refusal:
        await broker_alone.client.infer("m", {"messages": [{"role": "user", "content": "x"}]})

    assert refusal.value.problem.code == "no_worker"


async def test_asks_beyond_the_slots_wait_for_one(running: Running) -> None:
    hang = {"messages": [{"role": "user", "content": "hang"}]}
    holding = [asyncio.create_task(running.client.infer("m", hang, timeout_s=4)) for _ in range(6)]
    async with asyncio.timeout(20):
        while sum(worker.interactive for worker in (await running.client.status()).workers) < 6:
            await asyncio.sleep(0.05)

    reply = await running.client.infer("m", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4})

    assert reply.body
    ends = await asyncio.gather(*holding, return_exceptions=True)
    assert [type(end) for end in ends] == [RequestTimedOut] * 6, ends


async def asked(nc: Nats, job: Job, tenant: str = "default") -> asyncio.Queue[Msg]:
    """What comes back for it, but keepalives."""
    inbox = nc.new_inbox() if tenant == "default" else f"{subjects.inbox_prefix(tenant)}.{job.id}"
    heard: asyncio.Queue[Msg] = asyncio.Queue()

    async def take(message: Msg) -> None:
        if (message.headers or {}).get(KIND) != KEEPALIVE:
            await heard.put(message)

    await nc.subscribe(inbox, cb=take)
    await nc.publish(subjects.infer("m", tenant, tenant), packed(job), inbox)
    return heard


def body_of(text: str) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": 4}).encode()


async def test_an_id_that_is_being_answered_is_refused_and_the_first_goes_on(running: Running) -> None:
    job = an_id()
    slow = body_of("hello").replace(b'"max_tokens": 4', b'"max_tokens": 200')
    first = await asked(running.nc, a_job(id=job, body=slow))

    second = await (await asked(running.nc, a_job(id=job, body=slow))).get()

    assert json.loads(second.data)["error"]["code"] == "id_in_use"
    assert ((await first.get()).headers or {})[KIND] == FINAL
    assert (await running.ended(job)).state is State.SUCCEEDED


async def test_an_id_asked_with_again_is_answered_again_and_both_are_recorded(running: Running) -> None:
    job = a_job(id=an_id(), body=body_of("hello"))

    async with asyncio.timeout(8):
        answers = [await (await asked(running.nc, job)).get() for _ in range(2)]

    async with asyncio.timeout(20):
        while len(rows := await running.rows("select id, cost_nano_usd from infermq.jobs")) < 2:
            await asyncio.sleep(0.02)
    spent = await running.rows("select sum(cost_nano_usd)::bigint as cost from infermq.executions")
    assert [(answer.headers or {})[KIND] for answer in answers] == [FINAL, FINAL]
    assert job.id in {row["id"] for row in rows}
    assert sum(row["cost_nano_usd"] for row in rows) == spent[0]["cost"] > 0


async def test_an_ask_with_the_id_of_anothers_job_leaves_that_job_alone(running: Running) -> None:
    hanging = await running.submit("hang")
    async with asyncio.timeout(20):
        while (shown := await running.shown(hanging)) is None or shown.state is not State.RUNNING:
            await asyncio.sleep(0.02)

    answer = await (await asked(running.nc, a_job(id=hanging, body=body_of("hello")), "bob")).get()

    async with asyncio.timeout(20):
        while not (
            rows := await running.rows(
                "select tenant, state from infermq.jobs where id <> all(select job from infermq.running)"
            )
        ):
            await asyncio.sleep(0.02)
    assert (answer.headers or {})[KIND] == FINAL
    assert [tuple(row) for row in rows] == [("bob", "succeeded")]
    assert (await running.client.job(hanging)).state is State.RUNNING
    assert not (await running.client.job(hanging)).executions


@by_either_door
async def test_a_client_that_leaves_ends_its_request(broker_alone: Running) -> None:
    async with a_worker(broker_alone.nc) as worker:
        leaving = broker_alone.client
        await broker_alone.has_a_worker()
        asking = asyncio.create_task(leaving.infer("m", {"messages": [{"role": "user", "content": "hang"}]}))
        async with asyncio.timeout(20):
            while worker.pool.interactive.running == 0:
                await asyncio.sleep(0.02)

        asking.cancel()

        async with asyncio.timeout(20):
            while worker.pool.interactive.running:
                await asyncio.sleep(0.02)


async def test_a_reply_subject_that_is_not_the_tenants_gets_nothing(running: Running) -> None:
    heard = await running.nc.subscribe("victim.inbox")
    job = Job(endpoint=CHAT, body=BODY)

    await running.nc.publish(subjects.infer("m", "default", "default"), msgspec.msgpack.encode(job), "victim.inbox")
    await running.client.infer("m", {"messages": [{"role": "user", "content": "after"}]})

    assert heard.pending_msgs == 0


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b'{"id": 5}', b'{"id": "00000000-0000-0000-0000-000000000000"}']
)
@pytest.mark.parametrize("verb", [Verb.BATCH_CREATE, Verb.BATCH_SHOW, Verb.JOB_SHOW, Verb.BATCH_RESULTS])
async def test_the_api_answers_nonsense_with_a_problem(broker_alone: Running, verb: Verb, payload: bytes) -> None:
    answer = await broker_alone.nc.request(subjects.api(verb, "default", "default"), payload, timeout=5)

    assert (answer.headers or {}).get("Infermq-Kind") == "error"
    problem = json.loads(answer.data)["error"]
    assert problem["code"] in {"bad_request", "bad_id", "unknown_batch", "unknown_job"}
    assert problem["message"]


@pytest.mark.parametrize(
    "payload",
    [b"[" * 100_000, b'{"id": ' + b"1" * 5000 + b"}", b'{"id": "\xff"}', b'{"id": "\\ud800"}', b"\xff\xfe{\0}\0"],
    ids=["nested", "digits", "bytes", "surrogate", "utf-16"],
)
async def test_a_call_that_is_no_json_is_answered(broker_alone: Running, payload: bytes) -> None:
    for headers in ({}, {"Content-Type": JSON}, {"content-type": JSON}):
        answer = await broker_alone.nc.request(
            subjects.api(Verb.JOB_SHOW, "default", "default"), payload, timeout=5, headers=headers
        )

        assert json.loads(answer.data)["error"]["code"] == "bad_request"


@pytest.mark.parametrize("reply", ["infermq.ctl.abort", "victim.inbox", "_INBOX_bob.x", "_INBOX.*", "_INBOX..x"])
async def test_an_answer_of_the_api_goes_to_no_foreign_subject(broker_alone: Running, reply: str) -> None:
    nc, heard = broker_alone.nc, list[str]()

    async def hear(message: Msg) -> None:
        heard.append(message.subject)

    for subject in ("infermq.ctl.>", "victim.>", "_INBOX_bob.>", "_INBOX.>"):
        await nc.subscribe(subject, cb=hear)
    ask = b"PUB infermq.api.status.default.default %b 2\r\n{}\r\n" % reply.encode()
    await nc.write(ask * 3)
    await nc.write(b"PUB infermq.api.status.bob.default _INBOX.mine 2\r\n{}\r\n")
    answer = await nc.request(subjects.api(Verb.STATUS, "default", "default"), b"{}", timeout=5)

    assert json.loads(answer.data)["name"]
    assert [subject for subject in heard if subject in {reply, "_INBOX.mine"}] == []


@by_either_door
async def test_a_cursor_that_is_none_is_a_problem(broker_alone: Running) -> None:
    batch = await broker_alone.client.create_batch()

    with pytest.raises(RequestRefused) as refusal:
        [page async for page in broker_alone.client.result_pages(batch.id, cursor="nonsense", wait=False)]

    assert (refusal.value.problem.code, refusal.value.problem.field) == ("bad_cursor", "cursor")


async def test_an_answer_that_fits_no_message_is_a_problem(broker_alone: Running) -> None:
    await broker_alone.rows(
        "insert into infermq.catalog (number, applied_ms, applied_by, toml) values (99, 0, '', '#' || repeat('x', 9000000))"
    )

    with pytest.raises(RequestRefused) as refusal:
        await broker_alone.client.catalog()

    assert refusal.value.problem.code == "too_large"


async def test_every_process_says_how_it_is(running: Running) -> None:
    await running.ended(await running.submit("hello"))

    health = await get(f"{running.url}/readyz")
    metrics = await get(f"{running.url}/metrics")

    assert all(part["ok"] for part in json.loads(health)["parts"].values())
    for name in (
        "infermq_jobs_settled_total",
        "infermq_credits",
        "infermq_settle_lag_seconds",
        "infermq_attempts_outstanding",
        'infermq_jobs_settled_total{lane="bulk",model="m",state="succeeded"}',
        'infermq_tokens_total{deployment="d",direction="output"}',
        'infermq_cost_nano_usd_total{deployment="d"}',
        'infermq_queue_seconds_bucket{deployment="d",lane="bulk",le="86400.0"}',
        "infermq_build_info{version=",
        "process_resident_memory_bytes",
    ):
        assert name in metrics
    assert "_created" not in metrics


async def get(url: str) -> str:
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    writer.write(f"GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    assert "200 OK" in text.splitlines()[0]
    return text.partition("\r\n\r\n")[2]


async def test_two_brokers_share_the_work_and_one_leads(nats_url: str, running: Running) -> None:
    ready: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    config = BrokerConfig(nats_url=nats_url, postgres_url=running.ledger_url, name="second")
    second = asyncio.create_task(serve(config, ready=ready.set_result))
    await ready

    jobs = [await running.submit(f"n{n}") for n in range(40)]
    states = {(await running.ended(job)).state for job in jobs}

    assert states == {State.SUCCEEDED}
    status = await running.client.status()
    assert (status.leader or "").startswith("b-")
    assert status.term == 1
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)


@by_either_door
async def test_a_full_backlog_is_said_to_the_producer(broker_alone: Running) -> None:
    js = broker_alone.nc.jetstream()
    info = await js.stream_info(subjects.SUBMIT)
    info.config.max_msgs_per_subject = 1
    await js.update_stream(info.config)

    large = BODY.replace(b"hello", b"x" * 60_000)
    with pytest.raises(BacklogFull):
        await broker_alone.client.submit_many([Submission("m", a_job(id=an_id(), body=large)) for _ in range(20)])


async def test_attempts_that_a_stream_dropped_in_silence_are_found_and_published_again(running: Running) -> None:
    js = running.nc.jetstream()
    info = await js.stream_info(subjects.RUN)
    info.config.max_msgs = 3
    await js.update_stream(info.config)
    batch = await running.client.create_batch()
    short = BODY.replace(b"8}", b"1}")
    jobs = [Submission("m", a_job(body=short, custom_id=str(n))) for n in range(40)]
    sent = await running.client.submit_many(jobs, batch_id=batch.id)
    await running.client.seal(batch.id, jobs=sent)

    async with asyncio.timeout(30):
        results = {result.custom_id: result.state async for result in running.client.results(batch.id)}

    assert results == {str(n): State.SUCCEEDED for n in range(40)}
    attempts = await running.rows("select count(*) as n from infermq.executions")
    assert attempts[0]["n"] == 40


async def test_what_a_lost_stream_held_is_found_and_run(nats_url: str, ledger_url: str, nc: Nats) -> None:
    async with a_broker(nats_url, ledger_url, nc) as first, a_worker(nc) as worker:
        await worker.drain()
        job = await first.submit("hello")
        async with asyncio.timeout(20):
            while (shown := await first.shown(job)) is None or shown.state is not State.RUNNING:
                await asyncio.sleep(0.02)
    await nc.jetstream().purge_stream(subjects.RUN)

    async with a_broker(nats_url, ledger_url, nc) as second, a_worker(nc):
        shown = await second.ended(job)

    assert (shown.state, shown.attempt) == (State.SUCCEEDED, 1)

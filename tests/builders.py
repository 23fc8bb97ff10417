"""Valid defaults; a test overrides what it is about."""

import itertools
import json
import time
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from broker.core.records import DeadLetter, Entry
from broker.core.seals import KEY_BYTES, leased_seal, request_seal
from schemas import subjects
from schemas.catalog import Catalog, Deployment, Model, Price, Route
from schemas.dead import DeadCause
from schemas.ids import ms_of, uuid7
from schemas.job import Attempt, Job, Lane
from schemas.outcome import Outcome, Report, Succeeded, Timings, Usage
from schemas.units import Ms
from schemas.worker import WorkerBeat

_numbers = itertools.count(1)
CHAT = "/v1/chat/completions"
BODY = b'{"messages":[{"role":"user","content":"Say hello."}],"max_tokens":8}'
BODIES = {
    CHAT: BODY,
    "/v1/completions": b'{"prompt":"Say hello.","max_tokens":8}',
    "/v1/embeddings": b'{"input":"Say hello."}',
}
"""A request for each endpoint."""


SEAL_KEY = bytes(range(KEY_BYTES))
"""What the brokers of tests seal with. It is in the ledger of every test."""


def now() -> Ms:
    return Ms(time.time_ns() // 1_000_000)


def a_batch_id() -> str:
    """Of an atomic batch."""
    return f"test-{next(_numbers)}"


def an_id() -> UUID:
    return uuid7(now(), next(_numbers))


def an_entropy() -> int:
    return next(_numbers)


def an_execution_id(job: UUID, attempt: int, delivery: int) -> UUID:
    """The id of the execution that a delivery of an attempt began: always the same, and sorted by attempt and delivery."""
    return uuid7(ms_of(job), (attempt << 32) | delivery)


def a_job(**changes: Any) -> Job:
    return Job(**{"endpoint": CHAT, "body": BODY, **changes})


def an_entry(**changes: Any) -> Entry:
    fields: dict[str, Any] = {
        "id": an_id(),
        "tenant": "default",
        "key": "default",
        "lane": Lane.BULK,
        "model": "m",
        "endpoint": CHAT,
        "body": BODY,
        "body_hash": b"0123456789abcdef",
        "admitted_ms": now(),
        "deadline_ms": now() + 3_600_000,
        "max_attempts": 3,
    }
    return Entry(**{**fields, **changes})


def a_dead_letter(*, tenant: str = "default", model: str = "m", **changes: Any) -> DeadLetter:
    """A submission that is no job."""
    fields: dict[str, Any] = {
        "subject": subjects.submit(subjects.Source(Lane.BULK, model, tenant, "default")),
        "stream": subjects.SUBMIT,
        "sequence": next(_numbers),
        "received_ms": now(),
        "reason": "not a job",
        "payload": b"nope",
        "headers": {},
        "cause": DeadCause.NOT_A_JOB,
    }
    return DeadLetter(**{**fields, **changes})


def an_attempt(**changes: Any) -> Attempt:
    fields: dict[str, Any] = {
        "job": an_id(),
        "number": 1,
        "tenant": "default",
        "lane": Lane.BULK,
        "model": "m",
        "deployment": "d",
        "endpoint": CHAT,
        "body": BODY,
        "admitted_ms": now(),
        "deadline_ms": now() + 3_600_000,
        "dispatched_ms": now(),
        "left_ms": 3_600_000,
    }
    return Attempt(**{**fields, **changes})


def a_success(**changes: Any) -> Succeeded:
    return Succeeded(**{"body": b'{"choices":[]}', "usage": Usage(10, 5), **changes})


def a_report(outcome: Outcome | None = None, **changes: Any) -> Report:
    """Sealed, unless it has a seal."""
    fields: dict[str, Any] = {
        "job": an_id(),
        "attempt": 1,
        "delivery": 1,
        "deployment": "d",
        "worker": "w",
        "outcome": outcome or a_success(),
        "timings": Timings(started_ms=now(), queue_ms=Ms(5), run_ms=Ms(50), ttft_ms=Ms(10)),
    }
    fields |= changes
    report = Report(**{"execution": an_execution_id(fields["job"], fields["attempt"], fields["delivery"]), **fields})
    return report if report.seal else sealed(report)


def sealed(report: Report) -> Report:
    """With the seal of the attempt that it is on."""
    if report.interactive is not None:
        return replace(report, seal=request_seal(report.interactive, SEAL_KEY))
    return replace(report, seal=leased_seal(report.job, report.attempt, report.deployment, SEAL_KEY))


def a_chat(text: str, **changes: Any) -> Attempt:
    body = json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": 8}).encode()
    return an_attempt(body=body, **changes)


def a_beat(worker: str = "w", **changes: Any) -> WorkerBeat:
    """Of a worker of the deployment `d` that runs nothing."""
    fields: dict[str, Any] = {
        "worker": worker,
        "deployment": "d",
        "engine": "simulated",
        "slots": 4,
        "reserve": 1,
        "running": 0,
        "interactive": 0,
        "draining": False,
        "started_ms": now(),
        "at_ms": now(),
        "version": "0",
    }
    return WorkerBeat(**{**fields, **changes})


def a_worker(name: str = "w", *, deployment: str = "d", key: str = subjects.DEFAULT) -> subjects.WorkerId:
    return subjects.worker_id(deployment, key, name)


def a_route(*routes: Route, **caps_usd: float) -> Catalog:
    """One model `m`, and the daily caps of those of its deployments that have one."""
    names = [route.deployment for route in routes]
    deployments = {name: Deployment(engine="simulated", daily_cap_usd=caps_usd.get(name)) for name in names}
    return Catalog(models={"m": Model(route=routes)}, deployments=deployments)


def a_catalog(*, engine: str = "simulated", options: dict[str, Any] | None = None, **changes: Any) -> Catalog:
    """One model `m` on one deployment `d`."""
    fields: dict[str, Any] = {"engine": engine, "price": Price(input=1.0, output=2.0), "options": options or {}}
    return Catalog(
        models={"m": Model(endpoints=(CHAT, "/v1/completions", "/v1/embeddings"), route=(Route("d"),))},
        deployments={"d": Deployment(**{**fields, **changes})},
    )

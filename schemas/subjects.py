"""Builds and parses every name that crosses a process: subjects, streams, consumers and buckets.

The name of a model, tenant, key or deployment is escaped into one subject token, so that a model called `a.b` or `*` stays
within its token. `untoken` is the inverse.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NewType
from uuid import UUID

from schemas.job import Lane
from schemas.units import LONGEST_NAME, LONGEST_SUBJECT, SUBJECT

SUBMIT = "INFERMQ_SUBMIT"
RUN = "INFERMQ_RUN"
NOW = "INFERMQ_NOW"
OUTCOME = "INFERMQ_OUTCOME"
ADVISORY = "INFERMQ_ADVISORY"
WORKERS_BUCKET = "INFERMQ_WORKERS"
CATALOG_BUCKET = "INFERMQ_CATALOG"
SUSPECTS_BUCKET = "INFERMQ_SUSPECTS"
ACTIVE = "active"
KEYS_BUCKET = "INFERMQ_KEYS"
"""What brokers know of tenants and keys, for one that starts while Postgres is away. Only brokers may read and write it."""
DIRECTORY = "directory"
BROKERS_BUCKET = "INFERMQ_BROKERS"
"""What only brokers may read and write."""
SEAL_KEY = "seal-key"
"""The key of the active catalog revision in its bucket."""
SETTLE_CONSUMER = "settle"
INFER_ALL = "infermq.infer.*.*.*"
BROKERS = "brokers"
"""The queue group of the brokers, of which one gets each request."""
RULING = "infermq.ruling"
"""The subject of rulings in OUTCOME, beside the workers' reports. Only brokers may publish here."""
CTL_DELAYED = "infermq.ctl.delayed"
"""Settle tells the dispatch leader when a delayed job is due: the instant, in ms."""
CTL_WAITING = "infermq.ctl.waiting"
"""Intake and settle tell the dispatch leader that a flow has work."""
CTL_CONTROLS = "infermq.ctl.controls"
"""A broker tells all brokers that what is paused or cancelled has changed."""
CTL_KEYS = "infermq.ctl.keys"
"""A broker tells all brokers that tenants or keys have changed."""
CTL_SETTLED = "infermq.ctl.settled"
"""Settle tells the dispatch leader which attempts are over."""
CTL_INSTRUCTIONS = "infermq.ctl.instructions"
"""A broker tells the others that an instruction was given."""
CTL_CANCEL_REQUESTS = "infermq.ctl.cancel-requests"
"""A broker asks the relays of all brokers to end interactive requests, named by their tenant and ids."""
DEFAULT = "default"
"""The tenant and the key as long as there are no keys."""


def is_subject(name: str) -> bool:
    """Say whether one may publish on it: no token is empty, or has a wildcard, white space or a control character.

    Every subject from outside is checked by it, or by the types `Subject` and `RunAck`, before it is used.
    """
    return _subject(name) is not None


_subject = re.compile(SUBJECT).match


class Verb(StrEnum):
    """A call of the broker's API."""

    BATCH_CREATE = "batch-create"
    BATCH_SEAL = "batch-seal"
    BATCH_SHOW = "batch-show"
    BATCH_LIST = "batch-list"
    BATCH_RESULTS = "batch-results"
    BATCH_RETRY = "batch-retry"
    BATCH_RETRY_CHECK = "batch-retry-check"
    REPLAY = "replay"
    REPLAY_ESTIMATE = "replay-estimate"
    REPLAY_DIFF = "replay-diff"
    BATCH_CANCEL = "batch-cancel"
    JOB_SHOW = "job-show"
    INSTRUCTION_SHOW = "instruction-show"
    INSTRUCTION_LIST = "instruction-list"
    JOB_LIST = "job-list"
    JOB_CANCEL = "job-cancel"
    JOB_CHANGE = "job-change"
    BATCH_CHANGE = "batch-change"
    CANCEL = "cancel"
    CANCEL_COUNT = "cancel-count"
    DEAD_LIST = "dead-list"
    DEAD_EACH = "dead-each"
    DEAD_SHOW = "dead-show"
    DEAD_REQUEUE = "dead-requeue"
    DEAD_DROP = "dead-drop"
    CATALOG_APPLY = "catalog-apply"
    CATALOG_SHOW = "catalog-show"
    STATUS = "status"
    PAUSE = "pause"
    RESUME = "resume"
    PAUSES = "pauses"
    AUDIT = "audit"
    TENANT_CREATE = "tenant-create"
    TENANT_LIST = "tenant-list"
    TENANT_SHOW = "tenant-show"
    TENANT_DISABLE = "tenant-disable"
    TENANT_ENABLE = "tenant-enable"
    KEY_CREATE = "key-create"
    KEY_LIST = "key-list"
    KEY_SHOW = "key-show"
    KEY_REVOKE = "key-revoke"
    KEY_ROTATE = "key-rotate"
    WEBHOOK_CREATE = "webhook-create"
    WEBHOOK_LIST = "webhook-list"
    WEBHOOK_SHOW = "webhook-show"
    WEBHOOK_CHANGE = "webhook-change"
    WEBHOOK_ROTATE = "webhook-rotate"
    WEBHOOK_TEST = "webhook-test"
    WEBHOOK_DELIVERIES = "webhook-deliveries"
    WEBHOOK_RESEND = "webhook-resend"
    WEBHOOK_DELETE = "webhook-delete"


@lru_cache(maxsize=4096)
def token(raw: str) -> str:
    """Escape any non-empty name into one subject token. Raises: ValueError, if it is empty."""
    if not raw:
        raise ValueError("a name in a subject cannot be empty")
    return _UNSAFE.sub(lambda found: f"_{ord(found[0]):x}_", raw)


def untoken(escaped: str) -> str:
    """Return the name that a token stands for. Raises: ValueError, if `token` cannot have made it."""
    try:
        raw = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), escaped)
        raw.encode()  # no lone surrogates, which nothing can store
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{escaped!r} is not an escaped name") from error
    if not raw or token(raw) != escaped:
        raise ValueError(f"{escaped!r} is not an escaped name")
    return raw


_UNSAFE = re.compile(r"[^A-Za-z0-9-]")
_ESCAPE = re.compile(r"_([0-9a-f]+)_")


@dataclass(frozen=True, slots=True)
class Source:
    """The names in the subject of a submission or request: who submits what. Permissions restrict them."""

    lane: Lane
    model: str
    tenant: str
    key: str


def submit(source: Source) -> str:
    names = f"{token(source.model)}.{token(source.tenant)}.{token(source.key)}"
    return f"infermq.submit.{source.lane}.{names}"


def submit_tenant(tenant: str) -> str:
    """Return the subjects on which a tenant submits, in all lanes and to all models."""
    return f"infermq.submit.*.*.{token(tenant)}.*"


def submit_lane(lane: Lane) -> str:
    """Return the subjects that the intake consumer of a lane takes."""
    return f"infermq.submit.{lane}.>"


def intake_consumer(lane: Lane) -> str:
    return f"intake-{lane}"


@lru_cache(maxsize=4096)
def parse_submit(subject: str) -> Source:
    """Parse the subject of a submission. Raises: ValueError."""
    prefix, kind, lane, *names = subject.split(".")
    if (prefix, kind) != ("infermq", "submit") or len(names) != 3:
        raise ValueError(f"{subject!r} is not infermq.submit.<lane>.<model>.<tenant>.<key>")
    return _source(Lane(lane), names)


def infer(model: str, tenant: str, key: str) -> str:
    return f"infermq.infer.{token(model)}.{token(tenant)}.{token(key)}"


def parse_infer(subject: str) -> Source:
    """Parse the subject of an interactive request. Raises: ValueError."""
    prefix, kind, *names = subject.split(".")
    if (prefix, kind) != ("infermq", "infer") or len(names) != 3:
        raise ValueError(f"{subject!r} is not infermq.infer.<model>.<tenant>.<key>")
    return _source(Lane.INTERACTIVE, names)


def _source(lane: Lane, names: list[str]) -> Source:
    model, tenant, key = names
    return Source(lane, untoken(model), _name(tenant), _name(key))


def _name(escaped: str) -> str:
    """Parse the name of a tenant or key. Raises: ValueError."""
    name = untoken(escaped)
    if len(name) > LONGEST_NAME:
        raise ValueError(f"the name {name[:20]!r}… has {len(name)} characters, the limit is {LONGEST_NAME}")
    return name


def run(deployment: str) -> str:
    """The subject of dispatched attempts, which workers lease."""
    return f"infermq.run.{token(deployment)}"


def now(deployment: str) -> str:
    """The subject of interactive attempts, which have no lease: their relay watches over them."""
    return f"infermq.now.{token(deployment)}"


WorkerId = NewType("WorkerId", str)
"""What is one worker among all: `<deployment>.<key>.<worker>`, as these stand in its subjects, which permissions restrict.

A name is unique only among the workers of a deployment that have the same key: another's may be called alike.
"""


@lru_cache(maxsize=4096)
def worker_id(deployment: str, key: str, worker: str) -> WorkerId:
    return WorkerId(f"{token(deployment)}.{token(key)}.{token(worker)}")


def ward(worker: WorkerId) -> str:
    """The subject of attempts for one worker alone: it runs them apart from all others, or in a slot that it offered.

    No stream keeps them.
    """
    return f"infermq.ward.{worker}"


def cancel_order(deployment: str) -> str:
    """The subject on which brokers tell a deployment's workers which leased attempts to end as cancelled.

    They say it again each second until those are settled.
    """
    return f"infermq.ctl.cancel.{token(deployment)}"


def abort_order(deployment: str) -> str:
    """The subject on which a relay tells a deployment's workers which interactive attempt to end."""
    return f"infermq.ctl.abort.{token(deployment)}"


def wanted_order(deployment: str) -> str:
    """The subject on which a relay tells a deployment's workers how many of its requests wait for a slot."""
    return f"infermq.ctl.wanted.{token(deployment)}"


def suspected_request(key: str) -> str:
    """The subject of the entry of a suspected request, in its bucket."""
    return f"$KV.{SUSPECTS_BUCKET}.{key}"


ACTIVE_CATALOG = f"$KV.{CATALOG_BUCKET}.{ACTIVE}"
"""The subject of the active revision, which only brokers read."""
CATALOG_NUMBER = f"$KV.{CATALOG_BUCKET}.revision"
"""The subject of its number."""
CATALOG_ENTRIES = f"$KV.{CATALOG_BUCKET}.deployment.*"


def catalog_entry(deployment: str) -> str:
    """The subject of what the active revision says of a deployment, for its workers."""
    return f"$KV.{CATALOG_BUCKET}.deployment.{token(deployment)}"


def declared_pool(deployment: str) -> str:
    """The subject that says that the consumers of a deployment's workers are there, and how long a lease lasts, in ms."""
    return f"$KV.{CATALOG_BUCKET}.pool.{token(deployment)}"


def pool_consumer(deployment: str) -> str:
    """Name the durable consumer that a deployment's workers share, in RUN and in NOW alike."""
    return token(deployment)


def outcome(deployment: str) -> str:
    return f"infermq.outcome.{token(deployment)}"


def parse_outcome(subject: str) -> str | None:
    """Return the deployment whose workers report on this subject. None: `outcome` cannot have built it."""
    prefix, _, escaped = subject.rpartition(".")
    try:
        return untoken(escaped) if prefix == "infermq.outcome" else None
    except ValueError:
        return None


def api(verb: Verb, tenant: str, key: str) -> str:
    return f"infermq.api.{verb}.{token(tenant)}.{token(key)}"


def api_pattern(verb: Verb) -> str:
    """Return the subjects that a FastStream handler takes. The AsyncAPI document shows the names in braces."""
    return f"infermq.api.{verb}.{{tenant}}.{{key}}"


@lru_cache(maxsize=4096)
def parse_api(subject: str) -> tuple[Verb, str, str]:
    """Return verb, tenant and key of an API subject. Raises: ValueError."""
    prefix, kind, verb, *names = subject.split(".")
    if (prefix, kind) != ("infermq", "api") or len(names) != 2:
        raise ValueError(f"{subject!r} is not infermq.api.<verb>.<tenant>.<key>")
    tenant, key = map(_name, names)
    return Verb(verb), tenant, key


_BEATS = f"$KV.{WORKERS_BUCKET}."
ALL_BEATS = f"{_BEATS}>"


def beat(worker: WorkerId) -> str:
    """The subject of a worker's beat: its id is the key in the WORKERS bucket."""
    return f"{_BEATS}{worker}"


def beat_of(subject: str) -> WorkerId:
    """Return the worker whose beats a subject has that `ALL_BEATS` fits. It may be no id at all."""
    return WorkerId(subject.removeprefix(_BEATS))


def result(tenant: str, batch: UUID | None) -> str:
    return f"infermq.result.{token(tenant)}.{batch or '-'}"


def inbox_prefix(tenant: str, key: str = DEFAULT) -> str:
    """Return the prefix under which the answers to a key must go: no other key may hear them, not even its tenant's.

    Where there are no keys, a tenant has one; the default tenant has nats-py's own.
    """
    if key != DEFAULT:
        return f"_INBOX_{token(key)}"
    return "_INBOX" if tenant == DEFAULT else f"_INBOX_{token(tenant)}"


def key_ended(tenant: str, key: str) -> str:
    """Return the subject on which brokers tell who shows a key that it has ended."""
    return f"{inbox_prefix(tenant, key)}.ended"


def may_answer(reply_to: str, tenant: str, key: str = DEFAULT) -> bool:
    """Say whether an answer to a key may go to a subject: only under its own inbox prefix, and without wildcards.

    It must be checked here because NATS does not check permissions on reply subjects.
    """
    prefix = f"{inbox_prefix(tenant, key)}."
    return reply_to.startswith(prefix) and is_subject(reply_to) and len(reply_to) <= LONGEST_SUBJECT


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """The names in the subject on which a worker answers an interactive attempt."""

    deployment: str
    relay: str
    """The name of the broker whose relay subscribes to it."""
    token: str
    """The token of this attempt, never used again."""


def reply(to: ReplyTo) -> str:
    return f"infermq.reply.{token(to.deployment)}.{token(to.relay)}.{token(to.token)}"


OFFERS = "offers"
"""The token on which workers offer a relay slots. No attempt has it: theirs are hexadecimal numbers."""


def replies_to(relay: str) -> str:
    """Return the subjects that a broker's relay subscribes to."""
    return f"infermq.reply.*.{token(relay)}.*"


def reply_token(subject: str) -> str:
    """Read the attempt's token from a subject that `replies_to` fits. Who answers is in it, too. Raises: ValueError."""
    return untoken(subject.rpartition(".")[2])


def replying_relay(subject: str) -> str:
    """Read the broker whose relay is answered from a subject that `reply` built. Raises: ValueError."""
    return untoken(subject.split(".")[3])


def replying_deployment(subject: str) -> str:
    """Read the deployment whose worker answers from a subject that `replies_to` fits. Raises: ValueError."""
    return untoken(subject.split(".")[2])

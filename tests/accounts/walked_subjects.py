"""All subjects there are, and who may publish on them and hear them.

The subjects come from the tables of the code: what `schemas.subjects` builds, the verbs, the lanes, and the streams. Who may
what is said here a second time, in other words than in `broker.core.permissions`, so that a wrong row there is noticed.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from uuid import UUID

from broker.bus import desired
from broker.core.accounts import CROSSINGS, Account
from schemas import subjects
from schemas.accounts import Role
from schemas.job import Lane
from schemas.subjects import ReplyTo, Source, Verb
from tests.accounts.walked import ACTORS, ADA, ANN, BEA, BOB, LEE, WORKER_D, WORKER_E, Actor

MODELS = ("m", "n")
DEPLOYMENTS = ("d", "e")
WORKERS = (WORKER_D, WORKER_E)
CALLERS = (ANN, ADA, LEE, BOB, BEA)
BATCH = UUID("0190a5c0-0000-7000-8000-000000000001")


def _each(build: Callable[[str], str], names: Iterable[str] = DEPLOYMENTS) -> Callable[[], list[str]]:
    return lambda: [build(name) for name in names]


def _bucket(name: str, *entries: str) -> list[str]:
    return [f"$KV.{name}.{entry}" for entry in entries]


def _beats() -> list[str]:
    return [subjects.beat(worker) for worker in _workers()]


def _workers() -> list[subjects.WorkerId]:
    return [subjects.worker_id(name, one.key.id, "w") for name in DEPLOYMENTS for one in WORKERS]


def _read_or_written(entry: str) -> list[str]:
    """An entry of the catalog's bucket, and how it is asked for."""
    return [entry, f"$JS.API.DIRECT.GET.{_CATALOG}.{entry}"]


def _of_stream(*names: str) -> list[str]:
    """What a stream's name is in."""
    return [subject for name in names for subject in _api_of(name)]


def _api_of(stream: str) -> Iterator[str]:
    for call in ("INFO", "CREATE", "UPDATE", "DELETE", "PURGE", "MSG.GET", "MSG.DELETE", "SNAPSHOT"):
        yield f"$JS.API.STREAM.{call}.{stream}"
    yield f"$JS.API.DIRECT.GET.{stream}"
    yield f"$JS.API.CONSUMER.CREATE.{stream}.walk"
    yield f"$JS.API.CONSUMER.LIST.{stream}"
    for consumer in _CONSUMERS.get(stream, ("walk",)):
        for call in ("MSG.NEXT", "INFO", "DELETE", "PAUSE"):
            yield f"$JS.API.CONSUMER.{call}.{stream}.{consumer}"
        yield f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{consumer}"
        yield f"$JS.ACK.{stream}.{consumer}.1.1.1.1.0"


_CONSUMERS: Mapping[str, tuple[str, ...]] = {
    subjects.SUBMIT: tuple(subjects.intake_consumer(lane) for lane in Lane),
    subjects.RUN: tuple(subjects.pool_consumer(name) for name in DEPLOYMENTS),
    subjects.NOW: tuple(subjects.pool_consumer(name) for name in DEPLOYMENTS),
    subjects.OUTCOME: (subjects.SETTLE_CONSUMER,),
    subjects.ADVISORY: (desired.ADVISED,),
}
_CATALOG = f"KV_{subjects.CATALOG_BUCKET}"

BUILT: Mapping[str, Callable[[], list[str]]] = {
    "SUBMIT": lambda: _of_stream(subjects.SUBMIT),
    "RUN": lambda: _of_stream(subjects.RUN),
    "NOW": lambda: _of_stream(subjects.NOW),
    "OUTCOME": lambda: _of_stream(subjects.OUTCOME),
    "ADVISORY": lambda: _of_stream(subjects.ADVISORY),
    "WORKERS_BUCKET": lambda: _of_stream(f"KV_{subjects.WORKERS_BUCKET}"),
    "CATALOG_BUCKET": lambda: _of_stream(_CATALOG),
    "ACTIVE_CATALOG": lambda: _read_or_written(subjects.ACTIVE_CATALOG),
    "CATALOG_NUMBER": lambda: _read_or_written(subjects.CATALOG_NUMBER),
    "catalog_entry": lambda: [one for name in DEPLOYMENTS for one in _read_or_written(subjects.catalog_entry(name))],
    "declared_pool": lambda: [one for name in DEPLOYMENTS for one in _read_or_written(subjects.declared_pool(name))],
    "SUSPECTS_BUCKET": lambda: _of_stream(f"KV_{subjects.SUSPECTS_BUCKET}"),
    "KEYS_BUCKET": lambda: (
        _of_stream(f"KV_{subjects.KEYS_BUCKET}") + _bucket(subjects.KEYS_BUCKET, subjects.DIRECTORY)
    ),
    "BROKERS_BUCKET": lambda: (
        _of_stream(f"KV_{subjects.BROKERS_BUCKET}") + _bucket(subjects.BROKERS_BUCKET, subjects.SEAL_KEY)
    ),
    "RULING": lambda: [subjects.RULING],
    "CTL_DELAYED": lambda: [subjects.CTL_DELAYED],
    "CTL_WAITING": lambda: [subjects.CTL_WAITING],
    "CTL_CONTROLS": lambda: [subjects.CTL_CONTROLS],
    "CTL_KEYS": lambda: [subjects.CTL_KEYS],
    "CTL_SETTLED": lambda: [subjects.CTL_SETTLED],
    "CTL_INSTRUCTIONS": lambda: [subjects.CTL_INSTRUCTIONS],
    "CTL_CANCEL_REQUESTS": lambda: [subjects.CTL_CANCEL_REQUESTS],
    "submit": lambda: [
        subjects.submit(Source(lane, model, tenant, actor.key.id))
        for lane in Lane
        for model in MODELS
        for actor in CALLERS
        for tenant in (actor.tenant, "default")
    ],
    "infer": lambda: [subjects.infer(model, actor.tenant, actor.key.id) for model in MODELS for actor in CALLERS],
    "run": _each(subjects.run),
    "now": _each(subjects.now),
    "ward": lambda: [subjects.ward(worker) for worker in _workers()],
    "cancel_order": _each(subjects.cancel_order),
    "abort_order": _each(subjects.abort_order),
    "wanted_order": _each(subjects.wanted_order),
    "suspected_request": _each(subjects.suspected_request, ("a-hash",)),
    "outcome": _each(subjects.outcome),
    "api": lambda: [
        subjects.api(verb, tenant, actor.key.id)
        for verb in Verb
        for actor in ACTORS
        for tenant in {actor.tenant: 0, "acme": 0, "bobs": 0}
    ],
    "beat": _beats,
    "result": lambda: [subjects.result(tenant, batch) for tenant in ("acme", "bobs") for batch in (None, BATCH)],
    "inbox_prefix": lambda: ["_INBOX.walk", *(f"{actor.inbox}.walk" for actor in ACTORS)],
    "key_ended": lambda: [f"{actor.inbox}.ended" for actor in ACTORS],
    "reply": lambda: [subjects.reply(ReplyTo(name, "b", "t")) for name in DEPLOYMENTS],
}
"""The subjects that each builder and each constant of `schemas.subjects` makes or is in."""

NO_SUBJECTS = {
    *(
        "ACTIVE",
        "CATALOG_ENTRIES",
        "DIRECTORY",
        "SEAL_KEY",
        "SETTLE_CONSUMER",
        "BROKERS",
        "DEFAULT",
    ),  # parts of those above
    *(
        "INFER_ALL",
        "ALL_BEATS",
        "submit_tenant",
        "submit_lane",
        "api_pattern",
        "replies_to",
    ),  # patterns of those above
    *("Verb", "Source", "ReplyTo", "WorkerId", "worker_id"),
    *("token", "untoken", "is_subject", "may_answer", "parse_submit", "parse_infer", "parse_outcome", "parse_api"),
    *(
        "beat_of",
        "reply_token",
        "replying_relay",
        "replying_deployment",
        "OFFERS",
        "intake_consumer",
        "pool_consumer",
    ),
}
"""What else `schemas.subjects` has."""
OTHERS = (
    *("$JS.API.INFO", "$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.CREATE.WALK"),
    *("$JS.API.META.LEADER.STEPDOWN", "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.INFERMQ_RUN.d"),
    *("$O.INFERMQ_PAYLOADS.C.x", "$KV.WALK.x", "$SYS.REQ.USER.AUTH", "$SYS.REQ.USER.INFO"),
    *("$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.PING", "$SYS.ACCOUNT.INFERMQ.DISCONNECT"),
    *("infermq.walk", "walk"),
)
"""Of the server, of what is not there, and of nobody."""
WILD: tuple[str, ...] = (
    ">",
    "*",
    "*.>",
    "infermq.>",
    "infermq.*.>",
    "infermq.result.*.>",
    "infermq.infer.>",
    "infermq.api.*.*.*",
    "_INBOX.>",
)
WILD += ("*.*.>", "$KV.>", "$JS.>", "$JS.API.>", "$SYS.>", "$O.>", "infermq.ctl.>", "infermq.ward.*.*.*", "_R_.>")


def all_subjects() -> list[str]:
    """Each once, in the same order in each run."""
    return list(dict.fromkeys([subject for build in BUILT.values() for subject in build()] + list(OTHERS)))


_JOBS = "batch-* job-* instruction-* dead-* cancel cancel-count replay replay-* pause resume pauses catalog-show"
_KEYS = "key-create key-list key-show key-revoke key-rotate webhook-*"
_CALLS: Mapping[Role, str] = {
    Role.PRODUCER: f"{_JOBS} tenant-show key-show",
    Role.TENANT_ADMIN: f"{_JOBS} audit tenant-show {_KEYS}",
    Role.WORKER: "",
    Role.DEPLOYER: "catalog-apply catalog-show status tenant-show key-show",
    Role.OPERATOR: f"{_JOBS} catalog-apply status audit {_KEYS} tenant-*",
}
"""The verbs that each role may call at all."""
_SUBMIT = frozenset({Role.PRODUCER, Role.TENANT_ADMIN, Role.OPERATOR})


def may_call(role: Role, verb: Verb) -> bool:
    return any(re.fullmatch(word.replace("*", "[a-z-]+"), verb) for word in _CALLS[role].split())


def may_publish(actor: Actor, subject: str) -> bool:
    return any(re.fullmatch(pattern, subject) for pattern in _published(actor))


def may_hear(actor: Actor, subject: str) -> bool:
    return any(re.fullmatch(pattern, subject) for pattern in _heard(actor))


def _published(actor: Actor) -> Iterator[str]:
    who = rf"\.{actor.tenant}\.{actor.key.id}"
    if actor.role in _SUBMIT:
        models = "[^.]+" if actor.models is None else f"({'|'.join(actor.models)})"
        lanes = "[a-z]+" if actor.lanes is None else f"({'|'.join(actor.lanes)})"
        yield rf"infermq\.submit\.{lanes}\.{models}{who}"
        if actor.lanes is None or Lane.INTERACTIVE in actor.lanes:
            yield rf"infermq\.infer\.{models}{who}"
    for verb in Verb:
        if may_call(actor.role, verb):
            yield rf"infermq\.api\.{verb}{who}"
    if (own := actor.deployment) is not None:
        yield rf"\$JS\.API\.CONSUMER\.MSG\.NEXT\.INFERMQ_(RUN|NOW)\.{own}"
        yield rf"\$JS\.ACK\.INFERMQ_RUN\.{own}\..*"
        yield rf"infermq\.(outcome\.{own}|reply\.{own}\.[^.]+\.[^.]+)"
        yield rf"\$KV\.INFERMQ_WORKERS\.{own}\.{actor.key.id}\.[^.]+"
        yield rf"\$JS\.API\.DIRECT\.GET\.KV_INFERMQ_CATALOG\.\$KV\.INFERMQ_CATALOG\.((deployment|pool)\.{own}|revision)"


def _heard(actor: Actor) -> Iterator[str]:
    yield rf"{actor.inbox}\..*"
    if actor.role in _SUBMIT:
        yield rf"infermq\.result\.{actor.tenant}\..*"
    if (own := actor.deployment) is not None:
        yield rf"infermq\.(run|now)\.{own}"  # what it pulls comes with the subject that it was sent on
        yield rf"infermq\.ctl\.(cancel|abort|wanted)\.{own}"
        yield rf"infermq\.ward\.{own}\.{actor.key.id}\.[^.]+"
        yield rf"\$KV\.INFERMQ_CATALOG\.(deployment\.{own}|revision)"


def home(actor: Actor) -> Account:
    return Account.WORKERS if actor.role is Role.WORKER else Account.TENANTS


def crosses(account: Account, subject: str) -> bool:
    """Say whether a message that is published in an account goes on to the brokers."""
    return any(one.to is account and not one.is_stream and _fits(one.subject, subject) for one in CROSSINGS)


def _fits(pattern: str, subject: str) -> bool:
    escaped = re.escape(pattern).replace(r"\*", "[^.]+").replace(r"\>", ".+").replace(">", ".+")
    return re.fullmatch(escaped, subject) is not None

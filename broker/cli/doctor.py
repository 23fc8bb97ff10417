"""Finds out what is wrong with an installation, and what to do about it, within five seconds.

The checks run side by side, each with a time-out of its own. No finding shows the password of a URL.
"""

import asyncio
import importlib.metadata
import itertools
import platform
import shutil
from collections.abc import Awaitable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import asyncpg

from broker.bus.catalogs import Catalogs
from broker.bus.desired import desired, difference
from broker.bus.streams import find
from broker.cli.remedies import OF_HOLDS
from broker.cli.terminal import instant
from broker.client import Client, NoBroker, RequestRefused
from broker.config import LEASE_S
from broker.core.accounts import Account
from broker.core.nats_keys import NatsKeys
from broker.core.revisions import NONE, compare
from broker.errors import Conflict, Unavailable
from broker.ledger import open_ledger, pending
from schemas.api import HoldCode, ModelStatus, Status
from schemas.catalog import CatalogError
from schemas.clock import wall_clock
from schemas.jetstream import NatsError, is_refusal
from schemas.jetstream.client import NatsClient
from schemas.jetstream.trust import Trust, why
from schemas.urls import public

DISTRIBUTION = "infermq"
PACKAGES = ("broker", "workers", "schemas")
OLDEST_NATS = (2, 12)
"""The first version with atomic batches."""
OLDEST_POSTGRES = 15
_MOST_SKEW_MS = 1000
_LEAST_DISK = 2 * 1024**3
_CONNECT_S = 1.5
_CHECK_S = 3.2
"""How long a check may take once there is a connection."""
_READ_S = 1.5
"""How long a stream, and the list of its consumers, may each take to be read. Elections of a cluster take longer."""
_SUMS_S = 2.8
"""How long to compare the ledger with itself. A million jobs take longer: then the newest are compared."""


class Grade(StrEnum):
    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    grade: Grade
    seen: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of an installation."""

    nats_url: str | None
    api_url: str | None = None
    """Where brokers are called, if it is not known where NATS is."""
    postgres_url: str | None = None
    data: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    """With it, what brokers answer is asked for; what the servers hold is only shown to brokers."""
    keys: NatsKeys | None = None
    """The secret of the brokers: with it everything is looked at."""
    trust: Trust | None = None


async def examine(known: Known) -> list[Finding]:
    """Examine everything that can be reached. What cannot be reached is a finding too."""
    nats_found, postgres_found = await asyncio.gather(_nats(known), _postgres(known.postgres_url))
    return [_versions(), *_ownership(), *_disk(known.data), *nats_found, *postgres_found]


async def _bounded(name: str, check: Awaitable[list[Finding]], advice: str) -> list[Finding]:
    """Make a finding of a check that takes too long."""
    try:
        async with asyncio.timeout(_CHECK_S):
            return await check
    except TimeoutError:
        return [Finding(name, Grade.BAD, f"no answer within {_CHECK_S:.0f} s", advice)]


def _versions() -> Finding:
    names = (DISTRIBUTION, "nats-py", "faststream", "asyncpg", "msgspec")
    found = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return Finding("versions", Grade.OK, f"Python {platform.python_version()}, {found}")


def _ownership() -> list[Finding]:
    """Check that no other distribution shares our package names: installers merge such packages without a warning."""
    owners = importlib.metadata.packages_distributions()
    findings = []
    for package in PACKAGES:
        others = sorted(set(owners.get(package, [])) - {DISTRIBUTION})
        if others:
            advice = f"install infermq into an environment without {', '.join(others)}"
            findings.append(Finding(f"package {package}", Grade.BAD, f"also of {', '.join(others)}", advice))
    return findings or [Finding("packages", Grade.OK, f"{', '.join(PACKAGES)} are infermq's alone")]


def _disk(data: Path | None) -> list[Finding]:
    if data is None or not data.exists():
        return []
    free = shutil.disk_usage(data).free
    grade = Grade.OK if free > _LEAST_DISK else Grade.WARN
    return [
        Finding("disk", grade, f"{free / 1024**3:.1f} GiB free for {data}", "make room" if grade != Grade.OK else "")
    ]


async def _nats(known: Known) -> list[Finding]:
    url = known.nats_url
    if url is None and known.api_url is not None:
        seen = "no address: only an API over HTTP is known"
        nats = Finding("NATS", Grade.WARN, seen, "to look at it, set INFERMQ_NATS_URL")
        return [nats, *await _bounded("broker", _broker(known), "its log says why")]
    if url is None:
        return [Finding("NATS", Grade.BAD, "no address", "start `infermq up`, or set INFERMQ_NATS_URL")]
    errors: list[Exception] = []

    async def note(error: Exception) -> None:
        errors.append(error)

    nc = NatsClient()
    try:
        try:
            async with asyncio.timeout(_CONNECT_S):
                await nc.connect(url, error_cb=note, reconnect_time_wait=1, trust=known.trust, **_as_whom(known))
        except (OSError, NatsError) as error:
            last = next(filter(is_refusal, errors), errors[-1] if errors else error)
            seen = f"{public(url)}: {why(last)}"
            return [Finding("NATS", Grade.BAD, seen, "is it running, and reachable from here?")]
        looks = [
            _bounded("broker", _broker(known), "its log says why"),
        ]
        if known.keys is not None or known.api_key is None:
            looks += [
                _bounded("JetStream", _streams(nc), "NATS's log says why; in a cluster, most of its nodes must run"),
                _bounded("catalog", _catalog(nc, known.postgres_url), "NATS's and Postgres's logs say why"),
            ]
        found = await asyncio.gather(*looks)
        return [_nats_version(nc), _asks_for_keys(known), *itertools.chain(*found)]
    finally:
        await nc.close()


def _as_whom(known: Known) -> dict[str, Any]:
    """Return how to connect: as a broker if that is possible."""
    if known.keys is not None:
        return {"nkeys_seed_str": known.keys.user_seed(Account.BROKERS)}
    return {} if known.api_key is None else {"token": known.api_key}


def _asks_for_keys(known: Known) -> Finding:
    if known.keys is None and known.api_key is None:
        advice = "keep NATS on this machine or a private network, or configure it: infermq nats-config"
        return Finding("keys", Grade.WARN, "none are asked for: whoever reaches NATS may do everything", advice)
    if known.keys is None:
        return Finding("keys", Grade.OK, "asked for; the streams are shown only where the brokers' secret is")
    return Finding("keys", Grade.OK, "asked for")


def _nats_version(nc: NatsClient) -> Finding:
    version = nc.connected_server_version
    number = f"{version.major}.{version.minor}.{version.patch}"
    at = nc.connected_url
    seen = f"nats-server {number} at {f'{at.hostname}:{at.port}' if at is not None else '?'}"
    if (version.major, version.minor) < OLDEST_NATS:
        return Finding("NATS", Grade.BAD, seen, f"atomic batches need {OLDEST_NATS[0]}.{OLDEST_NATS[1]} or newer")
    return Finding("NATS", Grade.OK, seen)


async def _streams(nc: NatsClient) -> list[Finding]:
    """Compare the streams, buckets and shared consumers with what should be there."""
    wanted = desired({}, lease_s=LEASE_S)
    found, unread = await find(nc, wanted, within_s=_READ_S)
    if len(unread) == len(wanted):
        why = next(iter(unread.values()))
        return [
            Finding("JetStream", Grade.BAD, why, "is it enabled (nats-server -js), and has its cluster a leader?")
        ]
    wrong = [*map(str, difference(wanted, found)), *(f"{name}: {why}" for name, why in unread.items())]
    if wrong:
        return [Finding("streams", Grade.BAD, "; ".join(wrong), "a broker puts them right: infermq serve")]
    return [Finding("streams", Grade.OK, f"{len(wanted)} as they should be")]


async def _catalog(nc: NatsClient, postgres_url: str | None) -> list[Finding]:
    """Compare the catalog that NATS holds with the ledger's. If one cannot be read, another check says so."""
    if postgres_url is None:
        return []
    try:
        async with open_ledger(postgres_url, clock=wall_clock, connections=1) as ledger:
            active = await ledger.catalogs.active()
        catalogs = Catalogs(nc)
        compared = compare(active[0] if active is not None else None, (await catalogs.copy())[0])
        is_told = compared.in_force == NONE or await catalogs.is_told(compared.in_force)
    except (Unavailable, NatsError, CatalogError):
        return []
    if compared.note is None:
        seen = f"workers do not read what revision {compared.in_force.number} says of their deployments"
        return [] if is_told else [Finding("catalog", Grade.BAD, seen, _PUT_RIGHT)]
    grade = Grade.BAD if compared.copy_is_wrong else Grade.WARN
    advice = _PUT_RIGHT if compared.copy_is_wrong else "infermq apply FILE"
    return [Finding("catalog", grade, compared.note, advice)]


_PUT_RIGHT = "brokers put it right within seconds: start one"


async def _broker(known: Known) -> list[Finding]:
    try:
        async with Client.connect(
            known.nats_url or known.api_url, api_key=known.api_key, trust=known.trust
        ) as client:
            status = await client.status()
            await client.catalog()
    except NoBroker:
        return [Finding("broker", Grade.BAD, "none answers", "start one: infermq serve")]
    except RequestRefused as error:
        return [Finding("catalog", Grade.BAD, str(error), "infermq apply FILE")]
    except Unavailable as error:
        return [Finding("broker", Grade.BAD, str(error), "its log says why")]
    return [_broker_state(status), *_clocks(status), *map(_model, status.models)]


def _broker_state(status: Status) -> Finding:
    seen = f"{status.name} {status.version}, leader {status.leader or 'none'}"
    if status.leader is None:
        return Finding("broker", Grade.WARN, seen, "nobody dispatches; one takes over within seconds")
    return Finding("broker", Grade.OK, seen)


def _clocks(status: Status) -> list[Finding]:
    here = wall_clock()
    skews = {"broker": here - status.now_ms, "database": status.now_ms - status.database_now_ms}
    skews |= {f"worker {beat.id}": max(0, abs(status.now_ms - beat.at_ms) - 2000) for beat in status.workers}
    wrong = [f"{name} {skew:+} ms" for name, skew in skews.items() if abs(skew) > _MOST_SKEW_MS]
    if wrong:
        return [Finding("clocks", Grade.WARN, ", ".join(wrong), "run a time service (chrony) on these machines")]
    return [Finding("clocks", Grade.OK, f"within {_MOST_SKEW_MS} ms of each other")]


def _model(model: ModelStatus) -> Finding:
    name, seen = f"model {model.model}", "; ".join(hold.message for hold in model.holds)
    if not model.holds:
        return Finding(name, Grade.OK, f"can start on {' or '.join(model.deployments)}")
    if any(hold.code is HoldCode.BUSY for hold in model.holds):
        return Finding(name, Grade.OK, seen)
    advice = dict.fromkeys(OF_HOLDS[hold.code] for hold in model.holds)
    wait = f"{model.waiting} {'job waits' if model.waiting == 1 else 'jobs wait'}"
    return Finding(name, Grade.WARN, f"{seen} ({wait})", "; ".join(advice))


async def _postgres(url: str | None) -> list[Finding]:
    if url is None:
        advice = "set INFERMQ_POSTGRES_URL, if this machine may reach it"
        return [Finding("Postgres", Grade.WARN, "no address", advice)]
    advice = "is it running, and reachable from here?"
    try:
        connection = await asyncpg.connect(url, timeout=_CONNECT_S)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        seen = public(f"{url}: {str(error) or type(error).__name__}")
        return [Finding("Postgres", Grade.BAD, seen, advice)]
    try:
        ledger, sums = await asyncio.gather(
            _bounded("Postgres", _ledger(connection, url), "its log says why"),
            _bounded("sums", _sums(url), "Postgres's log says why"),
        )
    finally:
        connection.terminate()
    return [*ledger, *(sums if any(one.name == "migrations" and one.grade is Grade.OK for one in ledger) else [])]


async def _ledger(connection: "asyncpg.Connection[asyncpg.Record]", url: str) -> list[Finding]:
    try:
        number = int(await connection.fetchval("show server_version_num")) // 10_000
        missing = await pending(url)
        dead_letters = [] if missing else await _dead_letters(connection)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, Unavailable) as error:
        seen = public(str(error)) or type(error).__name__
        return [Finding("Postgres", Grade.BAD, seen, "is it running, and reachable?")]
    except Conflict as error:
        return [
            Finding("migrations", Grade.BAD, str(error), "use the version that made this database, or a newer one")
        ]
    old = number < OLDEST_POSTGRES
    server = Finding(
        "Postgres", Grade.BAD if old else Grade.OK, f"Postgres {number}", f"needs {OLDEST_POSTGRES}" if old else ""
    )
    if missing:
        return [server, Finding("migrations", Grade.BAD, f"missing: {', '.join(missing)}", "infermq migrate")]
    return [server, Finding("migrations", Grade.OK, "up to date"), *dead_letters]


async def _dead_letters(connection: "asyncpg.Connection[asyncpg.Record]") -> list[Finding]:
    [(messages, jobs, last_ms)] = await connection.fetch(_COUNT_DEAD)
    if not messages and not jobs:
        return []
    return [
        Finding(
            "dead letters",
            Grade.WARN,
            f"{jobs} jobs and {messages} messages, the last at {instant(last_ms)}",
            "infermq dead list",
        )
    ]


async def _sums(url: str) -> list[Finding]:
    """Compare the ledger with itself, the newest jobs first, as far as there is time."""
    try:
        async with open_ledger(url, clock=wall_clock, connections=1) as ledger:
            check = await ledger.sums.check(within_s=_SUMS_S)
    except Unavailable as error:
        return [Finding("sums", Grade.BAD, public(str(error)), "is it running, and reachable?")]
    if check.disagreements:
        seen = f"{len(check.disagreements)} disagreements, the first: {check.disagreements[0]}"
        return [Finding("sums", Grade.BAD, seen, "report it with the brokers' logs: the record of these is wrong")]
    if check.is_whole:
        return [Finding("sums", Grade.OK, "executions, jobs, batches and spend agree")]
    if check.checked_from_ms == 0:
        return [Finding("sums", Grade.OK, f"executions and jobs agree; no time for the rest in {_SUMS_S:.0f} s")]
    since = instant(min(check.checked_from_ms, wall_clock()))
    return [Finding("sums", Grade.OK, f"jobs since {since} agree; no time for the rest in {_SUMS_S:.0f} s")]


_COUNT_DEAD = """
select m.count, j.count, greatest(m.last, j.last)
  from (select count(*), max(received_ms) as last from infermq.dead_letters where requeued_ms is null) m,
       (select count(*), max(ended_ms) as last from infermq.failures where state = 'dead' and dropped_ms is null) j"""

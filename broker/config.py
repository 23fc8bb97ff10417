"""The settings of broker processes, and how commands find a running system."""

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from broker.core.file_stores import POSTGRES
from broker.core.nats_keys import NatsKeys
from broker.core.targets import Targets
from schemas.api_keys import shown_key
from schemas.catalog import CatalogError
from schemas.jetstream.trust import Trust, shown_trust
from schemas.urls import is_http, public

DATA = ".infermq"
RUN_FILE = "run.json"
KEY_FILE = "key"
"""In the data folder of `infermq up`: the API key of its user, which commands show."""
WORKER_KEY_FILE = "worker.key"
"""In the data folder of `infermq up`: the API key that its workers show."""
NATS_KEY_KEPT = "nats.key"
"""In the data folder of `infermq up`: the secret of its brokers."""
NATS_KEY_FILE = "INFERMQ_NATS_KEY_FILE"
NATS_KEY = "INFERMQ_NATS_KEY"
"""The variables of the environment that name the file of the brokers' secret, or hold it."""
API_CERTIFICATE = "INFERMQ_API_TLS_CERT"
API_CERTIFICATE_KEY = "INFERMQ_API_TLS_KEY"
"""The variables that name the files of the certificate of the API over HTTP."""
PORT = 14222
"""The port of NATS under `infermq up`: NATS's usual port with a 1 before it, so that both can run on one machine. It
lies below the ports that Linux gives to outgoing connections.
"""
LEASE_S = 15.0
"""How long a killed worker's jobs stay leased to it, unless they are released before. A worker extends its leases at a
third of that."""
LEAST_LEASE_S = 2.0
"""A worker checks its leases twice a second. Below six seconds, jobs that a killed worker had reported may run again."""


Replicas = Literal[1, 3, 5]


def as_replicas(number: int) -> Replicas:
    """Raises: ValueError, if no cluster should have as many."""
    for one in get_args(Replicas):
        if one == number:
            return one  # type: ignore[no-any-return]
    raise ValueError(
        f"{number} is not 1, 3 or 5: a majority of an even number is no smaller than of the next odd one"
    )


LEAST_STORE_BYTES = 256 * 1024**2
"""Each stream must have room for some messages of the largest size."""


WAITING_REQUESTS = 1000
"""A guess: more than a busy pool starts in the time for which a caller waits."""
WAITING_BYTES = 64 * 1024**2


Days = Annotated[int, Meta(ge=1, le=36_500)]


class Keep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many days records are kept that nobody needs for ever. All are guesses."""

    dead_letters: Days = 30
    """Messages are deleted then; dead jobs leave the dead letters, and stay in the ledger."""
    audit: Days = 400
    """A little more than a year."""
    idempotency: Days = 30
    """How long a producer's key stands for the job that it was first used for."""
    instructions: Days = 90
    """Counted from when they ended."""
    deliveries: Days = 30
    """What was sent to webhooks. Those that are still tried are kept in any case."""


class BrokerRole(StrEnum):
    """A part of a broker's work that some brokers may do and others not."""

    HTTP = "http"
    """Answers over HTTP."""
    NATS = "nats"
    """Answers over NATS."""
    INTAKE = "intake"
    """Takes submitted jobs in."""
    DISPATCH = "dispatch"
    """Hands jobs out, if it becomes the leader."""
    SETTLE = "settle"
    """Records what became of jobs and requests."""
    UPKEEP = "upkeep"
    """Makes and drops days, carries out orders over many jobs, and keeps what JetStream gave up on."""
    WEBHOOKS = "webhooks"
    """Tells the endpoints of webhooks what has ended. It needs a way to them."""


class WebhookConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where webhooks may go, beside public addresses over TLS."""

    allow: tuple[str, ...] = ()
    """Hosts, addresses and networks."""
    http: bool = False
    """Whether plain HTTP will do."""

    def targets(self) -> Targets:
        """Raises: ValueError."""
        return Targets.of(self.allow, http=self.http)


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client of an HTTP server may take. Where nothing else is said, the numbers are guesses."""

    head_bytes: Annotated[int, Meta(ge=1024, le=1024**2)] = 32 * 1024
    """Of the request line and the headers. Proxies let through 8 to 32 KiB."""
    headers: Annotated[int, Meta(ge=16, le=10_000)] = 128
    head_s: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    """From the first byte of a request to the end of its headers; also for a TLS handshake."""
    body_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    """From the end of the headers to the end of the body."""
    bodies_bytes: Annotated[int, Meta(ge=1024**2)] = 256 * 1024**2
    """Of all bodies that are being received, of those that do not come at once."""
    idle_s: Annotated[float, Meta(gt=0, le=3600)] = 75.0
    """Without a request. More than the 60 s after which proxies end idle connections, so that none is used as it ends."""
    unread_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    """How long a client may read nothing of what waits to be sent to it."""
    pipelined: Annotated[int, Meta(ge=1, le=1000)] = 8
    """Requests that a client sends ahead of answers, on one connection."""
    connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    connections_per_address: Annotated[int, Meta(ge=1, le=1_000_000)] = 1024
    """Of one IPv4 address or one /64 network of IPv6. Behind a proxy all have the same: give both limits one number."""
    drain_s: Annotated[int, Meta(ge=0, le=3600)] = 5
    """How long answers may go on when the server stops."""


class ApiConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a broker serves its API over HTTP."""

    limits: HttpLimits = HttpLimits()
    """What a client may take."""
    certificate: str | None = None
    """The file of the certificate to show, with those of the authorities between it and a known one. None: no TLS."""
    certificate_key: str | None = None
    """The file of its key; None: it is in the same file."""
    cors_origins: tuple[str, ...] = ()
    """The origins whose pages in browsers may read answers; `*` is any."""
    access_log: bool = False
    """Whether each answer is a line in the log."""


def http_limits(told: Iterable[str]) -> HttpLimits:
    """Read limits such as `head_s=5`; what is not named stays as it is. Raises: ValueError, with what is wrong."""
    named = dict(one.partition("=")[::2] for one in told)
    try:
        return msgspec.convert(named, HttpLimits, strict=False)
    except msgspec.ValidationError as error:
        names = ", ".join(HttpLimits.__struct_fields__)
        raise ValueError(f"{error} (NAME=NUMBER, with the names {names})") from error


class BrokerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    nats_url: str
    postgres_url: str
    name: str
    """Unique among broker processes."""
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Of /metrics, /livez and /readyz; 0 takes any free port."""
    api_host: str = "127.0.0.1"
    api_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Of the API over HTTP; 0 takes any free port."""
    api: ApiConfig = ApiConfig()
    roles: Annotated[frozenset[BrokerRole], Meta(min_length=1)] = frozenset(BrokerRole)
    """What it does, beside knowing the catalog, keys and workers and letting connections in."""
    database_connections: Annotated[int, Meta(ge=4, le=1000)] = 8
    """Enough for one for each role that writes, and some for the API."""
    lease_s: Annotated[float, Meta(ge=LEAST_LEASE_S, le=3600)] = LEASE_S
    replicas: Replicas = 1
    """How many nodes of a NATS cluster keep each stream and bucket."""
    store_bytes: Annotated[int, Meta(ge=LEAST_STORE_BYTES)] | None = None
    """How much the streams may hold on the disk of a NATS node. None: up to 16 GiB, as far as the server has room."""
    waiting_requests: Annotated[int, Meta(ge=0, le=1_000_000)] = WAITING_REQUESTS
    waiting_bytes: Annotated[int, Meta(ge=0, le=2**40)] = WAITING_BYTES
    """How many interactive requests may wait at this broker for a slot of one model, and the bytes of their bodies."""
    keep: Keep = Keep()
    webhooks: WebhookConfig = WebhookConfig()
    files: str = POSTGRES
    """Where the content of new files goes: Postgres, or the URL of a directory or a bucket."""
    trust: Trust | None = None
    """How NATS and brokers know each other. None: as the system trusts, and without TLS where the URL wants none."""


class UpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    data: Path
    catalog: Path | None = None
    """None: `infermq.toml` beside the data folder, else the built-in one."""
    workers: Annotated[int, Meta(ge=0, le=64)] = 1
    """How many worker processes each deployment has."""
    slots: Annotated[int, Meta(ge=1, le=65536)] | None = None
    lease_s: Annotated[float, Meta(ge=LEAST_LEASE_S, le=3600)] = LEASE_S
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """The port of NATS. The API over HTTP has the next one, the broker's metrics and the workers' those after it. 0: any
    free ones.
    """
    nats_url: str | None = None
    postgres_url: str | None = None
    replicas: Replicas = 1
    files: str = POSTGRES
    """Where the content of new files goes."""
    keyless: bool = False
    """Whether whoever reaches this machine's loopback may do everything, without a key."""
    tls: bool = False
    """Whether its NATS is reached with TLS only, with a certificate that is made once and kept in the data folder."""


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `run.json` in the data folder of a running `infermq up`, which only its user can read."""

    pid: int
    nats_url: str
    postgres_url: str
    broker_http: str
    """The URL of the broker's metrics and health."""
    api: str = ""
    """The URL of the API over HTTP."""
    workers: dict[str, str]
    """The URL of each worker's HTTP server, by its name."""
    trust: Trust | None = None
    """The certificates with which NATS is reached."""

    def public(self) -> "RunInfo":
        """Return it without passwords, to be shown."""
        return replace(self, nats_url=public(self.nats_url), postgres_url=public(self.postgres_url))


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """The address of a running system, and the key with which a command calls it."""

    url: str
    """Where it is called: at its NATS, or at its API over HTTP."""
    nats_url: str | None = None
    """None: only its API over HTTP is known."""
    postgres_url: str | None = None
    api_url: str | None = None
    """The URL of its API over HTTP, if it is known."""
    api_key: str | None = field(default=None, repr=False)
    data: Path | None = None
    """The data folder of the `infermq up` that it is of."""
    trust: Trust | None = None
    """The certificates with which NATS is reached."""


class NotFound(Exception):
    """No running system is known; the message says what to do."""


def process_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


def find(*, url: str | None = None, data: Path | None = None, environ: Mapping[str, str], folder: Path) -> Location:
    """Find a running system: by argument, by environment, or by the run file of an `infermq up` in this folder or above.

    Its key is the environment's, else the one that `infermq up` keeps beside its run file; so are its certificates.
    Raises: NotFound, OSError.
    """
    nats_url = environ.get("INFERMQ_NATS_URL") or None
    url = url or environ.get("INFERMQ_URL") or nats_url
    postgres_url = environ.get("INFERMQ_POSTGRES_URL")
    if url:
        return Location(
            url=url,
            nats_url=nats_url if is_http(url) else url,
            api_url=url if is_http(url) else None,
            postgres_url=postgres_url,
            api_key=shown_key(environ),
            trust=shown_trust(environ),
        )
    named = data or (Path(environ["INFERMQ_DATA"]) if environ.get("INFERMQ_DATA") else None)
    folders = [named] if named else [parent / DATA for parent in (folder, *folder.parents)]
    found = next(((info, folder) for folder in folders if (info := read_run_file(folder)) is not None), None)
    if found is None:
        raise NotFound(
            "no running infermq was found: start one with `infermq up`, or say where it is "
            "(--data, INFERMQ_DATA, --url, INFERMQ_URL)"
        )
    info, data = found
    api_key = shown_key(environ, otherwise=data / KEY_FILE)
    return Location(
        url=info.nats_url,
        nats_url=info.nats_url,
        postgres_url=postgres_url or info.postgres_url,
        api_url=info.api or None,
        api_key=api_key,
        data=data,
        trust=shown_trust(environ, otherwise=info.trust),
    )


def nats_keys(environ: Mapping[str, str], *, data: Path | None = None) -> NatsKeys | None:
    """Find the brokers' secret: in the environment, in the file that it names, or in the data folder of an `infermq up`.

    None: there is none. Raises: BadSecret, OSError.
    """
    if text := environ.get(NATS_KEY):
        return NatsKeys.of_text(text)
    kept = None if data is None else data / NATS_KEY_KEPT
    named = Path(environ[NATS_KEY_FILE]) if environ.get(NATS_KEY_FILE) else kept
    text = named.read_text() if named is not None and (named != kept or named.is_file()) else None
    return NatsKeys.of_text(text) if text else None


def catalog_text(file: Path) -> str:
    """Read a catalog file. Raises: CatalogError, OSError."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CatalogError(f"{file} is not UTF-8: its byte {error.start} cannot be read") from error


def read_run_file(data: Path) -> RunInfo | None:
    """Return the run file of an `infermq up` that runs on this data folder, or None if none runs."""
    try:
        info = msgspec.json.decode((data / RUN_FILE).read_bytes(), type=RunInfo)
    except (OSError, msgspec.DecodeError):
        return None
    return info if _is_running(info.pid) else None


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # it is another user's
    except (OSError, OverflowError):
        return False
    return True

"""`infermq up | serve | worker | migrate | doctor`."""

import asyncio
import contextlib
import gc
import json
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvloop
from msgspec.structs import replace

from broker.cli.first_steps import first_steps
from broker.cli.serve_options import (
    AccessLog,
    ApiHost,
    ApiLimits,
    ApiPort,
    ApiTlsCert,
    ApiTlsKey,
    CorsOrigins,
    KeptFiles,
    Roles,
    WebhookAllow,
    WebhookHttp,
    api_config,
    webhook_config,
)
from broker.cli.terminal import (
    AsJson,
    AsJsonOnceReady,
    Data,
    Exit,
    Url,
    data_folder,
    err,
    fail,
    out,
    print_fields,
    print_json,
    print_table,
    reporting_errors,
    where,
)
from broker.config import (
    DATA,
    LEASE_S,
    LEAST_LEASE_S,
    LEAST_STORE_BYTES,
    NATS_KEY,
    NATS_KEY_FILE,
    PORT,
    WAITING_BYTES,
    WAITING_REQUESTS,
    WORKER_KEY_FILE,
    BrokerConfig,
    BrokerRole,
    Keep,
    NotFound,
    UpConfig,
    as_replicas,
    nats_keys,
    process_name,
)
from broker.core.file_stores import POSTGRES
from broker.core.nats_keys import BadSecret, NatsKeys
from broker.local.servers import die_with_parent
from schemas.api_keys import FILE_VARIABLE, VARIABLE
from schemas.jetstream.trust import shown_trust
from schemas.logs import LogFormat, LogLevel, log_to_stderr
from schemas.units import LONGEST_NAME
from schemas.urls import is_http, public

if TYPE_CHECKING:
    from broker.cli.doctor import Finding
    from broker.local.up import Up
    from broker.serve import Addresses

_GC = (20_000, 50, 100)
"""Thresholds of the garbage collector. Reference counts free almost everything here, so it rarely needs to run."""


def _of_postgres(url: str | None) -> str | None:
    """Refuse a URL that can never be connected to: a broker would wait for its server."""
    if url is not None and not url.startswith(("postgresql://", "postgres://")):
        raise typer.BadParameter("it does not begin with postgresql://")
    return url


PostgresUrl = Annotated[
    str | None,
    typer.Option("--postgres-url", envvar="INFERMQ_POSTGRES_URL", callback=_of_postgres, help="Where Postgres is."),
]
NeededPostgresUrl = Annotated[
    str, typer.Option(envvar="INFERMQ_POSTGRES_URL", callback=_of_postgres, help="Where Postgres is.")
]
LeaseS = Annotated[
    float,
    typer.Option(
        min=LEAST_LEASE_S,
        max=3600,
        help="How long a lease lasts. A killed worker's jobs run elsewhere before that, in seconds.",
    ),
]


def _check_replicas(number: int) -> int:
    """Raises: typer.BadParameter."""
    try:
        return as_replicas(number)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


ReplicasOption = Annotated[
    int,
    typer.Option(
        "--replicas",
        envvar="INFERMQ_REPLICAS",
        callback=_check_replicas,
        help="How many nodes of a NATS cluster keep each stream: 1, 3 or 5.",
    ),
]
StoreBytes = Annotated[
    int | None,
    typer.Option(
        min=LEAST_STORE_BYTES,
        envvar="INFERMQ_STORE_BYTES",
        help="How much the streams may hold on a NATS node's disk; by default up to 16 GiB, as far as there is room.",
    ),
]


def _short(name: str | None) -> str | None:
    """Raises: typer.BadParameter."""
    if name is not None and len(name) > LONGEST_NAME:
        raise typer.BadParameter(f"it has {len(name)} characters, the limit is {LONGEST_NAME}")
    return name


LogFormatOption = Annotated[
    LogFormat, typer.Option(envvar="INFERMQ_LOG_FORMAT", help="How to log to standard error.")
]
LogLevelOption = Annotated[
    LogLevel, typer.Option(envvar="INFERMQ_LOG_LEVEL", help="What to log: this, and what is worse.")
]


KeepDeadLetters = Annotated[
    int,
    typer.Option(
        min=1,
        max=36_500,
        envvar="INFERMQ_KEEP_DEAD_LETTERS_DAYS",
        help="How many days dead letters are kept. Dead jobs stay in the ledger, and leave its list.",
    ),
]
KeepAudit = Annotated[
    int,
    typer.Option(
        min=1, max=36_500, envvar="INFERMQ_KEEP_AUDIT_DAYS", help="How many days `infermq audit` reaches back."
    ),
]
KeepIdempotency = Annotated[
    int,
    typer.Option(
        min=1,
        max=36_500,
        envvar="INFERMQ_KEEP_IDEMPOTENCY_DAYS",
        help="How many days an idempotency key stands for its first job.",
    ),
]
KeepDeliveries = Annotated[
    int,
    typer.Option(
        min=1,
        max=36_500,
        envvar="INFERMQ_KEEP_DELIVERIES_DAYS",
        help="How many days `infermq webhook deliveries` reaches back.",
    ),
]


KeptIn = Annotated[Path, typer.Option(envvar="INFERMQ_DATA", help="Where streams and tables are kept.")]
Keyless = Annotated[
    bool,
    typer.Option("--keyless", help="Ask for no keys: whoever reaches this machine's loopback may do all."),
]


def _nats_itself(url: str | None) -> str | None:
    """Refuse the URL of an API over HTTP, which would be taken for a NATS that is away. Raises: typer.BadParameter."""
    if url is not None and is_http(url):
        raise typer.BadParameter(f"{public(url)} is no NATS: its URL begins with nats:// or tls://")
    return url


_NODES = "several nodes with commas between them."
OwnNats = Annotated[
    str | None,
    typer.Option(envvar="INFERMQ_NATS_URL", callback=_nats_itself, help=f"A NATS of your own; {_NODES}"),
]
NeededNats = Annotated[
    str, typer.Option(envvar="INFERMQ_NATS_URL", callback=_nats_itself, help=f"Where NATS is; {_NODES}")
]
Tls = Annotated[
    bool,
    typer.Option("--tls", help="Reach its NATS with TLS only; the certificate is made, and kept in the data folder."),
]


def up(
    *,
    data: KeptIn = Path(DATA),
    catalog: Annotated[
        Path | None, typer.Option(help="Catalog file; by default infermq.toml, else a built-in.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, max=64, help="Worker processes for each deployment.")] = 1,
    slots: Annotated[int | None, typer.Option(min=1, help="Slots of each worker, instead of the catalog's.")] = None,
    lease_s: LeaseS = LEASE_S,
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="NATS's port; HTTP has the next ones. If taken, free ones; 0: free ones."
        ),
    ] = PORT,
    nats_url: OwnNats = None,
    postgres_url: PostgresUrl = None,
    replicas: ReplicasOption = 1,
    files: KeptFiles = POSTGRES,
    keyless: Keyless = False,
    tls: Tls = False,
    as_json: AsJsonOnceReady = False,
) -> None:
    """Run everything on this machine: NATS, Postgres, a broker and workers.

    Prints where each listens once all is up, and what to do next. It runs until Ctrl-C; what waits is kept in the
    data folder.

    Examples:
      infermq up
      infermq up --catalog infermq.toml --port 15222
      infermq up --data /srv/infermq --workers 2
    """
    from broker.local.up import up as run  # noqa: PLC0415 - other commands do not need it

    die_with_parent()
    began = time.monotonic()
    config = UpConfig(
        data=data_folder(data),
        catalog=catalog,
        workers=workers,
        slots=slots,
        lease_s=lease_s,
        port=port,
        nats_url=nats_url,
        postgres_url=postgres_url,
        replicas=as_replicas(replicas),
        files=files,
        keyless=keyless,
        tls=tls,
    )

    def ready(everything: "Up") -> None:
        if as_json:
            print_json(everything.info().public())
        else:
            _print_up(everything, time.monotonic() - began)

    with reporting_errors():
        asyncio.run(run(config, say=lambda line: err.print(public(line), markup=False), ready=ready))


def _print_up(everything: "Up", seconds: float) -> None:
    info, data = everything.info().public(), everything.config.data
    out.print(f"[bold green]infermq is up[/] after {seconds:.1f} s\n")
    print_fields(
        [
            ("NATS", info.nats_url),
            ("HTTP", f"{info.api}/v1"),
            ("Postgres", info.postgres_url),
            ("broker", f"{info.broker_http}/metrics"),
            *((name, f"{url}/metrics") for name, url in info.workers.items()),
            ("data", f"{data}, logs in its folder logs"),
        ]
    )
    steps = first_steps(everything.catalog, everything.served(), data=data, folder=Path.cwd())
    out.print("\nNext, in another terminal in this folder:")
    out.print("".join(f"  {step}\n" for step in steps), markup=False)
    out.print("Ctrl-C stops it; jobs that wait are kept.")


BrokersSecret = Annotated[
    Path | None,
    typer.Option(
        envvar=NATS_KEY_FILE,
        help=f"The brokers' secret (infermq nats-config); or {NATS_KEY} holds it. Without it, no keys are asked for.",
    ),
]


BrokerName = Annotated[str | None, typer.Option(callback=_short, help="Unique name; by default host and process id.")]
WaitingRequests = Annotated[
    int,
    typer.Option(
        min=0,
        max=1_000_000,
        envvar="INFERMQ_WAITING_REQUESTS",
        help="How many requests may wait here for a slot of one model.",
    ),
]
WaitingBytes = Annotated[
    int,
    typer.Option(min=0, max=2**40, envvar="INFERMQ_WAITING_BYTES", help="How many bytes of bodies they may have."),
]


def serve(
    *,
    nats_url: NeededNats,
    postgres_url: NeededPostgresUrl,
    nats_key_file: BrokersSecret = None,
    name: BrokerName = None,
    http_host: Annotated[str, typer.Option(help="Where /metrics, /livez and /readyz listen.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0: any free one.")] = 0,
    api_host: ApiHost = "127.0.0.1",
    api_port: ApiPort = 0,
    api_limits: ApiLimits = [],  # noqa: B006 - typer copies it
    api_tls_cert: ApiTlsCert = None,
    api_tls_key: ApiTlsKey = None,
    cors_origins: CorsOrigins = [],  # noqa: B006
    access_log: AccessLog = False,
    webhook_allow: WebhookAllow = [],  # noqa: B006
    webhook_http: WebhookHttp = False,
    files: KeptFiles = POSTGRES,
    roles: Roles = None,
    lease_s: LeaseS = LEASE_S,
    replicas: ReplicasOption = 1,
    store_bytes: StoreBytes = None,
    waiting_requests: WaitingRequests = WAITING_REQUESTS,
    waiting_bytes: WaitingBytes = WAITING_BYTES,
    keep_dead_letters_days: KeepDeadLetters = Keep().dead_letters,
    keep_audit_days: KeepAudit = Keep().audit,
    keep_idempotency_days: KeepIdempotency = Keep().idempotency,
    keep_deliveries_days: KeepDeliveries = Keep().deliveries,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = LogLevel.INFO,
    as_json: AsJsonOnceReady = False,
) -> None:
    """Run one broker. Any number may run on the same NATS and Postgres.

    Logs to standard error, and runs until SIGTERM.

    Examples:
      infermq serve --nats-url nats://nats1:4222 --postgres-url postgresql://pg/infermq
      infermq serve --roles http --nats-url nats://nats1:4222 --postgres-url postgresql://pg/infermq
    """
    config = BrokerConfig(
        nats_url=nats_url, postgres_url=postgres_url, name=name or process_name(),
        http_host=http_host, http_port=http_port, api_host=api_host, api_port=api_port,
        api=api_config(api_limits, api_tls_cert, api_tls_key, cors_origins, access_log=access_log),
        webhooks=webhook_config(webhook_allow, http=webhook_http),
        files=files,
        roles=_as_roles(roles),
        lease_s=lease_s,
        replicas=as_replicas(replicas),
        store_bytes=store_bytes,
        waiting_requests=waiting_requests, waiting_bytes=waiting_bytes,
        keep=Keep(
            dead_letters=keep_dead_letters_days,
            audit=keep_audit_days,
            idempotency=keep_idempotency_days,
            deliveries=keep_deliveries_days,
        ),
    )  # fmt: skip
    _run(config, nats_key_file, log_format, log_level, as_json=as_json)


def _run(
    config: BrokerConfig, nats_key_file: Path | None, log_format: LogFormat, log_level: LogLevel, *, as_json: bool
) -> None:
    _begin(log_format, log_level)
    config = replace(config, trust=shown_trust(os.environ))
    ready = partial(_say_ready, config.name, as_json=as_json)
    with reporting_errors():
        uvloop.run(_until_signal(config, _secret_of_brokers(nats_key_file), ready))


def _say_ready(name: str, listens: "Addresses", *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"ready": True, "http": listens.http, "api": listens.api, "name": name}))
    logging.getLogger("infermq").info("ready name=%s http=%s api=%s", name, listens.http, listens.api)


def _as_roles(named: str | None) -> frozenset[BrokerRole]:
    return frozenset(BrokerRole if named is None else (BrokerRole(one.strip()) for one in named.split(",")))


def _begin(log_format: LogFormat, log_level: LogLevel) -> None:
    """Set up this process as one that serves, and that opens as many files as it may: each connection is one."""
    die_with_parent()
    gc.set_threshold(*_GC)
    log_to_stderr(log_format, log_level)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _secret_of_brokers(file: Path | None, *, data: Path | None = None) -> NatsKeys | None:
    """Find it. Raises: typer.Exit, with its error printed; OSError."""
    try:
        return nats_keys(os.environ if file is None else {NATS_KEY_FILE: str(file)}, data=data)
    except BadSecret as error:
        fail(f"the brokers' secret ({NATS_KEY}, {NATS_KEY_FILE}): {error}", Exit.USAGE)


async def _until_signal(config: BrokerConfig, keys: NatsKeys | None, ready: Callable[["Addresses"], None]) -> None:
    from broker.serve import serve as run  # noqa: PLC0415 - FastStream takes a while to load

    serving = asyncio.create_task(run(config, ready=ready, nats_keys=keys))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        logging.getLogger("infermq").info("stopped name=%s", config.name)


def worker(context: typer.Context, *, data: Data = None) -> None:
    """Run one worker, which serves one deployment of the catalog.

    Logs to standard error, and runs until SIGTERM, which drains it. `infermq worker --help` lists its options.

    Examples:
      infermq worker --deployment simulated
      infermq worker --deployment gpu --slots 128 --nats-url nats://nats1:4222
    """
    words = context.args
    environ = dict(os.environ)
    if not any(word == "--help" or word.startswith("--nats-url") for word in words):
        with reporting_errors():
            place = where(None, data)
            if place.nats_url is None:
                fail("a worker needs NATS itself: --nats-url or INFERMQ_NATS_URL says where it is", Exit.USAGE)
            environ["INFERMQ_NATS_URL"] = place.nats_url
            environ |= {} if place.trust is None else place.trust.environ()
            kept = None if place.data is None else place.data / WORKER_KEY_FILE
            if kept is not None and kept.is_file() and not environ.get(VARIABLE):
                environ.setdefault(FILE_VARIABLE, str(kept))
    os.execve(sys.executable, [sys.executable, "-m", "workers", *words], environ)  # noqa: S606 - our own program


def migrate(*, url: Url = None, data: Data = None, postgres_url: PostgresUrl = None, as_json: AsJson = False) -> None:
    """Bring the database up to date.

    Prints which migrations it applied.

    Examples:
      infermq migrate --postgres-url postgresql://pg/infermq
    """
    from broker.ledger import migrate as apply  # noqa: PLC0415 - other commands do not touch Postgres

    with reporting_errors():
        try:
            postgres_url = postgres_url or where(url, data).postgres_url
        except NotFound:
            postgres_url = None
        if postgres_url is None:
            fail("say where Postgres is: --postgres-url or INFERMQ_POSTGRES_URL", Exit.USAGE)
        applied = asyncio.run(apply(postgres_url))
        if as_json:
            print_json({"applied": applied})
        else:
            out.print("\n".join(f"applied {name}" for name in applied) or "up to date")


def doctor(*, url: Url = None, data: Data = None, postgres_url: PostgresUrl = None, as_json: AsJson = False) -> None:
    """Look for what is wrong, and say what to do.

    Prints a line for each thing that it looked at: ok, warn or bad. Ends with 1 if one is bad.

    Examples:
      infermq doctor
      infermq doctor --url nats://nats1:4222 --postgres-url postgresql://pg/infermq
    """
    from broker.cli.doctor import Grade, Known, examine  # noqa: PLC0415 - only this command needs it

    try:
        place = where(url, data)
    except NotFound:
        place = None
    known = Known(
        nats_url=place.nats_url if place else None,
        api_url=place.api_url if place else None,
        postgres_url=postgres_url or (place.postgres_url if place else None),
        data=data or Path(DATA),
        api_key=place.api_key if place else None,
        keys=_secret_of_brokers(None, data=place.data if place else None),
        trust=place.trust if place else None,
    )
    findings = asyncio.run(examine(known))
    if as_json:
        print_json(findings)
    else:
        print_table(("", "", ""), (_finding_row(finding) for finding in findings))
    if any(finding.grade is Grade.BAD for finding in findings):
        raise typer.Exit(Exit.FAILED)


def _finding_row(finding: "Finding") -> tuple[object, ...]:
    return finding.grade, finding.name, finding.seen + (f" → {finding.advice}" if finding.advice else "")

"""Composes a worker. Only this module reads its arguments, environment, clock and signals."""

import asyncio
import ctypes
import gc
import importlib.metadata
import itertools
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated

import typer
import uvloop
from typer.exceptions import TyperException

from schemas.api_keys import FILE_VARIABLE, VARIABLE, ApiKey, BadKey, parse_key, shown_key
from schemas.clock import steady_clock
from schemas.ids import process_ids
from schemas.jetstream import NatsError, NoServersError, is_refusal
from schemas.jetstream.client import NatsClient
from schemas.jetstream.connection_log import ConnectionLog
from schemas.jetstream.trust import shown_trust, why
from schemas.logs import LogFormat, LogLevel, log_to_stderr
from schemas.subjects import DEFAULT, inbox_prefix
from schemas.units import LONGEST_NAME
from schemas.urls import is_http, public
from workers.catalog import active_catalog, declared_lease_ms
from workers.config import WorkerConfig
from workers.engines import factory
from workers.health import Health
from workers.http import CannotListen, build_app, listening
from workers.life import live
from workers.metrics import WorkerMetrics
from workers.ports import Capacity, Engine, EngineConfigError, EngineDied, Overrides
from workers.worker import Worker

log = logging.getLogger("infermq.worker")
USAGE, FAILED = 2, 1
_GC = (20_000, 50, 100)
"""Thresholds of the garbage collector. Reference counts free the messages, so it need look for cycles only rarely."""
_PENDING_BYTES = 16 * 1024 * 1024
_PR_SET_PDEATHSIG = 1


app = typer.Typer(name="infermq worker", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main() -> None:
    """Run the command. Say what is wrong with its arguments in the style of the other commands."""
    try:
        sys.exit(app(prog_name="infermq worker", standalone_mode=False) or 0)
    except TyperException as error:
        message = error.format_message().removeprefix("Invalid value for ").removesuffix(".")
        if "--json" in sys.argv:
            typer.echo(json.dumps({"error": {"code": "bad_input", "message": message}}), err=True)
        else:
            typer.echo(f"error: {message}\nHelp:  infermq worker --help", err=True)
        sys.exit(USAGE)


_EXAMPLES = """\b
Examples:
  infermq worker --deployment simulated
  infermq worker --deployment gpu --slots 128
"""


NatsUrl = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        envvar="INFERMQ_NATS_URL",
        help="Where NATS is; several nodes with commas between them. By default that of a running `infermq up`.",
    ),
]
Slots = Annotated[
    int | None, typer.Option(min=1, metavar="NUMBER", help="Concurrent generations; overrides the catalog.")
]
UniqueName = Annotated[str | None, typer.Option(metavar="TEXT", help="Unique name; by default host and process id.")]
HttpPort = Annotated[int, typer.Option(min=0, max=65535, metavar="NUMBER", help="Its port; 0: any free one.")]
DrainTimeoutS = Annotated[
    float, typer.Option(metavar="NUMBER", help="How long running attempts may take to finish after SIGTERM.")
]
Probe = Annotated[
    bool, typer.Option("--probe/--no-probe", help="First send an API one short request, to see that it serves us.")
]
LogFormatOption = Annotated[
    LogFormat, typer.Option(envvar="INFERMQ_LOG_FORMAT", metavar="text|json", help="How to log to standard error.")
]
LogLevelOption = Annotated[
    LogLevel,
    typer.Option(
        envvar="INFERMQ_LOG_LEVEL",
        metavar="debug|info|warning|error",
        help="What to log: this, and what is worse.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, on one line, once it is ready.")]


@app.command(epilog=_EXAMPLES)
def run(
    *,
    deployment: Annotated[str, typer.Option(metavar="TEXT", help="The deployment of the catalog to serve.")],
    nats_url: NatsUrl = None,
    slots: Slots = None,
    name: UniqueName = None,
    http_host: Annotated[str, typer.Option(metavar="TEXT", help="Where /metrics, /livez and /readyz listen.")] = (
        "127.0.0.1"
    ),
    http_port: HttpPort = 0,
    drain_timeout_s: DrainTimeoutS = 60.0,
    probe: Probe = True,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = LogLevel.INFO,
    as_json: AsJson = False,
) -> None:
    """Serve one deployment: pull its jobs, run them and report their outcomes.

    Logs to standard error, and runs until SIGTERM, which drains it; a second one puts back what it runs.
    """
    die_with_parent()
    log_to_stderr(log_format, log_level)
    if nats_url is None:
        raise typer.BadParameter("say where NATS is, or start `infermq up`", param_hint="--nats-url")
    if is_http(nats_url):
        raise typer.BadParameter("it is no NATS: its URL begins with nats:// or tls://", param_hint="--nats-url")
    if name is not None and len(name) > LONGEST_NAME:
        raise typer.BadParameter(f"it has {len(name)} characters, the limit is {LONGEST_NAME}", param_hint="--name")
    api_key = _shown_key()
    config = WorkerConfig(
        nats_url=nats_url,
        trust=shown_trust(os.environ),
        key=DEFAULT if api_key is None else api_key.id,
        deployment=deployment,
        name=name or f"{socket.gethostname()}-{os.getpid()}",
        slots=slots,
        http_host=http_host,
        http_port=http_port,
        drain_timeout_s=drain_timeout_s,
        probe=probe,
    )
    sys.exit(_exit_code(config, api_key, as_json=as_json))


def _shown_key() -> ApiKey | None:
    """Read the key of the environment. Raises: typer.Exit, with its error printed."""
    try:
        text = shown_key(os.environ)
        return None if text is None else parse_key(text)
    except (BadKey, OSError) as error:
        typer.echo(f"error: the API key ({VARIABLE}, {FILE_VARIABLE}): {error}", err=True)
        raise typer.Exit(USAGE) from error


def _exit_code(config: WorkerConfig, api_key: ApiKey | None, *, as_json: bool) -> int:
    """Serve, and return the exit code. Expected errors are a line on standard error."""
    try:
        return uvloop.run(serve(config, api_key, ready=_printer(config, as_json=as_json)))
    except EngineConfigError as error:
        typer.echo(f"error: {error}", err=True)
        return USAGE
    except (EngineDied, CannotListen) as error:
        typer.echo(f"error: {error}", err=True)
    except (OSError, NoServersError, NatsError) as error:
        typer.echo(f"error: NATS at {public(config.nats_url)}: {why(error)}", err=True)
    return FAILED


def die_with_parent() -> None:
    """If the parent asks for it (INFERMQ_PARENT is its id), end when it ends, even if it is killed."""
    parent = os.environ.get("INFERMQ_PARENT")
    if parent is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != int(parent):
        sys.exit(FAILED)


def _printer(config: WorkerConfig, *, as_json: bool) -> Callable[[str, Capacity], None]:
    """Return a function that says, given the URL and the capacity, that the worker is ready."""

    def ready(url: str, capacity: Capacity) -> None:
        if as_json:
            state = {"ready": True, "http": url, "worker": config.name, "deployment": config.deployment}
            typer.echo(json.dumps({**state, "slots": capacity.slots, "reserve": capacity.reserve}))
        log.info("ready deployment=%s slots=%d http=%s", config.deployment, capacity.slots, url)

    return ready


async def serve(
    config: WorkerConfig,
    api_key: ApiKey | None = None,
    *,
    ready: Callable[[str, Capacity], None],
    started: Engine | None = None,
) -> int:
    """Serve until a signal comes or the engine dies, and return the exit code.

    `ready` is called with the URL of /metrics and the capacity. `started` is a running engine to use instead of a new one.
    Raises: EngineConfigError, EngineDied, CannotListen, nats-py's errors.
    """
    gc.set_threshold(*_GC)
    nc, reconnected = NatsClient(), asyncio.Event()
    metrics = WorkerMetrics(importlib.metadata.version("infermq"))
    health = Health(name=config.name, is_connected=lambda: nc.is_connected)
    app = build_app(metrics.registry, health)
    async with (
        listening(app, host=config.http_host, port=config.http_port) as url,
        _connected(nc, config, api_key, reconnected),
    ):
        health.stage = "waits for a catalog"
        catalog = await active_catalog(nc, config.deployment)
        health.stage = "loads its engine"
        overrides = Overrides(config.slots, catalog.endpoints() if config.probe else ())
        engine = started or factory(catalog.deployment.engine)(catalog.deployment, overrides)
        capacity = started.capacity() if started else await engine.start()
        gc.collect()
        gc.freeze()  # an engine has so many objects that scanning them all would stop everything for a third of a second
        health.stage = "waits for a broker to declare its consumers"
        worker = Worker(
            nc,
            engine,
            name=config.name,
            key=config.key,
            catalog=catalog,
            lease_ms=await declared_lease_ms(nc, config.deployment),
            clock=steady_clock(),
            entropy=itertools.count(
                int.from_bytes(os.urandom(9))
            ).__next__,  # ids of executions are unique, not secret
            message_ids=process_ids(os.getpid(), os.urandom(6)).__next__,
            metrics=metrics,
            reconnected=reconnected,
            version=importlib.metadata.version("infermq"),
        )
        health.worker = worker
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop)
        went_well = await live(
            worker, nc, catalog=catalog, drain_timeout_s=config.drain_timeout_s, ready=lambda: ready(url, capacity)
        )
        await engine.close()
        return 0 if went_well else FAILED


@asynccontextmanager
async def _connected(
    nc: NatsClient, config: WorkerConfig, api_key: ApiKey | None, reconnected: asyncio.Event
) -> AsyncIterator[None]:
    """Connect, waiting for the server now and whenever the connection is lost."""
    told = ConnectionLog(nc, config.nats_url, came_back=reconnected.set)

    async def on_error(error: Exception) -> None:
        if is_refusal(error):
            log.warning(
                "NATS refuses the key %s: unknown, expired or revoked, or no broker runs to check it", config.key
            )
        else:
            await told.on_error(error)

    try:
        await nc.connect(
            config.nats_url,
            name=f"infermq-worker-{config.name}",
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            token=None if api_key is None else api_key.text(),
            trust=config.trust,
            inbox_prefix=_inbox_prefix(api_key),
            error_cb=on_error,
            disconnected_cb=told.on_lost,
            reconnected_cb=told.on_back,
            pending_size=_PENDING_BYTES,
            skip_subject_validation=True,  # schemas.subjects builds them all
        )
        told.connected()
        yield
    finally:
        told.closing()
        await nc.close()


def _inbox_prefix(api_key: ApiKey | None) -> str:
    return inbox_prefix(DEFAULT) if api_key is None else inbox_prefix(api_key.tenant, api_key.id)

"""What broker processes are started with, and where the other commands find a running system."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.catalog import CatalogError
from schemas.subjects import DEFAULT

DATA = ".infermq"
RUN_FILE = "run.json"
PORT = 14222
"""Of the NATS of `infermq up`: NATS's usual port with a 1 before it, so that both run on one machine. Neither this one
nor the dozen after it is registered with IANA, and Linux gives none of them to outgoing connections.
"""
LEASE_S = 15.0
"""How long a killed worker's jobs stay with it. A worker extends its leases at a third of that."""
LEAST_LEASE_S = 2.0
"""A worker looks after its leases twice a second. Below six seconds, what a killed worker had reported may run again."""


class BrokerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    nats_url: str
    postgres_url: str
    name: str
    """Unique to the process."""
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Of /metrics and /healthz; 0 takes any free port."""
    database_connections: Annotated[int, Meta(ge=4, le=1000)] = 8
    """One a role that writes, and some for the API."""
    lease_s: Annotated[float, Meta(ge=LEAST_LEASE_S, le=3600)] = LEASE_S


class UpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    data: Path
    catalog: Path | None = None
    """None: `infermq.toml` beside, else the built-in one."""
    workers: Annotated[int, Meta(ge=0, le=64)] = 1
    """Processes for each deployment."""
    slots: Annotated[int, Meta(ge=1, le=65536)] | None = None
    lease_s: Annotated[float, Meta(ge=LEAST_LEASE_S, le=3600)] = LEASE_S
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """NATS listens here, the broker's HTTP server on the next port, the workers' on those after it. 0: any free ones."""
    nats_url: str | None = None
    postgres_url: str | None = None


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`run.json` in the data folder of a running `infermq up`."""

    pid: int
    nats_url: str
    postgres_url: str
    broker_http: str
    workers: dict[str, str]
    """Name → URL of its /metrics and /healthz."""


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """A running system, as the commands see it."""

    nats_url: str
    postgres_url: str | None = None
    tenant: str = DEFAULT
    key: str = DEFAULT


class NotFound(Exception):
    """No running system is known; the message says what to do."""


def process_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


def find(*, nats_url: str | None = None, data: Path | None = None, environ: Mapping[str, str], folder: Path) -> Where:
    """By argument, environment, or the run file of an `infermq up` here or above. Raises: NotFound."""
    url = nats_url or environ.get("INFERMQ_NATS_URL")
    postgres_url = environ.get("INFERMQ_POSTGRES_URL")
    if url:
        return Where(nats_url=url, postgres_url=postgres_url)
    info = _run_info(data or _given(environ), folder)
    if info is None:
        raise NotFound(
            "no running infermq was found: start one with `infermq up`, or say where it is "
            "(--data, INFERMQ_DATA, --nats-url, INFERMQ_NATS_URL)"
        )
    return Where(nats_url=info.nats_url, postgres_url=postgres_url or info.postgres_url)


def _given(environ: Mapping[str, str]) -> Path | None:
    return Path(environ["INFERMQ_DATA"]) if environ.get("INFERMQ_DATA") else None


def _run_info(data: Path | None, folder: Path) -> RunInfo | None:
    places = [data] if data else [parent / DATA for parent in (folder, *folder.parents)]
    for place in places:
        info = read_run_file(place)
        if info is not None:
            return info
    return None


def catalog_text(file: Path) -> str:
    """Raises: CatalogError, OSError."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CatalogError(f"{file} is not UTF-8: its byte {error.start} cannot be read") from error


def read_run_file(data: Path) -> RunInfo | None:
    """What runs on this data, if it does."""
    try:
        info = msgspec.json.decode((data / RUN_FILE).read_bytes(), type=RunInfo)
    except (OSError, msgspec.DecodeError):
        return None
    return info if _is_running(info.pid) else None


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # another user's
    except (OSError, OverflowError):
        return False
    return True

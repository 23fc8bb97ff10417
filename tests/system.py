"""A whole system as a user starts it: `infermq up` in a process of its own."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import nats
import psutil
from nats.aio.client import Client as Nats
from typer.testing import CliRunner

from broker.cli.app import app
from broker.client import Client
from broker.config import KEY_FILE, RunInfo, nats_keys
from broker.core.accounts import Account
from broker.local.servers import nats_server, postgres_server
from tests.leaks import leaks, shown_by
from tests.sums import check_sums

CATALOG = """
[models.m]
endpoints = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
[[models.m.route]]
deployment = "d"

[deployments.d]
engine = "simulated"
max_concurrency = {slots}
reserve = 4
[deployments.d.price]
input = 1.0
output = 2.0
[deployments.d.options]
{options}
"""


def a_catalog_file(folder: Path, *, slots: int = 16, options: str = "") -> Path:
    path = folder / "catalog.toml"
    path.write_text(CATALOG.format(slots=slots, options=options))
    return path


SECRET = "hunter2"  # noqa: S105 - of servers that live as long as a test
"""The password of the servers of `a_guarded_system`."""


class System:
    """A running `infermq up`."""

    def __init__(self, process: subprocess.Popen[bytes], info: RunInfo, data: Path) -> None:
        self.process = process
        self.info = info
        self.data = data
        self.said: list[str] = []
        """All that commands against it printed."""
        self.shown: list[str] = []
        """What it showed in the end to whoever is on its machine."""

    @property
    def api_key(self) -> str | None:
        """The key of its user. None: it asks for none."""
        kept = self.data / KEY_FILE
        return kept.read_text().strip() if kept.is_file() else None

    def children(self, *words: str) -> list[psutil.Process]:
        """Its processes whose command line holds all these words."""
        everyone = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in everyone if set(words) <= set(words_of(child))]

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run an infermq command against it."""
        return self.noted(infermq(*words, "--data", str(self.data)))

    async def here(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        """Run an infermq command against it in this process, which saves the second that Python takes to start."""
        return self.noted(await asyncio.to_thread(infermq_here, *words, "--data", str(self.data), stdin=stdin))

    def noted(self, ran: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
        """Keep what a command printed."""
        self.said += [ran.stdout, ran.stderr]
        return ran


def words_of(process: psutil.Process) -> list[str]:
    """Its command line. One that has just ended has none."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def infermq(
    *words: str, stdin: str | None = None, cwd: Path | None = None, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("INFERMQ_")} | dict(environ or {})
    command = [sys.executable, "-m", "broker", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, input=stdin, env=env, cwd=cwd
    )


def infermq_here(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """As `infermq`, in this process. A bug of the command is raised."""
    unset = {name: None for name in os.environ if name.startswith("INFERMQ_")}
    ran = CliRunner(env=unset).invoke(app, words, input=stdin)
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    return subprocess.CompletedProcess(words, ran.exit_code, ran.stdout, ran.stderr)


@asynccontextmanager
async def a_system(data: Path, catalog: Path, *more: str, within_s: float = 45) -> AsyncIterator[System]:
    """Started, and stopped with all its processes, whatever happened to it meanwhile.

    In the end its sums must agree, and nothing that was printed or written may hold a secret or a prompt.
    """
    system = await start(data, catalog, *more, within_s=within_s)
    children = psutil.Process(system.process.pid).children(recursive=True)
    try:
        yield system
        if system.process.poll() is None:
            await check_sums(system.info.postgres_url)
            system.shown += await shown_by(system.info, system.children())
    finally:
        await stop(system)
        gone, alive = psutil.wait_procs(children, timeout=10)
        assert not alive, f"{alive} outlived their parent; {len(gone)} did not"
    assert leaks(data, (*system.said, *system.shown)) == []


@asynccontextmanager
async def a_guarded_system(folder: Path, catalog: Path, *more: str) -> AsyncIterator[System]:
    """As `a_system`, on a NATS and a Postgres with a password, which nothing may print or log, whatever happens."""
    settings = f'authorization {{ user: "u", password: "{SECRET}" }}\n'
    async with nats_server(folder / "nats", settings=settings) as nats_url, postgres_server(folder / "pg") as url:
        urls = {
            "--nats-url": nats_url.replace("//", f"//u:{SECRET}@"),
            "--postgres-url": url.replace("@", f":{SECRET}@"),
        }
        async with a_system(folder / "data", catalog, *more, *itertools.chain(*urls.items())) as system:
            yield system
            assert SECRET in system.info.nats_url
            assert SECRET in system.info.postgres_url
            assert not [child for child in system.children() if SECRET in " ".join(words_of(child))]
            private = system.data / "run.json"
            assert private.stat().st_mode & 0o077 == 0
        logs = [
            file.read_text(errors="replace") for file in system.data.rglob("*") if file.is_file() and file != private
        ]
        assert [text for text in (*system.said, *logs) if SECRET in text] == []


async def start(data: Path, catalog: Path, *more: str, within_s: float = 45) -> System:
    words = ["up", "--json", "--data", str(data), "--catalog", str(catalog), "--port", "0", *more]
    command = [sys.executable, "-m", "broker", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: ASYNC220 - it outlives us
    run_file = data / "run.json"
    run_file.unlink(missing_ok=True)
    try:
        await until(
            lambda: _is(run_file.exists() or process.poll() is not None), "the system is up", within_s=within_s
        )
    except AssertionError:
        process.kill()
        process.communicate()
        raise
    if process.poll() is not None:
        raise AssertionError((process.stderr.read() if process.stderr else b"").decode())
    return System(process, msgspec.json.decode(run_file.read_bytes(), type=RunInfo), data)


async def _is(value: bool) -> bool:  # noqa: FBT001 - a condition
    return value


async def stop(system: System) -> None:
    if system.process.poll() is None:
        system.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(system.process.wait, 40)
        except subprocess.TimeoutExpired:
            system.process.kill()
    system.said += [text.decode(errors="replace") for text in system.process.communicate()]


async def until(holds: Callable[[], Awaitable[bool]], what: str, *, within_s: float = 30.0) -> None:
    """Wait for a condition of another process."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if await holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {within_s} s: {what}")


@asynccontextmanager
async def a_client(system: System) -> AsyncIterator[Client]:
    async with Client.connect(system.info.nats_url, api_key=system.api_key) as client:
        yield client


@asynccontextmanager
async def among_brokers(system: System) -> AsyncIterator[Nats]:
    """Connect where the streams are, as brokers do."""
    keys = nats_keys({}, data=system.data)
    seed = None if keys is None else keys.user_seed(Account.BROKERS)
    nc = await nats.connect(system.info.nats_url, nkeys_seed_str=seed)
    try:
        yield nc
    finally:
        await nc.close()

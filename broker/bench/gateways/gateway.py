"""Starts what `bench http` measures beside infermq, each as a gateway that answers chats at a URL.

LiteLLM's proxy and SMG run in an environment of their own (`make bench-peers`), in front of the backend. They log as little
as they can, check no key but the one that LiteLLM demands, and keep no record.
"""

import asyncio
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from broker.bench.gateways.backend import MODEL
from broker.bench.gateways.pipeline import pipeline
from broker.bench.system import child
from broker.errors import Unavailable
from broker.local.servers import Child, nats_server, spawn

CHAT_PATH = "/v1/chat/completions"
BARE_ASGI, BARE_PIPELINE, LITELLM, SMG = "bare ASGI", "bare pipeline", "LiteLLM", "SMG"
PROGRAMS = Path(".venv-bench/bin")
"""Where `make bench-peers` puts LiteLLM and SMG, seen from the project's root."""
_START_S = 120.0
"""How long a gateway may take to start. LiteLLM takes a quarter of a minute."""
_LOOK_S = 0.2
_KEY = "sk-not-a-secret"
_LITELLM_CONFIG = """\
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: "{backend}/v1", api_key: none}}
litellm_settings: {{telemetry: false, turn_off_message_logging: true}}
general_settings: {{master_key: {key}, disable_spend_logs: true}}
"""
_LITELLM_ENV = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
_PROBE = b'{"model":"%b","messages":[{"role":"user","content":"are you there?"}]}' % MODEL.encode()


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """Something that answers chats at a URL."""

    name: str
    url: str
    headers: Mapping[str, str] = {}
    pids: Sequence[int]
    """Its processes, whose CPU time is counted, with their children."""
    share: float = 1.0
    """How many of the requests it is sent: one that is slow needs fewer to be measured."""


@asynccontextmanager
async def bare_asgi() -> AsyncIterator[Gateway]:
    async with child("-m", "broker.bench.gateways.backend") as talk:
        yield Gateway(name=BARE_ASGI, url=talk.ready["url"], pids=[talk.pid])


@asynccontextmanager
async def bare_pipeline(folder: Path) -> AsyncIterator[Gateway]:
    servers: list[Child] = []
    async with nats_server(folder / "nats", started=servers.append) as url, pipeline(url) as (front, worker):
        pids = [front.pid, worker.pid, *(one.process.pid for one in servers)]
        yield Gateway(name=BARE_PIPELINE, url=front.ready["url"], pids=pids)


@asynccontextmanager
async def litellm(folder: Path, backend: str) -> AsyncIterator[Gateway]:
    """Run LiteLLM's proxy with one worker."""
    config = folder / "litellm.yaml"
    config.write_text(_LITELLM_CONFIG.format(model=MODEL, backend=backend, key=_KEY))
    port = _free_port()
    words = ("--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    async with _started(LITELLM, [_program("litellm"), *words], folder, port, key=_KEY, env=_LITELLM_ENV) as gateway:
        yield msgspec.structs.replace(gateway, share=0.05)


@asynccontextmanager
async def smg(folder: Path, backend: str) -> AsyncIterator[Gateway]:
    """Run the gateway of SGLang's makers, which is written in Rust."""
    port, metrics = _free_port(), _free_port()
    words = ("launch", "--worker-urls", backend, "--host", "127.0.0.1", "--port", str(port), "--log-level", "error")
    more = (
        "--backend",
        "openai",
        "--policy",
        "round_robin",
        "--disable-load-monitoring",
        "--prometheus-port",
        str(metrics),
    )
    async with _started(SMG, [_program("smg"), *words, *more], folder, port) as gateway:
        yield gateway


def missing() -> list[str]:
    """Name the programs that are not installed."""
    return [name for name in ("litellm", "smg") if not (PROGRAMS / name).is_file()]


def _program(name: str) -> str:
    return str((PROGRAMS / name).absolute())


@asynccontextmanager
async def _started(
    name: str,
    command: Sequence[str],
    folder: Path,
    port: int,
    *,
    key: str | None = None,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Gateway]:
    """Run a gateway in a process, until the block ends. Raises: Unavailable, if it does not answer."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    outer = {"PYTHONPATH": "", **(env or {})}
    process = spawn(name, command, log=folder / f"{name}.log", env=outer)
    try:
        async with asyncio.timeout(_START_S):
            while not await _answers(port, headers):
                if not process.is_running():
                    raise process.failed()
                await asyncio.sleep(_LOOK_S)
        yield Gateway(name=name, url=f"http://127.0.0.1:{port}", headers=headers, pids=[process.process.pid])
    except TimeoutError as error:
        raise process.failed() from error
    finally:
        await process.stop(signal.SIGTERM, within_s=10)


async def _answers(port: int, headers: Mapping[str, str]) -> bool:
    """Say whether a gateway answers a chat."""
    lines = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
    head = f"POST {CHAT_PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\n{lines}content-type: application/json\r\nconnection: close\r\n"
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{head}content-length: {len(_PROBE)}\r\n\r\n".encode() + _PROBE)
        status = await reader.readline()
        writer.close()
    except OSError:
        return False
    return b" 200 " in status


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def gateways(*, with_peers: bool) -> AsyncIterator[list[Gateway]]:
    """Run all of them. Raises: Unavailable, if a peer is not installed."""
    if with_peers and (names := missing()):
        raise Unavailable(
            "peers", f"{', '.join(names)} not in {PROGRAMS}: make bench-peers, and run this in its folder"
        )
    with tempfile.TemporaryDirectory(prefix="infermq-bench-") as name:
        folder = Path(name)
        async with bare_asgi() as backend, bare_pipeline(folder) as below:
            if not with_peers:
                yield [backend, below]
                return
            async with litellm(folder, backend.url) as slow, smg(folder, backend.url) as fast:
                yield [backend, below, slow, fast]

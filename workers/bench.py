"""Drives an engine directly, without a broker, as a baseline for benchmarks.

`python -m workers.bench --catalog FILE --deployment NAME` reads one JSON object a line, such as
`{"requests": 64, "concurrency": 8, "bodies": [{…}]}`, runs that many requests with these bodies in turn (`%d` in a body
becomes the request's number), and prints one line with the times. After `{"serve": "nats://…"}` the same engine also serves
its deployment as a worker.
"""

import asyncio
import json
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from schemas.catalog import parse
from schemas.endpoints import CHAT
from schemas.outcome import Succeeded
from workers.cli import die_with_parent, serve
from workers.config import WorkerConfig
from workers.engines import factory
from workers.ports import Chunk, Engine, EngineRequest, Overrides


def main(
    *,
    catalog: Annotated[Path, typer.Option(help="The catalog file.")],
    deployment: Annotated[str, typer.Option(help="Its deployment.")],
) -> None:
    """Drive an engine directly."""
    die_with_parent()
    logging.basicConfig(level=logging.WARNING)
    uvloop.run(_serve(catalog, deployment))


async def _serve(catalog: Path, name: str) -> None:
    deployment = parse(catalog.read_text()).deployments[name]
    engine = factory(deployment.engine)(deployment, Overrides())
    await engine.start()
    _print_json({"ready": True})
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.close)
        while line := await asyncio.to_thread(sys.stdin.readline):
            ask = json.loads(line)
            if "serve" in ask:
                await stack.enter_async_context(
                    _serving(WorkerConfig(nats_url=ask["serve"], deployment=name, name="direct"), engine)
                )
                _print_json({"slots": engine.capacity().slots})
            else:
                _print_json(await _run(engine, ask))


@asynccontextmanager
async def _serving(config: WorkerConfig, engine: Engine) -> AsyncIterator[None]:
    """Serve the deployment with this engine while the block runs."""
    is_ready = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(serve(config, ready=lambda *_: is_ready.set(), started=engine))
        await is_ready.wait()
        yield
        serving.cancel()


def _print_json(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def _run(engine: Engine, ask: dict[str, Any]) -> dict[str, Any]:
    """Run the requests of one line; return the total time, the latency of each and the tokens."""
    templates, numbers = [json.dumps(body) for body in ask["bodies"]], iter(range(ask["requests"]))
    latencies: list[float] = []
    tokens = 0

    async def run_one(number: int) -> None:
        nonlocal tokens
        body = templates[number % len(templates)].replace("%d", str(number)).encode()
        began = time.perf_counter()
        request = EngineRequest(f"d{number}", "direct", CHAT, body, 1024, ask.get("streamed", False), 1)
        step = None
        async for step in engine.run(request):
            if isinstance(step, Chunk) and ask.get("streamed"):
                latencies.append((time.perf_counter() - began) * 1000)
                break
        if not ask.get("streamed"):
            assert isinstance(step, Succeeded), step  # noqa: S101 - a benchmark of failures is none
            latencies.append((time.perf_counter() - began) * 1000)
            tokens += step.usage.output_tokens

    async def run_in_turn() -> None:
        for number in numbers:
            await run_one(number)

    began = time.perf_counter()
    await asyncio.gather(*(run_in_turn() for _ in range(ask["concurrency"])))
    return {"seconds": time.perf_counter() - began, "latencies_ms": latencies, "output_tokens": tokens}


if __name__ == "__main__":
    typer.run(main)

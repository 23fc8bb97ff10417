"""A system with something of everything: batches, failures, retries, dead letters, pauses."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from schemas.api import State
from tests.builders import CHAT
from tests.captures.screen import Screens, screens
from tests.system import System, a_client, a_system, among_brokers, until

CATALOG = """
[models.small-chat]
[[models.small-chat.route]]
deployment = "simulated"
[models.small-chat.retry]
max_attempts = 2
backoff_base_s = 0.01
backoff_cap_s = 0.02

[models.slow-chat]
[[models.slow-chat.route]]
deployment = "slow"

[models.paused-chat]
[[models.paused-chat.route]]
deployment = "simulated"

[models.remote-chat]
[[models.remote-chat.route]]
deployment = "remote"

[deployments.simulated]
engine = "simulated"
max_concurrency = 8
reserve = 2
[deployments.simulated.price]
input = 1.0
output = 2.0
[deployments.simulated.options]
output_tokens = 8
[[deployments.simulated.options.failures]]
match = "boom"
kind = "engine_fault"
times = 0
[[deployments.simulated.options.failures]]
match = "bad"
kind = "bad_request"
times = 0

[deployments.slow]
engine = "simulated"
max_concurrency = 1
reserve = 0
[deployments.slow.options]
output_tokens = 300
decode_tokens_per_s = 1

[deployments.remote]
engine = "openai"
base_url = "http://127.0.0.1:9/v1"
source = "remote"
key_env = "NOBODY_SET_THIS_KEY"
"""


@dataclass(frozen=True, slots=True)
class Scene:
    system: System
    screens: Screens
    folder: Path
    names: dict[str, str]
    """The ids of things, by the words that stand for them in uses."""


def a_line(number: int, text: str, model: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 300}
    line = {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body}
    return json.dumps(line) + "\n"


@asynccontextmanager
async def a_scene(folder: Path) -> AsyncIterator[Scene]:
    """Start a system, and fill it."""
    catalog = folder / "catalog.toml"
    catalog.write_text(CATALOG)
    async with a_system(folder / "data", catalog) as system, screens(folder, system.data) as made:
        names = await _fill(system, folder)
        yield Scene(system, made, folder, names)
        for batch in ("RUNNING", "WAITING"):
            await system.here("batch", "cancel", names[batch], "--wait")


async def _fill(system: System, folder: Path) -> dict[str, str]:
    done, slow, behind, bad = (folder / f"{name}.jsonl" for name in ("done", "slow", "behind", "bad"))
    texts = ["Say hello."] * 16 + ["a bad one"] * 2 + ["boom"] * 2
    done.write_text("".join(a_line(number, text, "small-chat") for number, text in enumerate(texts)))
    slow.write_text("".join(a_line(number, f"Count to {number}.", "slow-chat") for number in range(20)))
    behind.write_text("".join(a_line(number, f"Wait for {number}.", "slow-chat") for number in range(5)))
    bad.write_text(a_line(0, "x", "small-chat") + "nope\n" + a_line(1, "x", "no-such-model"))
    (folder / "fixed.jsonl").write_text(a_line(16, "a good one", "small-chat"))

    first = await _submitted(system, done, "--wait")
    running = await _submitted(system, slow)
    waiting = await _submitted(system, behind)
    await system.here("pause", "model", "paused-chat", "--reason", "an upgrade of its weights, until Tuesday")
    retry = await system.here("batch", "retry", first, "--code", "bad_request", "--wait", "--json")
    replay = await system.here("replay", "--batch", first, "--rate", "all", "--wait", "--json")
    await _message_that_is_no_job(system)
    await system.here("tenant", "create", "acme", "--label", "Acme Inc.")
    async with a_client(system) as client:
        paused = await client.submit("paused-chat", {"messages": [{"role": "user", "content": "x"}]})
        cancelled = await client.submit("paused-chat", {"messages": [{"role": "user", "content": "y"}]})
        jobs = {result.state: result.job async for result in client.results(UUID(first))}

        async def is_there() -> bool:
            letters = json.loads((await system.here("dead", "list", "--each", "--json")).stdout)["letters"]
            slow_ones = (await client.status()).backlog
            return len(letters) >= 3 and any(one.model == "slow-chat" for one in slow_ones)

        await until(is_there, "the scene is set")
        letters = json.loads((await system.here("dead", "list", "--each", "--json")).stdout)["letters"]
        instructions = json.loads((await system.here("instruction", "list", "--json")).stdout)["instructions"]
    return {
        "BATCH": first,
        "RUNNING": running,
        "WAITING": waiting,
        "RETRY": json.loads(retry.stdout)["batch"]["id"],
        "REPLAY": json.loads(replay.stdout)["batch"]["id"],
        "JOB": str(jobs[State.SUCCEEDED]),
        "FAILED": str(jobs[State.FAILED]),
        "PAUSED": str(paused),
        "CANCELLED": str(cancelled),
        "KEY": await _key(system),
        "REVOKED": await _key(system),
        "WEBHOOK": await _webhook(system),
        "LETTER": next(one["id"] for one in letters if one["what"] == "message"),
        "DEAD": next(one["id"] for one in letters if one["what"] == "job"),
        "INSTRUCTION": instructions[0]["id"],
        "NOBODY": "0199aa7e-6c3f-7d21-8f4b-5c1e9a0d2b34",
    }


async def _submitted(system: System, file: Path, *more: str) -> str:
    ran = await asyncio.to_thread(system.command, "submit", str(file), "--json", *more)
    batch: str = json.loads(ran.stdout)["batch"]["id"]
    return batch


async def _webhook(system: System) -> str:
    made = await system.here("webhook", "create", "https://hooks.example/done", "--label", "the app", "--json")
    return str(json.loads(made.stdout)["webhook"]["id"])


async def _key(system: System) -> str:
    ran = await system.here("key", "create", "--role", "producer", "--json")
    key: str = json.loads(ran.stdout)["key"]["id"]
    return key


async def _message_that_is_no_job(system: System) -> None:
    async with among_brokers(system) as nc:
        await nc.jetstream().publish("infermq.submit.bulk.small-chat.default.default", b'{"endpoint": 5}')

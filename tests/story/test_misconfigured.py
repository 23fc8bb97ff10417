"""Deployments that are configured wrong say so within seconds, by `status`, `doctor` and the log, at no job's cost."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from schemas.api import State
from tests.contract.test_openai import RESPONSE, Api, Script, answer, stream
from tests.contract.test_probe import REFUSED, Chooses
from tests.system import System, a_client, a_system, until

pytestmark = [pytest.mark.story, pytest.mark.commands, pytest.mark.timeout(120)]
A_BODY = {"messages": [{"role": "user", "content": "x"}]}
WRONG: dict[str, tuple[Script, str]] = {
    "wrong-key": (answer({"error": {"message": "Incorrect API key"}}, status=401), "401: Incorrect API key"),
    "wrong-path": (answer({"detail": "Not Found"}, status=404), "404: Not Found"),
    "moved": (
        answer(status=308, location="https://elsewhere.example/v1/chat/completions"),
        "moved to https://elsewhere",
    ),
}


def picky(_: str, body: dict[str, object]) -> Script:
    """An API that takes `max_completion_tokens` only."""
    if "max_tokens" in body:
        return answer({"error": REFUSED}, status=400)
    halves = [
        {"id": "g", "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": reason}], "usage": None}
        for content, reason in (("Hi \ud83d", None), ("\ude00.", "stop"))
    ]
    return stream(*halves) if body.get("stream") else answer(RESPONSE)


@asynccontextmanager
async def listening(api: Api) -> AsyncIterator[str]:
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


def entry(name: str, url: str) -> str:
    return f"""
[models.{name}]
[[models.{name}.route]]
deployment = "{name}"
[deployments.{name}]
engine = "openai"
base_url = "{url}"
source = "x"
key_env = ""
"""


async def reasons(system: System) -> dict[str, str]:
    """What holds each model, by `infermq status`."""
    models = json.loads((await system.here("status", "--json")).stdout)["models"]
    return {model["model"]: json.dumps(model) for model in models}


async def test_what_is_configured_wrong_is_named_within_seconds_and_costs_no_attempt(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        apis = {name: Api(script) for name, (script, _) in WRONG.items()} | {"picky": Chooses(picky)}
        urls = {name: await stack.enter_async_context(listening(api)) for name, api in apis.items()}
        catalog = tmp_path / "catalog.toml"
        catalog.write_text("".join(entry(name, url) for name, url in urls.items()))
        system = await stack.enter_async_context(a_system(tmp_path / "data", catalog))
        client = await stack.enter_async_context(a_client(system))
        began = time.monotonic()

        async def is_said() -> bool:
            said = await reasons(system)
            return all(words in said.get(name, "") for name, (_, words) in WRONG.items())

        await until(is_said, "status names what is wrong", within_s=10)
        doctor = await system.here("doctor")
        logs = "".join(file.read_text(errors="replace") for file in (tmp_path / "data").rglob("*.log"))
        named_s = time.monotonic() - began
        jobs = {name: await client.submit(name, A_BODY) for name in urls}
        asked = await asyncio.to_thread(system.command, "infer", "picky", "Hello")

        async def has_run() -> bool:
            return (await client.job(jobs["picky"])).state is State.SUCCEEDED

        await until(has_run, "the job of the picky model has run")
        waiting = {name: await client.job(jobs[name]) for name in WRONG}

        assert named_s < 10
        for name, (_, words) in WRONG.items():
            assert words in doctor.stdout
            assert words in logs
            assert waiting[name].state is State.QUEUED
            assert not [one for one in waiting[name].executions if one.failure != "denied"]
        assert len((await client.job(jobs["picky"])).executions) == 1
        assert (asked.stdout, asked.stderr, asked.returncode) == ("Hi 😀.\n", "", 0)

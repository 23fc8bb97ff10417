"""autobatcher collects the requests of a program into batches, as it is: what it asks by the Batch API, it is answered."""

import json
import os
import subprocess

import pytest

from tests.clients.running import ROOT, System

PROGRAM = """
import asyncio, json, sys
from autobatcher import AsyncOpenAI, BatchOpenAI
import openai

events = []
options = dict(
    base_url=sys.argv[1], api_key=sys.argv[2], completion_window="24h", batch_window_seconds=0.3,
    poll_interval_seconds=0.2, batch_metadata={"for": "a test"}, batch_event_handler=events.append,
)

def ask(client, text, model="echo"):
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], max_completion_tokens=4
    )

async def main():
    async with BatchOpenAI(**options) as client:
        assert isinstance(client, openai.AsyncOpenAI)
        texts = [f"Hello {n}." for n in range(40)] + ["cannot be answered", "breaks it"]
        asked = [ask(client, text) for text in texts]
        embedded = [client.embeddings.create(model="echo", input=f"{n}") for n in range(5)]
        done = await asyncio.gather(*asked, *embedded, return_exceptions=True)
        answers, vectors = done[:42], done[42:]
        raw = await client.chat.completions.with_raw_response.create(
            model="echo", messages=[{"role": "user", "content": "Hello."}]
        )
        models = [one.id async for one in client.models.list()]
    async with AsyncOpenAI(**options) as client:
        refused = await asyncio.gather(ask(client, "Hello.", "none"), return_exceptions=True)
    print(json.dumps({
        "answers": [getattr(one, "object", type(one).__name__) for one in answers],
        "vectors": [len(one.data[0].embedding) for one in vectors],
        "raw": raw.parse().choices[0].finish_reason,
        "refused": str(refused[0]),
        "models": models,
        "events": [(one["event"], one.get("endpoint"), one.get("request_count")) for one in events],
        "batches": [one["batch_id"] for one in events if one["event"] == "batch_submitted"],
    }))

asyncio.run(main())
"""
CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"


@pytest.mark.timeout(90)
def test_requests_are_collected_into_batches_and_each_has_its_answer(system: System) -> None:
    ran = subprocess.run(
        [ROOT / ".venv-autobatcher" / "bin" / "python", "-c", PROGRAM, system.base_url, system.api_key],
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")},
    )

    assert ran.returncode == 0, ran.stderr
    got = json.loads(ran.stdout)
    assert got["answers"] == [*["chat.completion"] * 40, "Exception", "Exception"], ran.stderr
    assert (got["vectors"], got["raw"]) == ([8] * 5, "stop")
    assert got["refused"] == f"Batch {got['batches'][-1]} failed"
    assert "echo" in got["models"]
    assert [tuple(one[1:]) for one in got["events"] if one[0] == "batch_submitted"] == [
        (CHAT, 42), (EMBEDDINGS, 5), (CHAT, 1), (CHAT, 1),
    ]  # fmt: skip
    shown = json.loads(system.command("batch", "show", got["batches"][0].removeprefix("batch_"), "--json"))
    assert (shown["jobs"], shown["metadata"]) == (42, {"for": "a test"})

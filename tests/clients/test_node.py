"""The official client of OpenAI in JavaScript: chat, streams, responses, errors, and leaving."""

import json
import os
import subprocess
from pathlib import Path

from tests.clients.running import System

PROGRAM = Path(__file__).parent / "node" / "ask.js"


def test_the_client_in_javascript_gets_what_the_one_in_python_gets(system: System) -> None:
    ran = subprocess.run(
        ["node", str(PROGRAM), system.base_url, "echo"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "OPENAI_API_KEY": system.api_key},
    )

    assert ran.returncode == 0, ran.stderr
    got = json.loads(ran.stdout)
    assert system.job(got["job"])["state"] == "succeeded"
    assert [len(got[name].split()) for name in ("whole", "streamed", "response")] == [16, 16, 16]
    assert got["usage"]["completion_tokens"] == 16
    assert got["called"] == "look_up"
    assert got["dimensions"] == [8, 8]
    assert {"caller", "echo", "small"} <= set(got["models"])
    assert system.job(got["left"])["state"] == "cancelled"
    assert got["errors"] == [
        ["NotFoundError", 404, "unknown_model", True],
        ["BadRequestError", 400, "max_tokens_out_of_range", True],
        ["AuthenticationError", 401, "bad_key", True],
    ]

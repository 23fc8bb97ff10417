"""The official client of OpenAI in JavaScript: chat, streams, responses, errors, and leaving; files and batches."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.clients.running import System

FOLDER = Path(__file__).parent / "node"


def what_it_got(system: System, program: str, word: str) -> dict[str, Any]:
    ran = subprocess.run(
        ["node", str(FOLDER / program), system.base_url, word],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "OPENAI_API_KEY": system.api_key},
    )
    assert ran.returncode == 0, ran.stderr
    got: dict[str, Any] = json.loads(ran.stdout)
    return got


def test_the_client_in_javascript_gets_what_the_one_in_python_gets(system: System) -> None:
    got = what_it_got(system, "ask.js", "echo")
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


def test_files_and_batches_are_used_from_javascript(system: System, tmp_path: Path) -> None:
    got = what_it_got(system, "batch.js", str(tmp_path))

    file, done = got["file"], got["done"]
    assert (got["shown"], got["sent"]) == (file, got["source"])
    assert (file["filename"], file["expires_at"] - file["created_at"]) == ("requests.jsonl", 7200)
    assert (done["status"], done["model"], done["metadata"]) == ("completed", "echo", {"for": "a test"})
    assert done["request_counts"] == {"total": 31, "completed": 30, "failed": 1}
    assert {line["custom_id"] for line in got["output"]} == {f"n{n}" for n in range(30)}
    assert [(line["custom_id"], line["response"]["status_code"]) for line in got["errors"]] == [("n30", 400)]
    assert got["outputFile"]["expires_at"] - done["completed_at"] == 7200
    assert got["part"] == '{"id":"bat'
    assert (got["failed"]["status"], got["failed"]["errors"]["data"][0]["line"]) == ("failed", 2)
    assert got["cancelling"]["status"] in {"cancelling", "cancelled"}
    assert got["cancelled"]["status"] == "cancelled"
    assert len(set(got["files"])) == len(got["files"]) >= 3
    assert got["batches"][:3] == [got["cancelled"]["id"], got["failed"]["id"], done["id"]]
    assert (got["oldest"], got["more"]) == (1, True)
    assert got["wrong"] == WRONG
    assert [one["deleted"] for one in got["deleted"]] == [True] * 3
    assert [one["id"] for one in got["deleted"]] == [file["id"], done["output_file_id"], done["error_file_id"]]


WRONG = {
    "file": ["NotFoundError", 404, "unknown_file", "id"],
    "content": ["NotFoundError", 404, "unknown_file", "id"],
    "batch": ["NotFoundError", 404, "unknown_batch", "id"],
    "input": ["NotFoundError", 404, "unknown_file", "input_file_id"],
    "purpose": ["BadRequestError", 400, "wrong_purpose", "input_file_id"],
    "upload": ["BadRequestError", 400, "bad_request", "purpose"],
    "endpoint": ["BadRequestError", 400, "bad_url", "endpoint"],
    "over": ["ConflictError", 409, "batch_completed", "id"],
    "deleted": ["NotFoundError", 404, "unknown_file", "id"],
}

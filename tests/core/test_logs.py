"""What processes log: text or JSON, and no secret of a URL."""

import json
import subprocess
import sys

import pytest

CODE = """
import logging, sys
from schemas.logs import LogFormat, LogLevel, log_to_stderr
log_to_stderr(LogFormat(sys.argv[1]), LogLevel(sys.argv[2]))
logging.getLogger("quiet").info("an everyday line")
try:
    raise ValueError("nats://u:hunter2@h is no port")
except ValueError:
    logging.getLogger("a library").exception("cannot use %s", "postgresql://u:hunter2@h/x")
"""


def logged(how: str, level: str) -> str:
    command = [sys.executable, "-c", CODE, how, level]
    return subprocess.run(command, check=True, capture_output=True, text=True).stderr


@pytest.mark.parametrize("how", ["text", "json"])
def test_a_log_shows_no_password_whoever_writes_it(how: str) -> None:
    text = logged(how, "info")

    assert "postgresql://u:***@h/x" in text
    assert "ValueError" in text
    assert "hunter2" not in text


def test_json_has_an_object_a_line() -> None:
    everyday, bad = map(json.loads, logged("json", "info").splitlines())

    assert (everyday["level"], everyday["logger"], everyday["message"]) == ("info", "quiet", "an everyday line")
    assert bad["level"] == "error"
    assert bad["error"].startswith("Traceback")
    assert bad["time"].endswith("Z")


def test_a_level_leaves_out_what_is_less() -> None:
    assert "everyday" not in logged("text", "warning")

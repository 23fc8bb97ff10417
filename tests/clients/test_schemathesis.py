"""Requests that a tester makes up out of the OpenAPI document: none ends the server or hangs, and answers are as it says."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.running import System, a_system

CATALOG = """
[models.echo]
[[models.echo.route]]
deployment = "echo"

[deployments.echo]
engine = "simulated"
"""
EACH = 8
"""Examples of each operation and kind. Whoever looks for more raises it: some thousand take minutes."""
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[System]:
    """Its own, since what is made up may also apply a catalog without a model."""
    with a_system(tmp_path, CATALOG) as running:
        yield running


@pytest.mark.timeout(280)
def test_each_request_that_is_made_up_is_answered_as_the_document_says(alone: System, tmp_path: Path) -> None:
    words = [
        *(str(Path(sys.executable).with_name("st")), "run", f"{alone.url}/openapi.json"),
        *("--header", f"Authorization: Bearer {alone.api_key}"),
        *("--checks", ",".join(CHECKS), "--max-examples", str(EACH), "--request-timeout", "20"),
        *("--continue-on-failure", "--seed", "1", "--generation-database", "none", "--no-color"),
    ]
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=270, check=False)

    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
    counted = re.search(r"(\d+) generated", ran.stdout)
    assert counted is not None, ran.stdout[-3000:]
    assert int(counted[1]) >= 200

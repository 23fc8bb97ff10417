"""What docs/http.md shows works: its programs run as they are written, but for the address, the key and the model."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.running import ROOT, System

PAGE = (ROOT / "docs" / "http.md").read_text()
SNIPPETS = [
    (language, text)
    for language, text in re.findall(r"^```(python|js)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    if "import" in text
]


def test_the_snippets_are_found() -> None:
    assert len(SNIPPETS) >= 5


@pytest.mark.parametrize(("language", "text"), SNIPPETS, ids=[f"{n}-{one[0]}" for n, one in enumerate(SNIPPETS)])
def test_a_snippet_runs(system: System, tmp_path: Path, language: str, text: str) -> None:
    written = text.replace("http://127.0.0.1:14223", system.url).replace("imq_…", system.api_key)
    file = tmp_path / ("snippet.py" if language == "python" else "snippet.mjs")
    file.write_text(written.replace("small-chat", "echo"))
    if language == "js":
        (tmp_path / "node_modules").symlink_to(Path(__file__).parent / "node" / "node_modules")

    ran = subprocess.run(
        [sys.executable if language == "python" else "node", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )

    assert ran.returncode == 0, ran.stderr

"""Starts `infermq up` out of the environment that it is installed in, and runs commands against it."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
INFERMQ = ROOT / ".venv" / "bin" / "infermq"
_ENVIRON = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("INFERMQ_", "OPENAI_", "ANTHROPIC_")) and name not in {"VIRTUAL_ENV", "PYTHONPATH"}
}


@dataclass(frozen=True)
class System:
    """A running `infermq up`, as whoever uses its API knows it."""

    data: Path
    url: str
    """Where the API is, without `/v1`."""
    api_key: str

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def command(self, *words: str) -> str:
        """Run an infermq command against it, which must succeed. Return what it printed."""
        ran = subprocess.run(
            [INFERMQ, *words, "--data", str(self.data)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=_ENVIRON,
        )
        assert ran.returncode == 0, f"{words}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def job(self, request_id: str | None) -> dict[str, Any]:
        """Return the job of a request, once it is in the ledger."""
        assert request_id, "the answer has no x-request-id"
        shown: dict[str, Any] = {}

        def is_there() -> bool:
            shown.update(json.loads(self.command("job", "show", request_id, "--json")))
            return shown["settled_ms"] is not None

        until(is_there, f"the job {request_id} has ended")
        return shown


@contextmanager
def a_system(folder: Path, catalog: str, *more: str, environ: Mapping[str, str] | None = None) -> Iterator[System]:
    """Start it, with keys, and stop it with all its processes in the end."""
    data, file = folder / "data", folder / "catalog.toml"
    file.write_text(catalog)
    command = [str(INFERMQ), "up", "--json", "--data", str(data), "--catalog", str(file), "--port", "0", *more]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**_ENVIRON, **(environ or {})})
    run_file = data / "run.json"
    try:
        until(lambda: run_file.exists() or process.poll() is not None, "the system is up", within_s=60)
        assert process.poll() is None, (folder / "up.log").read_text()
        url = json.loads(run_file.read_text())["api"]
        yield System(data, url, (data / "key").read_text().strip())
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def until(holds: Callable[[], bool], what: str, *, within_s: float = 30) -> None:
    """Wait for a condition of another process."""
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        time.sleep(0.05)

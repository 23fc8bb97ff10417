"""`infermq up` before it is up, and how others find it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from broker.config import RunInfo, read_run_file
from tests.system import a_catalog_file, until

pytestmark = pytest.mark.story


def an_info(pid: int) -> bytes:
    return msgspec.json.encode(RunInfo(pid=pid, nats_url="", postgres_url="", broker_http="", workers={}))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Every user may read it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_a_system_of_another_user_runs(open_folder: Path) -> None:
    (open_folder / "run.json").write_bytes(an_info(1))
    look = (
        "import os, sys, pathlib; from broker.config import read_run_file; os.geteuid() or os.setuid(65534); "
        "print(read_run_file(pathlib.Path(sys.argv[1])) is not None)"
    )

    seen = subprocess.run([sys.executable, "-c", look, str(open_folder)], capture_output=True, text=True, check=True)

    assert seen.stdout == "True\n"


@pytest.mark.parametrize("pid", [2**22 + 1, 2**40])
def test_a_system_whose_process_is_gone_does_not_run(tmp_path: Path, pid: int) -> None:
    (tmp_path / "run.json").write_bytes(an_info(pid))

    assert read_run_file(tmp_path) is None


def a_worker_of(parent: psutil.Process) -> psutil.Process | None:
    for child in parent.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "workers" in child.cmdline():
                return child
    return None


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = ["up", "--data", str(tmp_path / "data"), "--catalog", str(a_catalog_file(tmp_path))]
    with subprocess.Popen([sys.executable, "-m", "broker", *command], stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.timeout(60)
async def test_a_signal_stops_it_while_a_model_loads(starting: subprocess.Popen[str]) -> None:
    parent = psutil.Process(starting.pid)

    async def is_loading() -> bool:
        worker = a_worker_of(parent)
        if worker is not None:
            os.kill(worker.pid, signal.SIGSTOP)
        return worker is not None

    await until(is_loading, "a worker was started")
    children = parent.children(recursive=True)

    starting.send_signal(signal.SIGTERM)
    _, said = await asyncio.to_thread(starting.communicate, timeout=20)

    assert starting.returncode == 0
    assert "stopped before everything was up" in said
    assert not psutil.wait_procs(children, timeout=5)[1]

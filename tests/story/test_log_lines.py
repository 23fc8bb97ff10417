"""What an operator reads in the broker's log when a worker dies and its work goes to a spare: a line for each."""

import asyncio
import re
import signal
import urllib.request
from pathlib import Path

import pytest

from tests.system import System, a_system, until

pytestmark = [pytest.mark.story, pytest.mark.commands, pytest.mark.timeout(120)]
CATALOG = """
[models.m]
[[models.m.route]]
deployment = "first"
[[models.m.route]]
deployment = "spare"
weight = 0

[deployments.first]
engine = "simulated"
reserve = 4
[deployments.first.options]
failures = [{ match = "elsewhere", kind = "engine_fault" }]

[deployments.spare]
engine = "simulated"
reserve = 4
"""


def lines(system: System, pattern: str) -> list[str]:
    """The lines of the broker's log that match, from their level on."""
    text = "".join(file.read_text() for file in system.data.glob("**/broker*.log"))
    return [line.split(" ", 2)[2] for line in text.splitlines() if re.search(pattern, line)]


async def said(system: System, pattern: str) -> str:
    """Wait until the log has a line, and return it: there is no other."""

    async def is_there() -> bool:
        return bool(lines(system, pattern))

    await until(is_there, f"the log says {pattern}")
    [line] = lines(system, pattern)
    return line


async def test_a_worker_that_falls_silent_and_comes_back_is_told_in_three_lines(tmp_path: Path) -> None:
    (tmp_path / "catalog.toml").write_text(CATALOG)
    async with a_system(tmp_path / "data", tmp_path / "catalog.toml") as system:
        [worker] = system.children("first")
        moved = await asyncio.to_thread(system.command, "infer", "m", "elsewhere")
        move = await said(system, "requests moved")
        await until(lambda: has_looked(system), "the leader has looked at its pools")
        worker.send_signal(signal.SIGSTOP)
        try:
            died = await said(system, "worker died")
            fell = await said(system, "spares serve")
            answered = await asyncio.to_thread(system.command, "infer", "m", "Hello.")
        finally:
            worker.send_signal(signal.SIGCONT)
        back = await said(system, "spares rest")

    assert (moved.returncode, answered.returncode) == (0, 0), moved.stderr + answered.stderr
    assert re.fullmatch(r"WARNING \S+ requests moved from=first to=spare why=engine_fault count=1", move)
    assert re.fullmatch(r"ERROR \S+ worker died worker=first-1-\d+ deployment=first held=0 left=0", died)
    assert re.fullmatch(r"WARNING \S+ spares serve model=m deployments=spare: no worker serves first", fell)
    assert re.fullmatch(r"WARNING \S+ spares rest model=m deployments=first: the regular ones serve again", back)


async def has_looked(system: System) -> bool:
    page = await asyncio.to_thread(metrics, system.info.broker_http)
    return bool(re.search(r'infermq_credits{deployment="first"} [1-9]', page))


def metrics(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:  # noqa: S310 - our own
        text: str = answer.read().decode()
        return text

"""A terminal that lines are typed into: a bash of its own, in an environment that has nothing but a home and a path."""

import asyncio
import os
import re
import signal
import time
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

_KEPT = re.compile(r"PIP_.*|.*_proxy|.*_PROXY|SSL_CERT_.*|TZ", re.ASCII)
"""How this machine reaches package registries is not the newcomer's business."""
ENDED = "--this-command-has-ended-with--"
"""Printed after each command, with its exit code."""


class Terminal:
    """A running bash. What it and its commands print goes to `printed`, in order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._changed = asyncio.Event()
        self.printed = ""

    async def read(self) -> None:
        """Collect what is printed until the bash ends."""
        assert self._process.stdout is not None
        while piece := await self._process.stdout.read(65536):
            self.printed += piece.decode(errors="replace")
            self._changed.set()

    async def run(self, line: str, *, within_s: float) -> tuple[int, str]:
        """Type a line. Returns its exit code and what it printed once it has ended."""
        start = len(self.printed)
        await self.type(line)
        await self.until(rf"{ENDED}(\d+)\n", start=start, within_s=within_s)
        return self.ended(start)

    async def type(self, line: str) -> None:
        """Type a line, and wait for nothing."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\necho {ENDED}$?\n".encode())
        await self._process.stdin.drain()

    async def until(self, pattern: str, *, start: int = 0, within_s: float) -> None:
        """Wait until something is printed."""
        end = time.monotonic() + within_s
        while not re.search(pattern, self.printed[start:]):
            self._changed.clear()
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + end - time.monotonic()):
                    await self._changed.wait()
            except TimeoutError:
                raise AssertionError(f"not within {within_s} s: {pattern}\n{self.printed[start:]}") from None

    def ended(self, start: int) -> tuple[int, str]:
        printed, _, code = self.printed[start:].partition(ENDED)
        return int(code.split("\n")[0]), printed

    def interrupt(self) -> None:
        """Press Ctrl-C: all that runs in the terminal gets it, the bash too, which heeds it only while it waits itself."""
        for child in psutil.Process(self._process.pid).children():
            os.killpg(os.getpgid(child.pid), signal.SIGINT)


@asynccontextmanager
async def a_terminal(home: Path) -> AsyncIterator[Terminal]:
    """Open a terminal in a home folder. All that was started in it ends with it."""
    env = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}
    env |= {"HOME": str(home), "PATH": _path(), "LANG": "C.UTF-8"}
    process = await asyncio.create_subprocess_exec(
        "bash", "--norc", stdin=PIPE, stdout=PIPE, stderr=STDOUT, env=env, cwd=home, start_new_session=True
    )
    terminal = Terminal(process)
    reading = asyncio.create_task(terminal.read())
    try:
        yield terminal
    finally:
        everyone = psutil.Process(process.pid).children(recursive=True)
        for child in everyone:
            child.terminate()
        _, alive = psutil.wait_procs(everyone, timeout=30)
        for child in alive:
            child.kill()
        process.kill()
        await process.wait()
        reading.cancel()


def _path() -> str:
    """The path without the environment that the tests run in."""
    mine = os.environ.get("VIRTUAL_ENV", "")
    folders = os.environ["PATH"].split(":")
    return ":".join(folder for folder in folders if not mine or not folder.startswith(mine))

"""Runs a command on a terminal of a given width, or in a pipe, and returns what it printed."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[()][A-Z0-9]|[=>])")
"""What controls a terminal, and is no text."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    words: tuple[str, ...]
    width: int | None
    """Of the terminal. None: there is none."""
    environ: dict[str, str]
    folder: str
    stop_after_s: float = 60.0


class Screen(msgspec.Struct, frozen=True):
    """What a command printed, and its exit code. On a terminal, both streams are one."""

    code: int
    out: str
    err: str

    def text(self) -> str:
        """All of it, as it is read."""
        return ESCAPES.sub("", self.out + self.err)

    def lines(self) -> list[str]:
        return [line.rpartition("\r")[2] for line in self.text().splitlines()]


class Screens:
    """Makes screens in a process of its own, one at a time."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, data: Path) -> None:
        self._process = process
        self._folder = folder
        self._data = data

    async def of(
        self,
        *words: str,
        width: int | None = None,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
        stop_after_s: float = 60.0,
    ) -> Screen:
        """Run a command of infermq against the system."""
        usual = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH", "LANG") if name in os.environ}
        ask = Asked(
            words=words,
            width=width,
            environ={"TERM": "xterm-256color", "INFERMQ_DATA": str(self._data), **usual, **(environ or {})},
            folder=str(folder or self._folder),
            stop_after_s=stop_after_s,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(ask) + b"\n")
        return msgspec.json.decode(await self._process.stdout.readline(), type=Screen)


@asynccontextmanager
async def screens(folder: Path, data: Path) -> AsyncIterator[Screens]:
    """Start the process that makes screens. Commands run in `folder`, against the system of `data`."""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "tests.captures.runner"]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=1 << 26)
    try:
        yield Screens(process, folder, data)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()

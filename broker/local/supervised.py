"""A child process that is started again when it ends: the broker, or a worker."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from broker.local.servers import Child, is_free, spawn

_REPORT_S = 10.0
"""How often a process that is still starting is reported."""
_SHOWN_CHARACTERS = 120
"""Of the last line of its log."""
_DRAIN_S = 75.0
_POLL_S = 0.02
_FIRST_RESTART_S = 1.0
_LAST_RESTART_S = 30.0
_STEADY_S = 60.0
"""A process that lived this long is restarted without much waiting."""
_MISCONFIGURED = 2
"""The exit code of a worker that no restart will help."""

Say = Callable[[str], None]
"""Shows a line to the user."""


@dataclass(slots=True)
class SupervisedProcess:
    """Starts a command with the HTTP port that it should have, and restarts it when it ends."""

    name: str
    command: Sequence[str]
    log: Path
    say: Say
    http_port: int = 0
    """The port it should have; 0: any free one."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """What it is told by its environment, which other users cannot read: the URLs of its servers, with their passwords."""
    child: Child | None = None
    api_port: int | None = None
    """The port that its API over HTTP should have; 0: any free one. None: it has none."""
    http: str = ""
    """The URL of its HTTP server. Empty until it is ready."""
    api: str = ""
    """The URL of its API over HTTP. Empty until it is ready, or if it has none."""
    gave_up: bool = False
    """It ended in a way that no restart will help."""
    _started_s: float = 0.0
    _restart_s: float = _FIRST_RESTART_S
    _due_s: float | None = None
    """When to start it again, if it ended."""

    def start(self) -> None:
        """Start it on its port, or on any free one if that is taken."""
        self._started_s, self._due_s = time.monotonic(), None
        ports = ["--http-port", self._port(self.http_port, self.http)]
        if self.api_port is not None:
            ports += ["--api-port", self._port(self.api_port, self.api)]
        self._ready_file.unlink(missing_ok=True)
        output = os.open(self._ready_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            command = [*self.command, *ports]
            self.child = spawn(self.name, command, log=self.log, stdout=output, env=self.environ)
        finally:
            os.close(output)

    def _port(self, wanted: int, before: str) -> str:
        """Choose the port that it had before, which its clients know; else the one that is wanted, if it is free."""
        port = urlsplit(before).port or wanted
        if port == 0 or is_free(port):
            return str(port)
        self.say(f"port {port} is taken: {self.name} listens on another")
        return "0"

    async def ready(self, *, within_s: float) -> None:
        """Wait for the line that it prints once it is ready, and report its log meanwhile. Raises: Unavailable."""
        assert self.child is not None  # noqa: S101 - it was started
        began = reported = time.monotonic()
        while self.child.is_running() and time.monotonic() < began + within_s:
            if self._is_ready():
                return
            if time.monotonic() > reported + _REPORT_S:
                reported = time.monotonic()
                last = self.child.tail().rpartition("\n")[2]
                self.say(f"{self.name} is starting, {reported - began:.0f} s: {last[-_SHOWN_CHARACTERS:]}")
            await asyncio.sleep(_POLL_S)
        raise self.child.failed()

    def look_after(self) -> None:
        """If it has ended, start it again: after a pause that doubles while it keeps ending."""
        if self.child is None or self.gave_up or self.child.is_running() or self.give_up_if_hopeless():
            return
        now = time.monotonic()
        if self._due_s is None:
            is_steady = now - self._started_s > _STEADY_S
            self._restart_s = _FIRST_RESTART_S if is_steady else min(_LAST_RESTART_S, self._restart_s * 2)
            pause_s = self._restart_s / 2
            self._due_s = now + pause_s
            self.say(f"{self.name} ended with {self.child.process.returncode}; again in {pause_s:.0f} s")
        elif now >= self._due_s:
            self.start()

    def give_up_if_hopeless(self) -> bool:
        """Give it up, and say why, if it ended in a way that no restart will help."""
        if self.child is None or self.child.process.poll() != _MISCONFIGURED:
            return False
        self.gave_up = True
        lines = self.child.tail().splitlines()
        self.say(f"{self.name} cannot run: {lines[-1].removeprefix('error: ') if lines else 'it said nothing'}")
        return True

    async def stop(self) -> None:
        """Let it finish what it runs. If it never was ready it has nothing to finish, and is killed."""
        if self.child is not None:
            await self.child.stop(*([signal.SIGTERM] if self.http else []), within_s=_DRAIN_S)
        self._ready_file.unlink(missing_ok=True)

    @property
    def _ready_file(self) -> Path:
        """Its standard output, on which it says that it is ready."""
        return self.log.with_suffix(".ready")

    def _is_ready(self) -> bool:
        """Look whether it has said that it is ready. Libraries of an engine may print on the same stream."""
        with contextlib.suppress(OSError):
            for line in self._ready_file.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    said = json.loads(line)
                    self.http, self.api = said["http"], said.get("api", "")
                    return True
        return False

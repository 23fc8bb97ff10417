"""Kills the processes that an engine started when its worker ends in any way; not every engine does so itself."""

import subprocess
import threading

import psutil

_SCRIPT = 'pids=; while read -r pid; do pids="$pids $pid"; done; kill -KILL $pids 2>/dev/null'
"""Its standard input ends when the worker does, even if that is killed."""
_POLL_S = 0.5


class Guard:
    """Reports our child processes, as they appear, to a small process that kills them once we are gone."""

    def __init__(self) -> None:
        self._guardian = subprocess.Popen(["/bin/sh", "-c", _SCRIPT], stdin=subprocess.PIPE, start_new_session=True)
        self._known = _children()  # the children that exist already are not the engine's
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="guard", daemon=True)

    def __enter__(self) -> None:
        """Look for new processes while the engine starts."""
        self._watcher.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()
        self._report()

    def close(self) -> None:
        """End the guardian: the engine has ended its processes itself."""
        self._guardian.kill()
        self._guardian.wait()
        if self._guardian.stdin is not None:
            self._guardian.stdin.close()

    def _watch(self) -> None:
        while not self._over.wait(_POLL_S):
            self._report()

    def _report(self) -> None:
        """Give the ids of new children to the guardian."""
        assert self._guardian.stdin is not None  # noqa: S101 - it is a pipe
        new = _children() - self._known
        self._known |= new
        for pid in new:
            self._guardian.stdin.write(b"%d\n" % pid)
        self._guardian.stdin.flush()


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}

"""Processes of an engine must not outlive their worker, however that ends; engines that start some are not all so kind."""

import subprocess
import threading

import psutil

_SCRIPT = 'pids=; while read -r pid; do pids="$pids $pid"; done; kill -KILL $pids 2>/dev/null'
"""Its standard input ends when the worker does, even by SIGKILL."""
_LOOK_S = 0.5


class Guard:
    """Tells a small process of our children, as they appear; it kills those that are left when we are gone."""

    def __init__(self) -> None:
        self._guardian = subprocess.Popen(["/bin/sh", "-c", _SCRIPT], stdin=subprocess.PIPE, start_new_session=True)
        self._known = _children()  # whoever came before is another's to guard
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look, name="guard", daemon=True)

    def __enter__(self) -> None:
        """While the engine starts, its processes are looked for."""
        self._looking.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._looking.join()
        self._tell()

    def close(self) -> None:
        """The engine has ended its processes itself."""
        self._guardian.kill()
        self._guardian.wait()
        if self._guardian.stdin is not None:
            self._guardian.stdin.close()

    def _look(self) -> None:
        while not self._over.wait(_LOOK_S):
            self._tell()

    def _tell(self) -> None:
        assert self._guardian.stdin is not None  # noqa: S101 - it is a pipe
        new = _children() - self._known
        self._known |= new
        for pid in new:
            self._guardian.stdin.write(b"%d\n" % pid)
        self._guardian.stdin.flush()


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}

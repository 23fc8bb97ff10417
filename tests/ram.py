"""A folder in memory, for servers of tests: their data is needed by nobody afterwards.

Most of what a test costs is the copy of a database, a thousand small files: 0.37 s on the disk of a virtual machine, and
0.02 s in memory (both measured; fsync is off).
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SHM = Path("/dev/shm")  # noqa: S108 - the system's file system in memory, where each run makes a folder of its own
_PREFIX = f"infermq-tests-{os.getuid()}-"
_ROOM = 4 << 30
"""How many bytes must be free: containers often have 64 MB, which a server fills."""
_NEW_S = 60.0
"""A younger folder that nobody holds may be of a run that is just beginning."""


@contextmanager
def a_folder_in_ram(otherwise: Path) -> Iterator[Path]:
    """Make a folder that is gone afterwards; without enough room in memory it is `otherwise`."""
    if not _has_room():
        yield otherwise
        return
    _remove_left()
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=_SHM, ignore_cleanup_errors=True) as folder, _held(folder):
        yield Path(folder)


def _has_room() -> bool:
    try:
        return os.access(_SHM, os.W_OK) and shutil.disk_usage(_SHM).free >= _ROOM
    except OSError:
        return False


def _remove_left() -> None:
    """Remove the folders of runs that were killed: nobody holds them."""
    for left in _SHM.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _NEW_S:
                with _held(left):
                    shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _held(folder: str | Path) -> Iterator[None]:
    """Hold a folder until its process ends, or this does. Raises: OSError, if it is held."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)

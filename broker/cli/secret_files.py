"""Writes secrets to files that only their user can read."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.cli.terminal import Exit, fail


@contextmanager
def secret_file(path: Path, *, replace: bool) -> Iterator[Callable[[str], None]]:
    """Open a file of mode 600, and put it at `path` once the block has written a secret: nobody asks for one in vain.

    Raises: typer.Exit, if it cannot be made, or if there is one that may not be replaced.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    if path.is_dir() or (path.exists() and not replace):
        fail(f"--out: there is {'a folder' if path.is_dir() else 'a file'} {path} already", Exit.USAGE)
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        fail(f"--out: no file can be made at {path}: {error.strerror}", Exit.USAGE)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:

            def write(secret: str) -> None:
                file.write(f"{secret}\n")
                file.flush()
                os.fsync(descriptor)
                part.replace(path)

            yield write
    finally:
        part.unlink(missing_ok=True)

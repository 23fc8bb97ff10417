"""Tells what happens in a world, an event a line, and sums all of it up in a number that tells two stories apart."""

import hashlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.simulate.world.world import World

_LOGGERS = ("broker", "workers", "schemas")


class Story(logging.Handler):
    """The lines of a story. What the processes log is among them."""

    def __init__(self, print_line: Callable[[str], object] = lambda _: None, level: int = logging.INFO) -> None:
        super().__init__(level)
        self._print = print_line
        self._digest = hashlib.blake2b(digest_size=8)
        self._world: World | None = None
        self.lines = 0

    def of(self, world: "World") -> None:
        self._world = world

    def tell(self, text: str) -> None:
        now = 0.0 if self._world is None else self._world.now_s()
        line = f"{now:12.6f} {text}"
        self.lines += 1
        self._digest.update(line.encode(errors="replace"))
        self._digest.update(b"\n")
        self._print(line)

    def digest(self) -> str:
        """Return what is the same for two stories that are the same, byte for byte."""
        return self._digest.hexdigest()

    def emit(self, record: logging.LogRecord) -> None:
        process = None if self._world is None else self._world.current
        self.tell(f"{process}: {record.levelname.lower()} {record.getMessage()}")

    def listen(self) -> None:
        """Take in what processes log, and let nothing of it go anywhere else."""
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [self], False
            logger.setLevel(self.level)

"""Walks the commands, so that no test of them forgets one."""

from collections.abc import Iterator
from typing import Any

import typer

from broker.cli.app import app

ROOT: Any = typer.main.get_command(app)


def tree() -> Iterator[tuple[str, Any]]:
    """Yield each command and each group with its words, such as `batch list`."""
    yield from _below(ROOT, "")


def _below(command: Any, words: str) -> Iterator[tuple[str, Any]]:
    yield words, command
    for name, one in getattr(command, "commands", {}).items():
        yield from _below(one, f"{words} {name}".strip())

"""Named queries: one file each, read once."""

from functools import cache
from importlib.resources import files
from typing import LiteralString


@cache
def query(name: LiteralString) -> str:
    """The text of `NAME.sql`."""
    return files(__package__).joinpath(f"{name}.sql").read_text()

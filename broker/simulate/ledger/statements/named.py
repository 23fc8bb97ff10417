"""Finds the function that stands for a statement."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from broker.ledger.sql import query

Rows = Sequence[Any]
"""What a statement answers: rows whose columns are read by name."""
STATEMENTS: dict[str, Callable[..., Rows]] = {}
"""By the text of the statement in SQL. A function takes the tables, then the statement's values."""
F = TypeVar("F", bound=Callable[..., Rows])


def statement(function: F) -> F:
    """Let a function stand for the statement of its name."""
    STATEMENTS[query(function.__name__)] = function
    return function

"""Defines how a use-case refuses, and what a caller is shown of every error."""

import logging
from typing import TypeVar

from broker.core.authorise import Action, forbidden, out_of_reach
from broker.core.principal import Principal
from broker.errors import BadData, Conflict, Unavailable
from schemas.api import Problem
from schemas.job import Lane

log = logging.getLogger(__name__)
T = TypeVar("T")


class Refusal(Exception):
    """A use-case refuses a request; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


EXPECTED = (Refusal, Unavailable, Conflict, BadData)
"""What use-cases raise on purpose."""


def authorise(principal: Principal, action: Action, *, lane: Lane | None = None, model: str | None = None) -> None:
    """Check that the principal may do this. Raises: Refusal."""
    if (problem := forbidden(principal, action, lane=lane, model=model)) is not None:
        raise Refusal(problem)


def tenant_of(principal: Principal, named: str | None) -> str:
    """Return the tenant that a request is about: the one that it names, else the principal's own. Raises: Refusal."""
    if (problem := out_of_reach(principal, named)) is not None:
        raise Refusal(problem)
    return principal.tenant if named is None else named


def found(answer: T | None, what: str) -> T:
    """Return the answer unless it is None. Raises: Refusal, with the code `unknown_` and the first word of `what`."""
    if answer is None:
        raise Refusal(Problem(f"unknown_{what.partition(' ')[0]}", f"there is no {what}", "id"))
    return answer


def problem_of(error: Exception) -> Problem:
    """Return what a caller is shown of an error of a use-case. An error that none raises on purpose is logged."""
    match error:
        case Refusal():
            return error.problem
        case Unavailable():
            return Problem("unavailable", f"{error}: try again in a moment")
        case Conflict():
            return Problem("conflict", str(error))
        case BadData():
            return Problem("bad_text", f"the request holds text that cannot be stored: {error}")
        case _:
            log.error("request failed error=%s", type(error).__name__, exc_info=error)
            return Problem("internal", "the broker failed on this request; its log says why")

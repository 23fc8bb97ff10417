"""The exceptions of the client, beside `broker.errors.Unavailable`."""

import msgspec

from broker.errors import Unavailable
from schemas.api import ErrorBody, Problem


class RequestRefused(Exception):
    """The broker refused a request; or the client did, because the broker could not read it. `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.field}: {problem.message}" if problem.field else problem.message)
        self.problem = problem


class NoBroker(Unavailable):
    """NATS answers, but no broker listens there."""

    def __init__(self) -> None:
        super().__init__("infermq", "no broker listens on this NATS: start one with `infermq up` or `infermq serve`")


class BacklogFull(Exception):
    """The stream takes no more jobs of this kind until the broker has taken in those that wait."""


class RequestTimedOut(Exception):
    """No answer came in time."""


def refusal_of(data: bytes) -> Exception:
    """Make the exception for an encoded ErrorBody."""
    return error_of(msgspec.json.decode(data, type=ErrorBody).error)


def error_of(problem: Problem) -> Exception:
    """Make the exception for what a broker says is wrong."""
    match problem.code:
        case "timed_out":
            return RequestTimedOut(problem.message)
        case "unavailable":
            return Unavailable("infermq", problem.message)
        case "backlog_full":
            return BacklogFull(problem.message)
        case _:
            return RequestRefused(problem)

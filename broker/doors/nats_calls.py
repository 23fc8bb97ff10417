"""What a call of the API over NATS is: whose it is, where its answer may go, and what an error says. Pure of FastStream."""

import logging
from collections.abc import Awaitable, Callable

import msgspec

from broker.core.principal import Principal
from broker.doors.operations import invalid
from broker.service.refusal import Refusal, problem_of
from schemas import subjects
from schemas.api import Problem

log = logging.getLogger(__name__)


async def caller_of(subject: str, identify: Callable[[str, str], Awaitable[Principal | Problem]]) -> Principal:
    """Make the principal of the caller that the subject names. Raises: Refusal, Unavailable."""
    try:
        _, tenant, key = subjects.parse_api(subject)
    except ValueError as error:
        raise Refusal(Problem("bad_name", str(error))) from error
    caller = await identify(tenant, key)
    if isinstance(caller, Problem):
        raise Refusal(caller)
    return caller


def may_be_answered(subject: str, reply_to: str) -> bool:
    """Say whether the answer to a call would go to an inbox of its key, and log that it would not.

    NATS does not check that. A call without a reply subject may be an acknowledgement of the server's, which somebody
    else has had sent here: nobody who calls wants no answer.
    """
    if reply_to and subjects.may_answer(reply_to, *_named(subject)):
        return True
    log.warning("call ignored subject=%s error=foreign or missing reply subject", subject)
    return False


def _named(subject: str) -> tuple[str, str]:
    """Read the tenant and key whose call it is. What nobody can have built is nobody's."""
    try:
        return subjects.parse_api(subject)[1:]
    except ValueError:
        return subjects.DEFAULT, subjects.DEFAULT


def problem_of_call(error: Exception, *, within: str = "") -> Problem:
    """Say what went wrong with a call. What was decoded lies `within` what msgspec speaks of."""
    return invalid(str(error), within=within) if isinstance(error, msgspec.ValidationError) else problem_of(error)

"""Describes the NATS accounts: who lives in which, and which subjects cross from one to another.

Permissions on subjects alone do not keep tenants apart, since a server checks no reply subject: its acknowledgement of a
publish, or what a pull delivers, would go to any subject that the publisher named. So only brokers live in the account with
the streams. What tenants and workers publish crosses into it as a service, and the answer goes back to the account that it
came from: it reaches nothing of the brokers (tried on nats-server 2.15.1).
"""

from dataclasses import dataclass
from enum import StrEnum

from schemas.subjects import CATALOG_BUCKET, NOW, RUN, WORKERS_BUCKET


class Account(StrEnum):
    BROKERS = "INFERMQ"
    """Brokers only: the streams, the buckets, and what brokers tell one another."""
    TENANTS = "INFERMQ_TENANTS"
    """Producers, admins, deployers and operators, and the doors at which they call. It has no streams."""
    WORKERS = "INFERMQ_WORKERS"
    """Workers. It has no streams."""
    SYSTEM = "INFERMQ_SYSTEM"
    """The server's own account, through which brokers end connections."""


BROKERS_LIVE_IN = (Account.BROKERS, Account.TENANTS, Account.SYSTEM)
"""The accounts in which a broker has a user of its own, without asking itself."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Subjects that cross from one account to another."""

    subject: str
    of: Account
    """Whose subject it is: the account that exports it."""
    to: Account
    is_stream: bool = False
    """Whether messages come from the exporting account. Else they go to it, and answers come back."""
    many_answers: bool = False


def _pulls(stream: str) -> Crossing:
    """Let workers pull. Of JetStream's API it is what works from another account: other calls ask for one's own streams."""
    return Crossing(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*", Account.BROKERS, Account.WORKERS, many_answers=True)


CROSSINGS: tuple[Crossing, ...] = (
    Crossing("infermq.submit.>", Account.BROKERS, Account.TENANTS),
    Crossing("infermq.result.>", Account.BROKERS, Account.TENANTS, is_stream=True),
    _pulls(RUN),
    _pulls(NOW),
    Crossing(f"$JS.ACK.{RUN}.>", Account.BROKERS, Account.WORKERS),
    Crossing("infermq.outcome.*", Account.BROKERS, Account.WORKERS),
    Crossing("infermq.reply.>", Account.BROKERS, Account.WORKERS),
    Crossing(f"$KV.{WORKERS_BUCKET}.>", Account.BROKERS, Account.WORKERS),
    Crossing(f"$JS.API.DIRECT.GET.KV_{CATALOG_BUCKET}.$KV.{CATALOG_BUCKET}.>", Account.BROKERS, Account.WORKERS),
    Crossing(f"$KV.{CATALOG_BUCKET}.deployment.*", Account.BROKERS, Account.WORKERS, is_stream=True),
    Crossing(f"$KV.{CATALOG_BUCKET}.revision", Account.BROKERS, Account.WORKERS, is_stream=True),
    Crossing("infermq.ctl.cancel.*", Account.BROKERS, Account.WORKERS, is_stream=True),
    Crossing("infermq.ctl.abort.*", Account.BROKERS, Account.WORKERS, is_stream=True),
    Crossing("infermq.ctl.wanted.*", Account.BROKERS, Account.WORKERS, is_stream=True),
    Crossing("infermq.ward.*.*.*", Account.BROKERS, Account.WORKERS, is_stream=True),
)
"""All there are. `infermq.infer` and `infermq.api` need none: brokers stand in the account of the tenants."""

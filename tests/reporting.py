"""What a worker says, in tests where the test is the worker, and the role that settles it."""

import time
from typing import Any

from broker.metrics import BrokerMetrics
from broker.ports import Ledger
from broker.roles.failure_log import FailureLog
from broker.roles.late_acks import LateAcks
from broker.roles.settle import Settle
from schemas import subjects
from schemas.catalog import Catalog, Revision
from schemas.codec import bundled, packed
from schemas.jetstream.client import NatsClient
from schemas.outcome import Report
from schemas.units import Ms
from tests.builders import SEAL_KEY, now


async def report(nc: NatsClient, *reports: Report) -> None:
    """Have OUTCOME store them, a message for each."""
    for one in reports:
        await nc.jetstream().publish(subjects.outcome(one.deployment), bundled([packed(one)]))


def a_settle(nc: NatsClient, ledger: Ledger, *, catalog: Catalog | None = None, **changes: Any) -> Settle:
    """Of a broker that hears of no worker."""
    revision = Revision(1, Ms(0), catalog or Catalog())
    fields: dict[str, Any] = {
        "revision": lambda: revision,
        "alive": list,
        "clock": now,
        "seal_key": lambda: SEAL_KEY,
        "late_acks": LateAcks(nc, beats=list),
        "unit": lambda: 0.5,
        "metrics": BrokerMetrics(),
        "failures": FailureLog(now_s=time.monotonic),
    }
    return Settle(
        nc=nc,
        ledger=ledger.settlement,
        dead_letters=ledger.dead_letters,
        attempts=ledger.attempts,
        spend=ledger.spend,
        **{**fields, **changes},
    )

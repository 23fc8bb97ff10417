"""Whether a deployment has spent what it may in a day."""

from broker.core.records import Spend

_NANO = 10**9


def is_reached(cap_usd: float | None, spent: Spend, *, running: int) -> bool:
    """Counting what runs at the day's mean. The first jobs of a day have no mean: all slots may start one."""
    if cap_usd is None:
        return False
    mean = spent.cost_nano_usd / spent.executions if spent.executions else 0.0
    return spent.cost_nano_usd + running * mean >= cap_usd * _NANO

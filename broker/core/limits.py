"""What a deployment may still spend in a day."""

from broker.core.records import Spend

_NANO = 10**9


def is_reached(cap_usd: float | None, spent: Spend, *, running: int) -> bool:
    """Counting what runs at the day's mean. The first jobs of a day have no mean: all slots may start one."""
    if cap_usd is None:
        return False
    return spent.cost_nano_usd + running * _mean(spent) >= cap_usd * _NANO


def affordable(cap_usd: float | None, spent: Spend, *, running: int, free: int) -> int:
    """In how many of the free slots a job may start: what is left of the day pays for it at the day's mean, or for a
    part of it, when nothing else runs.
    """
    if cap_usd is None:
        return free
    if is_reached(cap_usd, spent, running=running):
        return 0
    if (mean := _mean(spent)) == 0:
        return free
    left = int((cap_usd * _NANO - spent.cost_nano_usd) / mean) - running
    return min(free, max(left, 0 if running else 1))


def _mean(spent: Spend) -> float:
    return spent.cost_nano_usd / spent.executions if spent.executions else 0.0

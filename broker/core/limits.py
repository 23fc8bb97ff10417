"""Decides what a deployment may still spend in a day."""

from broker.core.records import Spend

_NANO = 10**9


def is_reached(cap_usd: float | None, spent: Spend, *, running: int) -> bool:
    """Tell whether the cap is reached, if each running job costs today's average. Before the first cost there is none."""
    if cap_usd is None:
        return False
    return spent.cost_nano_usd + running * _mean(spent) >= cap_usd * _NANO


def affordable(cap_usd: float | None, spent: Spend, *, running: int, free: int) -> int:
    """Count the free slots in which a job may start.

    Near the cap, start only as many jobs as the remaining money covers at today's average cost; but start one if nothing
    else runs, even if the money covers a part of it only. Before the first cost of a day, all slots may start one.
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

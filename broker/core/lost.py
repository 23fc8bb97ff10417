"""Records executions that nobody can report, since their worker died: at an estimate of what they cost.

If the worker was only cut off, its report comes later, and replaces the estimate.
"""

from collections.abc import Iterable, Mapping
from uuid import UUID

from broker.core import estimate
from broker.core.price import UNPRICED, Prices
from broker.core.records import Executed, Request, Spend
from schemas.outcome import LOST, Usage
from schemas.ruling import Lost
from schemas.units import Ms, NanoUsd


def lost_executions(
    lost: Iterable[Lost], *, requests: Mapping[UUID, Request], recorded: Mapping[str, Spend], prices: Prices
) -> dict[UUID, Executed]:
    """Return what to record of each, by the id of the execution.

    `requests` is what the jobs ask for, as far as the ledger has them; `recorded` is what the deployments' executions of the
    last days have cost.
    """
    return {
        one.execution: _executed(one, requests.get(one.job), recorded.get(one.deployment), prices) for one in lost
    }


def _executed(lost: Lost, request: Request | None, recorded: Spend | None, prices: Prices) -> Executed:
    cost, source = _cost(lost.deployment, request, recorded, prices)
    return Executed(
        id=lost.execution,
        attempt=lost.attempt,
        delivery=0,
        deployment=lost.deployment,
        worker=lost.worker,
        outcome=LOST,
        failure=None,
        usage=Usage(),
        cost_nano_usd=cost,
        cost_source=source,
        started_ms=lost.started_ms,
        queue_ms=Ms(0),
        ttft_ms=None,
        run_ms=Ms(0),
    )


def _cost(deployment: str, request: Request | None, recorded: Spend | None, prices: Prices) -> tuple[NanoUsd, str]:
    """Estimate the cost. Its source tells what it was estimated by. Without a request, only its output is estimated."""
    catalog = prices.catalog
    if request is None:
        tokens = Usage(0, estimate.OUTPUT_TOKENS, estimated=True)
    else:
        output = estimate.most_output(request.model, catalog)
        tokens = estimate.request_tokens(request.body, request.endpoint, most_output=output)
    found = catalog.deployments.get(deployment)
    cost = estimate.estimated_nano_usd(tokens, found, recorded)
    if cost is None:
        return NanoUsd(0), UNPRICED
    is_priced = found is not None and found.price is not None
    by_price = is_priced and (recorded is None or recorded.executions < estimate.ENOUGH)
    return cost, f"{prices.source if by_price else 'recorded'}:estimate"

import pytest

from broker.core.estimate import ENOUGH, OUTPUT_TOKENS
from broker.core.lost import lost_executions
from broker.core.price import Prices
from broker.core.records import Request, Spend
from broker.core.settle import decide
from schemas.job import Lane
from schemas.outcome import EngineFault, Failed, Released, Report
from schemas.ruling import Lost
from schemas.units import Ms, NanoUsd
from tests.builders import BODY, CHAT, a_catalog, a_report, an_attempt, an_id, now

PRICES = Prices(catalog=a_catalog(), source="catalog:3")
BY_PRICE = NanoUsd(17 * 1000 + 8 * 2000)


def a_loss(report: Report | None = None) -> Lost:
    job, execution = (an_id(), an_id()) if report is None else (report.job, report.execution)
    return Lost(job=job, attempt=1, deployment="d", execution=execution, worker="w", started_ms=Ms(7))


@pytest.mark.parametrize(
    ("recorded", "cost", "source"),
    [
        (None, BY_PRICE, "catalog:3:estimate"),
        (Spend(NanoUsd(100), ENOUGH - 1), BY_PRICE, "catalog:3:estimate"),
        (Spend(NanoUsd(100 * ENOUGH), ENOUGH), 100, "recorded:estimate"),
    ],
)
def test_a_lost_execution_costs_what_others_did_or_what_it_may_have_used(
    recorded: Spend | None, cost: int, source: str
) -> None:
    lost = a_loss()
    by_name = {} if recorded is None else {"d": recorded}

    found = lost_executions([lost], requests={lost.job: Request("m", CHAT, BODY)}, recorded=by_name, prices=PRICES)

    executed = found[lost.execution]
    assert (executed.cost_nano_usd, executed.cost_source, executed.outcome) == (cost, source, "lost")
    assert (executed.id, executed.worker, executed.started_ms) == (lost.execution, "w", 7)


def test_a_lost_execution_of_an_unknown_request_costs_the_output_that_it_may_have_had() -> None:
    lost = a_loss()

    found = lost_executions([lost], requests={}, recorded={}, prices=PRICES)

    assert found[lost.execution].cost_nano_usd == OUTPUT_TOKENS * 2000


def test_a_lost_execution_of_a_deployment_without_a_price_costs_nothing_that_is_known() -> None:
    lost = a_loss()
    free = Prices(catalog=a_catalog(price=None), source="catalog:3")

    executed = lost_executions([lost], requests={}, recorded={}, prices=free)[lost.execution]

    assert (executed.cost_nano_usd, executed.cost_source) == (0, "none")


@pytest.mark.parametrize("outcome", [Released(), Failed(EngineFault("x"))])
def test_what_is_lost_hides_no_report(outcome: Released | Failed) -> None:
    report = a_report(outcome)
    lost = a_loss(report)
    recorded = lost_executions([lost], requests={}, recorded={}, prices=PRICES)

    verdicts = decide([lost, report, lost], {}, prices=PRICES, lost=recorded, now=now(), unit=0.5)

    [first, second, third] = [verdict.executed for verdict in verdicts]
    assert first is third is None
    assert second is not None
    assert second.outcome != "lost"


def test_what_is_lost_hides_no_report_of_a_request() -> None:
    """The ruling does not say whose request it was, so it stands apart from the report."""
    request = an_attempt(lane=Lane.INTERACTIVE, reply_to="x", key="k")
    report = a_report(Released(), job=request.job, attempt=request.number, interactive=request)
    lost = a_loss(report)
    recorded = lost_executions([lost], requests={}, recorded={}, prices=PRICES)

    verdicts = decide([lost, report], {}, prices=PRICES, lost=recorded, now=now(), unit=0.5)

    assert [verdict.executed and verdict.executed.outcome for verdict in verdicts] == [None, "released"]

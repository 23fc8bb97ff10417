"""Failures are logged by deployment and kind: at once, and then now and then."""

from broker.core.price import Prices
from broker.core.records import Ignore, Verdict
from broker.core.settle import decide
from broker.roles.failure_log import FailureLog
from schemas.catalog import Catalog
from schemas.outcome import EngineFault, Failed, Outcome
from tests.builders import a_report, a_success, now


def verdicts(*outcomes: Outcome) -> list[Verdict]:
    prices = Prices(catalog=Catalog(), source="catalog:1")
    decided = decide([a_report(outcome) for outcome in outcomes], {}, prices=prices, now=now(), unit=0.5)
    assert all(one.executed is not None or isinstance(one.transition, Ignore) for one in decided)
    return decided


def test_a_kind_is_logged_at_once_and_then_summed_up() -> None:
    time_s = [100.0]
    failures = FailureLog(now_s=lambda: time_s[0], every_s=10.0)
    fault = Failed(EngineFault("x"))

    said = [failures.failed(verdicts(fault, a_success())), failures.failed(verdicts(fault, fault))]
    time_s[0] = 111.0
    said += [failures.failed(verdicts(a_success())), failures.failed(verdicts(a_success()))]

    assert said == [[("d", "engine_fault", 1)], [], [("d", "engine_fault", 2)], []]

"""Where a job may run: dispatch, relay and settle ask the same question."""

from hypothesis import given
from hypothesis import strategies as st

from broker.core.route import candidates, entries, untried, with_limit
from schemas.catalog import Catalog, Deployment, Model, Route
from tests.builders import an_attempt

ROUTE = (Route("spare", 0), Route("a", 3), Route("last", 0), Route("b", 1))
NAMES = [entry.deployment for entry in ROUTE]
CATALOG = Catalog(models={"m": Model(route=ROUTE)})
some = st.sets(st.sampled_from(NAMES))


def able(*alive: str, tried: tuple[str, ...] = ()) -> list[str]:
    return [entry.deployment for entry in candidates("m", catalog=CATALOG, alive=alive, tried=tried)]


def test_regular_deployments_come_before_spares_wherever_they_stand() -> None:
    assert able(*NAMES) == ["a", "b"]
    assert able("spare", "b") == ["b"]


def test_spares_take_what_every_regular_deployment_failed_or_is_away_for() -> None:
    assert able(*NAMES, tried=("a", "b")) == ["spare", "last"]
    assert able("spare", "last", "b", tried=("b",)) == ["spare", "last"]
    assert able("spare", "b", tried=("a",)) == ["b"]


def test_an_attempt_off_its_models_route_says_its_limit_of_output_itself() -> None:
    model = Model(route=(Route("a"),), max_output_tokens=77)
    deployments = {name: Deployment(engine="simulated") for name in ("a", "off")}
    catalog = Catalog(models={"m": model}, deployments=deployments)

    def limit(name: str, deployment: str) -> int | None:
        return with_limit(an_attempt(model=name, deployment=deployment), catalog).max_output_tokens

    assert limit("m@off", "off") == 77
    assert [limit("m@a", "a"), limit("m", "a"), limit("gone@off", "off")] == [None, None, None]


def test_nobody_gets_again_what_it_failed() -> None:
    assert able("a", tried=("a",)) == []


def test_a_model_that_is_gone_has_an_empty_route() -> None:
    assert list(entries("gone", CATALOG)) == []
    assert list(untried("gone", catalog=CATALOG, tried=())) == []
    assert list(candidates("gone", catalog=CATALOG, alive=NAMES)) == []


@given(some, some)
def test_someone_may_take_a_job_while_any_is_alive_that_has_not_failed_it(alive: set[str], tried: set[str]) -> None:
    able = candidates("m", catalog=CATALOG, alive=alive, tried=tried)
    left = untried("m", catalog=CATALOG, tried=tried)

    assert bool(able) == bool({entry.deployment for entry in left} & alive)
    assert len({bool(entry.weight) for entry in able}) <= 1
    assert all(entry in left and entry.deployment in alive for entry in able)

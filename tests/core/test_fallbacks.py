"""A model that falls back to its spares, and comes back."""

from broker.core.fallbacks import Fallback, Fallbacks
from broker.core.pools import snapshot
from schemas.catalog import Catalog, Deployment, Model, Route
from schemas.units import Ms
from tests.builders import a_beat

CATALOG = Catalog(
    models={
        "m": Model(route=(Route("d"), Route("e"), Route("s", weight=0))),
        "n": Model(route=(Route("d"),)),
    },
    deployments={name: Deployment(engine="simulated") for name in "des"},
)


def seen(fallbacks: Fallbacks, *alive: str) -> list[Fallback]:
    """What is noticed when workers of these deployments are there."""
    pools = snapshot(CATALOG, [a_beat(name, deployment=name) for name in alive], {}, now=Ms(0))
    return fallbacks.seen(CATALOG, pools)


def test_a_model_whose_regular_deployments_are_all_away_falls_back_once_and_the_reasons_are_said() -> None:
    fallbacks = Fallbacks()

    said = [seen(fallbacks, *alive) for alive in ("des", "es", "s", "s")]

    assert said == [[], [], [Fallback("m", ("s",), "no worker serves d; no worker serves e")], []]


def test_it_is_said_when_a_regular_deployment_is_back() -> None:
    fallbacks = Fallbacks()

    said = [seen(fallbacks, *alive) for alive in ("ds", "s", "es", "des")]

    assert said[1:] == [
        [Fallback("m", ("s",), "no worker serves d; no worker serves e")],
        [Fallback("m", ("e",), "")],
        [],
    ]


def test_nobody_in_between_is_no_change() -> None:
    fallbacks = Fallbacks()

    said = [seen(fallbacks, *alive) for alive in ("d", "", "d", "", "s")]

    assert [len(one) for one in said] == [0, 0, 0, 0, 1]


def test_what_is_on_its_spares_when_it_is_first_seen_has_not_fallen_back() -> None:
    fallbacks = Fallbacks()

    assert [seen(fallbacks, "s"), seen(fallbacks, "s", "d")] == [[], [Fallback("m", ("d",), "")]]

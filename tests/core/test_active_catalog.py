"""What a worker takes from the catalogs that it hears of."""

from typing import Any

from schemas.catalog import Catalog, Model, Revision, Route
from schemas.units import Ms
from tests.builders import CHAT, a_catalog
from workers.catalog import ActiveCatalog


def a_revision(number: int, **changes: Any) -> Revision:
    return Revision(number, Ms(0), a_catalog(**changes))


def test_the_last_that_is_announced_holds_also_if_the_ledger_was_restored() -> None:
    active = ActiveCatalog(a_revision(2), "d")

    active.apply(a_revision(4, attempt_timeout_s=4.0))
    active.apply(a_revision(3, attempt_timeout_s=3.0))

    assert active.deployment.attempt_timeout_s == 3.0


def test_what_still_runs_keeps_its_terms_when_the_catalog_drops_the_deployment() -> None:
    active = ActiveCatalog(a_revision(1, attempt_timeout_s=7.0), "d")

    active.apply(Revision(2, Ms(0), Catalog(models={}, deployments={})))

    assert (active.revision, active.deployment.attempt_timeout_s) == (1, 7.0)


def test_a_request_without_a_length_gets_that_of_its_model() -> None:
    model = Model(endpoints=(CHAT,), route=(Route("d"),), max_output_tokens=77)
    catalog = a_catalog()
    active = ActiveCatalog(Revision(1, Ms(0), Catalog(models={"m": model}, deployments=catalog.deployments)), "d")

    assert active.max_output_tokens("m") == 77
    assert active.max_output_tokens("gone") == 1024


def test_under_a_daily_cap_no_outcome_waits_beside_free_slots() -> None:
    assert ActiveCatalog(a_revision(1), "d").deferrable_outcomes(16) == 4
    assert ActiveCatalog(a_revision(1, daily_cap_usd=1.0), "d").deferrable_outcomes(16) == 0


def test_it_says_up_to_which_revision_its_engine_is_as_the_catalog_says() -> None:
    active = ActiveCatalog(a_revision(5, options={"seed": 1}), "d")

    active.apply(a_revision(6, options={"seed": 1}, attempt_timeout_s=9.0))
    looked_up = active.taken_up
    active.apply(a_revision(7, options={"seed": 2}))
    changed = active.taken_up
    active.apply(a_revision(8, options={"seed": 1}))

    assert (looked_up, changed, active.taken_up) == (6, 6, 8)

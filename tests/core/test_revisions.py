"""Which revision of the catalog is in force."""

from pathlib import Path

import msgspec
import pytest

from broker.core.revisions import NONE, compare, unread
from schemas.catalog import Catalog, Revision, parse
from schemas.codec import jsoned
from schemas.units import Ms
from tests.builders import a_catalog

ROOT = Path(__file__).parents[2]


def a_revision(number: int, catalog: Catalog | None = None) -> Revision:
    return Revision(number, Ms(0), a_catalog() if catalog is None else catalog)


def test_the_ledgers_is_in_force_whatever_number_nats_holds() -> None:
    for number in (1, 4, 9):
        compared = compare(a_revision(4), a_revision(number, Catalog()))

        assert compared.in_force == a_revision(4)
        assert compared.copy_is_wrong
        assert "ledger's revision 4" in (compared.note or "")


def test_a_copy_that_is_lost_is_written_again() -> None:
    assert compare(a_revision(4), None).copy_is_wrong


def test_a_copy_that_is_right_is_left_alone() -> None:
    compared = compare(a_revision(4), a_revision(4))

    assert (compared.in_force, compared.copy_is_wrong, compared.note) == (a_revision(4), False, None)


def test_a_ledger_without_a_catalog_says_nothing_about_that_of_nats() -> None:
    compared = compare(None, a_revision(7))

    assert compared.in_force.number == 7
    assert not compared.copy_is_wrong
    assert "apply" in (compared.note or "") or "applied" in (compared.note or "")
    assert compare(None, None).in_force is NONE


def test_while_the_ledger_is_away_the_copy_is_in_force_and_this_is_said() -> None:
    compared = unread(a_revision(4), a_revision(9), "Postgres is away")

    assert compared.in_force.number == 9
    assert not compared.copy_is_wrong
    assert "Postgres is away" in (compared.note or "")
    assert unread(a_revision(4), None, "away").in_force.number == 4


@pytest.mark.parametrize("file", [ROOT / "broker" / "default.toml", *(ROOT / "examples").glob("*.toml")], ids=str)
def test_what_was_written_to_nats_equals_the_ledgers(file: Path) -> None:
    revision = Revision(1, Ms(5), parse(file.read_text()))

    assert msgspec.json.decode(jsoned(revision), type=Revision) == revision

"""Which revision of the catalog is in force."""

from pathlib import Path

import msgspec
import pytest

from broker.core.revisions import NONE, beyond, compare, unread
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


SHARED = """
[models.mine]
[[models.mine.route]]
deployment = "own"
[[models.mine.route]]
deployment = "shared"
[models.theirs]
[[models.theirs.route]]
deployment = "shared"
[[models.theirs.route]]
deployment = "other"
[deployments.own]
engine = "simulated"
[deployments.shared]
engine = "simulated"
[deployments.other]
engine = "simulated"
[deployments.unused]
engine = "simulated"
"""


@pytest.mark.parametrize(
    ("old", "new", "foreign"),
    [
        ("[models.mine]\n", "[models.mine]\nmax_output_tokens = 7\n", ()),
        ("[deployments.own]\n", "[deployments.own]\nreserve = 2\n", ()),
        ('deployment = "shared"\n[models', 'deployment = "shared"\nweight = 5\n[models', ()),
        ('deployment = "own"', 'deployment = "new"\n[[models.mine.route]]\ndeployment = "own"', ()),
        ("[models.theirs]\n", "[models.theirs]\nmax_output_tokens = 7\n", ("models.theirs",)),
        ("[deployments.shared]\n", "[deployments.shared]\nreserve = 2\n", ("deployments.shared",)),
        ("[deployments.other]\n", "[deployments.other]\nreserve = 2\n", ("deployments.other",)),
        ("[deployments.unused]\n", "[deployments.unused]\nreserve = 2\n", ("deployments.unused",)),
        ('[deployments.unused]\nengine = "simulated"\n', "", ("deployments.unused",)),
        ('deployment = "own"', 'deployment = "other"', ("models.mine.route: the deployment other",)),
        ('deployment = "own"', 'deployment = "unused"', ("models.mine.route: the deployment unused",)),
        ("models.theirs", "models.new", ("models.new", "models.theirs")),
    ],
    ids=[
        "own model", "own deployment", "weight", "new deployment", "another's model", "shared deployment",
        "another's deployment", "nobody's deployment", "nobody's removed", "takes another's", "takes nobody's", "renames",
    ],
)  # fmt: skip
def test_what_is_not_of_some_models_alone_is_named(old: str, new: str, foreign: tuple[str, ...]) -> None:
    assert old in SHARED
    added = '[deployments.new]\nengine = "simulated"\n' if '"new"' in new else ""

    found = beyond(parse(SHARED), parse(SHARED.replace(old, new) + added), frozenset({"mine"}))

    assert found == foreign


def test_a_model_and_what_it_alone_uses_may_be_removed_and_made_anew() -> None:
    rest = """
    [models.theirs]
    [[models.theirs.route]]
    deployment = "other"
    [deployments.other]
    engine = "simulated"
    """
    mine = """
    [models.mine]
    [[models.mine.route]]
    deployment = "own"
    [deployments.own]
    engine = "simulated"
    """
    models = frozenset({"mine"})

    assert beyond(parse(rest + mine), parse(rest), models) == ()
    assert beyond(parse(rest), parse(rest + mine), models) == ()
    assert beyond(parse(rest + mine), parse(mine), models) == ("models.theirs", "deployments.other")

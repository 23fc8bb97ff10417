"""The patch files fit the source as it is, and name tests that exist."""

import pytest

from tests.mutation.removals import Removal, removals
from tests.mutation.tree import ROOT


@pytest.mark.parametrize("removal", removals(), ids=lambda removal: removal.name)
def test_a_removal_fits_the_source_and_names_its_tests(removal: Removal) -> None:
    changed = removal.changed(ROOT)

    assert all(text != (ROOT / file).read_text() for file, text in changed.items())
    for test in removal.noticed_by:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(), test

"""What is installed under our names is ours, and whole."""

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

from broker.cli.doctor import PACKAGES

ROOT = Path(__file__).parents[1]


def test_our_package_names_are_owned_by_our_distribution_alone() -> None:
    owners = importlib.metadata.packages_distributions()

    for package in PACKAGES:
        assert set(owners.get(package, ["infermq"])) == {"infermq"}


def test_the_wheel_holds_three_packages_and_their_data(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)

    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()

    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    for wanted in (
        "broker/default.toml",
        "broker/ledger/sql/dispatch.sql",
        "broker/ledger/migrations/0001_ledger.sql",
    ):
        assert wanted in names
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)

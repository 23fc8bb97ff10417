"""How libraries that use libgomp are loaded: what they find, and that nothing of it stays."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from workers.engines.openmp import cores, load

MODULE = "import os\nfound = dict(os.environ)\n"


def settings(library: ModuleType) -> dict[str, str]:
    return {name: value for name, value in library.found.items() if name.startswith(("OMP_", "GOMP_"))}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A library that keeps what its environment was when it was loaded, and binds the thread that loads it."""
    name = f"library_{tmp_path.name}"
    bind = "if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    (tmp_path / f"{name}.py").write_text(MODULE + bind)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for setting in [one for one in os.environ if one.startswith(("OMP_", "GOMP_"))]:
        monkeypatch.delenv(setting)
    return name


def test_threads_for_all_cores_get_one_each(library: str) -> None:
    assert settings(load(library, threads=cores())) == {
        "GOMP_SPINCOUNT": "10000",
        "OMP_PROC_BIND": "true",
        "OMP_PLACES": "cores",
    }


def test_another_number_of_threads_is_not_bound(library: str) -> None:
    assert settings(load(library, threads=cores() + 1)) == {"GOMP_SPINCOUNT": "10000"}


def test_what_the_environment_says_stays(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"OMP_WAIT_POLICY": "active", "OMP_PROC_BIND": "false", "OMP_NUM_THREADS": "2"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)

    assert settings(load(library, threads=cores())) == said


def test_what_the_environment_says_of_other_things_changes_nothing(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    assert settings(load(library, threads=cores())) == {
        "OMP_NUM_THREADS": "2",
        "GOMP_SPINCOUNT": "10000",
        "OMP_PROC_BIND": "true",
        "OMP_PLACES": "cores",
    }


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no threads")
def test_nothing_of_it_stays(library: str) -> None:
    environment, processors = dict(os.environ), os.sched_getaffinity(0)

    load(library, threads=cores())

    assert dict(os.environ) == environment
    assert os.sched_getaffinity(0) == processors

"""What the tools do not see: names."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

import broker.metrics
import workers.metrics

ROOT = Path(__file__).parents[1]
PACKAGES = ("broker", "workers", "schemas")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_the_import_contracts_hold() -> None:
    done = linted(ROOT)

    assert done.returncode == 0, done.stdout


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts, in a process of its own: import-linter turns off the loggers of the one that it runs in."""
    check = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run(
        [sys.executable, "-c", check],
        check=False,
        cwd=folder,
        env={"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("broker/core/admit.py", "import asyncio"),
        ("broker/core/admit.py", "from broker.ledger import errors"),
        ("workers/core/pause.py", "import time"),
        ("broker/ledger/rows.py", "from broker.roles import intake"),
        ("broker/service/jobs.py", "from broker.doors import nats_api"),
        ("broker/doors/nats_api.py", "from broker.ledger import errors"),
        ("broker/roles/intake.py", "import workers.pool"),
        ("broker/roles/intake.py", "from broker.ledger import errors"),
        ("broker/roles/intake.py", "import nats"),
        ("broker/bus/groups.py", "from schemas.clock import wall_clock"),
        ("workers/report.py", "import random"),
        ("workers/puller.py", "import nats"),
        ("schemas/job.py", "from broker.core import admit"),
    ],
)
def test_an_import_of_what_is_above_breaks_a_contract(tmp_path: Path, module: str, planted: str) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a") as file:
        file.write(f"\n{planted}\n")

    done = linted(tmp_path)

    assert done.returncode == 1
    assert "1 broken" in done.stdout or "2 broken" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    "registry", [broker.metrics.BrokerMetrics().registry, workers.metrics.WorkerMetrics().registry]
)
def test_metrics_are_ours_by_name_and_end_with_their_unit(registry: CollectorRegistry) -> None:
    families = list(registry.collect())

    assert families
    for family in families:
        assert re.fullmatch(r"(infermq|process)_[a-z_]+", family.name)
        assert family.documentation.endswith(".") or family.name.startswith("process_")
        assert not family.name.endswith("_created")
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_jobs"))


def _bound_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_variable_hides_a_package(path: Path) -> None:
    hidden = set(_bound_names(ast.parse(path.read_text()))) & {"broker", "schemas"}

    assert not hidden


def test_no_function_is_long() -> None:
    lengths = {
        f"{path.relative_to(ROOT)}:{node.name}": (node.end_lineno or 0) - node.lineno - _told(node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert {name: length for name, length in lengths.items() if length > 50} == {}


def _told(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of its docstring, which of a command is its help."""
    return len((ast.get_docstring(function, clean=False) or "").splitlines())


@pytest.mark.parametrize(
    "package", sorted(path.parent for path in SOURCES if path.name == "__init__.py"), ids=lambda path: path.name
)
def test_a_map_names_every_module(package: Path) -> None:
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    modules = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}

    assert {name for name in modules if not name.startswith("_") and not re.search(rf"\b{name}\b", text)} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_has_its_map(package: str) -> None:
    for init in (ROOT / package).rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(init.read_text())), init

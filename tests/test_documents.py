"""What README and docs say, as far as it can be checked without a server: links, commands, options, catalogs, names."""

import ast
import io
import json
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from prometheus_client import CollectorRegistry

import broker.metrics
import workers.cli
import workers.metrics
from broker.batch_file import Line, read_lines
from broker.cli.app import app
from schemas.api import HoldCode
from schemas.catalog import parse
from schemas.codec import JSON, decode_job
from schemas.engine_options import OPTIONS
from schemas.subjects import Verb
from tests.builders import an_id

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "deploy" / "README.md"]
EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.is_file())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def shell_commands(page: Path) -> Iterator[list[str]]:
    """What a reader may type: the lines of shell blocks, and code within a sentence."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    spans = re.findall(r"`((?:infermq|make|ENGINE=vllm make) [^`]+)`", page.read_text())
    for line in (*lines, *spans):
        for command in line.split("&&"):
            if words := shlex.split(command, comments=True):
                yield words


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that they name, and its arguments. Raises: KeyError, if there is none."""
    if words[:1] == ["worker"]:
        return typer.main.get_command(workers.cli.app), words[1:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not _is_option(command, words[0]):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def _is_option(group: Any, word: str) -> bool:
    """Whether a word is an option of a group that is a command itself."""
    return group.invoke_without_command and word.startswith("-")


@every_page
def test_each_relative_link_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text())

    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]

    assert missing == []


def test_the_readme_lists_every_page() -> None:
    readme = (ROOT / "README.md").read_text()

    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in readme] == []


@every_page
def test_each_command_exists_with_its_options(page: Path) -> None:
    for words in shell_commands(page):
        if words[0] != "infermq":
            continue
        command, arguments = command_of(words[1:])
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}

        assert {word for word in arguments if word.startswith("--")} <= known | {"--help"}, words


@every_page
def test_each_option_in_a_sentence_is_one_of_a_command(page: Path) -> None:
    top: Any = typer.main.get_command(app)
    groups = [command for command in top.commands.values() if hasattr(command, "commands")]
    commands = [*top.commands.values(), *(one for group in groups for one in group.commands.values())]
    commands.append(command_of(["worker"])[0])
    known = {
        option
        for command in commands
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }

    assert set(re.findall(r"`(--[a-z-]+)", page.read_text())) <= known | {"--help"}


@every_page
def test_each_target_of_make_and_each_extra_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = set(PROJECT["optional-dependencies"])

    for words in shell_commands(page):
        if "make" in words[:2]:
            assert words[words.index("make") + 1] in targets, words
        for named in re.findall(r"infermq\[([a-z,]+)\]", " ".join(words)):
            assert set(named.split(",")) <= extras, words


def test_the_python_of_the_readme_is_that_of_the_examples() -> None:
    sources = [path.read_text() for path in EXAMPLES if path.suffix == ".py"]
    found = blocks(ROOT / "README.md", "python")

    assert len(found) == 2
    for block in found:
        indented = [textwrap.indent(block, " " * depth) for depth in (0, 4, 8)]
        assert any(text in source for text in indented for source in sources), block


def test_the_line_of_the_readme_is_a_request() -> None:
    [block] = blocks(ROOT / "README.md", "json")

    [line] = read_lines(io.BytesIO(block.encode()), model=None, batch=an_id())

    assert isinstance(line, Line)
    assert line.model == "small-chat"


def test_the_job_of_the_wire_page_is_one() -> None:
    [block] = blocks(ROOT / "docs" / "wire.md", "json")

    assert decode_job(block.encode(), {"Content-Type": JSON}).endpoint == "/v1/chat/completions"


def test_the_wire_page_has_every_call_and_no_other() -> None:
    rows = re.findall(r"^\| `([a-z]+(?:-[a-z]+)*)` \| `\{", (ROOT / "docs" / "wire.md").read_text(), re.MULTILINE)

    assert sorted(rows) == sorted(Verb)


def test_the_operators_page_has_every_reason_why_something_is_held() -> None:
    text = (ROOT / "docs" / "operating.md").read_text()
    rows = text.partition("| reason | what to do |")[2].partition("\n\n")[0].splitlines()[2:]

    reasons = [name for row in rows for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])]

    assert sorted(reasons) == sorted(HoldCode)


@every_page
def test_each_catalog_can_be_applied_and_its_engines_know_the_options(page: Path) -> None:
    for block in blocks(page, "toml"):
        for deployment in parse(block).deployments.values():
            options = OPTIONS[deployment.engine]
            assert options is None or msgspec.convert(deployment.options, options) is not None


@every_page
def test_each_metric_exists(page: Path) -> None:
    registries: Mapping[str, CollectorRegistry] = {
        "broker": broker.metrics.BrokerMetrics().registry,
        "worker": workers.metrics.WorkerMetrics().registry,
    }
    families = {family.name for registry in registries.values() for family in registry.collect()}

    named = {name.removesuffix("_total") for name in re.findall(r"`(infermq_[a-z_]+)`", page.read_text())}

    assert named <= families


def test_the_readme_fits_on_three_screens() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()

    assert len(lines) <= 160
    assert [line for line in lines if len(line) > 120 and not line.startswith(("|", "{"))] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_each_example_can_be_read(path: Path) -> None:
    text = path.read_text()
    match path.suffix:
        case ".py":
            assert ast.get_docstring(ast.parse(text))
        case ".toml":
            assert parse(text).models
        case ".jsonl":
            lines = list(read_lines(io.BytesIO(text.encode()), model=None, batch=an_id()))
            assert len(lines) == 44
            assert all(isinstance(line, Line) for line in lines)
        case ".lock":
            assert re.search(r"^[a-z0-9-]+==[0-9.]+ \\\n +--hash=sha256:[0-9a-f]{64}$", text, re.MULTILINE)
        case _:
            pytest.fail(f"nothing reads {path.name}")


def test_each_reported_dialect_is_in_the_page_with_its_source() -> None:
    cases = json.loads((ROOT / "tests" / "contract" / "dialects.json").read_text())
    page = (ROOT / "docs" / "dialects.md").read_text()

    for case in cases:
        assert "source" not in case or (f"| `{case['name']}` |" in page and f"({case['source']})" in page), case[
            "name"
        ]

"""All commands have one style of help."""

import json
import re
import shlex
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from broker.cli.app import app
from broker.cli.commands import examples_of
from tests.builders import an_id
from tests.commands import ROOT, tree
from workers.cli import app as worker

TREE = [pytest.param(words, command, id=words or "infermq") for words, command in tree()]
COMMANDS = [param for param in TREE if not hasattr(param.values[1], "commands") or param.id in {"infermq", "replay"}]
AN_ID = re.compile(r"\b(BATCH|JOB|LETTER|INSTRUCTION|WEBHOOK|DELIVERY)\b")


def helped(words: str, command: Any, width: int = 80) -> str:
    context = typer.Context(command, info_name=f"infermq {words}".strip(), terminal_width=width)
    return str(command.get_help(context))


@pytest.mark.parametrize(("words", "command"), TREE)
def test_help_begins_with_a_sentence(words: str, command: Any) -> None:
    first = helped(words, command).splitlines()[2]

    assert re.match(r"  [A-Z][a-z]+ ", first), first
    assert command.help.partition("\n\n")[0].strip().endswith(".")


@pytest.mark.parametrize(("words", "command"), COMMANDS)
def test_help_ends_with_examples_that_can_be_typed(words: str, command: Any) -> None:
    examples = examples_of(command.help)

    assert examples, f"infermq {words} has no example"
    assert helped(words, command).rstrip().endswith(f"  {examples[-1]}")
    for example in examples:
        assert example.startswith(f"infermq {words}".strip()), example
        assert len(example) <= 100
        parse(shlex.split(AN_ID.sub(str(an_id()), re.split(r" [|<>] ", example)[0]))[1:])


def parse(words: list[str]) -> None:
    """Read the words as the command line is read. Raises: typer.exceptions.TyperException, if they are wrong."""
    command, context = ROOT, None
    while hasattr(command, "commands"):
        options = [word for word in words if word.startswith("-")] if command.name == "replay" else []
        if options:
            break
        name, *words = words
        command, context = command.commands[name], typer.Context(command, info_name="infermq", parent=context)
    command.make_context(command.name, words, parent=context)


@pytest.mark.parametrize("command", [pytest.param(param.values[1], id=param.id) for param in TREE])
def test_every_option_and_argument_is_described_in_a_sentence(command: Any) -> None:
    described = {param.name: param.help or "" for param in command.params}

    assert [name for name, told in described.items() if not re.match(r"[A-Z0-9`].*\.$", told, re.DOTALL)] == []


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize(("words", "command"), TREE)
def test_help_fits_the_terminal_but_for_examples_and_choices(words: str, command: Any, width: int) -> None:
    told, _, _ = helped(words, command, width).partition("\nExamples:")

    wide = [line for line in told.splitlines() if len(line) > width]
    assert [line for line in wide if "|" not in line] == []


def test_what_can_be_printed_as_json_says_so_and_how() -> None:
    told = {
        words: next((param.help for param in command.params if "--json" in param.opts), None)
        for words, command in tree()
    }

    without = {words for words, said in told.items() if said is None}
    groups = {words for words, command in tree() if hasattr(command, "commands")} - {"replay"}
    assert without == groups | {"schema", "worker", "nats-config"}
    assert "JSON Lines" in str(told["batch results"])
    assert all("errors are JSON on standard error" in said for said in told.values() if said is not None)


def test_the_worker_has_help_of_its_own_with_examples() -> None:
    told = CliRunner().invoke(worker, ["--help"], terminal_width=60).stdout

    assert "Examples:\n    infermq worker --deployment simulated\n" in told
    assert "<int" not in told
    assert max(map(len, told.splitlines())) <= 60


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("batch list --limit 0", "--limit: it must be at least 1"),
        ("batch list --limit many", "--limit: it must be a whole number"),
        ("batch show not-an-id", "BATCH is not an id"),
        ("batch show", "missing argument BATCH"),
        ("batch list extra", "too many arguments: extra"),
        ("batch list --colour", "there is no option --colour"),
        ("bach", "there is no command 'bach'"),
        ("pause modle x", "KIND: 'modle' is not one of 'batch'"),
    ],
)
def test_what_is_typed_wrongly_is_named_and_under_json_it_is_json(words: str, said: str) -> None:
    told = CliRunner().invoke(app, words.split())
    as_json = CliRunner().invoke(app, [*words.split(), "--json"])

    assert (told.exit_code, as_json.exit_code) == (2, 2)
    assert f"error: {said}" in " ".join(told.stderr.split())
    assert "Help:  infermq" in " ".join(told.stderr.split(" "))
    problem = json.loads(as_json.stderr)["error"]
    assert problem["code"] == "bad_input"
    assert said in problem["message"] or "--json" in problem["message"]

"""What every command prints: it fits the terminal, is text in a pipe, and is JSON if it was asked for."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from broker.cli.app import app
from tests.captures.scene import Scene, a_scene
from tests.captures.screen import Screen
from tests.captures.uses import ENDLESS, USES, words_of
from tests.commands import tree

pytestmark = [
    pytest.mark.story,
    pytest.mark.commands,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
]

COMMANDS = [words for words, _ in tree()]
ENDING = [words for words in COMMANDS if words not in ENDLESS]
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
COPIED = re.compile(r"infermq [a-z]|^[{\[\]}]|^ *\"|^ +[\]}]|^more: |^batch \S+: |^(the|made the) key |^imq_")
"""Lines that stay whole, so that they can be copied: commands, ids in a sentence, keys, and JSON."""
OWN_TEXT = {"catalog", "schema", "infer", "batch results", "nats-config"}
"""These print what is not theirs: a file, an answer, results."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("scene")
    async with a_scene(folder) as made:
        with contextlib.chdir(folder):
            yield made


async def used(scene: Scene, command: str, use: str, *more: str, width: int | None = None, **environ: str) -> Screen:
    screen = await scene.screens.of(
        *words_of(scene, command, use), *more, width=width, environ=environ, stop_after_s=40
    )
    assert "Traceback" not in screen.text(), screen.text()
    return screen


async def test_every_command_has_its_uses_and_five_wrong_ones() -> None:
    assert set(USES) == set(COMMANDS)
    assert {command: len(uses.wrong) for command, uses in USES.items() if len(uses.wrong) < 5} == {}


@pytest.mark.parametrize("command", [one for one in ENDING if one not in OWN_TEXT])
async def test_no_line_is_wider_than_the_terminal_and_every_id_is_whole(scene: Scene, command: str) -> None:
    uses = USES[command]
    piped = await used(scene, command, uses.right)

    assert piped.code == uses.code, piped.text()
    for width in (60, 80, 120):
        screen = await used(scene, command, uses.right, width=width)
        wide = [line for line in screen.lines() if len(line) > width and not COPIED.search(line)]
        assert wide == []
        assert screen.code == uses.code
        if command in STILL:
            assert set(ID.findall(piped.text())) <= set(ID.findall(screen.text()))


STILL = {"batch show", "batch list", "job list", "dead list", "status", "pause", "replay diff", "instruction list"}
"""What these print does not change between two looks."""


@pytest.mark.parametrize("command", ENDING)
async def test_a_pipe_gets_no_escape_codes_and_a_terminal_no_colours_with_no_color(
    scene: Scene, command: str
) -> None:
    piped = await used(scene, command, USES[command].right)
    plain = await used(scene, command, USES[command].right, width=80, NO_COLOR="1")

    assert "\x1b" not in piped.out + piped.err
    assert re.findall(r"\x1b\[[0-9;]*m", plain.out) == []


@pytest.mark.parametrize("command", [one for one in ENDING if USES[one].has_json])
async def test_what_is_asked_for_as_json_is_json(scene: Scene, command: str) -> None:
    screen = await used(scene, command, USES[command].right, "--json")

    documents = screen.out.splitlines() if command == "batch results" else [screen.out]
    assert all(json.loads(document) is not None for document in documents)


@pytest.mark.parametrize("command", [one for one in COMMANDS if one != "worker"])
async def test_what_is_used_wrongly_says_so_and_ends_with_a_code(scene: Scene, command: str) -> None:
    for use in USES[command].wrong:
        told, piped = [await ran(scene, command, use, *more) for more in ([], ["--json"])]

        assert told.text().strip(), use
        assert told.code == piped.code, (use, told, piped)
        assert told.code in {0, 1, 2, 3}, use
        if told.code in {2, 3} and use:
            assert not piped.out or json.loads(piped.out), use
            assert json.loads(piped.err)["error"]["message"], use


async def ran(scene: Scene, command: str, use: str, *more: str) -> Screen:
    """Run a command in this process, which spares the time that a process takes to start; unless it listens to signals."""
    if command in {"up", "demo", "infer", "submit"}:
        return await used(scene, command, use, *more)
    runner = CliRunner(env={"INFERMQ_DATA": str(scene.system.data)})
    made = await asyncio.to_thread(runner.invoke, app, [*words_of(scene, command, use), *more])
    if made.exception is not None and not isinstance(made.exception, SystemExit):
        raise made.exception
    return Screen(made.exit_code, made.stdout, made.stderr)


async def test_the_worker_says_what_is_wrong_as_the_others_do(scene: Scene) -> None:
    for use in USES["worker"].wrong:
        told = await used(scene, "worker", use, width=80)
        piped = await used(scene, "worker", use, "--json")

        assert (told.code, piped.code) == (2, 2)
        assert told.text().startswith("error: ")
        assert json.loads(piped.err)["error"]["code"] == "bad_input"

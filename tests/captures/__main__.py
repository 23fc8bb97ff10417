"""`python -m tests.captures OUT`: writes what every command prints, a file for each command."""

import asyncio
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from tests.captures.scene import Scene, a_scene
from tests.captures.screen import Screen
from tests.captures.uses import ENDLESS, USES, Uses, words_of
from tests.commands import tree

WIDTHS = (60, 80, 120)


async def main(out: Path) -> None:
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        async with a_scene(Path(folder)) as scene:
            for command, _ in tree():
                print(f"{time.monotonic() - began:4.0f} s {command or 'infermq'}", flush=True)  # noqa: T201
                text = "\n".join([part async for part in captured(scene, command, USES[command])])
                (out / f"{command.replace(' ', '-') or 'infermq'}.txt").write_text(text)


async def captured(scene: Scene, command: str, uses: Uses) -> AsyncIterator[str]:
    """Yield each use of a command, and what it printed."""
    for width in WIDTHS:
        yield shown(
            await scene.screens.of(*command.split(), "--help", width=width), command, "--help", f"{width} columns"
        )
    if command not in ENDLESS:
        for how, screen in [item async for item in _right(scene, command, uses)]:
            yield shown(screen, command, uses.right, how)
    for use in uses.wrong:
        words = words_of(scene, command, use)
        for width in WIDTHS:
            screen = await scene.screens.of(*words, width=width, stop_after_s=20)
            yield shown(screen, command, use, f"{width} columns")
        yield shown(await scene.screens.of(*words, "--json", stop_after_s=20), command, f"{use} --json", "in a pipe")


async def _right(scene: Scene, command: str, uses: Uses) -> AsyncIterator[tuple[str, Screen]]:
    words = words_of(scene, command, uses.right)
    for width in WIDTHS:
        yield f"{width} columns", await scene.screens.of(*words, width=width)
    yield "80 columns, NO_COLOR", await scene.screens.of(*words, width=80, environ={"NO_COLOR": "1"})
    yield "in a pipe", await scene.screens.of(*words)
    yield "| head -1", await asyncio.to_thread(_piped, scene, words, "head -1")
    if uses.has_json:
        yield "--json | jq .", await asyncio.to_thread(_piped, scene, [*words, "--json"], "jq .")


def _piped(scene: Scene, words: list[str], into: str) -> Screen:
    command = f"{shlex.join([sys.executable, '-m', 'broker', *words, '--data', str(scene.system.data)])} | {into}"
    if words[:1] in (["--version"], ["schema"]) or "--help" in words:
        command = f"{shlex.join([sys.executable, '-m', 'broker', *words])} | {into}"
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False, cwd=scene.folder
    )
    return Screen(ran.returncode, ran.stdout, ran.stderr)


def shown(screen: Screen, command: str, use: str, how: str) -> str:
    ruler = "─" * 8
    err = f"{ruler} standard error\n{screen.err}" if screen.err else ""
    name = f"infermq {command} {use}".replace("  ", " ").strip()
    return f"{ruler} {name}    [{how}] → {screen.code}\n{screen.out}{err}"


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

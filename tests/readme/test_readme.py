"""README from its first command to its last: each does what it says, in order, as a newcomer types them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.readme.terminal import ENDED, Terminal, a_terminal
from tests.test_documents import ROOT, blocks

README = ROOT / "README.md"
UP = "infermq up"
EXPECTED = {
    "git clone URL infermq && cd infermq": r"Cloning into",
    "make demo": r"small-chat +44 +44",
    "source .venv/bin/activate": r"",
    UP: r"infermq is up after",
    "cd infermq && source .venv/bin/activate": r"",
    'infermq infer small-chat "Why is the sky blue?"': r"\w+ \w+ \w+",
    "infermq submit examples/prompts.jsonl --out results.jsonl": r"44 succeeded[\s\S]*results: results.jsonl",
    "infermq status": r"smollm2-local +llamacpp[\s\S]*",
    "python examples/batch.py small-chat": r"(?m)^sky succeeded \d+ \w+",
    "python examples/ask.py small-chat": r"\w+ 64\n[\s\S]*\w+ \w+",
    "infermq submit requests.jsonl": r"batch (?P<batch>[0-9a-f-]{36})",
    "infermq batch watch BATCH": r"1 succeeded|100%",
    "infermq batch results BATCH --out answers.jsonl": r"",
    "infermq batch retry BATCH": r"nothing to retry",
    "infermq doctor": r"ok +sums",
    "infermq catalog > infermq.toml": r"",
    "infermq apply infermq.toml": r"has this content already",
    "infermq worker --deployment simulated &": r"",
    "infermq job list --state failed --since 2h": r"no job matches",
    "infermq pause model small-chat": r"small-chat is paused",
    "infermq resume model small-chat": r"small-chat goes on",
    "infermq cancel --model small-chat --older-than 2h --dry-run": r"0 jobs wait",
    "infermq dead list": r"no dead letters",
    "infermq audit": r"pause +model small-chat",
}
"""What each command prints, by the command without its comment."""


def test_each_command_of_the_readme_is_expected_in_its_order() -> None:
    lines = [without_comment(line) for block in blocks(README, "sh") for line in block.splitlines()]

    assert lines == list(EXPECTED)


def a_source(folder: Path) -> str:
    """A repository of the files as they are in this work tree, committed or not."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    author = ["-c", "user.name=Newcomer", "-c", "user.email=newcomer@localhost"]
    for command in (["init", "-q"], ["add", "-A", "-f"], [*author, "commit", "-q", "-m", "As it is"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return str(folder)


@pytest.mark.skipif("INFERMQ_TEST_README" not in os.environ, reason="it takes minutes: make test-readme")
@pytest.mark.timeout(1200)
async def test_the_commands_of_the_readme_run_in_order_as_typed(tmp_path: Path) -> None:
    home, source = tmp_path / "home", tmp_path / "source"
    home.mkdir()
    source.mkdir()
    values = {"URL": a_source(source)}
    first, second, *others = [block.splitlines() for block in blocks(README, "sh")]
    async with a_terminal(home) as one, a_terminal(home) as two:
        for line in (*first, *second[:-1]):
            await does(one, line, values)
        assert second[-1].startswith(UP)
        start = len(one.printed)
        await one.type(second[-1])
        await one.until(EXPECTED[UP], start=start, within_s=60)
        await one.until(r"Ctrl-C", start=start, within_s=10)

        (home / "infermq" / "requests.jsonl").write_text(blocks(README, "json")[0])
        for line in [line for block in others for line in block]:
            await does(two, line, values)

        await two.until("ready deployment=simulated", within_s=30)
        one.interrupt()
        await one.until(rf"{ENDED}0\n", start=start, within_s=60)
    assert len((home / "infermq" / "results.jsonl").read_text().splitlines()) == 44
    assert '"custom_id":"a-1"' in (home / "infermq" / "answers.jsonl").read_text()


async def does(terminal: Terminal, line: str, values: dict[str, str]) -> None:
    """Type a line of README, and compare what it does with what is expected. What it names goes to `values`."""
    typed = re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], line)

    code, printed = await terminal.run(typed, within_s=600)

    found = re.search(EXPECTED[without_comment(line)], printed)
    assert code == 0, f"{line}: ended with {code}\n{printed}"
    assert found, f"{line}: printed something else\n{printed}"
    values |= {name.upper(): value for name, value in found.groupdict().items()}


def without_comment(line: str) -> str:
    return re.sub(r"\s+#.*", "", line)

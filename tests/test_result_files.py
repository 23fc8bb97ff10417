"""Files of results that a killed command left: wherever they end, what is written afterwards is complete, each line once."""

import random
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
import typer
from msgspec.structs import replace

from broker.cli.result_files import ResultFiles, Wanted, check_files, read_progress, result_files
from schemas.api import Result, ResultPage, State
from schemas.files import Fault
from schemas.ids import is_line_of, line_id
from schemas.outcome import BadRequest, Usage
from schemas.units import Ms, NanoUsd
from tests.builders import an_id

BATCH = an_id()
FAULT = Fault(99, "not_json", "not JSON: …")
FAILS = {2, 3, 6}


def a_result(line: int) -> Result:
    has_failed = line in FAILS
    return Result(
        job=line_id(BATCH, line),
        custom_id=f"c{line}",
        line=line,
        state=State.FAILED if has_failed else State.SUCCEEDED,
        model="m",
        body=msgspec.Raw(b"null" if has_failed else b'{"text":"%s"}' % (b"x" * line)),
        failure=BadRequest("no") if has_failed else None,
        usage=Usage(),
        cost_nano_usd=NanoUsd(0),
        attempts=1,
        total_ms=Ms(1),
    )


def a_page(number: int, *lines: int) -> ResultPage:
    return ResultPage(tuple(map(a_result, lines)), str(number), completed=False)


PAGES = [a_page(1, 4, 2), a_page(2, 6), a_page(3, 1, 5, 3)]


def wanted_in(folder: Path, *, errors: bool = True, in_order: bool = False, failed: bool = False) -> Wanted:
    return Wanted(
        batch=BATCH,
        out=str(folder / "out"),
        errors=str(folder / "errors") if errors else None,
        in_order=in_order,
        failed=failed,
    )


def write(wanted: Wanted, *, pages: int = len(PAGES), complete: bool = True, resume: bool = False) -> ResultFiles:
    """Write results as `submit` does, with a bad line before them; perhaps on a part of the way only."""
    with result_files(wanted, resume=resume) as files:
        if not files.is_resumed:
            files.add_fault(FAULT)
            files.keep()
        if not files.mark.is_whole:
            for page in PAGES[int(files.mark.cursor or "0") : pages]:
                files.add(page)
        if complete:
            files.complete()
    return files


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def lay(folder: Path, files: dict[str, bytes]) -> None:
    for file in folder.iterdir():
        file.unlink()
    for name, text in files.items():
        (folder / name).write_bytes(text)


SHAPES = [
    {},
    {"in_order": True},
    {"errors": False},
    {"errors": False, "failed": True, "in_order": True},
]


@pytest.mark.parametrize("shape", SHAPES, ids=["two", "two in order", "one", "failures in order"])
def test_files_that_end_at_any_byte_are_completed_without_a_line_twice(
    tmp_path: Path, shape: dict[str, bool]
) -> None:
    wanted = wanted_in(tmp_path, **shape)
    write(wanted)
    whole = contents(tmp_path)
    assert set(whole) <= {"out", "errors"}

    lay(tmp_path, {})
    write(wanted, complete=False)
    left = contents(tmp_path)
    for name, text in left.items():
        for size in range(len(text) + 1):
            lay(tmp_path, {**left, name: text[:size]})
            write(wanted, resume=True)
            assert contents(tmp_path) == whole, (name, size)


def test_files_that_all_end_anywhere_are_completed(tmp_path: Path) -> None:
    chance = random.Random(1)  # noqa: S311 - no secret
    wanted = wanted_in(tmp_path)
    write(wanted)
    whole = contents(tmp_path)
    lay(tmp_path, {})
    write(wanted, complete=False)
    left = contents(tmp_path)

    for _ in range(300):
        torn = {name: text[: chance.randint(0, len(text))] for name, text in left.items() if chance.random() < 0.95}
        lay(tmp_path, torn)
        write(wanted, resume=True)
        assert contents(tmp_path) == whole, {name: len(text) for name, text in torn.items()}


def test_what_was_killed_again_and_again_is_completed(tmp_path: Path) -> None:
    """Each time after one page more, or in the middle of it."""
    wanted = wanted_in(tmp_path)
    write(wanted)
    whole = contents(tmp_path)
    lay(tmp_path, {})

    for pages in (0, 1, 2, 3):
        write(wanted, pages=pages, complete=False, resume=True)
        with (tmp_path / "out.part").open("ab") as part:
            part.write(b'{"id": "half of a li')
    files = write(wanted, resume=True)

    assert contents(tmp_path) == whole
    assert (files.mark.results, files.mark.failed) == (6, 3)


def test_the_notes_of_what_is_cut_off_are_cut_off_too(tmp_path: Path) -> None:
    wanted = wanted_in(tmp_path)
    write(wanted, complete=False)
    part = tmp_path / "out.part"
    part.write_bytes(part.read_bytes()[:-1])

    with result_files(wanted, resume=True) as files:
        noted = read_progress((tmp_path / "out.resume").read_bytes())[1]

    assert [mark.cursor for mark, _ in noted] == [None, "1", "2"]
    assert files.mark == noted[-1][0]


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("named", [(), ("out",), ("out", "errors")], ids=["none", "one", "both"])
def test_a_kill_while_files_get_their_names_is_made_good(
    tmp_path: Path, named: Sequence[str], *, in_order: bool
) -> None:
    wanted = wanted_in(tmp_path, in_order=in_order)
    write(wanted)
    whole = contents(tmp_path)
    lay(tmp_path, {})
    write(wanted, complete=False)
    with result_files(wanted, resume=True) as files:
        files.mark = replace(files.mark, is_whole=True)
        files.keep()
    left = {name: text for name, text in contents(tmp_path).items() if name.removesuffix(".part") not in named}
    lay(tmp_path, left | {name: whole[name] for name in named})

    write(wanted, resume=True)

    assert contents(tmp_path) == whole


def test_a_file_appears_under_its_name_once_it_is_complete(tmp_path: Path) -> None:
    write(wanted_in(tmp_path), pages=2, complete=False)

    assert set(contents(tmp_path)) == {"out.part", "out.resume", "errors.part"}


def test_what_did_not_succeed_and_bad_lines_are_in_the_file_of_errors_only(tmp_path: Path) -> None:
    write(wanted_in(tmp_path, in_order=True))

    good, bad = (
        [msgspec.json.decode(line) for line in (tmp_path / name).read_bytes().splitlines()]
        for name in ("out", "errors")
    )
    assert [line["custom_id"] for line in good] == ["c1", "c4", "c5"]
    assert [line["custom_id"] for line in bad] == ["c2", "c3", "c6", None]
    assert all(is_line_of(UUID(line["id"]), BATCH) for line in good + bad)
    assert bad[-1]["error"] == {"code": "not_json", "message": "not JSON: …", "line": 99}
    assert bad[0] == {
        "id": str(line_id(BATCH, 2)),
        "custom_id": "c2",
        "response": None,
        "error": {"code": "bad_request", "message": "no", "line": 2},
    }


def test_what_is_left_is_gone_on_with_only_as_it_was_begun(tmp_path: Path) -> None:
    write(wanted_in(tmp_path), pages=1, complete=False)

    with pytest.raises(typer.Exit):
        write(wanted_in(tmp_path, in_order=True), resume=True)
    with pytest.raises(typer.Exit):
        write(wanted_in(tmp_path, errors=False), resume=True)

    write(wanted_in(tmp_path), resume=True)
    assert len((tmp_path / "out").read_bytes().splitlines()) == 3


def test_without_resume_it_begins_anew(tmp_path: Path) -> None:
    write(wanted_in(tmp_path), pages=2, complete=False)

    files = write(wanted_in(tmp_path, in_order=True))

    assert files.mark.results == 6
    assert set(contents(tmp_path)) == {"out", "errors"}


def test_a_command_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), result_files(wanted_in(tmp_path)):
        raise RuntimeError

    assert contents(tmp_path) == {}


def test_two_commands_do_not_write_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with result_files(wanted_in(tmp_path)), pytest.raises(typer.Exit):
        write(wanted_in(tmp_path))

    assert "another command is writing" in capsys.readouterr().err


def test_a_device_and_one_name_for_two_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is complete takes the place of what had its name, which must never be a device."""
    with pytest.raises(typer.Exit):
        check_files(Path("/dev/null"), None)
    with pytest.raises(typer.Exit):
        check_files(tmp_path / "a", tmp_path / ".." / tmp_path.name / "a")

    said = " ".join(capsys.readouterr().err.split())
    assert "/dev/null is no regular file" in said
    assert "the same file" in said

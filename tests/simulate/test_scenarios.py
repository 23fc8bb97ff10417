"""Scenarios that once went wrong, and what the command says of seeds that do."""

import json
from pathlib import Path

import pytest

from broker.simulate import scenarios
from broker.simulate.apart import shrunk
from broker.simulate.faults.kinds import Fault, FaultKind
from tests.simulate.refinding import planted, with_fault
from tests.system import infermq

KEPT = sorted((Path(__file__).parent / "scenarios").glob("*.json"))


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_a_scenario_that_went_wrong_goes_right(file: Path) -> None:
    ran = infermq("simulate", "faults", "--scenario", str(file), "--json")

    assert json.loads(ran.stdout)["failed"] == {}


def test_workers_that_do_not_know_the_day_fail_a_system_that_believes_them() -> None:
    (fault,) = planted(["a-workers-clock-ends-attempts"])
    (file,) = (file for file in KEPT if file.stem == "workers-that-do-not-know-the-day")

    with with_fault(fault) as copy:
        ran = infermq(
            "simulate", "faults", "--scenario", str(file), "--json", cwd=copy, environ={"PYTHONPATH": str(copy)}
        )

    assert ran.returncode == 1, ran.stderr
    assert "and is expired" in ran.stdout


def test_seeds_go_well_and_do_something() -> None:
    ran = [infermq("simulate", "faults", "--seed", str(seed), "--json") for seed in (1001, 1002)]

    said = [json.loads(one.stdout) for one in ran]
    assert [one["failed"] for one in said] == [{}] * 2
    assert sum(one["jobs"] for one in said) > 100
    assert sum(one["replies"] for one in said) > 5
    assert sum(sum(one["faults"].values()) for one in said) > 5


def test_faults_that_do_not_matter_are_left_out() -> None:
    matters = Fault(5.0, FaultKind.KILL, "broker-1")
    others = [Fault(float(at), FaultKind.CUT, "worker") for at in range(7)]

    left = shrunk(1, [*others[:3], matters, *others[3:]], lambda ended: matters in ended.faults)

    assert left == [matters]


def test_a_scenario_is_read_as_it_was_written(tmp_path: Path) -> None:
    scenario = scenarios.Scenario(7, (Fault(1.5, FaultKind.STOP, "broker-1", for_s=2.0),), why="it went wrong")
    file = tmp_path / "kept.json"
    file.write_bytes(scenarios.written(scenario))

    assert scenarios.read(file) == scenario


@pytest.mark.parametrize("text", ["", "{}", '{"seed":1,"faults":[{"at_s":1,"kind":"flood"}]}'])
def test_a_file_that_is_no_scenario_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)

    ran = infermq("simulate", "faults", "--scenario", str(file))

    assert ran.returncode == 2
    assert "bad.json" in ran.stderr


def test_a_fault_that_is_planted_is_found_shrunk_and_kept(tmp_path: Path) -> None:
    (fault,) = planted(["an-identity-is-used-again"])
    kept = tmp_path / "kept.json"

    with with_fault(fault) as copy:
        ran = infermq(
            "simulate", "faults", "--seed", "1", "--keep", str(kept), cwd=copy, environ={"PYTHONPATH": str(copy)}
        )

    assert ran.returncode == 1, ran.stderr
    assert "began 2 times" in ran.stdout
    assert json.loads(kept.read_bytes())["seed"] == 1

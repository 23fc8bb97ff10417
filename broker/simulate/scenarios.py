"""Scenarios: a seed and the faults that matter in it, kept in a file under a name that says what goes wrong."""

from pathlib import Path

import msgspec

from broker.simulate.faults.kinds import Fault


class Scenario(msgspec.Struct, frozen=True, omit_defaults=True):
    seed: int
    faults: tuple[Fault, ...]
    why: str = ""
    """What went wrong, for people."""


class BadScenario(ValueError):
    """A file is no scenario. The text says why."""


def read(file: Path) -> Scenario:
    """Raises: BadScenario."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Scenario)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadScenario(f"{file}: {error}") from error


def written(scenario: Scenario) -> bytes:
    return msgspec.json.format(msgspec.json.encode(scenario), indent=1) + b"\n"

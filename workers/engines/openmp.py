"""How llama.cpp's threads wait for each other.

They meet hundreds of times a token, and spin at each barrier until all have come. As GNU OpenMP is set, one spins for
milliseconds, maybe on the very core that the awaited one needs: with anything else on the machine that costs a tenth
of the tokens, with a second engine most of them.

libgomp reads its environment once, when it is loaded (https://gcc.gnu.org/onlinedocs/libgomp/Environment-Variables.html).
"""

import importlib
import os
from types import ModuleType

import psutil

_SPINS = "10000"
"""Some 100 µs; its own is 300,000."""


def cores() -> int:
    """Physical ones, and no more than this process may use."""
    allowed = _affinity()
    physical = psutil.cpu_count(logical=False) or 1
    return min(physical, len(allowed)) if allowed else physical


def load(name: str, *, threads: int) -> ModuleType:
    """Import a library that uses libgomp, for an engine of so many threads. What the environment says already stays.

    Each thread gets a core of its own only where they are as many as the cores: fewer would all lie on the first ones,
    with those of another engine.
    """
    settings = _settings(threads)
    allowed = _affinity()
    os.environ |= settings
    try:
        return importlib.import_module(name)
    finally:
        for setting in settings:
            del os.environ[setting]
        if allowed:  # libgomp binds the thread that loads it, and so whatever that one starts
            os.sched_setaffinity(0, allowed)


def spins() -> dict[str, str]:
    """The environment in which threads spin little; none where it says already how they wait."""
    return {} if os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} else {"GOMP_SPINCOUNT": _SPINS}


def _settings(threads: int) -> dict[str, str]:
    found = spins()
    if threads == cores() and not os.environ.keys() & {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"}:
        found |= {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}
    return found


def _affinity() -> set[int]:
    """The processors that this thread may use; none where the system does not tell."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()

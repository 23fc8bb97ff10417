"""Sets how the threads of llama.cpp wait for each other.

The threads meet at hundreds of barriers for each token, and each spins until all have arrived. By default GNU OpenMP spins
for milliseconds, perhaps on the very core that the awaited thread needs. With anything else running on the machine that
costs a tenth of the tokens, with a second engine most of them.

libgomp reads its environment once, when it is loaded (https://gcc.gnu.org/onlinedocs/libgomp/Environment-Variables.html).
"""

import importlib
import os
from types import ModuleType

import psutil

_SPINS = "10000"
"""About 100 µs; the default of libgomp is 300,000."""


def cores() -> int:
    """Count the physical cores, no more than this process may use."""
    allowed = _affinity()
    physical = psutil.cpu_count(logical=False) or 1
    return min(physical, len(allowed)) if allowed else physical


def load(name: str, *, threads: int) -> ModuleType:
    """Import a library that uses libgomp, for an engine with this many threads. Variables that are set already stay.

    Threads are bound to a core each only if there are as many threads as cores. Fewer threads would all be bound to the
    first cores, together with those of another engine.
    """
    settings = _settings(threads)
    allowed = _affinity()
    os.environ |= settings
    try:
        return importlib.import_module(name)
    finally:
        for setting in settings:
            del os.environ[setting]
        if allowed:  # libgomp binds the thread that loads it, and all threads that this one starts
            os.sched_setaffinity(0, allowed)


def spins() -> dict[str, str]:
    """Return variables that make threads spin briefly; none if the environment already says how they wait."""
    return {} if os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} else {"GOMP_SPINCOUNT": _SPINS}


def _settings(threads: int) -> dict[str, str]:
    found = spins()
    if threads == cores() and not os.environ.keys() & {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"}:
        found |= {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}
    return found


def _affinity() -> set[int]:
    """Return the processors that this thread may use; none if the system does not say."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()

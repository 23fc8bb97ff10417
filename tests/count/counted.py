"""Run a module of a checkout as `python -m` does, and count the Python calls of its main thread.

`python counted.py CHECKOUT MODULE ARGUMENT…`. Each line on standard input is answered with a line of JSON: the calls of
each function since the last answer. The process ends itself as a signal would when standard input ends.

A call is a start or a resumption of a function, generator or coroutine that is written in Python. Those of asyncio and
uvicorn do not count: their timers tick whether there is work or not, so they tell how long the machine took.
"""

import cProfile
import json
import os
import runpy
import signal
import sys
import threading
from collections import Counter

_LEFT_OUT = ("/asyncio/", "/uvicorn/")


def main(checkout: str, module: str, *arguments: str) -> None:
    profile = cProfile.Profile(subcalls=False, builtins=False)
    threading.Thread(target=_answer, args=(profile,), daemon=True).start()
    sys.path[0] = checkout
    sys.argv = [module, *arguments]
    profile.enable()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _answer(profile: cProfile.Profile) -> None:
    answered: Counter[str] = Counter()
    for _ in sys.stdin:
        calls = _calls(profile)
        os.write(sys.stdout.fileno(), json.dumps(calls - answered).encode() + b"\n")
        answered = calls
    os.kill(os.getpid(), signal.SIGTERM)


def _calls(profile: cProfile.Profile) -> Counter[str]:
    """All calls so far, by function."""
    calls: Counter[str] = Counter()
    for entry in profile.getstats():
        if not isinstance(entry.code, str) and not any(part in entry.code.co_filename for part in _LEFT_OUT):
            calls[f"{_below_path(entry.code.co_filename)}:{entry.code.co_qualname}"] += entry.callcount
    return calls


def _below_path(file: str) -> str:
    """The file as it is named in the folder that it was imported from, whichever checkout that is of."""
    folder = max((path for path in sys.path if path and file.startswith(f"{path}/")), key=len, default="")
    return file.removeprefix(f"{folder}/") if folder else file


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Runs commands: reads a JSON document a line, forks, and answers with what was printed. It may fork: it has one thread."""

import contextlib
import fcntl
import importlib
import os
import pty
import selectors
import signal
import struct
import sys
import termios
import time
import traceback

import msgspec

from tests.captures.screen import Asked, Screen

_ROWS = 50
_LOADED = (
    "broker.client",
    "broker.local.up",
    "broker.batch_file",
    "broker.bench.figure",
    "rich.live",
    "rich.progress",
    "typer",
)
"""What takes long to load is loaded once. The commands are loaded after the fork, when their terminal is there."""


def main() -> None:
    for name in _LOADED:
        importlib.import_module(name)
    for line in sys.stdin.buffer:
        screen = run(msgspec.json.decode(line, type=Asked))
        sys.stdout.buffer.write(msgspec.json.encode(screen) + b"\n")
        sys.stdout.buffer.flush()


def run(ask: Asked) -> Screen:
    """Run a command, and return all that it printed. On a terminal, both streams are one."""
    outer, inner = pty.openpty() if ask.width is not None else os.pipe()
    outer_err, inner_err = (outer, inner) if ask.width is not None else os.pipe()
    if ask.width is not None:
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, ask.width, 0, 0))
    pid = os.fork()
    if pid == 0:
        os.setsid()
        _be(ask, inner, inner_err)
    for end in {inner, inner_err}:
        os.close(end)
    printed = _read(pid, {outer, outer_err}, ask)
    _, status = os.waitpid(pid, 0)
    for end in {outer, outer_err}:
        os.close(end)
    texts = [printed[end].decode(errors="replace").replace("\r\n", "\n") for end in (outer, outer_err)]
    return Screen(os.waitstatus_to_exitcode(status), texts[0], "" if ask.width is not None else texts[1])


def _read(pid: int, ends: set[int], ask: Asked) -> dict[int, bytes]:
    """Read all that is printed; after the time that was asked for, as if Ctrl-C was pressed."""
    printed = dict.fromkeys(ends, b"")
    until = time.monotonic() + ask.stop_after_s
    with selectors.DefaultSelector() as selector:
        for end in ends:
            selector.register(end, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(0.2):
                data = b""
                with contextlib.suppress(OSError):  # the other end of a terminal was closed
                    data = os.read(key.fd, 1 << 16)
                printed[key.fd] += data
                if not data:
                    selector.unregister(key.fd)
            if time.monotonic() >= until:
                os.kill(pid, signal.SIGINT)
                until = time.monotonic() + ask.stop_after_s
    return printed


def _be(ask: Asked, out: int, err: int) -> None:
    """Become the command."""
    os.dup2(os.open(os.devnull, os.O_RDONLY) if ask.width is None else out, 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.closerange(3, 256)
    os.environ.clear()
    os.environ.update(ask.environ)
    os.chdir(ask.folder)
    sys.argv = ["infermq", *ask.words]
    code = 1
    try:
        from broker.cli import main as command  # noqa: PLC0415 - its consoles are of this terminal

        command()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - it is what the user would see
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()

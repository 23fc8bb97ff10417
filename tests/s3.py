"""An S3 server in a process of its own, which others wrote: moto's."""

import os
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.local.servers import Child, spawn

KEYS = {"AWS_ACCESS_KEY_ID": "one", "AWS_SECRET_ACCESS_KEY": "two", "AWS_REGION": "us-east-1"}


@dataclass(frozen=True, slots=True)
class S3:
    url: str

    @property
    def environ(self) -> dict[str, str]:
        """The variables by which a broker reaches it."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.url}

    def new_bucket(self) -> str:
        """Make a bucket, and return its name."""
        name = f"b-{os.urandom(6).hex()}"
        self._ask("PUT", f"/{name}")
        return name

    def keys(self, bucket: str) -> str:
        """What it lists of a bucket."""
        return self._ask("GET", f"/{bucket}?list-type=2").decode()

    def write(self, bucket: str, key: str, content: bytes) -> None:
        self._ask("PUT", f"/{bucket}/{key}", content)

    def _ask(self, method: str, path: str, content: bytes | None = None) -> bytes:
        credential = "Credential=one/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x"
        headers = {"authorization": f"AWS4-HMAC-SHA256 {credential}"}
        ask = urllib.request.Request(self.url + path, content, headers, method=method)  # noqa: S310 - on the loopback
        with urllib.request.urlopen(ask, timeout=10) as answer:  # noqa: S310
            read: bytes = answer.read()
            return read


@contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    child = spawn("s3", command, log=folder / "s3.log")
    try:
        _wait(child, port)
        yield S3(f"http://127.0.0.1:{port}")
    finally:
        child.process.kill()
        child.process.wait()


def _wait(child: Child, port: int) -> None:
    while child.process.poll() is None:
        with socket.socket() as there:
            if there.connect_ex(("127.0.0.1", port)) == 0:
                return
            there.settimeout(0.1)
    raise AssertionError(child.log.read_text())

"""Makes the certificate of the servers of `infermq up`, once, and an authority for it that signs nothing else."""

import importlib.util
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from broker.config import API_CERTIFICATE, API_CERTIFICATE_KEY
from broker.errors import Unavailable
from schemas.jetstream.trust import Trust

CA_FILE = "ca.pem"
"""In the data folder: the certificate of the authority. It is no secret: whoever connects needs it."""
_CERTIFICATE_FILE = "nats-server.pem"
_KEY_FILE = "nats-server.key"


@dataclass(frozen=True, slots=True)
class Certificate:
    """The files of a server's certificate."""

    folder: Path

    @property
    def trust(self) -> Trust:
        """What others need to know the server by it."""
        return Trust(ca=str(self.folder / CA_FILE))

    def settings(self) -> str:
        """Return the lines of the server's configuration."""
        certificate, key = (json.dumps(str(self.folder / name)) for name in (_CERTIFICATE_FILE, _KEY_FILE))
        return f"tls {{ cert_file: {certificate}, key_file: {key}, timeout: 3 }}\n"

    def of_api(self) -> dict[str, str]:
        """Return the variables by which a broker shows it for its API over HTTP too."""
        return {
            API_CERTIFICATE: str(self.folder / _CERTIFICATE_FILE),
            API_CERTIFICATE_KEY: str(self.folder / _KEY_FILE),
        }

    def is_whole(self) -> bool:
        return all((self.folder / name).is_file() for name in (CA_FILE, _CERTIFICATE_FILE, _KEY_FILE))


def kept_certificate(folder: Path) -> Certificate:
    """Return the certificate of this machine's NATS, which is made if there is none yet.

    The key of its authority is kept nowhere, so nobody can make another that is trusted. Raises: Unavailable, OSError.
    """
    kept = Certificate(folder.resolve())
    if not kept.is_whole():
        _make(kept.folder)
    return kept


def _make(folder: Path) -> None:
    if importlib.util.find_spec("trustme") is None:
        raise Unavailable("NATS", "certificates cannot be made here: pip install 'infermq[embedded]'")
    import trustme  # noqa: PLC0415 - it is optional

    authority = trustme.CA(organization_name="infermq up")
    server = authority.issue_cert("localhost", "127.0.0.1", "::1", socket.gethostname())
    _write(folder / _KEY_FILE, server.private_key_pem.bytes(), mode=0o600)
    _write(folder / _CERTIFICATE_FILE, b"".join(pem.bytes() for pem in server.cert_chain_pems), mode=0o644)
    _write(folder / CA_FILE, authority.cert_pem.bytes(), mode=0o644)


def _write(file: Path, content: bytes, *, mode: int) -> None:
    """Write a file whole or not at all."""
    part = file.with_name(f"{file.name}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as stream:
        stream.write(content)
    part.replace(file)

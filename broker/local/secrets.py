"""Makes the secrets of `infermq up`, once: the brokers' own, and the first API keys. Only its user can read their files."""

import os
import secrets
from pathlib import Path

from broker.core.nats_keys import SECRET_BYTES, NatsKeys, text_of

def kept_nats_keys(file: Path) -> NatsKeys:
    """Read the brokers' secret, which is made if there is none yet. Raises: BadSecret, OSError."""
    if not file.exists():
        write_secret(file, text_of(secrets.token_bytes(SECRET_BYTES)))
    return NatsKeys.of_text(file.read_text())


def write_secret(file: Path, text: str) -> None:
    """Write a line that nobody else can read, whole or not at all. Raises: OSError."""
    part = file.with_name(f"{file.name}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(f"{text}\n")
    part.replace(file)

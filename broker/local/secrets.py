"""Makes the secrets of `infermq up`, once: the brokers' own, and the first API keys. Only its user can read their files."""

import os
import secrets
from pathlib import Path

from broker.config import KEY_FILE, WORKER_KEY_FILE
from broker.core.grants import Grant
from broker.core.keys import Directory
from broker.core.nats_keys import SECRET_BYTES, NatsKeys, text_of
from broker.core.principal import Principal
from broker.ledger import open_ledger
from broker.local.first_key import change_by, new_key
from schemas.accounts import Role
from schemas.clock import wall_clock
from schemas.subjects import DEFAULT
from schemas.units import Ms

_MADE_BY = "up"
"""Who made the first keys, as the audit says."""


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


async def make_first_keys(data: Path, postgres_url: str) -> None:
    """Make an operator's key for its user and one for its workers, unless those in the data folder are let in.

    Raises: Unavailable, OSError.
    """
    now = wall_clock()
    async with open_ledger(postgres_url, clock=wall_clock, connections=1) as ledger:
        directory = await ledger.api_keys.directory(ended_since=now)
        for name, role, label in (
            (KEY_FILE, Role.OPERATOR, "the user of infermq up"),
            (WORKER_KEY_FILE, Role.WORKER, "the workers of infermq up"),
        ):
            if not _is_let_in(data / name, directory, now):
                key, by = new_key(DEFAULT), change_by(DEFAULT, _MADE_BY)
                await ledger.api_keys.create(Grant(role=role, label=label).record(key, by.at_ms), by)
                write_secret(data / name, key.text())


def _is_let_in(file: Path, directory: Directory, now: Ms) -> bool:
    """Say whether the key that is kept is let in. A ledger that was made anew does not know it."""
    return file.is_file() and isinstance(directory.identify_text(file.read_text().strip(), now), Principal)

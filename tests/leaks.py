"""Looks for secrets and prompts in all that a system, and the commands against it, have printed and written."""

import asyncio
import contextlib
import re
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import psutil

from broker.config import KEY_FILE, NATS_KEY_KEPT, RUN_FILE, WORKER_KEY_FILE, RunInfo
from broker.core.accounts import BROKERS_LIVE_IN
from broker.core.nats_keys import NatsKeys
from broker.local.secrets import kept_nats_keys

PROMPT = "violet-armadillo-7261"
"""In a prompt of tests that want to see where prompts go."""
_STORES = ("nats/store", "postgres")
"""Where prompts belong, and no key does."""
_PRIVATE = (KEY_FILE, WORKER_KEY_FILE, NATS_KEY_KEPT, RUN_FILE, "nats-server.key")
"""Files in the data folder that only their user may read."""
_A_KEY = re.compile(rb"imq_[a-z0-9-]{1,63}_[a-z0-9]{12}_[0-9A-Za-z]{49}")
_A_WEBHOOK_SECRET = re.compile(rb"whsec_[0-9A-Za-z+/]{32}")
_A_SEED = re.compile(rb"\bS[AUNCO][A-Z2-7]{56}\b")


async def shown_by(info: RunInfo, processes: Iterable[psutil.Process]) -> list[str]:
    """Return what a running system shows to whoever is on its machine: its metrics, its health, its process list."""
    urls = [f"{url}/{page}" for url in (info.broker_http, *info.workers.values()) for page in ("metrics", "readyz")]
    shown = [await asyncio.to_thread(_read, url) for url in urls]
    for process in processes:
        with contextlib.suppress(psutil.Error):
            shown.append(" ".join(process.cmdline()))
    return shown


def _read(url: str) -> str:
    """Read a page. One that cannot be read shows nothing."""
    try:
        with urllib.request.urlopen(url, timeout=5) as page:  # noqa: S310 - our own
            return str(page.read().decode(errors="replace"))
    except OSError:
        return ""


def secrets_of(data: Path) -> Mapping[str, bytes]:
    """Return the secrets of a system, by what they are."""
    found = {}
    for name in (KEY_FILE, WORKER_KEY_FILE):
        if (data / name).is_file():
            found[name] = (data / name).read_bytes().strip().rpartition(b"_")[2]
    if (data / NATS_KEY_KEPT).is_file():
        found[NATS_KEY_KEPT] = (data / NATS_KEY_KEPT).read_bytes().strip()
        found |= _derived(kept_nats_keys(data / NATS_KEY_KEPT))
    return found


def _derived(keys: NatsKeys) -> dict[str, bytes]:
    users = {f"user of {account}": keys.user_seed(account).encode() for account in BROKERS_LIVE_IN}
    return {**users, "issuer": bytes(keys.issuer.seed)}


def leaks(data: Path, said: Iterable[str]) -> list[str]:
    """Name what leaked, and where. Nothing is read of a data folder that is gone."""
    secrets = secrets_of(data)
    found = [f"{what} in what was printed" for text in said for what in _in(text.encode(errors="replace"), secrets)]
    for file in sorted(data.rglob("*")):
        name = str(file.relative_to(data))
        if name in _PRIVATE:
            if file.stat().st_mode & 0o077:
                found.append(f"{name} can be read by others")
        elif file.is_file():
            with contextlib.suppress(FileNotFoundError, PermissionError):
                found += [f"{what} in {name}" for what in _in_file(name, file.read_bytes(), secrets)]
    return found


def _in_file(name: str, content: bytes, secrets: Mapping[str, bytes]) -> Iterator[str]:
    if name.startswith(_STORES):
        yield from (what for what, secret in secrets.items() if secret in content)
        return
    yield from _in(content, secrets)
    if _A_KEY.search(content):
        yield "an API key"
    if _A_WEBHOOK_SECRET.search(content):
        yield "the secret of a webhook"
    if _A_SEED.search(content):
        yield "a seed"


def _in(content: bytes, secrets: Mapping[str, bytes]) -> Iterator[str]:
    yield from (what for what, secret in secrets.items() if secret in content)
    if PROMPT.encode() in content:
        yield "a prompt"

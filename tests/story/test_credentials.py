"""No command prints the password of a URL, whether its servers are away, refuse it, or answer."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from broker.local.servers import nats_server
from tests.real.test_starting_degraded import free_port
from tests.system import SECRET, infermq, infermq_here

pytestmark = [
    pytest.mark.story,
    pytest.mark.commands,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
]
JOB = "01a20a99-e3c1-7340-97d5-e1e24b0b5345"
COMMANDS = (
    ("status",),
    ("status", "--json"),
    ("catalog",),
    ("apply", "FILE"),
    ("batch", "list"),
    ("batch", "show", JOB),
    ("job", "show", JOB),
    ("infer", "m", "Hello.", "--no-stream"),
    ("submit", "FILE"),
    ("doctor",),
    ("doctor", "--json"),
    ("migrate",),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def urls(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[str, ...]]:
    """Of a NATS that is away, of one that refuses the password, and of one without a broker."""
    folder = tmp_path_factory.mktemp("servers")
    settings = f'authorization {{ user: "u", password: "{SECRET}" }}\n'
    async with nats_server(folder, settings=settings) as url:
        away = f"nats://u:{SECRET}@127.0.0.1:{free_port()}"
        yield away, url.replace("//", f"//{SECRET}:{SECRET}@"), url.replace("//", f"//u:{SECRET}@")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
async def test_a_command_that_fails_shows_no_password(
    urls: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("{}\n")
    for nats_url in urls:
        postgres_url = f"postgresql://u:{SECRET}@127.0.0.1:{free_port()}/x?password={SECRET}"
        places = ["--nats-url", nats_url]
        if words[0] in {"doctor", "migrate"}:
            places += ["--postgres-url", postgres_url]

        ran = await asyncio.to_thread(infermq_here, *words, *places)

        assert ran.returncode != 0
        assert SECRET not in ran.stdout + ran.stderr
        assert "Traceback" not in ran.stderr


async def test_an_up_whose_servers_are_away_says_so_soon_and_shows_no_password(tmp_path: Path) -> None:
    port = free_port()
    for places in (
        ("--nats-url", f"nats://u:{SECRET}@127.0.0.1:{port}"),
        ("--postgres-url", f"postgresql://u:{SECRET}@127.0.0.1:{port}/x"),
    ):
        ran = await asyncio.to_thread(infermq, "up", "--data", str(tmp_path / "data"), "--port", "0", *places)

        assert ran.returncode == 3, ran.stderr
        assert "127.0.0.1" in ran.stderr
        assert SECRET not in ran.stdout + ran.stderr
        assert "Traceback" not in ran.stderr

"""No secret and no prompt is in anything that a system, and the commands against it, print and write."""

import asyncio
import json
import secrets
from pathlib import Path

import pytest

from broker.config import KEY_FILE, NATS_KEY_KEPT, WORKER_KEY_FILE
from broker.local.secrets import kept_nats_keys, write_secret
from schemas.api_keys import ApiKey
from tests.builders import CHAT
from tests.leaks import PROMPT, leaks
from tests.system import a_catalog_file, a_system, infermq

pytestmark = [pytest.mark.commands, pytest.mark.timeout(240)]
KEY = ApiKey("default", "annannannann", b"a" * 32)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data folder of a system that has just begun."""
    kept_nats_keys(tmp_path / NATS_KEY_KEPT)
    write_secret(tmp_path / KEY_FILE, KEY.text())
    write_secret(tmp_path / WORKER_KEY_FILE, ApiKey("default", "workerworker", b"w" * 32).text())
    (tmp_path / "logs").mkdir()
    (tmp_path / "nats" / "store").mkdir(parents=True)
    return tmp_path


def test_what_leaks_is_found_and_named(data: Path) -> None:
    keys = kept_nats_keys(data / NATS_KEY_KEPT)
    assert leaks(data, ["nothing"]) == []

    assert leaks(data, [f"token={KEY.text()}"]) == ["key in what was printed"]
    assert leaks(data, [str(keys.issuer.seed.decode())]) == ["issuer in what was printed"]
    assert leaks(data, [f"prompt: {PROMPT}!"]) == ["a prompt in what was printed"]
    log = data / "logs" / "broker.log"
    log.write_text(ApiKey("other", "bobbobbobbob", secrets.token_bytes(32)).text())
    assert leaks(data, []) == ["an API key in logs/broker.log"]
    log.write_text((data / NATS_KEY_KEPT).read_text())
    assert leaks(data, []) == ["nats.key in logs/broker.log"]
    log.unlink()
    (data / "nats" / "store" / "1.blk").write_text(f"{PROMPT} {KEY.text()}")
    assert leaks(data, []) == ["key in nats/store/1.blk"]
    (data / "nats" / "store" / "1.blk").unlink()
    (data / KEY_FILE).chmod(0o644)
    assert leaks(data, []) == ["key can be read by others"]


@pytest.mark.story
async def test_no_command_and_no_log_shows_a_secret_or_a_prompt(tmp_path: Path) -> None:
    """All is looked through as the system ends; here it is given occasions."""
    lines, out = tmp_path / "lines.jsonl", tmp_path / "out.jsonl"
    bad = {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": -1}
    good = {**bad, "max_tokens": 4}
    failing = {**good, "model": "nothing-has-this"}
    request = {"method": "POST", "url": CHAT}
    bodies = [good, bad, failing, {**good, "n": PROMPT}]
    lines.write_text(
        "".join(json.dumps({"custom_id": f"{n}", **request, "body": b}) + "\n" for n, b in enumerate(bodies))
    )
    catalog = a_catalog_file(tmp_path, options="output_tokens = 3")
    async with a_system(tmp_path / "data", catalog) as system:
        key = tmp_path / "ann.key"
        await system.here("key", "create", "--role", "producer", "--label", "ann", "--out", str(key))
        await asyncio.to_thread(system.command, "submit", str(lines), "--deadline", "10s", "--wait")
        await asyncio.to_thread(
            system.command, "submit", str(lines), "--out", str(out), "--json", "--new", "--deadline", "5s"
        )
        for words in (("m", PROMPT), ("nothing-has-this", PROMPT), ("m", PROMPT, "--timeout", "0")):
            await asyncio.to_thread(system.command, "infer", *words, "--no-stream")
        shown = await system.here("job", "list", "--json", "--limit", "20")
        for job in json.loads(shown.stdout)["jobs"]:
            await system.here("job", "show", job["id"])
            await system.here("job", "show", job["id"], "--json")
        for line in ("status", "doctor", "key list", "audit", "batch list", "job list", "dead list", "tenant list"):
            await system.here(*line.split())
            await system.here(*line.split(), "--json")
        cut = {"INFERMQ_API_KEY": key.read_text().strip()[:-1]}
        for line in ("status", "doctor", "infer m Hello."):
            place = ("--data", str(system.data))
            system.noted(await asyncio.to_thread(infermq, *line.split(), *place, environ=cut))
    assert key.read_text().strip().rpartition("_")[2] not in "".join((*system.said, *system.shown))
    assert len(system.shown) > 4

"""The bare pipeline that `bench bulk` compares with."""

import os
import signal

import pytest

from broker.bench.floor import floor
from broker.client import new_id

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]


async def test_it_fails_when_one_of_its_processes_ends(nats_url: str, ledger_url: str) -> None:
    async with floor(nats_url, ledger_url, answer_bytes=10) as below:
        assert await below.run([b"{}"] * 20, new_id()) > 0
        os.kill(below.processes[0].pid, signal.SIGKILL)

        with pytest.raises(RuntimeError, match="ended"):
            await below.run([b"{}"] * 20, new_id())

"""A call that NATS does not let a key make is refused at once, and not waited for in vain."""

import asyncio
import time
from pathlib import Path

import pytest

from broker.client import Client, NoBroker, RequestRefused
from broker.local.servers import nats_server

pytestmark = pytest.mark.real
SETTINGS = """authorization { users: [
  { user: "u", password: "p", permissions: { publish: ["infermq.api.catalog-show.>"], subscribe: [">"] } }
] }
"""


async def test_a_call_that_nats_does_not_let_a_key_make_is_refused_at_once(tmp_path: Path) -> None:
    async with nats_server(tmp_path, settings=SETTINGS) as url, Client.connect(url.replace("//", "//u:p@")) as client:
        began = time.monotonic()
        ends = await asyncio.gather(
            client.tenants(), client.tenants(), client.status(), client.catalog(), return_exceptions=True
        )
        took_s = time.monotonic() - began

    assert [type(end) for end in ends] == [RequestRefused, RequestRefused, RequestRefused, NoBroker]
    for end, verb in zip(ends, ("tenant-list", "tenant-list", "status"), strict=False):
        assert isinstance(end, RequestRefused)
        assert (end.problem.code, f"may not call {verb}:" in end.problem.message) == ("forbidden", True)
    assert took_s < 8, "a call waits for ten seconds"

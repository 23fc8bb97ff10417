"""A broker is killed between the end of a batch and its webhook, and in the middle of sending it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from schemas.webhooks import EventType, WebhookCreate
from tests.receiver import a_receiver
from tests.system import a_catalog_file, a_client, a_system, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


async def test_a_webhook_comes_though_its_broker_is_killed_before_and_while_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFERMQ_WEBHOOK_ALLOW", "127.0.0.1")
    monkeypatch.setenv("INFERMQ_WEBHOOK_HTTP", "1")
    async with a_receiver() as receiver, a_system(tmp_path / "data", a_catalog_file(tmp_path)) as system:
        receiver.hangs.clear()
        async with a_client(system) as client:
            made = await client.create_webhook(WebhookCreate(url=receiver.url, events=tuple(EventType)))
            receiver.secret = made.secret
            batches = [(await client.create_batch()).id for _ in range(3)]
            for batch in batches:  # one after the other: the broker is killed right after the last is complete
                await client.seal(batch, jobs=0)
        system.children("serve")[0].kill()
        killed = 1
        while killed < 3:
            before = len(receiver.came)
            await until(lambda n=before: _more(receiver.came, n), "one is on its way", within_s=90)  # type: ignore[misc]
            system.children("serve")[0].kill()
            killed += 1
        receiver.hangs.set()

        async def all_came() -> bool:
            return {body["data"]["batch_id"] for _, body in receiver.came} == set(map(str, batches))

        await until(all_came, "each batch was told of", within_s=120)

        async def all_are_delivered() -> bool:
            found = await system.here("webhook", "deliveries", "--status", "delivered", "--json")
            return found.stdout.count('"batch.completed"') >= len(batches)

        await until(all_are_delivered, "each is recorded", within_s=120)
        assert receiver.false == 0


async def _more(came: Sequence[object], number: int) -> bool:
    return len(came) > number

"""The endpoint of a webhook: it takes some messages, refuses some, and lets some wait for an answer that never comes."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from broker.core.webhooks import Answer

_TOTAL_S = 15.0
_REFUSES, _HANGS = 0.2, 0.05


@dataclass(slots=True)
class Endpoint:
    chance: random.Random
    taken: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What it was told, by the id of the message: the event, and the id of what it is about."""

    async def take(self, _: str, headers: Mapping[str, str], body: bytes) -> Answer:
        await asyncio.sleep(self.chance.random() * 0.05)
        draw = self.chance.random()
        if draw < _HANGS:
            await asyncio.sleep(_TOTAL_S)
            return Answer(error="it took too long")
        if draw < _HANGS + _REFUSES:
            return Answer(status=503)
        told = msgspec.json.decode(body)
        self.taken[headers["webhook-id"]] = (told["type"], told["data"]["id"])
        await asyncio.sleep(self.chance.random() * 0.05)
        return Answer(status=200)

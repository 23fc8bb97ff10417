"""How patient the client is with an upload, on virtual time."""

import asyncio
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import pytest

from broker.client import Client
from broker.client.door import Door, FileContent
from broker.client.errors import RequestRefused
from broker.errors import Unavailable
from broker.simulate.world.story import Story
from broker.simulate.world.world import World
from schemas.api import Problem

CONTENT = FileContent(sha256="0" * 64, bytes=9, name="in.jsonl", kept_s=60)
PATIENCE_S = 20.0
LOST = Unavailable("infermq", "the connection is lost")
DROPPED = RequestRefused(Problem("bad_offset", "others have dropped it", "offset", 0))


@dataclass(slots=True)
class Trying:
    """Files of which each try takes a while and fails, until the errors are at an end."""

    takes_s: float
    errors: Sequence[Exception]
    kept_bytes: Sequence[int] = ()
    tries: list[int] = field(default_factory=list)

    async def kept(self, _: FileContent) -> tuple[int, str | None]:
        return (self.kept_bytes[len(self.tries)] if self.kept_bytes else 0), None

    async def send(self, _: BinaryIO, __: FileContent, *, offset: int, sent: Callable[[int], None]) -> str:
        self.tries.append(offset)
        await asyncio.sleep(self.takes_s)
        sent(offset)
        if len(self.tries) <= len(self.errors):
            raise self.errors[len(self.tries) - 1]
        return "file-1"


def stored(files: Trying) -> str | None:
    """The file that the client stores. None: it gives up."""
    world = World(1, Story())
    process = world.process("client")
    found: list[str] = []

    async def main() -> None:
        client = Client(cast("Door", None), patience_s=PATIENCE_S)
        found.append(await client._stored(cast("Any", files), io.BytesIO(bytes(9)), CONTENT, lambda _: None))

    process.start(main())
    world.run(lambda: process.is_over, within_s=100_000)
    return found[0] if found else None


@pytest.mark.parametrize("takes_s", [0.1, 3600.0], ids=["at once", "after an hour"])
def test_an_upload_goes_on_whenever_it_was_cut_off(takes_s: float) -> None:
    assert stored(Trying(takes_s, [LOST] * 3, kept_bytes=[0, 1, 2, 3])) == "file-1"


def test_an_upload_is_given_up_when_nothing_more_of_it_comes_through() -> None:
    files = Trying(15.0, [LOST] * 9)

    assert stored(files) is None
    assert len(files.tries) == 3


def test_an_upload_goes_on_when_it_is_told_that_more_is_there() -> None:
    others_sent = RequestRefused(Problem("bad_offset", "others have sent 5", "offset", 5))

    assert stored(Trying(15.0, [LOST, LOST, others_sent])) == "file-1"


def test_an_upload_that_others_drop_is_begun_again_but_not_for_ever() -> None:
    files = Trying(3600.0, [DROPPED] * 99)

    assert stored(Trying(3600.0, [DROPPED] * 4)) == "file-1"
    assert stored(files) is None
    assert 5 < len(files.tries) < 9

"""Every role asks every route of the API over HTTP about another tenant's things, and about what is not there.

Nothing of another tenant is shown or changed, and no answer tells whether it is there.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from broker.client import Client
from broker.core.openai_batch import read_file_id, read_id
from broker.doors.http.routes import ROUTES as TABLE
from tests.accounts.test_walk_verbs import _MARKS, some_things
from tests.accounts.walked import (
    ACTORS,
    ADA,
    ANN,
    BEA,
    BOB,
    CATALOG,
    DEE,
    LEE,
    OPS,
    WORKER_D,
    Actor,
    Walked,
    a_walked_system,
)
from tests.accounts.walked_ledger import snapshot
from tests.accounts.walked_routes import FRESH, OPEN_TO_ALL, ROUTES, Ask, Stored, form
from tests.accounts.walked_verbs import nobodys
from tests.builders import CHAT

pytestmark = [pytest.mark.real, pytest.mark.walks, pytest.mark.timeout(180)]
_METHODS = {route.name: route.method for route in TABLE}


class Asker:
    """Asks routes with a key, or with none."""

    def __init__(self, session: aiohttp.ClientSession, key: str | None) -> None:
        self._session = session
        self._headers = {} if key is None else {"authorization": f"Bearer {key}"}

    async def ask(self, route: str, ask: Ask) -> tuple[int, bytes]:
        """Return status and body."""
        headers = self._headers | {"accept": ask.accept} | ({} if ask.body is None else {"content-type": ask.kind})
        async with self._session.request(_METHODS[route], ask.path, data=ask.body, headers=headers) as answer:
            return answer.status, await answer.read()


@asynccontextmanager
async def as_(system: Walked, actor: Actor | None) -> AsyncIterator[Asker]:
    async with aiohttp.ClientSession(system.api) as session:
        yield Asker(session, None if actor is None else actor.key.text())


@pytest.fixture
async def system(tmp_path: Path) -> Any:
    async with a_walked_system(tmp_path) as walked:
        async with Client.connect(walked.url, api_key=OPS.key.text()) as client:
            await client.apply_catalog(CATALOG)
        yield walked


async def stored(system: Walked, admin: Actor, key: Actor) -> Stored:
    """Make all that a tenant can have, also a file and its batch, whose only line is marked."""
    mark = _MARKS[admin.tenant]
    line = {"custom_id": mark, "method": "POST", "url": CHAT, "body": {"model": "nothing", "messages": []}}
    async with as_(system, key) as asker:
        status, file = await asker.ask("file_create", form(msgspec.json.encode(line) + b"\n"))
        assert status == 200, file
        named = msgspec.json.decode(file)["id"]
        ask = {"input_file_id": named, "endpoint": CHAT, "completion_window": "24h", "metadata": {"mark": mark}}
        status, batch = await asker.ask("batch_create", Ask("/v1/batches", msgspec.json.encode(ask)))
        assert status == 200, batch
    found, made = read_file_id(named), read_id(msgspec.json.decode(batch)["id"], "batch_")
    assert found is not None
    assert made is not None
    ours = Stored(things=await some_things(system, admin, key), file=found[0], batch=made)
    async with as_(system, key) as asker:
        status, shown = await asker.ask("upload_go_on", ROUTES["upload_go_on"](ours)[0])
        assert status == 200, shown
    return ours


def nothing() -> Stored:
    return Stored(things=nobodys(), file=nobodys().batch, batch=nobodys().batch)


def test_every_route_is_walked() -> None:
    assert ROUTES.keys() == {route.name for route in TABLE}
    assert {route.name for route in TABLE if route.open} == OPEN_TO_ALL


async def test_no_route_shows_or_changes_what_is_anothers_or_tells_that_it_is_there(system: Walked) -> None:
    theirs = await stored(system, BEA, BOB)
    await stored(system, ADA, ANN)
    before = await snapshot(system.database, of=theirs.names, but="acme")

    faults = []
    for actor in (ANN, ADA, LEE, DEE):
        async with as_(system, actor) as asker:
            for route, requests in ROUTES.items():
                for n, ask in enumerate(requests(theirs)):
                    none = nothing()
                    (status, some), (other, empty) = (
                        await asker.ask(route, ask),
                        await asker.ask(route, requests(none)[n]),
                    )
                    who = f"{actor.name} {route} {n}"
                    if b"bobs-mark" in some or {status, other} & {500, 502}:
                        faults.append(f"{who}: {status} {some[:300]!r}")
                    if route not in FRESH and (status, _bare(some, theirs)) != (other, _bare(empty, none)):
                        faults.append(f"{who}: {status} {some!r} for another's, {other} {empty!r} for nothing")

    assert not faults, "\n".join(faults)
    assert await snapshot(system.database, of=theirs.names, but="acme") == before


def _bare(answer: bytes, of: Stored) -> str:
    """Return an answer without what must differ: ids, names and times."""
    text = answer.decode()
    for name in sorted(of.names, key=len, reverse=True):
        text = text.replace(name, "NAME")
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}|[0-9a-f]{32}", "ID", text)
    return re.sub(r'_(ms|at)": ?\d+', '_ms":0', text)


async def test_each_route_reaches_what_is_ones_own(system: Walked) -> None:
    ours = await stored(system, ADA, ANN)
    shown = b""
    async with as_(system, ANN) as asker:
        for route in (
            "job_show",
            "job_list",
            "file_show",
            "file_content",
            "file_list",
            "upload_show",
            "batch_show",
            "batch_list",
        ):
            for ask in ROUTES[route](ours)[:1]:
                status, body = await asker.ask(route, ask)
                assert status == 200, (route, body)
                shown += body

    assert b"acme-mark" in shown
    assert ours.file.hex.encode() in shown
    assert ours.batch.hex.encode() in shown


async def test_without_a_key_that_is_let_in_no_route_but_the_open_ones_does_anything(system: Walked) -> None:
    theirs = await stored(system, BEA, BOB)
    before = await snapshot(system.database)
    strangers = [None, *(text for text in ("", "imq_bobs", BOB.key.text()[:-1] + "x", "sk-" + "a" * 40))]
    faults = []
    async with aiohttp.ClientSession(system.api) as session:
        for key in strangers:
            asker = Asker(session, key)
            for route, requests in ROUTES.items():
                for ask in requests(theirs):
                    status, body = await asker.ask(route, ask)
                    if (status == 401) is (route in OPEN_TO_ALL) or b"bobs-mark" in body:
                        faults.append(f"{key} {route}: {status} {body[:200]!r}")

    assert not faults, "\n".join(faults)
    assert await snapshot(system.database) == before


async def test_workers_and_restricted_keys_ask_no_model_that_is_not_theirs(system: Walked) -> None:
    for actor in ACTORS:
        async with as_(system, actor) as asker:
            statuses = {
                route: (await asker.ask(route, ROUTES[route](nothing())[0]))[0]
                for route in ("completions", "chat", "messages", "embeddings")
            }
        may = actor.models is None and actor.lanes is None and actor.name.split()[0] != "worker"
        if not may:
            assert set(statuses.values()) == {403}, (actor.name, statuses)


async def test_a_worker_reads_no_results(system: Walked) -> None:
    async with as_(system, WORKER_D) as asker:
        asked = [await asker.ask("batch_results", ask) for ask in ROUTES["batch_results"](nothing())]

    assert [status for status, _ in asked] == [403] * len(asked)

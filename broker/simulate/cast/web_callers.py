"""Callers of a simulated world over HTTP: they ask models, submit jobs, and read what became of them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any
from uuid import UUID

import msgspec

from broker.client import Submission
from broker.simulate.cast.acting import Acts, act_at_random
from broker.simulate.cast.dialects import MESSAGES, RESPONSES, Dialect
from broker.simulate.cast.keys import Keyring, Revocable
from broker.simulate.cast.sse import Event, events_of
from broker.simulate.cast.told import DONE, KINDS, SUCCEEDED, Asked, Sent, Told, a_body, a_kind
from broker.simulate.cast.web import Answer, ConnectionLost, Web
from broker.simulate.world.world import Process
from schemas.job import Lane

_TIMEOUT_S = 6.0
_PATIENCE_S = 12.0
"""How long somebody waits for an answer: longer than any time-out of a request."""
_FOLLOWS_S = 60.0
"""How long somebody follows a batch."""
_LEAVES = 0.3
_WITH_OWN_KEY = 0.5
_STREAMED = 0.6
_CHAT = "/v1/chat/completions"
_ASKS_MODELS = {_CHAT, RESPONSES.path, MESSAGES.path}
_SSE = {"accept": "text/event-stream"}
_FORBIDDEN = 403
PASSING = (ConnectionLost, TimeoutError)


class Refused(Exception):
    """A broker answered with an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message

    @classmethod
    def of(cls, status: int, body: bytes) -> "Refused":
        said = json.loads(body)["error"]
        return cls(status, said.get("code") or said["type"], said["message"])

    @property
    def passes(self) -> bool:
        """Whether it may go better later."""
        return self.status in (429, 503)


class WebCaller:
    """A process of one tenant that asks over HTTP, one thing after another, at random."""

    def __init__(self, process: Process, tenant: str, web: Web, told: Told, keys: Keyring, *, acts: int) -> None:
        self.process = process
        self.told = told
        self.tenant = tenant
        self._web = web
        self._keys = keys
        self._acts = acts
        self._chance = process.random
        self._now_s = process.monotonic

    async def main(self) -> None:
        acts: Acts = (
            (5, self._whole), (5, self._stream), (4, self._translated), (3, self._job), (1, self._cancel),
            (3, self._follow), (1, self._show), (4, self._with_ended_key), (2, self._with_narrow_key), (1, self._peek),
        )  # fmt: skip
        await act_at_random(self._chance, acts, self._acts, do=self._tried, every_s=1.0)
        self.process.say("has done all it wanted")

    async def _tried(self, act: Callable[[], Awaitable[None]]) -> None:
        name = f"web {act.__name__.strip('_')}"
        self.told.counted(name)
        try:
            await act()
        except (Refused, *PASSING) as error:
            self.process.say(f"gives up: {name}: {str(error) or type(error).__name__}")

    # asking models

    async def _whole(self) -> None:
        asked, body = self._question({})
        with self._heard(asked):
            async with asyncio.timeout(_PATIENCE_S), self._asking("POST", _CHAT, body) as answer:
                asked.job = UUID(answer.headers["x-request-id"])
                self._answered(asked, await self._read(answer))

    async def _stream(self) -> None:
        """Read a stream piece by piece. Some leave after the first ones."""
        asked, body = self._question({"stream": True, "infermq": {"answer": True}})
        pieces_left = self._chance.randrange(1, 5) if self._chance.random() < _LEAVES else None
        with self._heard(asked):
            async with asyncio.timeout(_PATIENCE_S), self._asking("POST", _CHAT, body) as answer:
                asked.job = UUID(answer.headers["x-request-id"])
                if answer.status != 200:
                    raise Refused.of(answer.status, await answer.whole())
                pieces: list[bytes] = []
                async for event in events_of(answer.pieces()):
                    if event.name == "error":
                        raise Refused.of(200, event.data)
                    if event.name == "answer":
                        self._streamed(asked, pieces, event.data)
                    elif event.data != b"[DONE]":
                        pieces.append(event.data)
                    if len(pieces) == pieces_left:
                        asked.has_left = True
                        return

    def _question(self, more: dict[str, Any]) -> tuple[Asked, bytes]:
        kind = a_kind(self._chance)
        asked = Asked(kind, self.tenant, self._now_s(), _TIMEOUT_S)
        self.told.asked.append(asked)
        return asked, json.dumps({"model": kind.model, **a_body(self._chance, kind), **more}).encode()

    def _streamed(self, asked: Asked, pieces: list[bytes], body: bytes) -> None:
        """Compare the pieces of a stream with its end."""
        text = "".join(json.loads(one)["choices"][0]["delta"].get("content") or "" for one in pieces)
        whole = json.loads(body)["choices"][0]["message"]["content"]
        if text != whole:
            self.told.wrong.append(f"request {asked.job} was streamed as {text!r}, and ended as {whole!r}")
        self._answered(asked, body)

    async def _translated(self) -> None:
        """Ask in another API, for a stream or not."""
        dialect, kind = self._chance.choice((RESPONSES, MESSAGES)), a_kind(self._chance)
        streamed = self._chance.random() < _STREAMED
        asked = Asked(kind, self.tenant, self._now_s(), _TIMEOUT_S)
        if dialect.tells_codes:
            self.told.asked.append(asked)
        ask = json.dumps(dialect.ask(kind.model, a_body(self._chance, kind), streamed=streamed)).encode()
        with self._heard(asked):
            async with asyncio.timeout(_PATIENCE_S), self._asking("POST", dialect.path, ask) as answer:
                asked.job = UUID(answer.headers["x-request-id"])
                if streamed and answer.status == 200:
                    text = await self._told_in_events(dialect, answer)
                else:
                    text = dialect.text(json.loads(await self._read(answer)))
                self.told.counted(f"web {dialect.path}")
                asked.hear(SUCCEEDED, "", self._now_s())
                self.told.texts[asked.job] = text

    async def _told_in_events(self, dialect: Dialect, answer: Answer) -> str:
        """Return the text of a stream, once it has ended. Raises: Refused."""
        text = ""
        async for event in events_of(answer.pieces()):
            data = json.loads(event.data)
            text += dialect.piece(event.name, data)
            if (end := dialect.end(event.name, data)) is None:
                continue
            if end.code:
                raise Refused(200, end.code, end.message)
            if end.text is not None and end.text != text:
                self.told.wrong.append(
                    f"an answer at {dialect.path} was streamed as {text!r}, and ended as {end.text!r}"
                )
            return text
        self.told.wrong.append(f"an answer at {dialect.path} was streamed and has no end: {answer}")
        raise ConnectionLost

    def _answered(self, asked: Asked, body: bytes) -> None:
        asked.hear(SUCCEEDED, "", self._now_s())
        self.told.counted("web replies")
        if asked.job is not None:
            self.told.replies[asked.job] = body

    @contextlib.contextmanager
    def _heard(self, asked: Asked) -> Iterator[None]:
        """Note the end of a request that goes wrong."""
        try:
            yield
        except Refused as error:
            asked.hear(error.code, error.message, self._now_s())
            self.process.say(f"is told {asked.code} of {asked.job}, {asked.kind.words}: {asked.message}")

    # jobs and batches

    async def _job(self) -> None:
        """Submit a job until it is accepted, and wait until it has ended."""
        kind, job = a_kind(self._chance), self.process.new_id()
        body = json.dumps(a_body(self._chance, kind)).encode()
        lane = self._chance.choice((Lane.STANDARD, Lane.BULK))
        ask = {"model": kind.model, "body": msgspec.Raw(body), "id": job, "lane": lane, "custom_id": str(job)}
        if kind.words == "expires":
            ask["timeout_s"] = self._chance.uniform(0.5, 4)
        await self._until_done(lambda: self._asked("POST", "/v1/jobs", msgspec.json.encode(ask)))
        sent = Submission.of(kind.model, body, id=job, lane=lane, custom_id=str(job))
        self.told.accepted[job], self.told.tenant[job] = kind.ends, self.tenant
        self.told.sent[job] = Sent(job, sent, kind.ends)
        end_s = self._now_s() + _FOLLOWS_S
        while self._now_s() < end_s:
            shown = json.loads(await self._until_done(lambda: self._asked("GET", f"/v1/jobs/{job}?wait_s=5")))
            if (shown["response"] or shown["error"]) is not None:
                self.told.hear_end(job, shown["state"])
                return

    async def _cancel(self) -> None:
        own = [job for job in self.told.accepted if self.told.tenant.get(job) == self.tenant]
        if own:
            job = self._chance.choice(own)
            self.told.meddled.add(job)
            await self._until_done(lambda: self._asked("POST", f"/v1/jobs/{job}/cancel"))

    async def _show(self) -> None:
        await self._asked("GET", "/v1/models")
        await self._asked("GET", "/v1/jobs?limit=5")

    async def _with_ended_key(self) -> None:
        """Go on with a key that is revoked or has expired."""
        if ended := self._keys.ended(self.tenant, self._now_s()):
            key = self._chance.choice(ended)
            for path in ("/v1/models", "/v1/jobs?limit=1"):
                async with asyncio.timeout(_PATIENCE_S), self._shown(key, "GET", path) as answer:
                    await self._read(answer)

    async def _with_narrow_key(self) -> None:
        """Ask models with a key that may use one of them only, in every way there is."""
        if not (narrow := self._keys.alive(self.tenant, self._now_s(), is_narrow=True)):
            return
        key, kind = self._chance.choice(narrow), self._chance.choice([kind for kind in KINDS if kind.ends == DONE])
        body = a_body(self._chance, kind)
        chat = {"model": kind.model, **body}
        job = {"model": kind.model, "body": body}
        for path, ask in ((_CHAT, chat), (_CHAT, {**chat, "stream": True}), ("/v1/jobs", job)):
            with contextlib.suppress(*PASSING):
                async with (
                    asyncio.timeout(_PATIENCE_S),
                    self._shown(key, "POST", path, json.dumps(ask).encode()) as answer,
                ):
                    self.told.counted(f"web narrow {answer.status}")
                    if answer.status == _FORBIDDEN if kind.model == key.model else answer.status < 400:
                        self.told.wrong.append(
                            f"key {key.id} is for {key.model}, and heard {answer.status} of {kind.model} at {path}"
                        )

    async def _peek(self) -> None:
        """Ask for what is another tenant's."""
        others = [
            job for job, tenant in self.told.tenant.items() if tenant != self.tenant and job in self.told.accepted
        ]
        if others:
            job = self._chance.choice(others)
            for method, path in (("GET", f"/v1/jobs/{job}"), ("POST", f"/v1/jobs/{job}/cancel")):
                with contextlib.suppress(Refused):
                    await self._asked(method, path)
                    self.told.wrong.append(f"tenant {self.tenant} was let in to {method} {path} of another")

    async def _follow(self) -> None:
        """Follow the results of a batch. A stream that breaks goes on after the last event that was heard."""
        own = [batch for batch in self.told.batches if self.told.tenant.get(batch) == self.tenant]
        if not own:
            return
        batch = self._chance.choice(own)
        last, heard, end_s = "", dict[UUID, bytes](), self._now_s() + _FOLLOWS_S
        while self._now_s() < end_s:
            headers = _SSE | ({"last-event-id": last} if last else {})
            with contextlib.suppress(*PASSING):
                try:
                    async with (
                        asyncio.timeout(20),
                        self._asking("GET", f"/v1/batches/batch_{batch}/results?own=true", headers=headers) as answer,
                    ):
                        if answer.status != 200:
                            raise Refused.of(answer.status, await answer.whole())
                        async for event in events_of(answer.pieces()):
                            if event.name == "end":
                                self._followed(batch, heard)
                                return
                            last = self._followed_on(batch, event, last, heard)
                except Refused as error:
                    if not error.passes:
                        raise
            await asyncio.sleep(1.0)

    def _followed_on(self, batch: UUID, event: Event, last: str, heard: dict[UUID, bytes]) -> str:
        """Take in a result. Return the place after which to go on."""
        if event.name == "error":
            raise Refused.of(503, event.data)
        if event.name != "result":
            return last
        if int(event.place) <= int(last or 0):
            self.told.wrong.append(f"batch {batch}: result {event.place} came after result {last}")
        heard[UUID(json.loads(event.data)["id"].removeprefix("batch_req_"))] = event.data
        return event.place

    def _followed(self, batch: UUID, heard: dict[UUID, bytes]) -> None:
        """Compare the results that were heard with what was sent, once the stream has ended."""
        self.told.counted("web followed")
        by_key = {job for pair in self.told.twice for job in pair}  # one of two stands for both
        sent = {job for job, of in self.told.batch_of.items() if of == batch} - by_key
        missing = sent - set(heard)
        if missing and batch not in self.told.meddled:  # what comes after it was cancelled may come after its end
            self.told.wrong.append(
                f"batch {batch}: its stream ended without {len(missing)} of its {len(sent)} results"
            )
        for job, line in heard.items():
            self.told.followed[job] = batch
            if (json.loads(line)["response"] or {}).get("status_code") == 200:
                self.told.succeeded.append(job)

    # HTTP

    async def _until_done(self, ask: Callable[[], Awaitable[bytes]]) -> bytes:
        """Try again and again, as somebody does who was not told yes."""
        while True:
            try:
                return await ask()
            except PASSING as error:
                self.process.say(f"tries again: {str(error) or type(error).__name__}")
            except Refused as error:
                if not error.passes:
                    raise
                self.process.say(f"tries again: {error}")
            await asyncio.sleep(0.3 + self._chance.random())

    async def _asked(self, method: str, path: str, body: bytes = b"") -> bytes:
        async with asyncio.timeout(_PATIENCE_S), self._asking(method, path, body) as answer:
            return await self._read(answer)

    async def _read(self, answer: Answer) -> bytes:
        body = await answer.whole()
        self.told.counted(f"web {answer.status}")
        if answer.status >= 400:
            raise Refused.of(answer.status, body)
        return body

    @contextlib.asynccontextmanager
    async def _asking(
        self, method: str, path: str, body: bytes = b"", *, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Answer]:
        shown = {"x-infermq-timeout-s": f"{_TIMEOUT_S:g}"} if path in _ASKS_MODELS else {}
        has_own = path in _ASKS_MODELS or headers
        alive = self._keys.alive(self.tenant, self._now_s(), is_narrow=False) if has_own else []
        if alive and self._chance.random() < _WITH_OWN_KEY:
            async with self._shown(
                self._chance.choice(alive), method, path, body, headers={**shown, **(headers or {})}
            ) as answer:
                yield answer
            return
        async with self._web.asking(
            self.process, method, path, headers={**shown, **(headers or {})}, body=body
        ) as answer:
            yield answer

    @contextlib.asynccontextmanager
    async def _shown(
        self, key: Revocable, method: str, path: str, body: bytes = b"", *, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Answer]:
        """Ask with a key that may be revoked meanwhile."""
        asked_s = self._now_s()
        named = {**(headers or {}), "authorization": f"Bearer {key.text}"}
        async with self._web.asking(self.process, method, path, headers=named, body=body) as answer:
            self.told.counted(f"web key {answer.status}")
            self._keys.heard(key, asked_s=asked_s, told_s=self._now_s(), status=answer.status)
            yield answer

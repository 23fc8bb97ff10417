"""What servers in the wild say, as data: dialects.json has the bytes on the wire and what they become.

A case has `stream` (the payloads of server-sent events: objects, or text that is sent as it is), `body` (JSON) or
`raw_latin1` (bytes, given as Latin-1), with `status`, `headers`, and `profile` where they are not 200, none and `generic`.
`raw_sse` is a whole stream, `raw_http` (Latin-1) all that comes over the connection; `streamed` and `endpoint` say what is
asked for where that is not plain.
`expect` has what is recorded and what a client reads; CHECKS says how each is compared. To add a case, add a line.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.client.reading import StreamText, text_of
from schemas.endpoints import CHAT, ENDPOINTS
from schemas.outcome import Charge, Failed, Failure, Succeeded, failure_kind, public_message
from tests.contract.test_openai import Hands, Script, a_request, answer, answered, serving, steps_of, stream
from workers.ports import Chunk, Step

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "dialects.json").read_text())
SCENARIOS = {"redirected-base-url", "model-refuses-max_tokens"}
"""Cases about several requests, which have tests of their own in test_probe.py."""


def script_of(case: dict[str, Any], now: int) -> Script:
    status = case.get("status", 200)
    headers = {name: _instant(value, now) for name, value in case.get("headers", {}).items()}
    if "raw_http" in case:
        return said(case["raw_http"].encode("latin-1"))
    if "raw_sse" in case:
        return answered(case["raw_sse"].encode())
    if "stream" in case:
        return stream(*(one.encode() if isinstance(one, str) else one for one in case["stream"]))
    if "raw_latin1" in case:
        return answer(case["raw_latin1"].encode("latin-1"), status=status, **headers)
    body = json.dumps(case["body"]).replace('"NOW_MS+8000"', f'"{now + 8000}"')
    return answer(body.encode(), status=status, **headers)


def said(raw: bytes) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    return script


def _instant(value: str, now: int) -> str:
    """`NOW_ISO+8` is the instant 8 s from now."""
    if not value.startswith("NOW_ISO+"):
        return value
    return datetime.fromtimestamp(now / 1000 + int(value.partition("+")[2]), UTC).isoformat()


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a case."""

    steps: Sequence[Step]
    paused_ms: int

    @property
    def last(self) -> Succeeded | Failed:
        last = self.steps[-1]
        assert isinstance(last, Succeeded | Failed)
        return last

    @property
    def body(self) -> bytes:
        assert isinstance(self.last, Succeeded)
        return self.last.body

    @property
    def choice(self) -> dict[str, Any]:
        choice: dict[str, Any] = msgspec.json.decode(self.body)["choices"][0]
        return choice

    @property
    def failure(self) -> Failure:
        assert isinstance(self.last, Failed)
        return self.last.failure

    @property
    def charge(self) -> Charge:
        assert self.last.charge is not None
        return self.last.charge

    def streamed(self) -> str:
        text = StreamText()
        return "".join(text.of(piece.data) for piece in self.steps if isinstance(piece, Chunk))

    def calls(self) -> list[list[str]]:
        calls = [call["function"] for call in self.choice["message"]["tool_calls"]]
        return [[call["name"], call["arguments"]] for call in calls]

    def is_strict(self) -> bool:
        """The body was mended, and is JSON now."""
        msgspec.json.decode(self.body)
        return isinstance(self.last, Succeeded) and self.last.mended


CHECKS: dict[str, Callable[[Seen, Any, dict[str, Any]], bool]] = {
    "state": lambda seen, value, _: type(seen.last).__name__.lower() == value,
    "failure": lambda seen, value, _: failure_kind(seen.failure) == value,
    "message_has": lambda seen, value, _: value in public_message(seen.failure),
    "text": lambda seen, value, _: text_of(seen.body) in value.split(" or "),
    "client_stream": lambda seen, _, expected: seen.streamed() == expected["text"],
    "usage": lambda seen, value, _: {name: getattr(seen.last.usage, name) for name in value} == value,
    "cost_usd": lambda seen, value, _: Decimal(seen.charge.nano_usd) / 10**9 == Decimal(str(value)),
    "cost_source": lambda seen, value, _: seen.charge.source == value,
    "tool_calls": lambda seen, value, _: seen.calls() == value,
    "finish_reason": lambda seen, value, _: seen.choice["finish_reason"] == value,
    "role": lambda seen, value, _: seen.choice["message"]["role"] == value,
    "result_file": lambda seen, _, __: seen.is_strict(),
    "nothing_sent_for_ms": lambda seen, value, _: abs(seen.paused_ms - value) < 100,
    "deployment": lambda seen, value, _: (seen.paused_ms == 0) is (value == "goes on"),
    "executions": lambda seen, value, _: sum(isinstance(one, Succeeded | Failed) for one in seen.steps) == value,
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case["name"]) for case in CASES if case["name"] not in SCENARIOS]
)
async def test_a_dialect_is_understood(case: dict[str, Any]) -> None:
    clock = Hands()
    options = {"profile": case.get("profile", "generic")}
    async with serving(script_of(case, clock()), options=options, clock=clock) as (_, engine):
        streamed, endpoint = bool(case.keys() & {"stream", "raw_sse", "streamed"}), case.get("endpoint", CHAT.path)
        steps = await steps_of(engine, a_request(streamed=streamed, endpoint=ENDPOINTS[endpoint]))
        paused = engine.capacity().paused

    seen, expected = Seen(steps, 0 if paused is None else paused.left_ms), case["expect"]
    wrong = [what for what, value in expected.items() if not CHECKS[what](seen, value, expected)]
    assert not wrong, (wrong, seen)

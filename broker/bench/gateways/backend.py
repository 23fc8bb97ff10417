"""Answers chats at once, whole or streamed, as a bare ASGI application: `python -m broker.bench.gateways.backend`.

It is what the other gateways have behind them, and what a request costs with nothing in between.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import uvloop

from broker.doors.server import listening
from broker.local.servers import die_with_parent

WORDS = 16
MODEL = "echo"
_TEXT = " ".join(["word"] * WORDS)
_CHOICE = {"index": 0, "message": {"role": "assistant", "content": _TEXT}, "finish_reason": "stop"}
ANSWER: Final = msgspec.json.encode(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [_CHOICE],
        "usage": {"prompt_tokens": 12, "completion_tokens": WORDS, "total_tokens": 12 + WORDS},
    }
)
CHUNKS: Final = [
    msgspec.json.encode(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": MODEL,
            "choices": [
                {"index": 0, "delta": {"content": "word "}, "finish_reason": "stop" if number == WORDS - 1 else None}
            ],
        }
    )
    for number in range(WORDS)
]
"""What is streamed, a word each."""
DONE: Final = b"data: [DONE]\n\n"
_MODELS = msgspec.json.encode(
    {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "bench"}]}
)
_JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream")
Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]


class _Asked(msgspec.Struct):
    stream: bool = False


_asked = msgspec.json.Decoder(_Asked)


async def body_of(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


def is_streamed(body: bytes) -> bool:
    return _asked.decode(body).stream


async def respond(send: Send, answer: bytes) -> None:
    """Send a whole answer."""
    headers = [_JSON, (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def app(scope: Any, receive: Receive, send: Send) -> None:
    """Answer a chat, and whatever else is asked with the list of models, as gateways look for it."""
    body = await body_of(receive)
    if scope["path"] != "/v1/chat/completions":
        await respond(send, _MODELS)
    elif is_streamed(body):
        await send({"type": "http.response.start", "status": 200, "headers": [EVENTS]})
        for chunk in CHUNKS:
            await send({"type": "http.response.body", "body": b"data: %b\n\n" % chunk, "more_body": True})
        await send({"type": "http.response.body", "body": DONE})
    else:
        await respond(send, ANSWER)


async def serve(application: Any) -> None:
    """Serve an application on any free port, print its URL, and run until the standard input ends."""
    async with listening(application, option="bench", host="127.0.0.1", port=0) as url:
        sys.stdout.write(msgspec.json.encode({"url": url}).decode() + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    die_with_parent()
    uvloop.run(serve(app))

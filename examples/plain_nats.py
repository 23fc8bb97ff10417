"""A producer in plain nats-py and JSON, without infermq's packages: python examples/plain_nats.py NATS_URL MODEL

It makes a batch, submits three jobs, waits for their results, then asks a question and streams the answer. The API key is
that of INFERMQ_API_KEY. Where brokers ask for none, tenant and key are called `default`.
"""

import asyncio
import json
import os
import secrets
import sys
import time

import nats

API_KEY = os.environ.get("INFERMQ_API_KEY")
TENANT, KEY = API_KEY.split("_")[1:3] if API_KEY else ("default", "default")  # imq_<tenant>_<key id>_<secret>
INBOX = f"_INBOX_{KEY}" if API_KEY else "_INBOX"  # answers come to the inbox of the key
JSON = {"Content-Type": "application/json"}


def uuid7() -> str:
    """Make an id out of the time in milliseconds and random bits (RFC 9562, version 7)."""
    bits = (time.time_ns() // 1_000_000) << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62
    text = f"{bits | secrets.randbits(62):032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def token(name: str) -> str:
    """Escape a name for a subject: all but ASCII letters, digits and `-`."""
    return "".join(c if c.isascii() and (c.isalnum() or c == "-") else f"_{ord(c):x}_" for c in name)


async def call(nc, verb: str, ask: dict) -> dict:
    """Call the broker's API."""
    reply = await nc.request(f"infermq.api.{verb}.{TENANT}.{KEY}", json.dumps(ask).encode(), timeout=10)
    answer = json.loads(reply.data)
    if (reply.headers or {}).get("Infermq-Kind") == "error":
        raise RuntimeError(answer["error"]["message"])
    return answer


def chat(question: str) -> dict:
    return {"messages": [{"role": "user", "content": question}], "max_tokens": 32}


async def run_batch(nc, model: str) -> None:
    batch = await call(nc, "batch-create", {"id": uuid7()})
    js, subject = nc.jetstream(), f"infermq.submit.bulk.{token(model)}.{TENANT}.{KEY}"
    for number, city in enumerate(["Paris", "Rome", "Oslo"], 1):
        job = {"id": uuid7(), "batch": batch["id"], "custom_id": city, "endpoint": "/v1/chat/completions"}
        envelope = job | {"line": number, "body": chat(f"Name one sight in {city}.")}
        await js.publish(subject, json.dumps(envelope).encode(), headers=JSON)  # returns once it is accepted
    await call(nc, "batch-seal", {"id": batch["id"], "jobs": 3})
    cursor, completed = None, False
    while not completed:
        page = await call(nc, "batch-results", {"id": batch["id"], "cursor": cursor})
        cursor, completed = page["cursor"], page["completed"]
        for result in page["results"]:
            text = result["body"]["choices"][0]["message"]["content"] if result["body"] else result["failure"]
            print(result["custom_id"], result["state"], text, sep=": ")
        await asyncio.sleep(0 if page["results"] else 0.2)


async def stream(nc, model: str) -> None:
    inbox = nc.new_inbox()
    replies = await nc.subscribe(inbox)
    job = {"endpoint": "/v1/chat/completions", "body": chat("Say hello.") | {"stream": True}}
    await nc.publish(f"infermq.infer.{token(model)}.{TENANT}.{KEY}", json.dumps(job).encode(), inbox, headers=JSON)
    async for message in replies.messages:
        match (message.headers or {}).get("Infermq-Kind"):
            case "chunk":
                print("chunk", json.loads(message.data)["choices"])
            case "final":
                print("final", json.loads(message.data)["usage"])
                return
            case "error" | None:
                raise RuntimeError(message.data.decode() or "no broker listens")


async def main(url: str, model: str) -> None:
    nc = await nats.connect(url, token=API_KEY, inbox_prefix=INBOX)
    await run_batch(nc, model)
    await stream(nc, model)
    await nc.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1], sys.argv[2]))

"""Answers each request on NATS at once, to show what a request-reply costs at least: `python -m broker.bench.echo URL`."""

import asyncio
import sys

import nats
import uvloop
from nats.aio.msg import Msg

from broker.local.servers import die_with_parent

SUBJECT = "bench.echo"


async def main(url: str) -> None:
    nc = await nats.connect(url)

    async def answer(message: Msg) -> None:
        await nc.publish(message.reply, message.data)

    await nc.subscribe(SUBJECT, cb=answer)
    await nc.flush()
    sys.stdout.write("{}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await nc.close()


if __name__ == "__main__":
    die_with_parent()
    uvloop.run(main(sys.argv[1]))

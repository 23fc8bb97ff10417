"""Ask and wait from Python, whole and streamed: python examples/ask.py MODEL"""

import asyncio
import sys

from broker.client import Client, Piece


async def main(model: str) -> None:
    async with Client.connect() as client:
        body = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 64}
        reply = await client.infer(model, body, timeout_s=60)
        print(reply.text(), reply.usage().output_tokens)
        async for step in client.infer_stream(model, body, timeout_s=60):  # leaving the loop ends the request
            if isinstance(step, Piece):
                print(step.text, end="", flush=True)
        print()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1]))

"""A batch from Python: python examples/batch.py MODEL

It submits three questions as one batch and prints each result once it is recorded.
"""

import asyncio
import json
import sys

from broker.client import Client, Submission

QUESTIONS = {
    "sky": "Why is the sky blue?",
    "sea": "Why is the sea salty?",
    "snow": "Why is snow white?",
}


async def main(model: str) -> None:
    async with Client.connect() as client:
        batch = await client.create_batch()
        jobs = (
            Submission.of(model, {"messages": [{"role": "user", "content": text}]}, custom_id=name)
            for name, text in QUESTIONS.items()
        )
        sent = await client.submit_many(jobs, batch_id=batch.id)  # safe to repeat after an error
        await client.seal(batch.id, jobs=sent)
        async for result in client.results(batch.id):  # as jobs finish; goes on after a lost connection
            answer = json.loads(bytes(result.body))  # OpenAI's response; None unless it succeeded
            text = answer and answer["choices"][0]["message"]["content"]
            print(result.custom_id, result.state, result.cost_nano_usd, text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1]))

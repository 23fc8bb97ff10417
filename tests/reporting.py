"""What a worker says, in tests where the test is the worker."""

from nats.aio.client import Client

from schemas import subjects
from schemas.codec import bundled, packed
from schemas.outcome import Report


async def report(nc: Client, *reports: Report) -> None:
    """Have OUTCOME store them, a message for each."""
    for one in reports:
        await nc.jetstream().publish(subjects.outcome(one.deployment), bundled([packed(one)]))

"""The one adapter to nats-py that broker, workers and producers share."""

from nats.aio.client import Client

from schemas.jetstream.sturdy import Sturdy


class NatsClient(Sturdy, Client):
    """Implements `NatsConnection`; `connect` and `close` are nats-py's."""

    @property
    def reconnects(self) -> int:
        return self.stats["reconnects"]

    async def write(self, commands: bytes) -> None:
        """nats-py's own publish (2.16.0) costs several times the rest of a message's way."""
        await self._send_command(commands)

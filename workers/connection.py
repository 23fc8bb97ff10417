"""nats-py's client, as a worker needs it."""

from typing import Any

from nats.aio.client import Client


class Connection(Client):
    """Takes a lost socket for lost.

    uvloop raises RuntimeError for a write to a socket that the server has closed, which nats-py (2.16.0) does not know:
    its flusher ends in silence, and the next publish raises. Here it reconnects, as it does after an OSError.
    """

    async def _flush_pending(self, force_flush: bool = False) -> Any:  # noqa: FBT001, FBT002 - nats-py's own signature
        try:
            return await super()._flush_pending(force_flush)
        except RuntimeError as error:
            await self._process_op_err(error)

"""nats-py's client, as a worker needs it."""

from nats.aio.client import Client

from schemas.sturdy import Sturdy


class Connection(Sturdy, Client):
    pass

"""What NATS may do to those who use it, as calls for a schedule of faults."""

from broker.simulate.nats.server import Server
from broker.simulate.nats.session import Session


def cut(session: Session, why: str = "the connection was cut") -> None:
    """Lose a connection, and what is on its way in either direction."""
    session.end(why)


def go_away(server: Server) -> None:
    """Stop the server as a kill does: connections are lost, and nobody is let in until it comes back."""
    server.is_away = True
    for session in list(server.sessions):
        session.end("the server is gone")
    for stream in server.streams.values():
        stream.stop()


def come_back(server: Server) -> None:
    """Start a server that went away: streams in files are there, with their consumers; those in memory are lost."""
    for name, stream in list(server.streams.items()):
        if stream.settings["storage"] == "memory":
            del server.streams[name]
    server.reassign()
    server.is_away = False
    for stream in server.streams.values():
        stream.resume()


def restart(server: Server) -> None:
    go_away(server)
    come_back(server)


def lose_stream(server: Server, name: str) -> None:
    """Lose a stream with its messages and consumers, as a broken disk does, or somebody who deletes it."""
    if (stream := server.streams.pop(name, None)) is not None:
        server.reassign()
        stream.delete()
        server.run_due()


def lose_store(server: Server) -> None:
    """Lose all streams."""
    for name in list(server.streams):
        lose_stream(server, name)


def fill(server: Server, name: str, *, late_s: float) -> None:
    """Let a stream have no room any more. Whoever sends to it hears so after a while."""
    if (stream := server.streams.get(name)) is not None:
        stream.is_full, stream.refuses_after_s = True, late_s


def make_room(server: Server, name: str) -> None:
    """Let a stream store again."""
    if (stream := server.streams.get(name)) is not None:
        stream.is_full = False


def lose_progress(server: Server, stream: str, consumer: str) -> None:
    """Lose what a consumer knows of its deliveries.

    What is still in the stream comes at once, though others may hold it, and counts as never delivered.
    """
    server.consumer(stream, consumer).restart()
    server.run_due()


def deliver_twice(server: Server, stream: str, consumer: str, seq: int) -> None:
    """Deliver a message again that somebody holds, as if its lease were over."""
    server.consumer(stream, consumer).deliver_again(seq)
    server.run_due()

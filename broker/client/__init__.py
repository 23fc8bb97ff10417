"""The client for Python producers: submit jobs and batches, read results, ask and wait.

    async with Client.connect("nats://127.0.0.1:14222") as client:
        reply = await client.infer("small-chat", {"messages": [{"role": "user", "content": "Hello!"}]})

submit     submits jobs, one at a time or many in a message
files      submits whole files over HTTP
batches    creates batches, reads their results, reads jobs
infer      sends interactive requests
repeats    retries what failed
instructions  looks at orders over many jobs
dead       looks at dead letters, requeues and drops them
accounts   makes, lists and ends tenants and API keys
webhooks   registers endpoints that are told what has ended
system     reads and applies catalogs, reads the status, pauses and resumes
entry      ends the calls of a key that is let in no more
session    connects and calls the broker's API; the base class of them all
door       what a session needs of NATS or of HTTP
nats_door  the way to a broker over NATS    http_door, http_files  over HTTP
events     reads server-sent events
reading    reads text and tokens out of OpenAI objects
encode     encodes jobs, bodies and names for the wire
denials    notices what NATS does not let a key publish
errors     the exceptions               ids   new ids

Through either door it is the same client: `Client.connect("http://127.0.0.1:14223", api_key=…)` asks over HTTP. Plain NATS,
or plain HTTP, and JSON do the same (docs/wire.md, docs/http.md): nothing here is needed to use infermq.
"""

from broker.client.accounts import AccountClient
from broker.client.batches import BatchClient
from broker.client.dead import DeadClient
from broker.client.door import Piece, Reply
from broker.client.errors import BacklogFull, NoBroker, RequestRefused, RequestTimedOut
from broker.client.files import FileClient
from broker.client.ids import new_id
from broker.client.infer import InferClient
from broker.client.instructions import InstructionClient
from broker.client.repeats import RepeatClient
from broker.client.submit import Submission, SubmitClient
from broker.client.system import SystemClient
from broker.client.webhooks import WebhookClient

__all__ = [
    "BacklogFull",
    "Client",
    "NoBroker",
    "Piece",
    "Reply",
    "RequestRefused",
    "RequestTimedOut",
    "Submission",
    "new_id",
]


class Client(
    SubmitClient,
    FileClient,
    BatchClient,
    RepeatClient,
    InstructionClient,
    InferClient,
    DeadClient,
    AccountClient,
    WebhookClient,
    SystemClient,
):
    """A producer's connection. One for a process is enough; it is safe to use from many tasks."""

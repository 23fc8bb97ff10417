"""OpenAI's client reads our webhooks, and retries batches, as it is."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from openai import InvalidWebhookSignatureError, OpenAI
from openai.types import Batch

from tests.clients.running import System, a_system, until
from tests.clients.test_openai_batches import CHAT, a_file, a_line, ended, made

CATALOG = """
[models.echo]
[[models.echo.route]]
deployment = "echo"

[deployments.echo]
engine = "simulated"
[deployments.echo.options]
failures = [{ match = "breaks it", kind = "engine_fault" }]

[models.whole]
[[models.whole.route]]
deployment = "whole"

[deployments.whole]
engine = "simulated"
"""
ALLOWED = {"INFERMQ_WEBHOOK_ALLOW": "127.0.0.1", "INFERMQ_WEBHOOK_HTTP": "1"}


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[System]:
    """One that may send to this machine."""
    with a_system(tmp_path, CATALOG, environ=ALLOWED) as running:
        yield running


@pytest.fixture
def came() -> Iterator[tuple[str, list[tuple[dict[str, str], str]]]]:
    """The URL of an endpoint, and what comes there."""
    messages: list[tuple[dict[str, str], str]] = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            messages.append((dict(self.headers), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", messages
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.timeout(180)
def test_openais_client_verifies_what_a_webhook_tells_and_retries_what_failed(
    alone: System, came: tuple[str, list[tuple[dict[str, str], str]]]
) -> None:
    url, messages = came
    secret = json.loads(alone.command("webhook", "create", url, "--json"))["secret"]
    with OpenAI(base_url=alone.base_url, api_key=alone.api_key, webhook_secret=secret) as client:
        first = ended(client, made(client, a_file(a_line(0), a_line(1, "breaks it"))))
        retry = client.post(f"/batches/{first.id}/retry", body={"model": "whole"}, cast_to=Batch)
        retry = ended(client, retry)
        merged = ended(client, client.batches.retrieve(first.id))
        until(lambda: len(messages) >= 2, "both ends are told")

        events = [client.webhooks.unwrap(body, headers) for headers, body in messages]
        with pytest.raises(InvalidWebhookSignatureError):
            client.webhooks.unwrap(messages[0][1].replace("completed", "cancelled"), messages[0][0])

        assert [(event.type, event.data.id) for event in events] == [
            ("batch.completed", first.id),
            ("batch.completed", retry.id),
        ]
        assert all(event.object == "event" and event.id.startswith("evt_") for event in events)
        assert (first.endpoint, retry.status, merged.error_file_id) == (CHAT, "completed", None)
        assert merged.output_file_id is not None
        lines = [json.loads(line) for line in client.files.content(merged.output_file_id).text.splitlines()]
        assert sorted(line["custom_id"] for line in lines) == ["request-0", "request-1"]

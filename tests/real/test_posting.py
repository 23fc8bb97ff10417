"""Messages go where they may, and nowhere else: not by DNS that changes, and not by redirects."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import trustme
from aiohttp import web

from broker.core.targets import Targets
from broker.core.webhooks import TOO_LONG, Answer
from broker.posting import Posting

pytestmark = pytest.mark.real
LOCAL = Targets.of(["127.0.0.1"], http=True)
HTTP = Targets(http=True)


class Resolver:
    """Gives one answer after the other, the last one again and again."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:  # noqa: ARG002
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Server:
    def __init__(self) -> None:
        self.url = ""
        self.port = 0
        self.hits = 0
        self.response = web.Response(text="taken")
        self.body = b""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.hits += 1
        self.body = await request.read()
        if request.path == "/hang":
            await asyncio.sleep(60)
        if request.path == "/endless":
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x" * 65536)
        return self.response


@asynccontextmanager
async def a_server(context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_post("/{tail:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    server.port = runner.addresses[0][1]
    server.url = f"http{'s' if context else ''}://127.0.0.1:{server.port}"
    try:
        yield server
    finally:
        await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with a_server() as running:
        yield running


async def sent(url: str, targets: Targets, resolver: Resolver | None = None, *, total_s: float = 5.0) -> Answer:
    resolve = resolver or Resolver(["127.0.0.1"])
    async with Posting.opened(targets, agent="test", resolve=resolve, total_s=total_s) as posting:
        return await posting.post(url, {"webhook-id": "evt_1"}, b"{}")


async def test_a_message_is_sent_and_its_answer_read(server: Server) -> None:
    answer = await sent(f"{server.url}/hook", LOCAL)

    assert answer == Answer(status=200, body=b"taken")
    assert server.body == b"{}"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "127.1", "[::ffff:127.0.0.1]"]
)
async def test_nothing_is_sent_to_this_machine_however_it_is_written(server: Server, host: str) -> None:
    answer = await sent(f"http://{host}:{server.port}/hook", HTTP)

    assert answer.error is not None
    assert answer.status is None
    assert server.hits == 0


async def test_a_host_that_leads_to_an_internal_address_is_refused_if_only_one_of_its_addresses_does(
    server: Server,
) -> None:
    answer = await sent(f"http://hooks.example:{server.port}", HTTP, Resolver(["8.8.8.8", "127.0.0.1"]))

    assert answer.error == "its host leads to an address that is not public"
    assert server.hits == 0


async def test_dns_that_changes_after_the_check_changes_nothing(server: Server) -> None:
    """It is asked once, and what it said is connected to: nothing that it says later counts."""
    resolver = Resolver(["203.0.113.1"], ["127.0.0.1"])
    elsewhere = Targets.of(["203.0.113.0/24"], http=True)

    answer = await sent(f"http://rebinding.example:{server.port}", elsewhere, resolver, total_s=0.5)

    assert resolver.asked == 1
    assert answer.error is not None
    assert server.hits == 0


async def test_each_message_is_checked_anew(server: Server) -> None:
    """The host leads to where it may at first, and to an internal address the next time."""
    resolver = Resolver(["127.0.0.1"], ["127.0.0.2"])
    url = f"http://rebinding.example:{server.port}/hook"
    server.response.force_close()
    async with Posting.opened(LOCAL, agent="test", resolve=resolver) as posting:
        first = await posting.post(url, {}, b"{}")
        second = await posting.post(url, {}, b"{}")

    assert first.status == 200
    assert second.error == "its host leads to an address that is not public"
    assert server.hits == 1


async def test_the_socket_is_checked_too(server: Server) -> None:
    """Whatever a resolver lets through, the address that is connected to counts."""

    class Trusting(Targets, frozen=True):
        def why_not(self, url: str) -> str | None:  # noqa: ARG002
            return None

    answer = await sent(f"{server.url}/hook", Trusting(http=True))

    assert answer.error == "its host leads to an address that is not public"
    assert server.hits == 0


async def test_a_redirect_is_not_followed(server: Server) -> None:
    async with a_server() as internal:
        server.response = web.Response(status=307, headers={"location": f"{internal.url}/x"})

        answer = await sent(f"{server.url}/hook", LOCAL)

    assert answer.status == 307
    assert internal.hits == 0


async def test_an_endpoint_that_hangs_is_left_after_a_while(server: Server) -> None:
    assert (await sent(f"{server.url}/hang", LOCAL, total_s=0.3)).error == TOO_LONG


async def test_an_endless_answer_is_read_to_a_bound(server: Server) -> None:
    answer = await sent(f"{server.url}/endless", LOCAL)

    assert answer.status == 200
    assert 0 < len(answer.body) <= 1200


async def test_no_proxy_and_no_password_of_the_environment_is_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    assert (await sent(f"{server.url}/hook", LOCAL)).status == 200


async def test_a_port_where_nobody_listens_is_an_answer_with_a_reason() -> None:
    answer = await sent("http://127.0.0.1:1/hook", LOCAL)

    assert answer.error is not None
    assert "cannot be connected to" in answer.error
    assert "127.0.0.1" not in answer.error


async def test_a_host_without_an_address_is_an_answer_with_a_reason() -> None:
    assert (await sent("http://nowhere.example/hook", HTTP, Resolver([]))).error == "its host has no address"


async def test_a_certificate_must_be_trusted_and_be_the_hosts() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hooks.example").configure_cert(context)
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    async with a_server(context) as server:
        port = urlsplit(server.url).port
        url, other = f"https://hooks.example:{port}/hook", f"https://other.example:{port}/hook"
        resolve = Resolver(["127.0.0.1"])
        async with Posting.opened(LOCAL, agent="test", resolve=resolve, trusted=trusted) as posting:
            ours, others = await posting.post(url, {}, b"{}"), await posting.post(other, {}, b"{}")
        async with Posting.opened(LOCAL, agent="test", resolve=resolve) as posting:
            strangers = await posting.post(url, {}, b"{}")

    assert ours.status == 200
    assert (others.error, strangers.error) == ("its certificate is not trusted",) * 2
    assert server.hits == 1

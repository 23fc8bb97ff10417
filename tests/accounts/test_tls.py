"""Both ends of a connection to NATS know each other by certificates, and nothing is shown to whom is not known."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from broker.cli.doctor import Grade, Known, examine
from broker.client import Client
from broker.errors import Unavailable
from broker.local.certificates import CA_FILE, kept_certificate
from broker.local.servers import nats_server
from schemas.jetstream import NatsError, NatsTimeoutError
from schemas.jetstream.client import NatsClient, reach
from schemas.jetstream.trust import BadTrust, Trust, shown_trust, why
from tests.front.sockets import a_request, connected
from tests.system import a_catalog_file, a_system, infermq_here

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


@dataclass(frozen=True)
class Served:
    """A server with TLS."""

    url: str
    folder: Path

    @property
    def trust(self) -> Trust:
        return Trust(ca=str(self.folder / CA_FILE))


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    settings = kept_certificate(tmp_path).settings()
    async with nats_server(tmp_path / "nats", settings=settings) as url:
        yield Served(url, tmp_path)


@pytest.fixture
def other_ca(tmp_path: Path) -> str:
    file = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    return str(file)


async def refusal(url: str, trust: Trust | None) -> str:
    with pytest.raises((OSError, NatsError)) as caught:
        await asyncio.wait_for(reach(url, trust=trust, connect_timeout=4), 10)
    return why(caught.value)


async def test_who_has_the_certificate_of_its_authority_connects_and_answers_go_through(served: Served) -> None:
    assert served.url.startswith("tls://")
    nc = NatsClient()
    await nc.connect(served.url, trust=served.trust)
    try:
        with pytest.raises(NatsTimeoutError):
            await nc.request("$JS.API.STREAM.NAMES.x", b"x" * 200_000, timeout=0.01)
        answer = await nc.request("$JS.API.INFO", b"")
        assert b"memory" in answer.data
    finally:
        await nc.close()


async def test_who_trusts_another_authority_is_told_what_to_do(served: Served, other_ca: str) -> None:
    for trust in (None, Trust(ca=other_ca)):
        said = await refusal(served.url, trust)
        assert "its certificate is not trusted here" in said
        assert "INFERMQ_NATS_CA" in said


async def test_a_connection_whose_server_is_another_now_is_tried_until_it_is_the_right_one(
    served: Served, other_ca: str
) -> None:
    told: list[Exception] = []
    nc = NatsClient()

    async def note(error: Exception) -> None:
        told.append(error)

    connecting = asyncio.create_task(
        nc.connect(served.url, trust=Trust(ca=other_ca), error_cb=note, max_reconnect_attempts=-1)
    )
    try:
        async with asyncio.timeout(15):
            while len(told) < 2:
                await asyncio.sleep(0.02)
        assert all("not trusted here" in why(error) for error in told)
    finally:
        connecting.cancel()
        await asyncio.wait([connecting])
        await nc.close()


async def test_files_that_cannot_be_used_are_named(served: Served, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("nothing")

    assert "gone.pem cannot be read (No such file" in await refusal(served.url, Trust(ca="gone.pem"))
    assert f"INFERMQ_NATS_CA: {nothing} holds no certificate" in await refusal(served.url, Trust(ca=str(nothing)))
    ours = Trust(ca=served.trust.ca, certificate=str(nothing), key=str(nothing))
    assert "INFERMQ_NATS_CERT, INFERMQ_NATS_CERT_KEY: " in await refusal(served.url, ours)


async def test_a_client_without_tls_is_not_answered_in_the_clear(served: Served) -> None:
    said = await refusal(served.url.replace("tls://", "nats://"), None)

    assert "its certificate is not trusted here" in said


@pytest.mark.parametrize("by_url", [True, False], ids=["by its URL", "by a certificate"])
async def test_no_key_is_shown_to_a_server_that_asks_for_no_tls(*, by_url: bool, other_ca: str) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"INFO " + json.dumps({"server_id": "S", "version": "2.15.1", "max_payload": 1}).encode() + b"\r\n"
        )
        heard.put_nowait(await reader.read(1000))
        writer.close()

    server = await asyncio.start_server(pretend, "127.0.0.1", 0)
    async with server:
        place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        url, trust = (f"tls://{place}", None) if by_url else (f"nats://{place}", Trust(ca=other_ca))
        with pytest.raises(NatsError, match="does not ask for TLS"):
            await reach(url, trust=trust, token="secret-key")  # noqa: S106 - of nobody
        assert await heard.get() == b""


async def test_a_server_may_ask_clients_for_certificates_too(tmp_path: Path, other_ca: str) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    server = kept_certificate(tmp_path)
    authority.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    files = {}
    for name, signer in (("ours", authority), ("strange", stranger)):
        made = signer.issue_cert("client.example")
        made.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
        made.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        files[name] = {"certificate": str(tmp_path / f"{name}.pem"), "key": str(tmp_path / f"{name}.key")}
    settings = server.settings().replace("tls {", f'tls {{ ca_file: "{tmp_path}/clients.pem", verify: true,')
    async with nats_server(tmp_path / "nats", settings=settings) as url:
        ca = server.trust.ca
        await reach(url, trust=Trust(ca=ca, **files["ours"]), connect_timeout=4)
        for trust in (Trust(ca=ca), Trust(ca=ca, **files["strange"])):
            said = await refusal(url, trust)
            assert "certificate" in said
            assert "INFERMQ_NATS_CERT and INFERMQ_NATS_CERT_KEY name" in said
        assert "not trusted here" in await refusal(url, Trust(ca=other_ca, **files["ours"]))


async def test_client_and_doctor_say_in_words_that_the_authority_is_another(served: Served, other_ca: str) -> None:
    with pytest.raises(Unavailable, match="INFERMQ_NATS_CA names the file"):
        async with Client.connect(served.url, trust=Trust(ca=other_ca)):
            pass
    found = await examine(Known(nats_url=served.url, trust=Trust(ca=other_ca)))
    [nats] = [one for one in found if one.name == "NATS"]
    assert nats.grade is Grade.BAD
    assert "INFERMQ_NATS_CA names the file" in nats.seen


def test_certificates_are_found_in_the_environment_else_as_the_system_says() -> None:
    kept = Trust(ca="/kept/ca.pem")
    named = {"INFERMQ_NATS_CA": "/ca.pem", "INFERMQ_NATS_CERT": "/c.pem", "INFERMQ_NATS_CERT_KEY": "/c.key"}

    assert shown_trust({}) is None
    assert shown_trust({"INFERMQ_NATS_CA": ""}, otherwise=kept) == kept
    assert shown_trust(named, otherwise=kept) == Trust(ca="/ca.pem", certificate="/c.pem", key="/c.key")
    assert Trust(ca="/ca.pem", certificate="/c.pem", key="/c.key").environ() == named
    with pytest.raises(BadTrust):
        Trust(ca="/nowhere").context()


def test_a_certificate_is_made_once_and_its_key_is_its_users_alone(tmp_path: Path) -> None:
    first = kept_certificate(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    assert kept_certificate(tmp_path) == first
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert (tmp_path / "nats-server.key").stat().st_mode & 0o077 == 0
    (tmp_path / CA_FILE).unlink()
    kept_certificate(tmp_path)
    assert (tmp_path / "nats-server.pem").read_bytes() != before["nats-server.pem"]


@pytest.mark.story
async def test_an_up_with_tls_is_used_as_any_other(tmp_path: Path) -> None:
    async with a_system(tmp_path / "data", a_catalog_file(tmp_path), "--tls") as system:
        status = await system.here("status")
        answer = await asyncio.to_thread(system.command, "infer", "m", "Hello.", "--no-stream")
        place = ("--nats-url", system.info.nats_url)
        elsewhere = await asyncio.to_thread(infermq_here, "status", *place)
        trusting = ssl.create_default_context(cafile=str(system.data / CA_FILE))
        async with connected(system.info.api, context=trusting) as https:
            models = await https.ask(a_request("/v1/models", f"authorization: Bearer {system.api_key}"))
        trust = Trust(ca=str(system.data / CA_FILE))
        async with Client.connect(system.info.api, api_key=system.api_key, trust=trust) as client:
            over_http = await client.infer("m", {"messages": [{"role": "user", "content": "Hello."}]})
        with pytest.raises(Unavailable, match="INFERMQ_NATS_CA names the file"):
            async with Client.connect(system.info.api, api_key=system.api_key):
                pass

    assert (models.status, [model["id"] for model in json.loads(models.body)["data"]]) == (200, ["m"])
    assert system.info.api.startswith("https://")
    assert over_http.text()
    assert system.info.nats_url.startswith("tls://")
    assert status.returncode == answer.returncode == 0, status.stderr + answer.stderr
    assert elsewhere.returncode == 3
    assert "INFERMQ_NATS_CA names the file" in elsewhere.stderr
    assert "eof_received" not in "".join(system.said)


async def test_a_server_that_leaves_at_once_has_let_nobody_in() -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id": "S", "version": "2.15.1", "max_payload": 1}\r\n')
        await reader.readline()
        writer.close()

    server = await asyncio.start_server(leave, "127.0.0.1", 0)
    async with server:
        with pytest.raises(OSError, match="ended the connection"):
            await reach(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}")

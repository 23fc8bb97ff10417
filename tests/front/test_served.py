"""How a broker serves its API over HTTP: with TLS, for browsers, and with a line in the log for each answer."""

import logging
import re
import ssl
from pathlib import Path

import msgspec
import pytest
import trustme
import typer

from broker.cli.serve_options import api_config
from broker.config import ApiConfig, HttpLimits, http_limits
from broker.doors import access_log
from broker.doors.server import shown_certificate
from broker.errors import CannotListen
from schemas.jetstream.client import NatsClient as Nats
from tests.front.sockets import a_request, connected
from tests.real.test_broker import a_broker, a_worker
from tests.system import infermq_here

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
BODY = b'{"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": "a secret prompt"}]}'
KEY = "imq_tenant_abcdefghijkl_0000000000000000000000000000000000000000000000000"
LINE = re.compile(r"answered method=(\S+) path=(\S+) status=(\d+) ms=\d+ bytes=(\d+) key=(\S+) request=(\S+)")


async def test_each_answer_is_a_line_without_what_is_nobodys_business(
    nats_url: str, ledger_url: str, nc: Nats, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with a_broker(nats_url, ledger_url, nc, api=ApiConfig(access_log=True)) as broker, a_worker(nc):
        await broker.has_a_worker()
        async with connected(broker.api) as client:
            path = "/v1/chat/completions?token=hunter2"
            chat = await client.ask(a_request(path, f"authorization: Bearer {KEY}", method="POST", body=BODY))
            other = await client.ask(a_request("/none/%0aanswered%20method=GET"))
            async with connected(broker.api) as leaving:
                await leaving.send(a_request("/v1/chat/completions", method="POST") + b"content-length: 9\r\n")

    lines = [LINE.fullmatch(one.getMessage()) for one in caplog.records if one.name == access_log.__name__]
    told = [line.groups() for line in lines if line is not None]
    assert told[0] == (
        "POST",
        "/v1/chat/completions",
        "200",
        str(len(chat.body)),
        "unreadable",
        chat.headers["x-request-id"],
    )
    assert told[1][:3] == ("GET", "/none/%0aanswered%20method=GET", "404")
    assert told[1][4:] == ("-", other.headers["x-request-id"])
    assert not any(secret in caplog.text for secret in ("hunter2", "secret prompt", KEY))


async def test_without_the_option_nothing_is_logged(
    nats_url: str, ledger_url: str, nc: Nats, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with a_broker(nats_url, ledger_url, nc) as broker, connected(broker.api) as client:
        await client.ask(a_request("/v1/models"))

    assert not [one for one in caplog.records if one.name == access_log.__name__]


async def test_pages_of_a_named_origin_may_read_answers_and_no_others(
    nats_url: str, ledger_url: str, nc: Nats
) -> None:
    asks = ("access-control-request-method: POST", "access-control-request-headers: authorization,x-infermq-lane")
    named, other = "origin: https://app.example", "origin: https://other.example"
    api = ApiConfig(cors_origins=("https://app.example", "https://two.example"))
    async with a_broker(nats_url, ledger_url, nc, api=api) as broker, connected(broker.api) as client:
        path = "/v1/chat/completions"
        allowed = await client.ask(a_request(path, named, *asks, method="OPTIONS"))
        denied = await client.ask(a_request(path, other, *asks, method="OPTIONS"))
        shown = await client.ask(a_request("/v1/models", named))
        hidden = await client.ask(a_request("/v1/models", other))

    assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, "https://app.example")
    assert "x-infermq-lane" in allowed.headers["access-control-allow-headers"]
    assert denied.status == 400
    assert shown.headers["access-control-allow-origin"] == "https://app.example"
    assert "x-request-id" in shown.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in hidden.headers
    assert "access-control-allow-credentials" not in shown.headers


async def test_without_origins_no_page_may(nats_url: str, ledger_url: str, nc: Nats) -> None:
    async with a_broker(nats_url, ledger_url, nc) as broker, connected(broker.api) as client:
        shown = await client.ask(a_request("/v1/models", "origin: https://app.example"))

    assert not [name for name in shown.headers if name.startswith("access-control")]


async def test_the_api_shows_its_certificate(nats_url: str, ledger_url: str, nc: Nats, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    api = ApiConfig(certificate=str(tmp_path / "both.pem"))
    async with (
        a_broker(nats_url, ledger_url, nc, api=api) as broker,
        connected(broker.api, context=trusting) as client,
    ):
        assert broker.api.startswith("https://")
        assert (await client.ask(a_request("/v1/models"))).status == 200


def test_a_certificate_that_cannot_be_used_is_named_with_its_option(tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    with pytest.raises(CannotListen, match=r"--api-tls-cert \S+cert.pem, --api-tls-key .*: No such file"):
        shown_certificate(str(file), None)
    file.write_text("no certificate")
    with pytest.raises(CannotListen, match="cannot be used"):
        shown_certificate(str(file), None)
    with pytest.raises(typer.BadParameter, match="--api-tls-cert"):
        api_config([], None, file, [], access_log=False)


@pytest.mark.parametrize("field", HttpLimits.__struct_fields__)
def test_each_limit_can_be_set_and_is_stated_with_its_default(field: str) -> None:
    default = getattr(HttpLimits(), field)
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    [row] = [line for line in page.splitlines() if line.startswith("|") and f"`{field}`" in line.split("|")[1]]
    names, numbers = ([one.strip(" `") for one in cell.split(",")] for cell in row.split("|")[1:3])

    assert float(numbers[names.index(field)]) == default
    set_to = http_limits([f"{field}={int(default) * 2}"])
    assert set_to == msgspec.structs.replace(HttpLimits(), **{field: default * 2})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--api-limit", "hurry_s=5"), "hurry_s"),
        (("--api-limit", "head_s=soon"), "head_s"),
        (("--api-limit", "head_s=0"), "head_s"),
        (("--api-limit", "head_s"), "head_s"),
        (("--cors-origin", "app.example"), "https://app.example"),
        (("--cors-origin", "https://app.example/"), "without a path"),
    ],
    ids=lambda told: told if isinstance(told, str) else told[1],
)
def test_a_wrong_option_is_told_how_it_should_be(words: tuple[str, ...], said: str) -> None:
    ran = infermq_here("serve", "--nats-url", "nats://here", "--postgres-url", "postgresql://here", *words)

    assert ran.returncode == 2
    assert said in " ".join(ran.stderr.split())

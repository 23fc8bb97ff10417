"""Where webhooks may go."""

import ipaddress

import pytest

from broker.core.targets import Targets, is_public

INTERNAL = (
    "0.0.0.0",  # noqa: S104 - nobody binds to it
    *("127.0.0.1", "127.8.9.10", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "192.0.0.8", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1"),
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    *("2002:7f00:1::", "2002:a00:1::1", "2001:0:7f00:1::", "2001::80ff:fffe", "fe80::1", "fc00::1", "fd00:ec2::254"),
    *("fec0::1", "ff02::1", "2001:db8::1", "64:ff9b:1::1"),
)
PUBLIC = ("8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1")


@pytest.mark.parametrize("address", INTERNAL)
def test_an_address_that_not_everybody_reaches_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_that_everybody_reaches_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        *("https://example.com", "https://example.com:8443/a?b=c", "https://8.8.8.8/x", "HTTPS://EXAMPLE.com/"),
        "https://[2606:4700::1111]/",
    ],
)
def test_a_public_url_over_tls_will_do(url: str) -> None:
    assert Targets().why_not(url) is None


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.com", "ftp://example.com", "example.com", "", "https://", "https:///path", "https://a b/"),
        *("https://user@example.com", "https://user:pass@example.com", "https://example.com:99999", "https://[::1"),
        *(
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0177.0.0.1/",
            "https://127.1/",
        ),
        *("https://0/", "https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://[::]:80/", "https://10.0.0.1:443"),
        *("https://169.254.169.254/latest/meta-data", "https://example.com/\r\nx: y", "https://127.0.0.1./"),
    ],
)
def test_another_url_is_refused_with_a_reason(url: str) -> None:
    assert Targets().why_not(url)


def test_an_operator_can_allow_plain_http() -> None:
    assert Targets(http=True).why_not("http://example.com") is None
    assert Targets(http=True).why_not("http://127.0.0.1")


def test_an_operator_can_allow_networks_addresses_and_hosts() -> None:
    targets = Targets.of(["10.0.0.0/8", "127.0.0.1", "fd00::/8", "hooks.internal"])

    assert targets.why_not("https://10.1.2.3") is None
    assert targets.why_not("https://127.0.0.1:8443") is None
    assert targets.why_not("https://127.0.0.2")
    assert targets.why_not_address("fd00::1", "example.com") is None
    assert targets.why_not_address("192.168.0.1", "Hooks.Internal.") is None
    assert targets.why_not_address("192.168.0.1", "other.internal")


@pytest.mark.parametrize("wrong", ["10.0.0.1/8", "http://a.example", "a b", "", "*", "2130706433", "0x7f000001"])
def test_what_is_no_target_cannot_be_allowed(wrong: str) -> None:
    with pytest.raises(ValueError, match="is no host, address or network"):
        Targets.of([wrong])

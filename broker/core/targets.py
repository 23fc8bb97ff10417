"""Decides where webhooks may go: to public addresses over TLS, and where an operator allows it."""

import ipaddress
import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final
from urllib.parse import urlsplit

import msgspec

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
_V4_IN_V6: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""Addresses of NAT64, which hold one of IPv4."""
_PROTOCOLS: Final = ipaddress.IPv4Network("192.0.0.0/24")
"""For protocols; Python versions differ on some of it."""
_NUMBERS: Final = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)(\.(0[xX][0-9a-fA-F]*|[0-9]+)){0,3}\.?")
"""What C libraries take for an address of IPv4: four numbers or fewer, decimal, octal or hexadecimal."""


class Targets(msgspec.Struct, frozen=True):
    """What an operator allows beside public addresses over TLS."""

    hosts: frozenset[str] = frozenset()
    """Names that may lead to any address."""
    networks: tuple[Network, ...] = ()
    http: bool = False
    """Whether plain HTTP will do."""

    @classmethod
    def of(cls, allowed: Iterable[str], *, http: bool = False) -> "Targets":
        """Read names of hosts, addresses and networks such as 10.0.0.0/8. Raises: ValueError."""
        hosts, networks = set(), []
        for one in allowed:
            try:
                networks.append(ipaddress.ip_network(one))
            except ValueError:
                if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", one) or _NUMBERS.fullmatch(one):
                    raise ValueError(f"{one!r} is no host, address or network such as 10.0.0.0/8") from None
                hosts.add(one.lower())
        return cls(frozenset(hosts), tuple(networks), http)

    def why_not(self, url: str) -> str | None:
        """Say why nothing can be sent to this URL, whatever its host leads to. None: it can."""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            return "it is no URL"
        if parts.scheme not in {"https", "http"} or not host or not url.isprintable() or " " in url:
            return "it is no URL that begins with https://"
        if parts.scheme == "http" and not self.http:
            return "it does not begin with https://"
        if parts.username is not None or parts.password is not None:
            return "a URL with a user or a password is not taken: messages are signed instead"
        return self._why_not_host(host)

    def why_not_address(self, address: str, host: str) -> str | None:
        """Say why nothing is sent to an address that a host leads to. None: it is."""
        if host.rstrip(".").lower() in self.hosts:
            return None
        found = ipaddress.ip_address(address.partition("%")[0])
        if any(found.version == network.version and found in network for network in self.networks):
            return None
        return None if is_public(found) else "its host leads to an address that is not public"

    def _why_not_host(self, host: str) -> str | None:
        try:
            return self.why_not_address(host, host)
        except ValueError:
            return "its host is a number: write the address with four" if _NUMBERS.fullmatch(host) else None


def is_public(address: Address) -> bool:
    """Say whether the whole internet can reach it, by each address of IPv4 that is in it too."""
    if isinstance(address, IPv4Address):
        return address.is_global and not (address.is_multicast or address.is_reserved or address in _PROTOCOLS)
    if (whole := _whole(address)) is not None:
        return is_public(whole)
    inner = [one for one in (address.sixtofour, *(address.teredo or ())) if one is not None]
    is_odd = address.is_multicast or address.is_reserved or address.is_site_local
    return address.is_global and not is_odd and all(map(is_public, inner))


def _whole(address: IPv6Address) -> IPv4Address | None:
    """Return the address of IPv4 that one of IPv6 stands for, if it is nothing else."""
    return IPv4Address(int(address) & 0xFFFF_FFFF) if address in _V4_IN_V6 else address.ipv4_mapped

"""Counts the connections of an HTTP server, in total and from one address."""

import ipaddress
from collections import Counter
from typing import Protocol

Peer = tuple[str, int] | None
"""The address and the port of a client; None for one that has none."""
_SPARE = 64
"""How many connections more are let in, only to be told that there is no room."""


class Evictable(Protocol):
    """A connection that waits for its next request."""

    def evict(self) -> None:
        """Close it. Its client opens another when it needs one."""


class Room:
    """How many connections there may be, what their bodies may take, and which of them nobody would miss."""

    def __init__(self, *, total: int, per_address: int, bodies_bytes: int) -> None:
        self._total = total
        self._bodies_bytes = bodies_bytes
        self._per_address = per_address
        self._by_address: Counter[str] = Counter()
        self.taken = 0
        self.held_bytes = 0
        """Of bodies that are being received."""
        self.idle: dict[Evictable, None] = {}
        """Those that wait for a request, the longest first."""

    def __repr__(self) -> str:
        return f"Room({self.taken} of {self._total}, {len(self.idle)} idle, {len(self._by_address)} addresses)"

    def enter(self, peer: Peer) -> bool:
        """Count one more, unless even those are too many that are only told so."""
        network = _network(peer)
        if self.taken >= self._total + _SPARE or self._by_address[network] >= self._per_address + _SPARE:
            if not self._by_address[network]:
                del self._by_address[network]
            return False
        self.taken += 1
        self._by_address[network] += 1
        return True

    def leave(self, peer: Peer) -> None:
        network = _network(peer)
        self.taken -= 1
        self._by_address[network] -= 1
        if not self._by_address[network]:
            del self._by_address[network]

    def holds(self, more: int) -> bool:
        """Count more of a body that is being received. Say whether there is memory for it."""
        self.held_bytes += more
        return self.held_bytes <= self._bodies_bytes

    def admits(self, peer: Peer) -> bool:
        """Whether one that has entered may send requests. In a full room, the one that is idle the longest makes room."""
        if self._by_address[_network(peer)] > self._per_address:
            return False
        if self.taken <= self._total:
            return True
        longest = next(iter(self.idle), None)
        if longest is None:
            return False
        del self.idle[longest]
        longest.evict()
        return True


def _network(peer: Peer) -> str:
    """What counts as one address: in IPv6 the 64 bits of a network, since whoever has one address there has them all."""
    if peer is None:
        return ""
    address = ipaddress.ip_address(peer[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)

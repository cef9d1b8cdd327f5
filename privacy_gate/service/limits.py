"""How many deliveries a minute: token buckets. The clock is given, and may stand still or go back.

Two kinds. One bucket is for all deliveries that are believed. The others are one per client address, and are charged
for what was refused, after it was refused: forged traffic never takes a token from the registry.

A client whose bucket is empty is not read any more, except for what is small and says so: to check its signature costs
less than to take it in. So a registry that shares its address with a forger, behind a proxy, is still heard.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Bucket:
    """Tokens that come back with time.

    rate      tokens per second
    capacity  tokens at most, and at the start
    """

    rate: float
    capacity: float
    _tokens: float = field(init=False)
    _at: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._tokens = self.capacity

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0: there is one. Takes none."""
        if self._at is not None:
            self._tokens = min(self.capacity, self._tokens + self.rate * max(0.0, now - self._at))
        self._at = now
        return 0.0 if self._tokens >= 1.0 else (1.0 - self._tokens) / self.rate

    def take(self, now: float) -> float:
        """Take a token: 0; or, if there is none, the seconds until there is one."""
        if (seconds := self.wait(now)) > 0.0:
            return seconds
        self._tokens -= 1.0
        return 0.0


def per_minute(count: int) -> Bucket:
    """So many at once, and as many in each minute after that."""
    return Bucket(count / 60.0, float(count))


@dataclass(slots=True)
class PerClient:
    """A bucket for each of the clients seen last.

    rate, capacity  of each bucket
    clients         that are remembered; who was not seen for longest is forgotten first
    """

    rate: float
    capacity: float
    clients: int
    _buckets: OrderedDict[str, Bucket] = field(init=False, default_factory=OrderedDict)

    def wait(self, address: str | None, now: float) -> float:
        """Seconds until this client has a token; 0 for one that was never charged, of which nothing is kept."""
        found = self._buckets.get(network(address))
        return 0.0 if found is None else found.wait(now)

    def take(self, address: str | None, now: float) -> float:
        """Take one of this client's tokens, as Bucket.take does."""
        key = network(address)
        bucket = self._buckets.setdefault(key, Bucket(self.rate, self.capacity))
        self._buckets.move_to_end(key)
        while len(self._buckets) > self.clients:
            self._buckets.popitem(last=False)
        return bucket.take(now)

    def __len__(self) -> int:
        return len(self._buckets)


def network(address: str | None) -> str:
    """Whom an address belongs to: itself, or for IPv6 its /64, all of which one client has. "": unknown."""
    try:
        ip = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


class Recent:
    """Ids of the deliveries taken in last: a replay of one costs neither a token nor a look into the queue."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, id: str) -> None:
        """Remember an id, and forget the one that was added first if there are too many."""
        self._ids[id] = None
        while len(self._ids) > self._size:
            self._ids.popitem(last=False)

    def __contains__(self, id: object) -> bool:
        return id in self._ids

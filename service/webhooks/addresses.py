"""Where webhooks may go: a tenant's URL must not reach what only this machine can reach. Pure."""

import ipaddress
import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec

LONGEST_URL = 2048
_PRINTABLE = re.compile(r"[!-~]+")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})")
_PORTS = {"https": 443, "http": 80}

METADATA: Final = frozenset(
    map(
        ipaddress.ip_address,
        ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    )
)
"""Where clouds tell a machine its credentials; some of these are in ranges that look harmless."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class BadUrl(ValueError):
    """The URL can never be delivered to; the message says why."""


class Destination(msgspec.Struct, frozen=True):
    """A URL, taken apart once: what was checked is what is connected to."""

    scheme: str
    host: str
    port: int
    target: str
    """Path and query."""

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def destination(url: str, *, private: bool) -> Destination:
    """Take a URL apart; `private` lets it be plain http, and an address in private networks.

    Raises BadUrl. A name is not resolved: what it leads to is checked at every connection.
    """
    parts, port = _split(url)
    if parts.scheme not in (("https", "http") if private else ("https",)):
        raise BadUrl("it must begin with https://")
    if parts.username is not None or parts.password is not None:
        raise BadUrl("it must hold no credentials")
    if parts.fragment:
        raise BadUrl("it must hold no fragment")
    host = parts.hostname or ""
    _check_host(host, private=private)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Destination(parts.scheme, host, port or _PORTS[parts.scheme], target)


def may_reach(address: str, *, private: bool) -> bool:
    """Tell whether to connect there; `private` lets loopback and private networks be reached.

    Nothing lets link-local, multicast, reserved and metadata addresses be reached.
    """
    ip = _inner(ipaddress.ip_address(address))
    if ip in METADATA or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        return False
    if ip.is_loopback:
        return private
    if ip.is_reserved or (ip.version == 6 and ip.is_site_local):
        return False
    return private or ip.is_global


def _inner(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Find the IPv4 address that an IPv6 one stands for, where packets to it end."""
    if isinstance(ip, IPv4Address):
        return ip
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


def _split(url: str) -> tuple[SplitResult, int | None]:
    if len(url) > LONGEST_URL or not _PRINTABLE.fullmatch(url):
        raise BadUrl(f"it must have at most {LONGEST_URL} characters, all of them ASCII")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as fault:
        raise BadUrl(str(fault)) from None
    if port == 0:
        raise BadUrl("its port is 0")
    return parts, port


def _check_host(host: str, *, private: bool) -> None:
    try:
        reached = may_reach(host, private=private)
    except ValueError:
        reached = bool(_HOST.fullmatch(host))
        if not reached:
            raise BadUrl("it names no host") from None
    if not reached:
        raise BadUrl(f"{host} is not a public address")

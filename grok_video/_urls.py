"""What an http(s) URL says of itself: its origin, and whether that is one to ask.

Text only: nothing here asks a name server, and nothing here shows a URL (that is `_redaction`).
"""

from __future__ import annotations

import functools
import ipaddress
import re
import socket
import unicodedata
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

__all__ = ["Origin", "is_public_address", "names_a_user", "sendable"]

#: What stands before the path: the same for all the links of a host, so that it is read once.
_PLACE: Final = re.compile(r"[A-Za-z]+://[^/?#]+")

#: What a request line can never have: spaces, control characters, what is no ASCII (RFC 9112,
#: section 3.2). Without tabs and line ends, which yarl leaves out, as browsers do.
_UNSENDABLE: Final = re.compile(r"[^!-~\t\n\r]+")

_NO_ORIGIN: Final = "not an absolute http(s) URL"
#: Characters of what stands before the path at most, with a user and a password: more holds up who
#: reads it (IDNA takes quadratic time), and what is read is kept for the next link of its host.
_LONGEST_PLACE: Final = 1024
#: Characters of a host name at most (RFC 1035, section 2.3.4, as text).
_LONGEST_NAME: Final = 253


class Origin(NamedTuple):
    """Scheme, host and port: the unit of trust (RFC 6454)."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """Return the origin of an absolute http(s) URL. Raises `ValueError` if it has none."""
        place = _PLACE.match(url)
        if place is None or place.end() > _LONGEST_PLACE:
            raise ValueError(_NO_ORIGIN)
        return _origin_of(place[0])

    @property
    def is_private(self) -> bool:
        """True if the host is a literal private address or a name of this machine."""
        return _is_private(self.host)

    @property
    def can_be_resolved(self) -> bool:
        """False if no name server can be asked for the host (RFC 1035, section 2.3.4)."""
        return _can_be_resolved(self.host)


def names_a_user(url: str) -> bool:
    """Return whether an absolute URL has a user name, or a password, before its host."""
    place = _PLACE.match(url)
    return "@" in (place[0] if place is not None else url)


def sendable(url: str) -> str:
    """Return an absolute URL with what no request line can have encoded, behind its host only.

    All else stays byte for byte: a signature may be that of just this spelling.
    """
    place = _PLACE.match(url)
    if place is None or _UNSENDABLE.search(url, place.end()) is None:
        return url
    return place[0] + _UNSENDABLE.sub(_encoded, url[place.end() :])


def _encoded(found: re.Match[str]) -> str:
    # A header's bytes that are no UTF-8 come as surrogates, and are sent as those bytes.
    return quote(found[0], errors="surrogateescape")


@functools.lru_cache(maxsize=1024)
def _is_private(host: str) -> bool:
    named = host == "localhost" or host.endswith(".localhost")
    return named or not is_public_address(host, unknown=True)


@functools.lru_cache(maxsize=1024)
def _can_be_resolved(host: str) -> bool:
    if " " in host or not host.isprintable():
        return False
    if ":" in host:
        return True  # an IPv6 address; its zone may be as long as it likes
    if len(host) > _LONGEST_NAME:
        return False
    if host.isascii():
        return all(0 < len(part) < 64 for part in host.split("."))
    try:
        return 0 < len(host.encode("idna")) <= _LONGEST_NAME
    except UnicodeError:
        pass
    # What Python's own codec refuses may still be a name by the rules of 2008 (RFC 5891).
    import idna  # comes with anyio; needed for hardly any host

    try:
        return 0 < len(idna.encode(host, uts46=True)) <= _LONGEST_NAME
    except idna.IDNAError:
        return False


@functools.lru_cache(maxsize=1024)
def _origin_of(place: str) -> Origin:
    parts = urlsplit(place)
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(_NO_ORIGIN)
    port = parts.port if parts.port is not None else (443 if scheme == "https" else 80)
    return Origin(scheme, parts.hostname.lower().removesuffix("."), port)


@functools.cache
def _embedding() -> tuple[ipaddress.IPv6Network, ...]:
    """Return where an IPv6 address ends in the IPv4 address that it leads to.

    NAT64 (RFC 6052), IPv4-translated (RFC 7915) and IPv4-compatible addresses (RFC 4291).
    """
    return tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "::ffff:0:0:0/96", "::/96")))


@functools.cache
def _local_nat64() -> ipaddress.IPv6Network:
    """Return the addresses that a network leads to IPv4 in its own way (RFC 8215)."""
    return ipaddress.IPv6Network("64:ff9b:1::/48")


def is_public_address(address: str, *, unknown: bool = False) -> bool:
    """Return whether an IP address is one that the internet routes; `unknown` for a host name.

    The spellings that only look like names (2130706433, 127.1, 0x7f000001) are the addresses that
    the system's own functions read in them.
    """
    bare = address.partition("%")[0]
    if not bare.isascii():  # as IDNA folds it
        bare = unicodedata.normalize("NFKC", bare).replace("\u3002", ".")
    bare = bare.rstrip(".")  # a name may end in a dot
    try:
        ip = ipaddress.ip_address(bare)
    except ValueError:
        try:
            ip = ipaddress.IPv4Address(socket.inet_aton(bare))
        except (OSError, ValueError):
            return unknown
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip.sixtofour is not None:
            ip = ip.sixtofour
        elif any(ip in network for network in _embedding()):
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip.is_site_local or ip in _local_nat64():
            return False  # which Python's registry does not know, or not in each version
    return ip.is_global and not ip.is_multicast

"""What a transport is, whatever library carries it: three verbs, one kind of answer, one rule.

The rule: a request that failed says whether it may have reached the server
(`APIConnectionError.may_have_been_sent`), because that decides whether sending it again could pay
twice. The API key is attached by the transport, and only to the API's own origin. Redirects are
never followed here, answers are read with a bound, and nothing is sent again.
"""

from __future__ import annotations

import abc
import ipaddress
import zlib
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from attrs import field, frozen

from grok_video import __version__
from grok_video._errors import UnexpectedResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from grok_video._redaction import Secret

#: Largest answer to a create or a poll that is read, in bytes: the largest recorded one has 600,
#: and an envelope with every bookkeeping key stays under 10,000.
ANSWER_LIMIT: Final = 4 * 2**20
#: Seconds to establish a connection (DNS, TCP, TLS each get this long): httpx and aiohttp wait 5
#: and 30; a handshake across an ocean under load takes 1 to 3.
CONNECT_TIMEOUT: Final = 15.0
#: Seconds for which a create may reuse a connection: servers keep idle ones for 5 s and more, so a
#: warm one is not about to be closed under the request (design.md, Create).
CREATE_KEEPALIVE: Final = 2.0
USER_AGENT: Final = f"grok_video/{__version__}"


class Body(Protocol):
    """A request body with a known length that can be produced more than once."""

    @property
    def length(self) -> int:
        """Bytes, exactly: sent as Content-Length."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body from its beginning."""


@frozen
class Answer:
    """A whole answer; header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class StreamedAnswer(Protocol):
    """An answer whose body is still on the wire; header names are lower-case."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, names in lower case."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        Raises `APIConnectionError` if it breaks off before the announced length.
        """


@frozen
class TransportConfig:
    """What every transport needs to know; made once by the client."""

    base_url: str
    api_key: Secret
    #: Seconds for one whole exchange of a create or a poll, and for the longest silence while a
    #: download streams (which has no total: a large file on a slow line is not an error).
    timeout: float
    connections: int
    proxy: str | None
    ssl_context: object | None
    #: The caller's own headers: for the API only, as they may be secrets of a gateway.
    headers: Mapping[str, str]

    @property
    def origin(self) -> Origin:
        """The one origin the key may be sent to."""
        return Origin.of(self.base_url)


@frozen
class Origin:
    """Scheme, host and port: the unit of trust (RFC 6454)."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """Return the origin of an absolute http(s) URL. Raises `ValueError` if it has none."""
        parts = urlsplit(url)
        scheme = parts.scheme.lower()
        if scheme not in ("http", "https") or not parts.hostname:
            message = "not an absolute http(s) URL"
            raise ValueError(message)
        port = parts.port or (443 if scheme == "https" else 80)
        return cls(scheme, parts.hostname.lower().rstrip("."), port)

    @property
    def is_private(self) -> bool:
        """True if the host is a literal private address or a name of this machine."""
        return self.host == "localhost" or self.host.endswith(".localhost") or (
            not is_public_address(self.host, unknown=True)
        )


def is_public_address(address: str, *, unknown: bool = False) -> bool:
    """Return whether an IP address is one that the internet routes; `unknown` for a host name."""
    try:
        ip = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return unknown
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_global and not ip.is_multicast


class Transport(abc.ABC):
    """Send, stream, close. Works in whatever event loop it is called from."""

    @abc.abstractmethod
    async def post(self, url: str, body: Body) -> Answer:
        """Return the answer to a create.

        Sent over a connection that is new or was used less than two seconds ago. Raises
        `APIConnectionError` or `APITimeoutError` with `may_have_been_sent` if no whole answer came.
        """

    @abc.abstractmethod
    async def get(self, url: str) -> Answer:
        """Return the answer to a poll. Raises as `post`; a poll may always be sent again."""

    @abc.abstractmethod
    def stream(
        self, url: str, headers: Mapping[str, str], *, public_only: bool
    ) -> AbstractAsyncContextManager[StreamedAnswer]:
        """Return the answer of a file server, its body unread.

        With `public_only` a host that resolves to a private address is refused with
        `PermissionError`. Raises `APIConnectionError` if no answer came.
        """

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Close the connections of the running event loop."""


def decode_body(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return the body without its content coding, read to at most `ANSWER_LIMIT` bytes.

    No coding is asked for (`Accept-Encoding: identity`), so this is for servers that do it anyway.
    Raises `UnexpectedResponse` if the coding is unknown, broken, or unpacks to more than the limit.
    """
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        message = f"the answer has the unknown content coding {coding[:40]!r}"
        raise UnexpectedResponse(message, status=status)
    # 47 = 32 + 15: zlib finds out by itself whether it is gzip or zlib.
    unpacker = zlib.decompressobj(47)
    try:
        plain = unpacker.decompress(body, ANSWER_LIMIT + 1)
    except zlib.error:
        message = f"the answer says it is {coding} and is not"
        raise UnexpectedResponse(message, status=status) from None
    if len(plain) > ANSWER_LIMIT:
        raise answer_too_long(status)
    return plain


def answer_too_long(status: int) -> UnexpectedResponse:
    """Return the refusal of an answer that is over the bound."""
    return UnexpectedResponse(
        f"the answer (HTTP {status}) is longer than {ANSWER_LIMIT // 2**20} MiB and was not read",
        status=status,
    )


class PrivateAddress(PermissionError):
    """A result link's host turned out to be on a private network (see `Transport.stream`)."""


def without_frames(error: BaseException) -> BaseException:
    """Return the error with no traceback, all the way down its chain of causes.

    The frames of an HTTP library hold the headers of the request, the key among them, and
    tracebacks that print local variables would show it.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error

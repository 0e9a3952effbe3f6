"""What a transport is, whatever library carries it: three verbs, one kind of answer, one rule.

The rule: a request that failed says whether it may have reached the server
(`APIConnectionError.may_have_been_sent`), because that decides whether sending it again could pay
twice. The API key is attached by the transport, and only to the API's own origin. Redirects are
never followed here, answers are read with a bound, and nothing is sent again.
"""

from __future__ import annotations

import abc
import enum
import os
import re
import socket
import ssl
import zlib
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, cast

from grok_video import __version__
from grok_video._errors import (
    APIConnectionError,
    APITimeoutError,
    GrokVideoError,
    UnexpectedResponse,
)
from grok_video._public import publish
from grok_video._redaction import Secret, redact_url
from grok_video._urls import Origin, is_public_address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

E = TypeVar("E", bound=GrokVideoError)

#: Largest answer to a create or a poll that is read, in bytes: the largest recorded one has 600,
#: and an envelope with every bookkeeping key stays under 10,000.
ANSWER_LIMIT: Final = 4 * 2**20
#: Bytes of an answer in which the id of a job is looked for where the rest cannot be had.
BEGINNING: Final = 2**16
#: Seconds for that beginning of an answer whose length says that it will not be read.
_BEGINNING_PATIENCE: Final = 0.5
#: Seconds to establish a connection (DNS, TCP, TLS each get this long): httpx and aiohttp wait 5
#: and 30; a handshake across an ocean under load takes 1 to 3.
CONNECT_TIMEOUT: Final = 15.0
#: Seconds for which a create may reuse a connection: servers keep idle ones for 5 s and more, so a
#: warm one is not about to be closed under the request (design.md, Create).
CREATE_KEEPALIVE: Final = 2.0
#: Seconds for which a poll or a download may reuse a connection: aiohttp's own figure. A stale one
#: costs a GET a second try, and a GET may always be sent again.
KEEPALIVE: Final = 15.0
#: Bytes that are given to TLS at once. What encrypts keeps a buffer of the most that it was ever
#: given, in each connection for as long as that lives: with whole pieces of 2 MiB fifty uploads
#: over aiohttp held 109 MiB more than the same creates by URL, and took 19 ms of CPU each; so 13
#: MiB and 16 ms. (128 KiB at once held 5 MiB more, 16 KiB took 3 ms more.)
TLS_PIECE: Final = 2**16
#: Real content codings, none of which is asked for. Any other word is a mistake of the server's,
#: and what it sends is what it is.
CODINGS: Final = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"})
USER_AGENT: Final = f"grok_video/{__version__}"


class Body(Protocol):
    """A request body with a known length that can be produced more than once."""

    @property
    def length(self) -> int:
        """Bytes, exactly: sent as Content-Length."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body from its beginning, the first piece without waiting for anything.

        A connection has been taken for it by then, and was young enough for a create when it was.
        """
        ...


class Address(str):
    """A URL that is asked many times: a transport keeps on it what it made of it."""

    __slots__ = ("parsed",)

    def __init__(self, _: str) -> None:
        #: The transport's own form, None before the first request.
        self.parsed: object = None


# Answer, TransportConfig and Proxies are written by hand: attrs takes up to a millisecond to make a
# class, which every program would wait for, and nobody compares or shows these.


class Answer:
    """A whole answer: the HTTP status, the headers by their names in lower case, the body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status: int = status
        self.headers: Mapping[str, str] = headers
        self.body: bytes = body


class StreamedAnswer(Protocol):
    """An answer whose body is still on the wire; headers are found by names in lower case."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, names in lower case."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        Raises `APIConnectionError` if it breaks off before the announced length.
        """
        ...


class TransportConfig:
    """What every transport needs to know; made once by the client."""

    __slots__ = ("api_key", "base_url", "headers", "origin", "proxy", "ssl_context", "timeout")

    def __init__(
        self,
        base_url: str,
        api_key: Secret,
        timeout: float,
        proxy: str | None,
        ssl_context: object | None,
        headers: Mapping[str, str],
    ) -> None:
        self.base_url: str = base_url
        #: The one origin the key may be sent to.
        self.origin: Origin = Origin.of(base_url)
        self.api_key: Secret = api_key
        #: Seconds for a poll, for the answer of a create once it is sent, and for the longest
        #: silence while a picture is sent or a file comes (which have no total: on a slow line a
        #: large one is not an error).
        self.timeout: float = timeout
        self.proxy: str | None = proxy
        self.ssl_context: object | None = ssl_context
        #: The caller's own headers: for the API only, as they may be secrets of a gateway.
        self.headers: Mapping[str, str] = headers


class Transport(abc.ABC):
    """Send, stream, close: what carries requests; a client takes one of your own as `transport`.

    It works in whatever event loop it is called from, attaches the key itself (`Authorization:
    Bearer ...`, to what goes to the API and to nothing else), follows no redirect and sends nothing
    twice. A create that fails says with `may_have_been_sent` whether it may have reached the
    server; an error of any other kind out of `post` is taken for one that may, and out of `get` or
    `stream` for a passing trouble.
    """

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

    No coding is asked for (`Accept-Encoding: identity`), so this is for servers that do it anyway,
    and for those that say so of a document that is as plain as ever. Raises `UnexpectedResponse` if
    the coding cannot be undone here, is broken, or unpacks to more than the limit.
    """
    coding = headers.get("content-encoding", "identity").strip().lower()
    if not CODINGS.intersection(re.split(r"[\s,]+", coding)):
        return body
    if coding in ("gzip", "x-gzip", "deflate"):
        # 47 = 32 + 15: zlib finds out by itself whether it is gzip or zlib.
        unpacker = zlib.decompressobj(47)
        try:
            plain = unpacker.decompress(body, ANSWER_LIMIT + 1)
        except zlib.error:
            message = f"the answer says it is {coding} and is not"
        else:
            if len(plain) > ANSWER_LIMIT:
                raise answer_too_long(status)
            return plain
    else:
        message = f"the answer has the unknown content coding {coding[:40]!r}"
    if body.lstrip().startswith(b"{"):  # as all answers of the API do, and nothing packed
        return body
    raise UnexpectedResponse(message, status=status, refused=proves_refusal(status))


def answer_too_long(status: int) -> UnexpectedResponse:
    """Return the refusal of an answer that is over the bound."""
    return UnexpectedResponse(
        f"the answer (HTTP {status}) is longer than {ANSWER_LIMIT // 2**20} MiB and was not read",
        status=status,
        refused=proves_refusal(status),
    )


def proves_refusal(status: int) -> bool:
    """Return whether no job was made, if the status is all that could be read of an answer."""
    # (After a 408 a server may still have all that it needs.)
    return 300 <= status < 500 and status != 408


class Received:
    """What came of an answer: a create that breaks off behind its id was accepted all the same."""

    __slots__ = ("parts", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.parts: list[bytes] = []

    def told_by(self, failure: E) -> E:
        """Return the failure, with what had come until then."""
        if self.status is not None and self.parts:
            failure.received = (self.status, b"".join(self.parts)[:BEGINNING])
        return failure


async def read_bounded(
    status: int,
    length: str | None,
    chunks: AsyncIterator[bytes],
    received: Received | None = None,
) -> bytes:
    """Return the chunks as one, at most `ANSWER_LIMIT` bytes; `length` is the Content-Length.

    `received` has what came of them where the rest does not. Raises `UnexpectedResponse` if it is
    longer, after its beginning where the server says so.
    """
    received = received or Received()
    received.status, parts = status, received.parts
    if length is not None and length.isdecimal() and int(length[:20]) > ANSWER_LIMIT:
        if 200 <= status < 300:
            # Its beginning has come along with the head, if it comes at all.
            from anyio import move_on_after

            with move_on_after(_BEGINNING_PATIENCE):
                async for chunk in chunks:
                    parts.append(chunk)
                    break
        raise received.told_by(answer_too_long(status))
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        parts.append(chunk)
        if total > ANSWER_LIMIT:
            raise received.told_by(answer_too_long(status))
    return parts[0] if len(parts) == 1 else b"".join(parts)


# --- addresses -----------------------------------------------------------------------------------


class NotRequestable(APIConnectionError):
    """The HTTP library does not take this for a URL, and never will."""


class PrivateAddress(PermissionError):
    """A result link's host turned out to be on a private network (see `Transport.stream`)."""


def refuse_private(host: str, address: str | None = None) -> None:
    """Pass if `address` is public, or without one, if `host` is a name or a public address.

    Raises `PrivateAddress` if not.
    """
    if not is_public_address(address or host, unknown=address is None):
        via = "is" if address in (None, host) else f"resolves to {address},"
        message = f"{host} {via} a private address"
        raise PrivateAddress(message)


async def public_addresses(host: str, port: int) -> list[str]:
    """Return the addresses of a host, best first, all of them public.

    Raises `PrivateAddress` if one is not, and `socket.gaierror` if there are none.
    """
    # Asked of the resolver even for a literal address: it also reads the spellings that only look
    # like names (2130706433, 127.1, 0x7f000001).
    from anyio import getaddrinfo

    found = await getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        refuse_private(host, address)
    return addresses


# --- failures ------------------------------------------------------------------------------------


class Trouble(enum.Enum):
    """Why no answer came, as the sentence that tells it; the same words whatever library failed."""

    NOT_A_URL = "{url} is not an address that can be requested"
    UNRESOLVED = "{host} could not be resolved"
    UNREACHABLE = "could not connect to {place} ({reason})"
    UNREACHABLE_IN_TIME = "connecting to {place} took too long"
    NO_TLS = "no TLS connection to {place} could be made ({reason})"
    NO_PROXY = "the proxy could not be reached ({reason})"
    PROXY_REFUSED = "the proxy refused to connect to {place} ({reason})"
    NO_CONNECTION_FREE = "no connection to {place} became free in time"
    REFUSED_HERE = "the HTTP library refused to send the request to {place} ({reason})"
    READ_BY_HOOK = (
        "a hook of the http_client took the answer of {url} for itself (one that looks at answers "
        "must read them with response.aread())"
    )
    SILENT = "no answer from {url} in time"
    CLOSED = "{place} closed the connection without an answer"
    NOT_HTTP = "{place} sent something that is not HTTP"
    BROKE_OFF = "the answer of {url} broke off"
    BROKE = "the connection to {place} broke ({reason})"

    def as_error(self, url: str, reason: str, *, may_have_been_sent: bool) -> APIConnectionError:
        """Return the error for a request to `url`."""
        try:
            where = Origin.of(url)
        except ValueError:
            text = f"{redact_url(url)} is not an absolute http(s) URL; nothing was sent"
            return NotRequestable(text, may_have_been_sent=False)
        host, place = where.host, f"{where.host}:{where.port}"
        text = self.value.format(url=redact_url(url), host=host, place=place, reason=reason)
        known = "" if may_have_been_sent else "; nothing was sent"
        late = (Trouble.UNREACHABLE_IN_TIME, Trouble.NO_CONNECTION_FREE, Trouble.SILENT)
        kind = APITimeoutError if self in late else APIConnectionError
        if self is Trouble.NOT_A_URL:
            kind = NotRequestable
        return kind(text + known, may_have_been_sent=may_have_been_sent)


def transport_failed(error: Exception) -> APIConnectionError:
    """Return what a transport of the caller's own, or a defect, leaves to be said of a request.

    Nobody can tell what the server has.
    """
    failure = APIConnectionError(
        f"the transport failed with {type(error).__name__}", may_have_been_sent=True
    )
    failure.__cause__ = error
    return failure


def causes(error: BaseException, outer: BaseException | None = None) -> list[BaseException]:
    """Return the error, what caused it and what it groups, down to (and without) `outer`."""
    found: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        link = left.pop(0)
        if link is None or link is outer or any(link is known for known in found):
            continue
        found.append(link)
        left += [link.__cause__, link.__context__]
        if isinstance(link, BaseExceptionGroup):
            left += cast("BaseExceptionGroup[BaseException]", link).exceptions
    return found


def reason_of(error: BaseException, outer: BaseException | None = None) -> str:
    """Return the operating system's words for what happened, or the name of the error's class.

    The libraries' own texts may hold the whole URL, or a header's value.
    """
    chain = causes(error, outer)
    for link in chain:
        # Asked with care: aiohttp derives from the system's errors without filling them in.
        if verdict := getattr(link, "verify_message", None):
            return str(verdict)
        if isinstance(link, ssl.SSLError | socket.gaierror):
            if text := getattr(link, "strerror", None):
                return str(text)
        elif isinstance(link, OSError) and (number := getattr(link, "errno", None)):
            # Not `strerror`: asyncio and trio put sentences of their own there.
            return os.strerror(number)
    return type(chain[0]).__name__


def without_frames(error: BaseException, outer: BaseException | None = None) -> BaseException:
    """Return the error with no traceback, all the way down its chain of causes.

    The frames of an HTTP library hold the headers of the request, the key among them, and
    tracebacks that print local variables would show it. `outer` is the exception that the caller
    was handling already (`sys.exception()`): Python chains it on, and its frames are not ours.
    """
    for link in causes(error, outer):
        link.__traceback__ = None
    return error


publish(globals(), ("Answer", "Body", "StreamedAnswer", "Transport"))

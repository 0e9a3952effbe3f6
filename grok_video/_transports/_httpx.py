"""The transport for trio, and for whoever brings an httpx client: over httpx2, or classic httpx.

Connections of our own are httpx2's connection pools without its client on top, which would keep
cookies, read .netrc and log each URL with its signature. A caller's client is used as it is, of
either family, and stays the caller's to close. What an exception means is the table `EXCEPTIONS`;
whether a create went out is told by the library's trace, where there is one.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Final

import anyio

from grok_video._errors import GrokVideoError
from grok_video._transports._base import (
    TLS_PIECE,
    Answer,
    PrivateAddress,
    Received,
    Transport,
    TransportConfig,
    Trouble,
    causes,
    decode_body,
    public_addresses,
    read_bounded,
    reason_of,
    refuse_private,
    without_frames,
)
from grok_video._transports._debuglog import hide_written_bytes
from grok_video._transports._httpxlines import (
    Client,
    Family,
    GivenLines,
    OwnLines,
    Request,
    Response,
    Stream,
    family_of,
    own_family,
)
from grok_video._transports._httpxtrace import IdleConnection, Sent
from grok_video._transports._looplocal import LoopLocal
from grok_video._urls import Origin

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

    from grok_video._errors import APIConnectionError
    from grok_video._transports._base import Body, StreamedAnswer

#: What an exception of either family says, and whether a request that failed with it may have been
#: sent where nothing else is known and nobody asked for its body; looked up by the names of the
#: exception's classes, the most special one first. With a trace (every pool of httpcore has one,
#: mocks and foreign transports have none) the trace knows better, in both directions: see
#: `Sent.may_have_been_sent`.
EXCEPTIONS: Final[dict[str, tuple[Trouble, bool]]] = {
    # No connection was made.
    "ConnectError": (Trouble.UNREACHABLE, False),
    "ConnectTimeout": (Trouble.UNREACHABLE_IN_TIME, False),
    "PoolTimeout": (Trouble.NO_CONNECTION_FREE, False),
    "ProxyError": (Trouble.PROXY_REFUSED, False),
    "gaierror": (Trouble.UNRESOLVED, False),
    # Nothing was written.
    "UnsupportedProtocol": (Trouble.NOT_A_URL, False),
    "InvalidURL": (Trouble.NOT_A_URL, False),
    # h11 raises it before the first byte (a header it does not like) and after the last but one (a
    # body that is not as long as announced): asked for, it may have been sent, see `_failure`.
    "LocalProtocolError": (Trouble.REFUSED_HERE, False),
    # Something was written, or the answer did not come whole.
    "WriteError": (Trouble.BROKE, True),
    "WriteTimeout": (Trouble.SILENT, True),
    "ReadError": (Trouble.BROKE, True),
    "ReadTimeout": (Trouble.SILENT, True),
    "CloseError": (Trouble.BROKE, True),
    "RemoteProtocolError": (Trouble.NOT_HTTP, True),
    "DecodingError": (Trouble.NOT_HTTP, True),
    "TooManyRedirects": (Trouble.REFUSED_HERE, True),
    # Of another request, which a hook of the caller's made.
    "HTTPStatusError": (Trouble.REFUSED_HERE, True),
    # A hook has read the answer, and kept it to itself.
    "ResponseNotRead": (Trouble.READ_BY_HOOK, True),
    # Ours: the time of a whole exchange is over.
    "TimeoutError": (Trouble.SILENT, True),
    # Anything else, from an OSError that the library forgot to translate to a bug in a mock.
    "Exception": (Trouble.BROKE, True),
}


class HttpxTransport(Transport):
    """Sends through httpx2, or through the caller's client of either httpx family.

    Without a client of the caller's: creates have a pool of their own, which lends a connection
    again only within two seconds; polls and files have one each. With it: a create never uses a
    connection that the client has idle, as nobody knows for how long. An idle one that is offered
    is closed before a byte is written to it, and a new one is made (HTTP/2 and transports without
    httpcore's trace extension cannot be seen through; there a stale connection is at worst a
    `CreateOutcomeUnknown`). The client's proxies, TLS, mounts and event hooks apply, its timeouts
    too where they are not httpx's default of 5 s; its `auth`, cookies and query parameters do not
    (`auth` may send a request twice), and its default headers go to the API only.

    Raises `ConfigurationError` if `http_client` is something else, or if httpx2 is missing.
    """

    def __init__(self, config: TransportConfig, http_client: Client | None = None) -> None:
        self._config = config
        self._origin = config.origin
        family = own_family() if http_client is None else family_of(http_client)
        self._family = family
        # A caller's client lives in one event loop, so what stands before it needs no loop of its
        # own; and as it has nothing to close, it may be dropped without a word.
        self._given = None if http_client is None else GivenLines(config, family, http_client)
        tls = config.ssl_context
        if http_client is None and tls is None and self._origin.scheme == "https":
            # Made here and not at the first request: reading the certificates takes 30 ms and more,
            # for which it would hold the event loop.
            tls = family.create_ssl_context()
        self._own = LoopLocal(lambda: OwnLines(config, family, tls), OwnLines.aclose)

    async def post(self, url: str, body: Body) -> Answer:
        lines = self._given or await self._own.get()
        return await self._exchange(lines, "POST", url, body)

    async def get(self, url: str) -> Answer:
        lines = self._given or await self._own.get()
        return await self._exchange(lines, "GET", url, None)

    async def _exchange(
        self, lines: OwnLines | GivenLines, method: str, url: str, body: Body | None
    ) -> Answer:
        hide_written_bytes()
        outer = sys.exception()
        sent, received = Sent(lines, self._config.timeout), Received()
        try:
            with anyio.fail_after(self._config.timeout + lines.patience) as sent.scope:
                return await self._attempt(lines, sent, received, method, url, body)
        except GrokVideoError as error:
            received.told_by(error)
            raise
        except Exception as error:  # noqa: BLE001 - whatever broke, was the request sent?
            # For a poll it has no consequence, and nobody wants to read it.
            may = None if body is None else sent
            failure = _failure(error, url, outer, may, lines, answered=sent.answered)
            raise received.told_by(failure) from _presentable(error, outer)
        except BaseException as error:  # noqa: BLE001 - the frames hold the key
            raise without_frames(error, outer)  # noqa: B904 - it is the same error

    async def _attempt(
        self,
        lines: OwnLines | GivenLines,
        sent: Sent,
        received: Received,
        method: str,
        url: str,
        body: Body | None,
    ) -> Answer:
        while True:
            sent.start(fresh_only=body is not None and lines.ages_unknown)
            # (Without a limit each chunk goes as it is: all of some bytes are those bytes.)
            most = TLS_PIECE if self._config.origin.scheme == "https" else sys.maxsize
            async with _upload(self._family, body, sent.get_on, most) as (stream, headers):
                request = self._family.Request(
                    method,
                    url,
                    headers=lines.api_headers(url, headers),
                    stream=stream,
                    extensions={"timeout": lines.timeouts(read=None), "trace": sent},
                )
                try:
                    response = await lines.send("creates" if body is not None else "polls", request)
                except IdleConnection:
                    continue
            sent.answered = True
            streamed = _Streamed(response, url, lines)
            try:
                raw = await read_bounded(
                    streamed.status,
                    streamed.headers.get("content-length"),
                    streamed.parts,
                    received,
                )
            finally:
                await streamed.aclose()
            if not streamed.is_decoded:
                raw = decode_body(streamed.status, streamed.headers, raw)
            return Answer(streamed.status, streamed.headers, raw)

    @contextlib.asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str], *, public_only: bool
    ) -> AsyncGenerator[StreamedAnswer]:
        lines = self._given or await self._own.get()
        outer = sys.exception()
        try:
            # The head of the answer has the time of a whole exchange; its body has no total.
            with anyio.fail_after(self._config.timeout):
                response = await self._open(lines, url, headers, public_only=public_only)
        except PrivateAddress as error:
            raise PrivateAddress(str(error)) from None
        except Exception as error:  # noqa: BLE001 - a download fails with one kind of error
            raise _failure(error, url, outer, None, lines) from _presentable(error, outer)
        except BaseException as error:  # noqa: BLE001 - the frames hold the key
            raise without_frames(error, outer)  # noqa: B904 - it is the same error
        streamed = _Streamed(response, url, lines)
        try:
            yield streamed
        finally:
            await streamed.aclose()

    async def _open(
        self,
        lines: OwnLines | GivenLines,
        url: str,
        headers: Mapping[str, str],
        *,
        public_only: bool,
    ) -> Response:
        origin = Origin.of(url)
        home = origin == self._origin
        request = self._family.Request(
            "GET",
            url,
            headers=lines.api_headers(url, headers) if home else lines.file_headers(url, headers),
            extensions={"timeout": lines.timeouts(read=self._config.timeout)},
        )
        if home or not public_only:
            # The API's own address is the caller's choice, private or not.
            return await lines.send("polls" if home else "files", request)
        refuse_private(origin.host)
        if not lines.connects_itself(origin):
            # A proxy or the caller's transport resolves the name: what our resolver knows of it is
            # all there is to check, and a name that it does not know may be known there.
            with contextlib.suppress(socket.gaierror):
                await public_addresses(origin.host, origin.port)
            return await lines.send("files", request)
        # The addresses that were checked are the ones that are connected to: a name cannot show a
        # public address first and a private one after.
        addresses = await public_addresses(origin.host, origin.port)
        request.extensions["sni_hostname"] = origin.host
        for address in addresses[:-1]:
            with contextlib.suppress(self._family.ConnectError, self._family.ConnectTimeout):
                return await lines.send("pinned", _pinned(request, address))
        return await lines.send("pinned", _pinned(request, addresses[-1]))

    async def aclose(self) -> None:
        await self._own.aclose()


class _Streamed:
    """A `StreamedAnswer` over a response of either family."""

    def __init__(
        self,
        response: Response,
        url: str,
        lines: OwnLines | GivenLines,
    ) -> None:
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._url = url
        self._lines = lines
        #: True if the library has taken the content coding off already.
        self.is_decoded: bool = response.is_stream_consumed or response.is_closed
        # Not `aiter_raw`, which refuses what was read before.
        self.parts: AsyncIterator[bytes] = (
            _ReadBefore(response) if self.is_decoded else aiter(response.stream)
        )

    def chunks(self) -> AsyncIterator[bytes]:
        return self

    # An object and not a generator: one that a caller breaks out of is collected without a warning.
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        outer = sys.exception()
        try:
            return await anext(self.parts)
        except StopAsyncIteration:
            raise
        except Exception as error:  # noqa: BLE001 - a download fails with one kind of error
            failure = _failure(error, self._url, outer, None, self._lines, answered=True)
            raise failure from _presentable(error, outer)
        except BaseException as error:  # noqa: BLE001 - the frames hold the key
            raise without_frames(error, outer)  # noqa: B904 - it is the same error

    async def aclose(self) -> None:
        """Close the connection, unless the answer was read to its end."""
        known = self._response.extensions
        with anyio.CancelScope(shield=True), contextlib.suppress(Exception):
            await self._response.aclose()
            # The libraries' generators are nested, and end only by being driven to their end: here
            # by the error of the closed connection. trio warns of one that is merely dropped. (Not
            # so with HTTP/2, whose connection stays open, nor with a mock, which may never end.)
            if known.get("http_version") == b"HTTP/1.1" and "network_stream" in known:
                async for _ in self.parts:
                    pass


class _ReadBefore:
    """The content of an answer that a hook of the caller's client has read, as its only part.

    Its stream is at its end, and would wait for ever for more. (A mock that holds its whole content
    has read it as well.)
    """

    def __init__(self, response: Response) -> None:
        self._response: Response | None = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        response, self._response = self._response, None
        if response is None:
            raise StopAsyncIteration
        try:
            content: bytes = response.content
        except RuntimeError:  # `ResponseNotRead`: the hook kept it, or refused the answer unread
            if 200 <= response.status_code < 300:
                raise
            return b""  # what is left of it is told by its status
        return content


def _pinned(request: Request, address: str) -> Request:
    """Return the same request for one address of its host; the name stays in Host and in TLS."""
    return type(request)(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        extensions=request.extensions,
    )


@contextlib.asynccontextmanager
async def _upload(
    family: Family,
    body: Body | None,
    get_on: Callable[[], None],
    most: int,
) -> AsyncGenerator[tuple[Stream, dict[str, str]]]:
    """Give the body as the family's stream, with the headers that announce it.

    In parts of at most `most` bytes; `get_on` is called for each that is asked for: those before it
    are taken.
    """
    if body is None:
        yield family.ByteStream(b""), {}
        return
    chunks = body.chunks()
    try:
        yield (
            _stream_class(family.AsyncByteStream)(chunks, get_on, most),
            {"Content-Type": "application/json", "Content-Length": str(body.length)},
        )
    finally:
        # A caller's own body may hold a file until its chunks are closed.
        close = getattr(chunks, "aclose", None)
        if close is not None:
            with anyio.CancelScope(shield=True):
                await close()


@functools.cache
def _stream_class(base: Stream) -> Stream:
    # The library's own stream of an iterator is a generator around it, which classic httpcore
    # leaves unfinished when a request breaks off.
    class Upload(base):  # type: ignore[misc]
        def __init__(
            self, chunks: AsyncIterator[bytes], get_on: Callable[[], None], most: int
        ) -> None:
            self._chunks = chunks
            self._get_on = get_on
            self._most = most
            #: What is left of a chunk that was too large, and where that begins.
            self._chunk, self._start = b"", 0

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            self._get_on()
            chunk, start = self._chunk, self._start
            if not chunk:
                chunk, start = await self._chunks.__anext__(), 0
            beyond = start + self._most
            self._chunk, self._start = (chunk, beyond) if beyond < len(chunk) else (b"", 0)
            return chunk[start:beyond]

    return Upload


def _presentable(error: Exception, outer: BaseException | None) -> BaseException | None:
    """Return the error as a cause that may be printed, or None."""
    # h11 quotes the header that it refuses.
    if type(error).__name__ == "LocalProtocolError":
        return None
    for link in causes(error, outer):
        if type(link).__name__ == "HTTPStatusError":
            link.args = ()  # they are a sentence with the whole URL
    return without_frames(error, outer)


def _failure(
    error: Exception,
    url: str,
    outer: BaseException | None,
    sent: Sent | None,
    lines: OwnLines | GivenLines,
    *,
    answered: bool = False,
) -> APIConnectionError:
    """Translate an exception by the table; `sent` is None where it has no consequence."""
    trouble, may = next(
        EXCEPTIONS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in EXCEPTIONS
    )
    chain = causes(error, outer)
    match trouble:
        case Trouble.UNREACHABLE:
            if any(isinstance(link, socket.gaierror) for link in chain):
                trouble = Trouble.UNRESOLVED
            elif any(isinstance(link, ssl.SSLError) for link in chain):
                trouble = Trouble.NO_TLS
            elif lines.proxied(url):
                trouble = Trouble.NO_PROXY
        case Trouble.NOT_HTTP | Trouble.BROKE if answered:
            trouble = Trouble.BROKE_OFF
        case Trouble.NOT_HTTP if "disconnected" in str(error):
            trouble = Trouble.CLOSED
        case _:
            pass
    reason = reason_of(error, outer)
    if trouble is Trouble.PROXY_REFUSED and str(error)[:3].isdigit():
        reason = f"HTTP {str(error)[:3]}"
    if sent is not None:
        denied, may = not may, sent.may_have_been_sent(otherwise=may)
        if denied and trouble is Trouble.REFUSED_HERE:
            may = sent.asked  # the trace tells of headers before they are looked at
        elif denied and may:  # what the failure is called is not what happened
            trouble = Trouble.BROKE
    else:
        may = True
    return trouble.as_error(url, reason, may_have_been_sent=may)

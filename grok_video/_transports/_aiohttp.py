"""The transport for asyncio, over aiohttp.

Three kinds of sessions, made when first used and one set for each event loop: creates, the API
(which goes on with the connections that creates have left) and files (no total timeout). The key is
given with each request to the API and stands in no local variable; it is no default header of a
session, because aiohttp sends those to a proxy as well, the key as Proxy-Authorization. Those
that it has (User-Agent, and Accept-Encoding that asks for no coding) a proxy may see.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import sys
import weakref
from typing import TYPE_CHECKING

import aiohttp
import aiohttp.abc
from aiohttp.http import StreamWriter
from multidict import CIMultiDict
from yarl import URL

from grok_video._errors import GrokVideoError
from grok_video._transports._aiohttpconnectors import (
    CreateConnector,
    PollConnector,
    PublicResolver,
)
from grok_video._transports._aiohttperrors import failure_of, note_unread, presentable
from grok_video._transports._aiohttpfiles import Streamed
from grok_video._transports._aiohttptimeouts import Timeouts
from grok_video._transports._base import (
    ANSWER_LIMIT,
    CONNECT_TIMEOUT,
    KEEPALIVE,
    TLS_PIECE,
    USER_AGENT,
    Address,
    Answer,
    PrivateAddress,
    Received,
    Transport,
    TransportConfig,
    answer_too_long,
    decode_body,
    public_addresses,
    read_bounded,
    refuse_private,
)
from grok_video._transports._debuglog import hide_written_bytes
from grok_video._transports._looplocal import LoopLocal
from grok_video._transports._proxies import Proxies
from grok_video._urls import Origin, sendable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from grok_video._transports._base import Body

#: Bytes aiohttp buffers before it stops reading the socket, and so the usual size of a chunk: at
#: 64 KiB (the default) a download costs two to four times the CPU that it costs at 1 MiB.
_READ_BUFFER = 2**20
#: Bytes of one header of the API's answers, and how many it may have. An answer with more is lost,
#: id and all; by itself aiohttp takes 8190 and 128, which a gateway's policies and cookies can
#: pass. File servers, who are strangers, may send no more than that: all headers are held.
_HEADER_LIMIT = {"creates": 2**16, "api": 2**16}
_MOST_HEADERS = {"creates": 256, "api": 256}


class AiohttpTransport(Transport):
    """Sends through aiohttp; one set of sessions for each event loop.

    aiohttp itself sends a GET once more if its connection was closed before an answer (RFC 9112,
    section 9.3.1); a POST never.
    """

    def __init__(self, config: TransportConfig) -> None:
        self._config = config
        self._origin = config.origin
        self._sessions = LoopLocal(lambda: _Sessions(config), _Sessions.aclose)

    async def post(self, url: str, body: Body) -> Answer:
        sessions = self._sessions.held(asyncio.get_running_loop()) or await self._sessions.get()
        outer = sys.exception()
        exchange = sessions.timeouts.exchange()
        payload = _Payload(body, exchange.get_on, over_tls=self._origin.scheme == "https")
        received = Received()
        try:
            with exchange:
                response = await sessions.creates.post(
                    _parsed(url),
                    data=payload,
                    headers=sessions.create_headers(body),
                    allow_redirects=False,
                    proxy=sessions.api_proxy,
                )
                if not payload.began:
                    # It stood in the connection before anything was asked: no answer to this.
                    response.close()
                    raise aiohttp.ServerDisconnectedError  # noqa: TRY301 - as if it was closed
                return await sessions.read(response, received)
        except GrokVideoError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever broke, was the request sent?
            if payload.began:
                note_unread(error, received)
            failure = received.told_by(failure_of(error, url, outer, sent=payload.began))
            raise failure from presentable(error, outer)
        except BaseException as error:  # noqa: BLE001 - the frames hold the key
            if sessions.took_back(error):
                raise failure_of(
                    aiohttp.ClientConnectionError(), url, outer, sent=payload.began
                ) from None
            raise presentable(error, outer)  # noqa: B904 - it is the same error

    async def get(self, url: str) -> Answer:
        sessions = self._sessions.held(asyncio.get_running_loop()) or await self._sessions.get()
        outer = sys.exception()
        try:
            with sessions.timeouts.exchange():
                response = await sessions.api.get(
                    _parsed(url),
                    headers=sessions.api_headers,
                    allow_redirects=False,
                    proxy=sessions.api_proxy,
                )
                return await sessions.read(response)
        except GrokVideoError:
            raise
        except Exception as error:  # noqa: BLE001 - a poll fails with one kind of error
            raise failure_of(error, url, outer) from presentable(error, outer)
        except BaseException as error:  # noqa: BLE001 - the frames hold the key
            if sessions.took_back(error):
                raise failure_of(aiohttp.ClientConnectionError(), url, outer) from None
            raise presentable(error, outer)  # noqa: B904 - it is the same error

    def stream(self, url: str, headers: Mapping[str, str], *, public_only: bool) -> _Streaming:
        return _Streaming(self, url, headers, public_only=public_only)

    async def open_file(
        self, url: str, headers: Mapping[str, str], *, public_only: bool
    ) -> aiohttp.ClientResponse:
        """Return the answer of a file server, its body unread."""
        sessions = self._sessions.held(asyncio.get_running_loop()) or await self._sessions.get()
        outer = sys.exception()
        try:
            # The head of the answer has the time of a whole exchange; its body has no total.
            with sessions.timeouts.exchange():
                return await sessions.open_file(url, headers, public_only=public_only)
        except Exception as error:  # noqa: BLE001 - see `get`
            refused = getattr(error, "os_error", error)
            if isinstance(refused, PrivateAddress):
                raise PrivateAddress(str(refused)) from None
            raise failure_of(error, url, outer) from presentable(error, outer)
        except BaseException as error:  # noqa: BLE001 - the frames hold the key
            if sessions.took_back(error):
                raise failure_of(aiohttp.ClientConnectionError(), url, outer) from None
            raise presentable(error, outer)  # noqa: B904 - it is the same error

    async def aclose(self) -> None:
        await self._sessions.aclose()


class _Payload(aiohttp.Payload):
    """A body as aiohttp takes it; `began` is true once the first byte of it may have gone out.

    Until then no server can have taken the create: it has nothing of the body that the headers
    announce. (aiohttp even keeps the headers back until it has the first chunk.) `get_on` is called
    for each chunk that the connection has taken: a large picture on a slow line is no silence.
    """

    def __init__(self, body: Body, get_on: Callable[[], None], *, over_tls: bool) -> None:
        super().__init__(body)
        self._body = body
        self._get_on = get_on
        self._over_tls = over_tls
        self.began = False

    @property
    def autoclose(self) -> bool:
        """True: whoever made the body closes it."""
        return True

    async def write(self, writer: aiohttp.abc.AbstractStreamWriter) -> None:
        self.began = True
        async for chunk in self._body.chunks():
            if self._over_tls and len(chunk) > TLS_PIECE:
                await self._write_in_pieces(chunk, writer)
            else:
                await writer.write(chunk)
                self._get_on()

    async def _write_in_pieces(
        self, chunk: bytes, writer: aiohttp.abc.AbstractStreamWriter
    ) -> None:
        if isinstance(writer, StreamWriter) and writer.transport is not None:
            # asyncio lets 512 KiB wait behind TLS, in each upload to a server that is slow.
            writer.transport.set_write_buffer_limits(TLS_PIECE)
        whole = memoryview(chunk)
        for start in range(0, len(chunk), TLS_PIECE):
            await writer.write(whole[start : start + TLS_PIECE])
            await writer.drain()  # aiohttp itself waits after every second one
            self._get_on()

    async def write_with_length(
        self, writer: aiohttp.abc.AbstractStreamWriter, content_length: int | None
    ) -> None:
        del content_length  # it is the length that the body itself has announced
        await self.write(writer)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a body that is sent while it is made cannot be shown as text")


class _Sessions:
    """The sessions of one event loop."""

    def __init__(self, config: TransportConfig) -> None:
        hide_written_bytes()
        self._config = config
        self._origin = config.origin
        self._made: dict[str, aiohttp.ClientSession] = {}
        self._leasing: PollConnector | None = None
        #: Answers that may still be read from.
        self._open: weakref.WeakSet[aiohttp.ClientResponse] = weakref.WeakSet()
        self._closed = False
        #: The time of an exchange with the API in which nothing gets on, and of the head of a file
        #: server's answer.
        self.timeouts = Timeouts(config.timeout)
        self._file_timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=min(CONNECT_TIMEOUT, config.timeout),
            sock_read=config.timeout,
        )
        self._proxies = Proxies.of(config)
        self.api_proxy = self._proxies.choose(self._origin)
        # Given with each request to the API, beside what stands in the session.
        self.api_headers = CIMultiDict(config.headers)
        self.api_headers.popall("Accept-Encoding", None)
        self.api_headers["Authorization"] = f"Bearer {config.api_key.reveal()}"

    @property
    def creates(self) -> aiohttp.ClientSession:
        return self._made.get("creates") or self._open_api("creates")

    @property
    def api(self) -> aiohttp.ClientSession:
        return self._made.get("api") or self._open_api("api")

    def create_headers(self, body: Body) -> CIMultiDict[str]:
        headers = self.api_headers.copy()
        headers["Content-Type"] = "application/json"
        headers["Content-Length"] = str(body.length)
        return headers

    async def open_file(
        self, url: str, headers: Mapping[str, str], *, public_only: bool
    ) -> aiohttp.ClientResponse:
        origin = Origin.of(url)
        proxy = self._proxies.choose(origin)
        # The API's own address is the caller's choice, private or not.
        public_only = public_only and origin != self._origin
        if public_only:
            # aiohttp asks no resolver about a literal address.
            refuse_private(origin.host)
            if proxy is not None:
                # The proxy resolves the name, and may stand on a private network itself: what our
                # resolver knows is all there is to check.
                with contextlib.suppress(socket.gaierror):
                    await public_addresses(origin.host, origin.port)
        session = self._for_file(origin, guarded=public_only and proxy is None)
        response = await session.get(
            URL(sendable(url), encoded=True),
            headers=self._file_headers(origin, headers),
            allow_redirects=False,
            proxy=proxy,
            read_bufsize=_READ_BUFFER,
            timeout=self._file_timeout,
        )
        self._note(response)
        return response

    async def read(
        self, response: aiohttp.ClientResponse, received: Received | None = None
    ) -> Answer:
        """Return the whole answer of the API; `received` has what came where it breaks off."""
        headers, body = response.headers, b""
        try:
            if response.connection is None:  # it is all here, which is the rule
                body = await response.read()
                if len(body) > ANSWER_LIMIT:
                    raise answer_too_long(response.status)  # noqa: TRY301 - noted as all of them
            else:
                body = await self._read_slowly(response, received)
            if "Content-Encoding" in headers:
                encoding = {"content-encoding": headers["Content-Encoding"]}
                body = decode_body(response.status, encoding, body)
        except Exception as error:
            if received is not None:
                received.status = response.status
                received.parts.append(body)
                # What came together with the end of its connection is not handed out any more. (A
                # private name: where it is missing, no more is known than the error says.)
                received.parts.extend(getattr(response.content, "_buffer", ()))
                if isinstance(error, GrokVideoError):
                    received.told_by(error)
            raise
        return Answer(response.status, headers, body)

    async def _read_slowly(
        self, response: aiohttp.ClientResponse, received: Received | None
    ) -> bytes:
        self._note(response)
        try:
            return await read_bounded(
                response.status,
                response.headers.get("Content-Length"),
                response.content.iter_any(),
                received,
            )
        finally:
            # An exchange that came to its end has given the connection back already. What is left
            # unread of an answer, or unsent of a body that was answered early, must not keep it.
            if response.connection is not None:
                response.close()

    def _note(self, response: aiohttp.ClientResponse) -> None:
        self._open.add(response)
        if self._closed and response.connection is not None:  # since the exchange began
            response.close()

    def _file_headers(self, origin: Origin, extra: Mapping[str, str]) -> CIMultiDict[str]:
        headers: CIMultiDict[str] = CIMultiDict(self.api_headers if origin == self._origin else ())
        headers.update(extra)
        return headers

    def _for_file(self, origin: Origin, *, guarded: bool) -> aiohttp.ClientSession:
        if origin == self._origin:
            return self.api
        name = "public" if guarded else "files"
        return self._made.get(name) or self._make(
            name,
            aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=KEEPALIVE,
                ssl=self._tls,
                resolver=PublicResolver() if guarded else None,
            ),
        )

    def _open_api(self, name: str) -> aiohttp.ClientSession:
        """Make the two sessions that share connections; return the one of this name."""
        creates = CreateConnector(self._tls)
        self._leasing = PollConnector(creates, self._tls)
        self._make("creates", creates)
        self._make("api", self._leasing)
        return self._made[name]

    @property
    def _tls(self) -> ssl.SSLContext | bool:
        return self._config.ssl_context or True  # type: ignore[return-value]  # kept opaque there

    def _make(self, name: str, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        config = self._config
        session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(
                total=None,  # see `timeouts`
                sock_connect=min(CONNECT_TIMEOUT, config.timeout),
                # From 5 s on, aiohttp would round the end up to a whole second.
                ceil_threshold=math.inf,
            ),
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=_HEADER_LIMIT.get(name, 8190),
            max_field_size=_HEADER_LIMIT.get(name, 8190),
            max_headers=_MOST_HEADERS.get(name, 128),
        )
        self._made[name] = session
        return session

    def took_back(self, error: BaseException) -> bool:
        """Return whether this is a cancellation that nobody asked for.

        A session that closes cancels whoever waits for the address of a host.
        """
        if not isinstance(error, asyncio.CancelledError):
            return False
        task = asyncio.current_task()
        asked_for = task is None or task.cancelling()
        return not asked_for and any(session.closed for session in self._made.values())

    async def aclose(self) -> None:
        # A session that closes drops its connections and wakes nobody who reads from one: neither
        # the end of the connection nor `sock_read` would be heard of any more. An answer tells.
        self._closed = True
        for response in list(self._open):
            if response.connection is not None:  # else it is all here, and is only to be read
                response.close()
        for session in self._made.values():
            await session.close()
        self.timeouts.close()
        if self._leasing is not None:
            self._leasing.end_leases()


class _Streaming:
    """The context of a streamed answer; a class, because a generator for each costs three times."""

    __slots__ = ("_arguments", "_public_only", "_response", "_transport")

    def __init__(
        self,
        transport: AiohttpTransport,
        url: str,
        headers: Mapping[str, str],
        *,
        public_only: bool,
    ) -> None:
        self._transport = transport
        self._arguments = (url, headers)
        self._public_only = public_only

    async def __aenter__(self) -> Streamed:
        self._response = await self._transport.open_file(
            *self._arguments, public_only=self._public_only
        )
        return Streamed(self._response, self._arguments[0])

    async def __aexit__(self, *_: object) -> None:
        # Not `release()`: what was not read of a file must not be read to keep a connection.
        self._response.close()


def _parsed(url: str) -> URL:
    """Return the URL as aiohttp wants it, parsed once for all polls of a job."""
    if not isinstance(url, Address):
        return URL(url, encoded=True)
    parsed = url.parsed
    if not isinstance(parsed, URL):
        parsed = url.parsed = URL(url, encoded=True)
    return parsed

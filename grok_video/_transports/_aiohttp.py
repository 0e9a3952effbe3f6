"""The transport for asyncio, over aiohttp.

Three kinds of sessions, made when first used and one set for each event loop: creates (connections
that are fresh or were used less than two seconds ago), the API (pooled; the only other one that
holds the key) and files (no key, no total timeout). The key is a default header of the first two,
so it stands in no local variable and can reach no host but the API's.
"""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request
from typing import TYPE_CHECKING, Any

import aiohttp
import aiohttp.abc
from yarl import URL

from grok_video._errors import APIConnectionError, APITimeoutError
from grok_video._redaction import redact_url
from grok_video._transports._base import (
    ANSWER_LIMIT,
    CONNECT_TIMEOUT,
    CREATE_KEEPALIVE,
    USER_AGENT,
    Answer,
    Origin,
    PrivateAddress,
    Transport,
    TransportConfig,
    answer_too_long,
    decode_body,
    is_public_address,
    without_frames,
)
from grok_video._transports._loops import LoopLocal

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Mapping
    from types import SimpleNamespace

    from grok_video._transports._base import Body, StreamedAnswer

#: Bytes aiohttp buffers before it stops reading the socket, and so the usual size of a chunk: at
#: 64 KiB (the default) a download costs two to four times the CPU that it costs at 1 MiB.
_READ_BUFFER = 2**20


class AiohttpTransport(Transport):
    """Sends through aiohttp; one set of sessions for each event loop."""

    def __init__(self, config: TransportConfig) -> None:
        self._config = config
        self._origin = config.origin
        self._sessions = LoopLocal(lambda: _Sessions(config), _Sessions.aclose)

    async def post(self, url: str, body: Body) -> Answer:
        sessions = await self._sessions.get()
        sent = _Sent()
        async with sessions.create_slots:
            try:
                async with sessions.creates.post(
                    URL(url, encoded=True),
                    data=body.chunks(),
                    headers={"Content-Type": "application/json", "Content-Length": f"{body.length}"},
                    allow_redirects=False,
                    trace_request_ctx=sent,
                ) as response:
                    return await _read(response)
            except (aiohttp.ClientError, OSError) as error:
                raise _failure(error, url, may_have_been_sent=sent.began) from without_frames(error)
            except BaseException as error:
                raise error.with_traceback(None)  # noqa: B904, TRY201 - the frames hold the key

    async def get(self, url: str) -> Answer:
        sessions = await self._sessions.get()
        async with sessions.poll_slots:
            try:
                async with sessions.api.get(
                    URL(url, encoded=True), allow_redirects=False
                ) as response:
                    return await _read(response)
            except (aiohttp.ClientError, OSError) as error:
                raise _failure(error, url, may_have_been_sent=True) from without_frames(error)
            except BaseException as error:
                raise error.with_traceback(None)  # noqa: B904, TRY201 - the frames hold the key

    @contextlib.asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str], *, public_only: bool
    ) -> AsyncIterator[StreamedAnswer]:
        sessions = await self._sessions.get()
        session = sessions.for_file(url, public_only=public_only)
        try:
            response = await session.get(
                URL(url, encoded=True),
                headers=headers,
                allow_redirects=False,
                timeout=_file_timeout(self._config.timeout),
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(getattr(error, "os_error", None), PrivateAddress):
                raise PrivateAddress(str(error.os_error)) from None  # type: ignore[union-attr]
            raise _failure(error, url, may_have_been_sent=True) from without_frames(error)
        except BaseException as error:
            raise error.with_traceback(None)  # noqa: B904, TRY201 - the frames hold the key
        try:
            yield _Streamed(response, url)
        finally:
            # Not `release()`: what was not read of a file must not be read to keep a connection.
            response.close()

    async def aclose(self) -> None:
        await self._sessions.aclose()


class _Sent:
    """Whether the first byte of a request may have gone out; set by aiohttp's tracing."""

    __slots__ = ("began",)

    def __init__(self) -> None:
        self.began = False


class _Sessions:
    """The sessions of one event loop."""

    def __init__(self, config: TransportConfig) -> None:
        self._config = config
        self._origin = config.origin
        self._made: dict[str, aiohttp.ClientSession] = {}
        # Slots stand in front of the pools, so that waiting for a connection does not count as
        # waiting for the server.
        self.create_slots = asyncio.Semaphore(config.connections)
        self.poll_slots = asyncio.Semaphore(config.connections)
        # aiohttp would search the environment again for each request; asked once for each set of
        # sessions, a client without proxies pays nothing.
        self._trust_env = bool(urllib.request.getproxies())

    @property
    def creates(self) -> aiohttp.ClientSession:
        return self._made.get("creates") or self._make(
            "creates", keepalive=CREATE_KEEPALIVE, keyed=True, traced=True
        )

    @property
    def api(self) -> aiohttp.ClientSession:
        return self._made.get("api") or self._make("api", keyed=True)

    def for_file(self, url: str, *, public_only: bool) -> aiohttp.ClientSession:
        if Origin.of(url) == self._origin:
            return self.api
        name = "public" if public_only else "files"
        return self._made.get(name) or self._make(name, public_only=public_only)

    def _make(
        self,
        name: str,
        *,
        keepalive: float = 15.0,
        keyed: bool = False,
        traced: bool = False,
        public_only: bool = False,
    ) -> aiohttp.ClientSession:
        config = self._config
        connector = aiohttp.TCPConnector(
            limit=0,
            keepalive_timeout=keepalive,
            ssl=config.ssl_context or True,  # type: ignore[arg-type]  # an SSLContext, kept opaque
            resolver=_PublicResolver() if public_only else None,
        )
        headers = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT}
        if keyed:
            headers |= config.headers
            headers["Authorization"] = f"Bearer {config.api_key.reveal()}"
        session = aiohttp.ClientSession(
            connector=connector,
            headers=headers,
            timeout=aiohttp.ClientTimeout(
                total=config.timeout, sock_connect=min(CONNECT_TIMEOUT, config.timeout)
            ),
            trust_env=self._trust_env,
            proxy=config.proxy,
            auto_decompress=False,
            read_bufsize=2**16 if keyed else _READ_BUFFER,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[_sent_tracing()] if traced else None,
        )
        self._made[name] = session
        return session

    async def aclose(self) -> None:
        for session in self._made.values():
            await session.close()


class _Streamed:
    """A `StreamedAnswer` over an aiohttp response."""

    def __init__(self, response: aiohttp.ClientResponse, url: str) -> None:
        self._response = response
        self._url = url
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise _failure(error, self._url, may_have_been_sent=True) from without_frames(error)


class _PublicResolver(aiohttp.abc.AbstractResolver):
    """Resolves host names and refuses those that lead into a private network.

    Checked at the moment of connecting, so that a name cannot show a public address first and a
    private one after.
    """

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = 0  # type: ignore[assignment]
    ) -> list[aiohttp.abc.ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for entry in found:
            if not is_public_address(entry["host"]):
                message = f"{host} resolves to the private address {entry['host']}"
                raise PrivateAddress(message)
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _sent_tracing() -> aiohttp.TraceConfig:
    tracing: Any = aiohttp.TraceConfig()

    async def began(
        _session: object, context: SimpleNamespace, _params: object
    ) -> None:
        # Called just before the headers are handed to the socket: from here on nobody can know.
        context.trace_request_ctx.began = True

    tracing.on_request_headers_sent.append(began)
    return tracing  # type: ignore[no-any-return]


def _file_timeout(silence: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=None, sock_connect=min(CONNECT_TIMEOUT, silence), sock_read=silence
    )


async def _read(response: aiohttp.ClientResponse) -> Answer:
    length = response.content_length
    if length is not None and length <= ANSWER_LIMIT:
        body = await response.read()
    else:
        parts: list[bytes] = []
        total = 0
        async for chunk in response.content.iter_any():
            total += len(chunk)
            if total > ANSWER_LIMIT:
                response.close()
                raise answer_too_long(response.status)
            parts.append(chunk)
        body = b"".join(parts)
    headers = response.headers
    if "Content-Encoding" in headers:
        body = decode_body(
            response.status, {"content-encoding": headers["Content-Encoding"]}, body
        )
    return Answer(response.status, headers, body)


def _failure(error: Exception, url: str, *, may_have_been_sent: bool) -> APIConnectionError:
    """Translate aiohttp's exception; the table is this function."""
    where = Origin.of(url)
    place = f"{where.host}:{where.port}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        text, kind = f"{where.host} could not be resolved", APIConnectionError
    elif isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        text, kind = f"no TLS connection to {place} could be made ({_reason(error)})", APIConnectionError
    elif isinstance(error, aiohttp.ClientHttpProxyError):
        text, kind = f"the proxy refused to connect to {place} (HTTP {error.status})", APIConnectionError
    elif isinstance(error, aiohttp.ClientProxyConnectionError):
        text, kind = f"the proxy could not be reached ({_reason(error)})", APIConnectionError
    elif isinstance(error, aiohttp.ConnectionTimeoutError):
        text, kind = f"connecting to {place} took too long", APITimeoutError
    elif isinstance(error, aiohttp.ClientConnectorError):
        text, kind = f"could not connect to {place} ({_reason(error)})", APIConnectionError
    elif isinstance(error, TimeoutError):
        text, kind = f"no answer from {redact_url(url)} in time", APITimeoutError
    elif isinstance(error, aiohttp.ClientPayloadError):
        text, kind = f"the answer of {redact_url(url)} broke off", APIConnectionError
    elif isinstance(error, aiohttp.ServerDisconnectedError):
        text, kind = f"{place} closed the connection without an answer", APIConnectionError
    elif isinstance(error, aiohttp.ClientResponseError):
        text, kind = f"{place} sent something that is not HTTP", APIConnectionError
    else:
        text, kind = f"the connection to {place} broke ({_reason(error)})", APIConnectionError
    # For a poll "may have been sent" has no consequence, so the sentence is only for creates.
    known = "" if may_have_been_sent else "; nothing was sent"
    return kind(text + known, may_have_been_sent=may_have_been_sent)


def _reason(error: Exception) -> str:
    """Return the operating system's words: aiohttp's own may hold the whole URL."""
    cause = getattr(error, "os_error", None) or error
    return getattr(cause, "strerror", None) or type(cause).__name__

"""What the exceptions of aiohttp mean, and how they are shown: no key, query or password there."""

from __future__ import annotations

import re
import socket
from traceback import walk_tb
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict, CIMultiDictProxy

from grok_video._transports._base import Trouble, causes, reason_of, without_frames

if TYPE_CHECKING:
    from grok_video._errors import APIConnectionError
    from grok_video._transports._base import Received

__all__ = ["failure_of", "note_unread", "presentable"]

_STATUS_LINE: Final = rb"HTTP/1\.[01] (\d{3})\b"

#: What aiohttp raises, and what it means; the first row that fits counts, so subclasses come first.
_EXCEPTIONS: Final[list[tuple[type[BaseException], Trouble]]] = [
    (aiohttp.InvalidURL, Trouble.NOT_A_URL),
    (aiohttp.ClientConnectorDNSError, Trouble.UNRESOLVED),
    (socket.gaierror, Trouble.UNRESOLVED),
    (aiohttp.ClientConnectorCertificateError, Trouble.NO_TLS),
    (aiohttp.ClientSSLError, Trouble.NO_TLS),
    (aiohttp.ClientHttpProxyError, Trouble.PROXY_REFUSED),
    (aiohttp.ClientProxyConnectionError, Trouble.NO_PROXY),
    (aiohttp.ConnectionTimeoutError, Trouble.UNREACHABLE_IN_TIME),
    (aiohttp.ClientConnectorError, Trouble.UNREACHABLE),
    (TimeoutError, Trouble.SILENT),
    (aiohttp.ClientPayloadError, Trouble.BROKE_OFF),
    (aiohttp.ServerDisconnectedError, Trouble.CLOSED),
    (aiohttp.ClientResponseError, Trouble.NOT_HTTP),
    (OSError, Trouble.BROKE),
    (ValueError, Trouble.REFUSED_HERE),
    (Exception, Trouble.BROKE),
]


def presentable(error: BaseException, outer: BaseException | None) -> BaseException:
    """Return the error as it may be shown: without frames, headers, queries and proxy passwords."""
    for link in causes(error, outer):
        if isinstance(link, aiohttp.ClientResponseError):
            # Its repr is that of the whole request, the key among the headers.
            info = link.request_info
            url = info.real_url.with_user(None).with_query(None)
            bare = CIMultiDictProxy(CIMultiDict[str]())
            link.request_info = aiohttp.RequestInfo(url, info.method, bare, url)
            link.history = ()
            link.args = (link.request_info, ())
        elif isinstance(link, aiohttp.InvalidURL):
            # Of a proxy as well, password and all; what caused it quotes a piece of it.
            aiohttp.InvalidURL.__init__(link, "<not shown>")
            link.__cause__ = link.__context__ = None
        elif isinstance(link, aiohttp.ConnectionTimeoutError):
            link.args = ()  # they are a sentence with the whole URL
        elif isinstance(link, aiohttp.ClientConnectorError):
            link.args = (str(link),)
    return without_frames(error, outer)


def _unread(error: BaseException) -> bytes:
    """Return what aiohttp could not read as an answer; it drops all of it, the id of a job too.

    It stands in the frame that took it from the connection, and nowhere else: a protocol of our own
    that kept it would cost each poll a hundredth more.
    """
    taken = ResponseHandler.data_received.__code__
    for link in causes(error):
        for frame, _ in walk_tb(link.__traceback__):
            if frame.f_code is taken:
                data = frame.f_locals.get("data")
                return data if isinstance(data, bytes) else b""
    return b""


def note_unread(error: Exception, received: Received) -> None:
    """Note an answer that aiohttp dropped for what stands behind it, or in its head."""
    unread, start = _unread(error), 0
    while status_line := re.compile(_STATUS_LINE).match(unread, start):
        end = unread.find(b"\r\n\r\n", start)
        if end < 0:
            return
        start = end + 4
        if int(status_line[1]) >= 200:  # else only an interim one (RFC 9110, section 15.2)
            received.status = int(status_line[1])
            received.parts.append(unread[start:])
            return


def failure_of(
    error: Exception, url: str, outer: BaseException | None, *, sent: bool = True
) -> APIConnectionError:
    """Translate an exception of aiohttp; for a GET it has no consequence whether it was sent."""
    trouble = next(trouble for kind, trouble in _EXCEPTIONS if isinstance(error, kind))
    if trouble is Trouble.PROXY_REFUSED:
        reason = f"HTTP {getattr(error, 'status', '?')}"
    else:
        reason = reason_of(error, outer)
    return trouble.as_error(url, reason, may_have_been_sent=sent)

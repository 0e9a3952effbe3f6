"""What the exceptions of aiohttp mean, and how they are shown: no key, query or password there."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy

from grok_video._transports._base import Trouble, causes, reason_of, without_frames

if TYPE_CHECKING:
    from grok_video._errors import APIConnectionError

__all__ = ["failure_of", "presentable"]

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
        elif isinstance(link, aiohttp.ConnectionTimeoutError):
            link.args = ()  # they are a sentence with the whole URL
        elif isinstance(link, aiohttp.ClientConnectorError):
            link.args = (str(link),)
    return without_frames(error, outer)


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

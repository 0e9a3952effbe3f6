"""A file as it arrives over aiohttp: its head, and its body until the last byte that came.

What breaks off is told by the one kind of error that a download knows, after all that had come.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from grok_video._transports._aiohttperrors import failure_of, presentable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import aiohttp

__all__ = ["Streamed"]


class Streamed:
    """A `StreamedAnswer` over an aiohttp response."""

    def __init__(self, response: aiohttp.ClientResponse, url: str) -> None:
        self._response = response
        self._url = url
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    def chunks(self) -> AsyncIterator[bytes]:
        return _FileChunks(self._response.content, self._url)


class _FileChunks:
    """The body of a streamed answer, as it arrives."""

    __slots__ = ("_content", "_failure", "_url")

    def __init__(self, content: aiohttp.StreamReader, url: str) -> None:
        self._content = content
        self._url = url
        #: What broke, while there is still something to hand out before it is told.
        self._failure: Exception | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._failure is not None:
            # Taken out first: kept here, it would keep this and the connection alive.
            failure, self._failure = self._failure, None
            raise failure
        outer = sys.exception()
        content = self._content
        try:
            # Not `readany`: it joins what is buffered, one more copy of each byte.
            chunk, ends_http_chunk = await content.readchunk()
            while ends_http_chunk and not chunk and not content.at_eof():
                chunk, ends_http_chunk = await content.readchunk()
        except Exception as error:  # noqa: BLE001 - a download fails with one kind of error
            failure = failure_of(error, self._url, outer)
            failure.__cause__ = presentable(error, outer)
            if rest := _unread(content):
                self._failure = failure
                return rest
            raise failure  # noqa: B904 - it is set
        if not chunk:
            raise StopAsyncIteration
        return chunk


def _unread(content: aiohttp.StreamReader) -> bytes:
    """Return what arrived before the connection broke and was not read yet.

    aiohttp raises the break first, and forgets up to 2 MiB that a resumed download would fetch
    again.
    """
    content.set_exception(None)  # type: ignore[arg-type]  # the only public way back to the buffer
    try:
        return content.read_nowait()
    except Exception:  # noqa: BLE001 - the break itself is what the caller has to hear of
        return b""

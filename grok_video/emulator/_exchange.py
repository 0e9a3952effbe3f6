"""One request and its answer on the wire: reads the body, writes bytes, ends the connection.

aiohttp parses requests; answers are written here as bytes, because a server that must be able to
lie about lengths and to stop at any byte cannot use a response class that will not. Which lie is
told is decided in `_mischief`.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from email.utils import formatdate
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Final

import attrs
from aiohttp import web

from ._clips import Clip

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp.abc import AbstractStreamWriter

    from ._answers import Reply
    from ._connection import Connection
    from ._records import Request

_CHUNK: Final = 256 * 1024
# Below this the kernel's own copying costs more to set up than it saves.
_SENDFILE_FROM: Final = 1024 * 1024
_PATIENCE: Final = 2.0


class Broken(Exception):
    """The connection was ended on purpose."""


class Spent(Exception):
    """The bytes that may be sent have been sent."""


@attrs.frozen
class Content:
    """A part of a clip, as the body of an answer."""

    clip: Clip
    start: int
    count: int


class Exchange:
    """One request, and what was sent for it."""

    def __init__(self, raw: web.BaseRequest, connection: Connection, log: Request) -> None:
        self.raw = raw
        self.connection = connection
        self.log = log
        self.keep = raw.keep_alive
        self.budget: int | None = None
        """Bytes that may still be sent; `None` for any number."""
        self.status: int | None = None
        """Of the answer that begins with the next byte; there may never be one."""

    # ------------------------------------------------------------------ reading

    async def read(self, into: IO[bytes], limit: int) -> int | None:
        """Puts the request's body there; its length, or `None` if it is longer than `limit`.

        A body that cannot be unpacked is as good as none.
        """
        if self.log.headers.get("expect", "").lower() == "100-continue":
            await self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        size = 0
        try:
            async for chunk in self.raw.content.iter_any():
                size += len(chunk)
                if size <= limit:
                    into.write(chunk)
                if self.connection.cut is None:
                    self.log.received = size
        except web.RequestPayloadError:
            self.keep, size = False, 0
            into.seek(0)
            into.truncate()
        into.seek(0)
        return size if size <= limit else None

    # ------------------------------------------------------------------ writing

    async def send(
        self,
        reply: Reply,
        extra: Iterable[tuple[str, str]] = (),
        content: Content | None = None,
        *,
        off: int = 0,
    ) -> None:
        """Sends the answer; `off` is added to the length it claims."""
        length = len(reply.body) if content is None else content.count
        head = self.head(reply, (*reply.headers, *extra), length + off)
        if self.raw.method == "HEAD":
            await self.write(head)
        elif content is None:
            await self.write(head + reply.body)
        else:
            await self.write(head)
            await self._send_file(content)

    def head(self, reply: Reply, headers: Iterable[tuple[str, str]], length: int | None) -> bytes:
        """Status line and headers, down to the empty line."""
        now = self.connection.owner.service.now()
        self.status = reply.status
        lines = [
            f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Unknown')}",
            f"Date: {_date(int(now))}",
        ]
        if reply.body or reply.content_type != "application/json":
            lines.append(f"Content-Type: {reply.content_type}")
        if length is not None and reply.status not in (204, 304):
            lines.append(f"Content-Length: {length}")
        lines.extend(f"{name}: {value}" for name, value in headers)
        if not self.keep:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    async def write(self, data: bytes | memoryview) -> None:
        """Sends these bytes, or as many as the budget allows and then raises `Spent`."""
        spent = self.budget is not None and len(data) >= self.budget
        data = data[: self.budget] if spent else data
        if self.budget is not None:
            self.budget -= len(data)
        if data:
            if self.status is not None and self.log.status is None:
                # Before the byte itself: who has it may ask the log.
                self.log.status = self.status
                self.log.answered = self.connection.owner.service.now()
            self.log.sent += len(data)
            await self.raw.writer.write(data)
        if spent:
            raise Spent

    async def _send_file(self, content: Content) -> None:
        clip, count = content.clip, content.count
        if clip.data is not None:
            view = memoryview(clip.data)[content.start : content.start + count]
            for start in range(0, count, _CHUNK):
                await self.write(view[start : start + _CHUNK])
            return
        if clip.path is None or not count:
            return
        with clip.path.open("rb") as file:
            transport = self.raw.transport
            if self.budget is None and count >= _SENDFILE_FROM and transport is not None:
                loop = asyncio.get_running_loop()
                try:
                    await loop.sendfile(transport, file, content.start, count)
                finally:
                    self.log.sent += file.tell() - content.start
                return
            file.seek(content.start)
            while count:
                data = file.read(min(_CHUNK, count))
                if not data:
                    return
                count -= len(data)
                await self.write(data)

    # ------------------------------------------------------------------ ending

    async def cut(self, *, reset: bool) -> None:
        """Ends the connection once the peer's kernel has what was sent; raises `Broken`."""
        await self.flush()
        self.connection.end(reset=reset)
        raise Broken

    async def flush(self) -> None:
        """What was written has left this process and, where that can be seen, this machine."""
        transport = self.raw.transport
        if transport is None:
            return
        # A limit of zero makes `drain` wait until nothing is left in our own buffer.
        transport.set_write_buffer_limits(0)
        writer: AbstractStreamWriter = self.raw.writer
        await writer.drain()
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        # A reset throws away what the kernel has not delivered yet.
        while _undelivered(transport) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - the kernel tells no one
            await asyncio.sleep(0.001)

    def finished(self) -> web.StreamResponse:
        """What aiohttp takes for the answer: it has been sent already."""
        return _Sent(self.keep)


class _Sent(web.StreamResponse):
    def __init__(self, keep: bool | None) -> None:
        super().__init__()
        self._keep = bool(keep)

    @property
    def keep_alive(self) -> bool | None:
        return self._keep

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        pass


@functools.lru_cache(4)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _undelivered(transport: asyncio.Transport) -> int:
    """Bytes the kernel still holds for the peer; 0 where it does not tell."""
    if sys.platform != "linux":
        return 0
    import fcntl
    import termios

    descriptor = transport.get_extra_info("socket").fileno()
    if descriptor < 0:
        return 0
    # SIOCOUTQ, see tcp(7): its number is that of TIOCOUTQ.
    return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}

"""One connection: counts bytes and breaks off where a script says so, at no cost otherwise.

A thin layer over aiohttp's protocol class. It knows when a request begins and how to end a
connection politely or not; which fault is due is the scripts' knowledge, what follows the
server's.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

if TYPE_CHECKING:
    from ._faults import CutRequest
    from ._origins import Origins
    from ._records import Request
    from ._server import Server

# A connection closed with a FIN keeps reading for this long, or the kernel would turn the FIN into
# a reset as soon as unread bytes arrive.
_LINGER: Final = 1.0

# What was asked and answered stands in the emulator's own records.
_SILENT: Final = logging.getLogger("grok_video.emulator.access")
_SILENT.disabled = True

_RESET: Final = struct.pack("ii", 1, 0)


class Connection(web.RequestHandler):
    """A connection to either origin; `busy` from the first byte of a request to its end."""

    def __init__(
        self,
        manager: web.Server,
        owner: Server,
        origins: Origins,
        loop: asyncio.AbstractEventLoop,
        *,
        files: bool,
    ) -> None:
        super().__init__(manager, loop=loop, access_log=_SILENT)
        self.owner = owner
        self._origins = origins
        self.files = files
        self.number = 0
        self.busy = False
        self.cut: CutRequest | None = None
        self.request: Request | None = None
        self._counted = 0
        self._held = b""
        self._over = False
        self._gone: asyncio.Event | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Counted; closed at once if a script says so."""
        super().connection_made(transport)
        self._origins.connected(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Whoever stalls on this connection goes on."""
        super().connection_lost(exc)
        self._origins.disconnected(self)
        if self._gone is not None:
            self._gone.set()

    def data_received(self, data: bytes) -> None:
        """Bytes go to the parser, up to the one where the connection is cut."""
        if self._over:
            return
        if self.cut is None:
            if self.busy or not self.owner.scripts.wired:
                # From here on, and not only when it is handled: its body may come before that.
                self.busy = True
                super().data_received(data)
                return
            data, self._held = self._held + data, b""
            phase = self.owner.routes.phase_of(data, files=self.files)
            if phase == "unclear":
                self._held = data
                return
            fault = None if phase is None else self.owner.scripts.take_cut(phase)
            if fault is None or phase is None:
                self.busy = True
                super().data_received(data)
                return
            self.cut, self._counted = fault, 0
            self.request = self.owner.begin_cut(self, phase, data, fault)
        after = self.cut.after or 0
        self._counted += len(data)
        if self._counted >= after:
            self.owner.counted(self, after)
            self.end(reset=self.cut.reset)
        else:
            super().data_received(data)

    def end(self, *, reset: bool) -> None:
        """The connection ends now, with a reset or a FIN; bytes already sent still arrive."""
        self._over = True
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if reset:
            endpoint: socket.socket = transport.get_extra_info("socket")
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()
            return
        transport.write_eof()
        asyncio.get_running_loop().call_later(_LINGER, transport.abort)

    def log_exception(self, *args: Any, **facts: Any) -> None:  # noqa: ANN401 - as its parent
        """A request nobody can parse is the caller's doing, and no news for a log."""
        if not isinstance(facts.get("exc_info"), HttpProcessingError):
            super().log_exception(*args, **facts)

    async def gone(self, seconds: float) -> bool:
        """Whether the peer went away within so many seconds."""
        if self.transport is None:
            return True
        if self._gone is None:
            self._gone = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        except TimeoutError:
            return False
        return True

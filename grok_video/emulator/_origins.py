"""The two places an emulator listens at, and the faults that strike while connecting.

One origin is the API with its files, the other serves files only. Knows sockets, connections and
which phases a client can have reached; requests are the server's.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import TYPE_CHECKING, Literal

from aiohttp import web

from ._connection import Connection
from ._faults import CloseOnAccept, Refuse
from ._listener import Listener
from ._scripts import PHASES, Phase, Scripts

if TYPE_CHECKING:
    from ._server import Server

Origin = Literal["api", "files"]


class Origins:
    """Listens, counts connections, refuses them where a script says so."""

    def __init__(self, server: Server, scripts: Scripts) -> None:
        self._scripts = scripts
        self._server = server
        self._managers: dict[Origin, _Manager] = {
            "api": _Manager(server, self, files=False),
            "files": _Manager(server, self, files=True),
        }
        self._ports: dict[Origin, int] = {"api": 0, "files": 0}
        self._listening: dict[Origin, Listener] = {}
        self._connections: set[Connection] = set()
        self._reached: set[Phase] = {"create"}
        self._refusing: asyncio.Task[None] | None = None

    def open(self, port: int, earlier: int) -> None:
        """Both origins listen; the API on `port`, or for 0 on the `earlier` one or any free one."""
        try:
            endpoint = _bound(port or earlier)
        except OSError:
            if port:
                raise
            endpoint = _bound(0)
        self._listen("api", endpoint)
        self._listen("files", _bound(0))

    @property
    def port(self) -> int:
        """Where the API listens."""
        return self._ports["api"]

    def url(self, origin: Origin) -> str:
        """The origin as a URL, without a path."""
        return f"http://127.0.0.1:{self._ports[origin]}"

    def _listen(self, origin: Origin, endpoint: socket.socket) -> None:
        self._listening[origin] = Listener(endpoint, self._managers[origin])
        self._ports[origin] = endpoint.getsockname()[1]

    async def close(self) -> None:
        """Nothing listens and no connection is open."""
        if self._refusing is not None:
            self._refusing.cancel()
            await asyncio.gather(self._refusing, return_exceptions=True)
        for listening in self._listening.values():
            listening.close()
            await listening.started()
        for connection in tuple(self._connections):
            if connection.transport is not None:
                connection.transport.abort()
        # aiohttp waits for handlers that still run; a broken connection ends nearly all of them.
        for manager in self._managers.values():
            await manager.shutdown(0.5)
        while self._connections:  # noqa: ASYNC110 - a few turns of the loop, not a wait
            await asyncio.sleep(0)

    # ------------------------------------------------------------------ connections

    def connected(self, connection: Connection) -> None:
        """Counts the connection, and closes it at once if a script says so."""
        self._connections.add(connection)
        connection.number = self._server.count_connection()
        if not self._scripts.connects:
            return
        for phase in PHASES:
            head = self._scripts.head(phase)
            if phase not in self._reached or not isinstance(head, CloseOnAccept):
                continue
            if self._scripts.pop(phase, head):
                self._scripts.record(phase, head, 0, self._server.service.now())
                self.arm()
                connection.end(reset=head.reset)
                return

    def disconnected(self, connection: Connection) -> None:
        """The connection is gone."""
        self._connections.discard(connection)

    # ------------------------------------------------------------------ faults of connecting

    def reach(self, phase: Phase) -> None:
        """From now on a client can have come to this phase."""
        self._reached.add(phase)

    def closing(self) -> bool:
        """Whether a connection has to close after its answer, because the next shall fail.

        Armed before that answer goes out: the client may connect again as soon as it has it.
        """
        if not self._scripts.connects:
            return False
        self.arm()
        heads = (self._scripts.head(phase) for phase in self._reached)
        return any(isinstance(head, Refuse | CloseOnAccept) for head in heads)

    def arm(self) -> None:
        """Carries out a fault of connecting that has come to the head of a phase in reach."""
        if not self._scripts.connects or self._refusing is not None:
            return
        for phase in PHASES:
            head = self._scripts.head(phase)
            if phase not in self._reached or not isinstance(head, Refuse | CloseOnAccept):
                continue
            for connection in tuple(self._connections):
                if not connection.busy and connection.transport is not None:
                    connection.transport.close()
            if isinstance(head, Refuse):
                held: dict[Origin, socket.socket] = {}
                for origin, listening in self._listening.items():
                    listening.close()
                    # Bound but not listening: the port stays ours, every connect is refused.
                    held[origin] = _bound(self._ports[origin])
                loop = asyncio.get_running_loop()
                self._refusing = loop.create_task(self._refuse(phase, head, held))
                # Not in the task: if it is cancelled before its first step, it does nothing at all.
                self._refusing.add_done_callback(partial(_close, held))
            return

    async def _refuse(self, phase: Phase, fault: Refuse, held: dict[Origin, socket.socket]) -> None:
        await asyncio.sleep(fault.seconds)
        for origin in tuple(held):
            self._listen(origin, held.pop(origin))
        self._refusing = None
        if self._scripts.pop(phase, fault):
            self._scripts.record(phase, fault, 0, self._server.service.now())
        self.arm()


def _close(held: dict[Origin, socket.socket], _: asyncio.Task[None]) -> None:
    for endpoint in held.values():
        endpoint.close()


def _bound(port: int) -> socket.socket:
    endpoint = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        endpoint.bind(("127.0.0.1", port))
    except OSError:
        endpoint.close()
        raise
    return endpoint


class _Manager(web.Server):
    """Makes connections of our kind for aiohttp's server."""

    def __init__(self, server: Server, origins: Origins, *, files: bool) -> None:
        async def handle(raw: web.BaseRequest) -> web.StreamResponse:
            connection = raw.protocol
            assert isinstance(connection, Connection)  # noqa: S101 - made below
            return await server.handle(raw, connection)

        super().__init__(handle)
        self._server = server
        self._origins = origins
        self._files = files

    def __call__(self) -> Connection:
        return Connection(self, self._server, self._origins, self._loop, files=self._files)

"""Which connection a request over aiohttp takes, how it is read, and where it may lead.

A create goes over a connection that is new, or that answered another create two seconds ago or
less: nothing tells a connection that its server is about to close from one whose answer is lost. A
poll may go over any, as it may be sent again. So one that creates have left goes on to the polls,
which saves each job of a crowd a handshake, and none comes back.

Nothing goes over a connection in which something has come while it was idle: aiohttp would take
that for the next answer. What comes first in a new one is its server's word, and is told.

The methods that are overridden here are the ones that aiohttp documents for its connectors.
"""

from __future__ import annotations

import weakref
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import aiohttp
import aiohttp.abc

from grok_video._transports._base import CREATE_KEEPALIVE, KEEPALIVE, refuse_private

if TYPE_CHECKING:
    import socket
    import ssl

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace


#: Bytes that are read at once from a connection to the API, whose answers are a few hundred. Left
#: alone, asyncio asks for 256 KiB each time. From 128 KiB on the C library may take them from the
#: system and give them back for every single answer, a sixth of the CPU of a job: whether it does
#: is a matter of luck (python/cpython#85451 has a program that shows it). Files of other servers
#: come over connections of their own, where much at once is cheaper.
READ = 96 * 1024


class CreateConnector(aiohttp.TCPConnector):
    """Connections for creates, and those that creates have left for polls."""

    def __init__(self, tls: ssl.SSLContext | bool) -> None:
        # The type of aiohttp's own factory of sockets is not whole.
        super().__init__(limit=0, keepalive_timeout=KEEPALIVE, ssl=tls)  # pyright: ignore[reportUnknownMemberType]
        #: When each connection came back from a create.
        self._left_at: weakref.WeakKeyDictionary[ResponseHandler, float] = (
            weakref.WeakKeyDictionary()
        )

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            assert protocol is not None  # noqa: S101 - for the type checker: it was just opened
            left_at = self._left_at.get(protocol)
            if left_at is None or (
                monotonic() - left_at <= CREATE_KEEPALIVE and not protocol.should_close
            ):
                connection.add_callback(partial(self._leave, protocol))
                return connection
            connection.close()

    async def connect_poll(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Return a connection that creates have left, or a new one; no create gets it again."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            assert protocol is not None  # noqa: S101 - for the type checker: it was just opened
            if protocol not in self._left_at or not protocol.should_close:
                return connection
            connection.close()

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        protocol = await super()._create_connection(req, traces, timeout)
        transport: Any = protocol.transport
        if hasattr(transport, "max_size"):  # of asyncio's own loop, without TLS
            transport.max_size = READ
        return protocol

    def _leave(self, protocol: ResponseHandler) -> None:
        self._left_at[protocol] = monotonic()


class PollConnector(aiohttp.TCPConnector):
    """Connections for polls and the API's own files: some were used by creates before."""

    def __init__(self, creates: CreateConnector, tls: ssl.SSLContext | bool) -> None:
        super().__init__(limit=0, keepalive_timeout=KEEPALIVE, ssl=tls)  # pyright: ignore[reportUnknownMemberType]  # as above
        self._creates = creates
        #: What the connector of creates thinks that somebody uses.
        self._leases: list[Connection] = []
        self._enough = 0
        #: New ones in which a server has spoken before it was asked: that is its answer.
        self._spoken_first: weakref.WeakSet[ResponseHandler] = weakref.WeakSet()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol: Any = connection.protocol  # (not None: it was just opened)
            if not protocol.should_close:
                return connection
            if protocol in self._spoken_first:
                self._spoken_first.discard(protocol)
                return connection
            connection.close()

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        lease = await self._creates.connect_poll(req, traces, timeout)
        if self.closed:  # meanwhile
            lease.close()
            raise aiohttp.ClientConnectionError
        if len(self._leases) >= self._enough:
            self.end_leases()
            self._enough = 2 * len(self._leases) + 16
        self._leases.append(lease)
        protocol = lease.protocol
        assert protocol is not None  # noqa: S101 - for the type checker: it was just opened
        if protocol.should_close:
            self._spoken_first.add(protocol)
        return protocol

    def end_leases(self) -> None:
        """Give back what is closed: nobody else tells the connector that it came from."""
        leases, self._leases = self._leases, []
        for lease in leases:
            if lease.closed:
                lease.close()
            else:
                self._leases.append(lease)


class PublicResolver(aiohttp.abc.AbstractResolver):
    """Resolves host names and refuses those that lead into a private network.

    Checked at the moment of connecting, so that a name cannot show a public address first and a
    private one after.
    """

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = 0,  # type: ignore[assignment]  # aiohttp's own default
    ) -> list[aiohttp.abc.ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for entry in found:
            refuse_private(host, entry["host"])
        return found

    async def close(self) -> None:
        await self._resolver.close()

"""One address that takes connections until it is closed, and loses none that it took.

asyncio's own server drops a connection that came in the turn in which it is closed: the transport
is never started and nobody closes its socket. A client that is cancelled or refused by a script
connects in just that turn.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_BACKLOG: Final = 1024

# Out of files or memory: asked again after so many seconds, as the callers of before may have gone.
_RETRY: Final = 0.1


class Listener:
    """Listens at a bound `endpoint`, which it owns; every connection gets a protocol of its own.

    Needs a loop that watches sockets (`asyncio.SelectorEventLoop`).
    """

    def __init__(self, endpoint: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._endpoint = endpoint
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._starting: set[asyncio.Task[object]] = set()
        try:
            endpoint.setblocking(False)
            endpoint.listen(_BACKLOG)
        except OSError:
            endpoint.close()
            raise
        self._watch()

    def _watch(self) -> None:
        if self._endpoint.fileno() >= 0:
            self._loop.add_reader(self._endpoint, self._take)

    def _take(self) -> None:
        for _ in range(_BACKLOG):
            try:
                taken, _address = self._endpoint.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._loop.remove_reader(self._endpoint)
                self._loop.call_later(_RETRY, self._watch)
                return
            made = self._loop.connect_accepted_socket(self._protocol, taken)
            task = self._loop.create_task(made)
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    def close(self) -> None:
        """Connecting is refused from now on; those that were taken start all the same."""
        if self._endpoint.fileno() >= 0:
            self._loop.remove_reader(self._endpoint)
            self._endpoint.close()

    async def started(self) -> None:
        """Every connection that was taken is known to its protocol."""
        if self._starting:
            await asyncio.wait(self._starting)

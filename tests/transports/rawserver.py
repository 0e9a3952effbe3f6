"""A server made of plain sockets and threads, which plays one written part for each connection.

It runs beside any event loop and can do what no HTTP server library would: close or reset at any
byte, stall, trickle, lie about lengths. A connection without a part, or a part without a
connection, fails the test.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

#: Longer than any test: a part that waits this long has failed.
PATIENCE = 5.0


class Visit:
    """One connection, seen from the server."""

    def __init__(self, sock: socket.socket, server: RawServer) -> None:
        sock.settimeout(PATIENCE)
        self.sock = sock
        self.server = server
        self.seen = b""

    def read(self, count: int) -> bytes:
        """Return exactly `count` more bytes, or fewer at the end."""
        got = b""
        while len(got) < count:
            more = self.sock.recv(count - len(got))
            if not more:
                break
            got += more
        self.seen += got
        return got

    def head(self) -> bytes:
        got = b""
        while not got.endswith(b"\r\n\r\n"):
            more = self.read(1)
            if not more:
                break
            got += more
        return got

    def request(self) -> bytes:
        """Return one whole request, and note it with the server."""
        head = self.head()
        length = 0
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        whole = head + self.read(length)
        if whole:
            self.server.requests.append(whole)
        return whole

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, body: bytes = b"{}", status: str = "200 OK", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
        self.send("\r\n".join(lines).encode() + body)

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def until_gone(self) -> None:
        """Return when the client has closed the connection; what it still sends is thrown away."""
        with contextlib.suppress(ConnectionError):
            while more := self.sock.recv(65536):
                self.seen += more


Part = Callable[[Visit], None]


class RawServer:
    """Listens on loopback until it is closed."""

    def __init__(self, *parts: Part) -> None:
        self.parts = list(parts)
        self.visits: list[Visit] = []
        self.requests: list[bytes] = []
        self.faults: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            visit = Visit(sock, self)
            self.visits.append(visit)
            if len(self.visits) > len(self.parts):
                self.faults.append(AssertionError("a connection that has no part"))
                sock.close()
                continue
            part = self.parts[len(self.visits) - 1]
            thread = threading.Thread(target=self._play, args=(part, visit), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _play(self, part: Part, visit: Visit) -> None:
        try:
            part(visit)
        except BaseException as fault:  # noqa: BLE001 - told by `check`
            self.faults.append(fault)
        finally:
            visit.sock.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a part of the server never ended"

    def check(self) -> None:
        """Pass if each part was played, none more, and none failed."""
        assert not self.faults, self.faults
        assert len(self.visits) == len(self.parts)


@contextlib.contextmanager
def raw_server(*parts: Part) -> Iterator[RawServer]:
    server = RawServer(*parts)
    try:
        yield server
    finally:
        server.close()
    server.check()


def dead_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# --- parts ---------------------------------------------------------------------------------------


def ok(body: bytes = b'{"request_id":"job-1"}', times: int = 1) -> Part:
    """Answer `times` requests, then wait until the client closes the connection."""

    def part(visit: Visit) -> None:
        for _ in range(times):
            visit.request()
            visit.answer(body)
        visit.until_gone()

    return part


def says(data: bytes, *, then: str = "wait") -> Part:
    """Read one request and send `data` as it is; then "wait" for the client, "close", "reset"."""

    def part(visit: Visit) -> None:
        visit.request()
        # The client may have read enough and be gone.
        with contextlib.suppress(ConnectionError):
            visit.send(data)
        leave(visit, then)

    return part


def leaves_after(count: int | None, then: str) -> Part:
    """Read `count` bytes of the request (None: all of it), then leave without an answer."""

    def part(visit: Visit) -> None:
        if count is None:
            visit.request()
        else:
            visit.read(count)
        leave(visit, then)

    return part


def leave(visit: Visit, then: str) -> None:
    if then == "wait":
        visit.until_gone()
    elif then == "reset":
        visit.reset()


@contextlib.contextmanager
def full_queue() -> Iterator[str]:
    """Give the origin of a server that no connection is ever made to.

    Its queue of length 0 is full: Linux drops further attempts.
    """
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = open_sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"

"""A file server in a thread with plain sockets: it can end a connection at a chosen byte."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, Self

from attrs import define, field, frozen

if TYPE_CHECKING:
    from collections.abc import Callable


MIB = 2**20


def clip(size: int, seed: int = 1) -> bytes:
    return b"\0\0\0\x18ftypmp42" + random.Random(seed).randbytes(size - 12)


FTYP = b"\0\0\0\x10ftypmp42" + bytes(4)
#: The index, without which nothing can be played: an empty one.
MOOV = b"\0\0\0\x08moov"
SMALL = clip(300_000)
MEDIUM = clip(3 * MIB)


def boxed(*sizes: int) -> bytes:
    """Return a file of whole boxes, as an MP4 file is: its head has 24 bytes, then come these."""
    boxes = (size.to_bytes(4, "big") + b"mdat" + clip(size - 8, size) for size in sizes)
    return FTYP + MOOV + b"".join(boxes)


@frozen
class Cut:
    """End the connection after so many bytes of the body."""

    at: int
    reset: bool = False


@frozen
class Hold:
    """Send so many bytes of the body, then nothing until the server closes."""

    at: int


@frozen
class Say:
    """Answer with this instead of the file."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(factory=dict)


@frozen
class IgnoreRange:
    """Answer 200 and the whole file, up to `at`."""

    at: int | None = None


@frozen
class RefuseRange:
    """Answer with this where a range is asked for, and with the file, up to `at`, where none is."""

    status: int
    at: int | None = None


@frozen
class Change:
    """From now on the file is another one."""

    data: bytes
    etag: str | None
    obey_if_range: bool = True
    at: int | None = None


@frozen
class Chunked:
    """Send without a length; what ends at `at` breaks off there."""

    at: int | None = None
    #: End it at `at` as if that were all, as a proxy does whose own source broke off.
    pretends: bool = False


@frozen
class Unframed:
    """Send without anything that tells where the answer ends, up to `at`."""

    at: int | None = None
    #: Send the whole file again, whatever range is asked for.
    ignores_range: bool = False
    #: Say of a range where it ends and not how long the file is.
    hides_total: bool = False


@frozen
class Slice:
    """Answer a range with at most so many bytes, and do not say how long the file is."""

    size: int
    #: Also where no range was asked for.
    unasked: bool = False
    #: Say how long the file is.
    total: bool = False


@define
class FileServer:
    data: bytes = SMALL
    etag: str | None = '"v1"'
    modified: str | None = None
    script: deque = field(factory=deque)
    #: Taken by every request when the script is empty.
    always: object = None
    requests: list = field(factory=list)
    sent: int = 0
    held: threading.Event = field(factory=threading.Event)
    _listener: socket.socket = field(init=False)
    _open: list = field(factory=list)
    _threads: list = field(factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.held.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def link(self, name: str = "video.mp4") -> str:
        return f"{self.origin}/{name}?signature=canary-signature"

    @property
    def ranges(self) -> list:
        return [request.get("range") for request in self.requests]

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        # A client that leaves is none of our business.
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as lines:
            while first := lines.readline():
                request = {"path": first.split()[1].decode()}
                while line := lines.readline().strip():
                    name, _, value = line.decode(errors="surrogateescape").partition(":")
                    request[name.lower()] = value.strip()
                self.requests.append(request)
                fault = self.script.popleft() if self.script else self.always
                if not self._answer(connection, request, fault):
                    return

    def _answer(self, connection: socket.socket, request: dict, fault: object) -> bool:
        if isinstance(fault, Say):
            headers = {"Content-Length": str(len(fault.body))} | fault.headers
            self._head(connection, fault.status, headers)
            connection.sendall(fault.body)
            return True
        if isinstance(fault, RefuseRange) and "range" in request:
            self._head(connection, fault.status, {"Content-Length": "0"})
            return True
        obey_if_range = True
        if isinstance(fault, Change):
            self.data, self.etag, obey_if_range = fault.data, fault.etag, fault.obey_if_range
        start = 0
        wanted = request.get("range")
        condition = request.get("if-range")
        met = condition in (None, self.etag) or not obey_if_range
        whole = isinstance(fault, IgnoreRange | Chunked) or getattr(fault, "ignores_range", False)
        if wanted is not None and met and not whole:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        headers = {"ETag": self.etag, "Last-Modified": self.modified}
        body = memoryview(self.data)[start:]
        if isinstance(fault, Slice) and (start or fault.unasked):
            body = body[: fault.size]
        if start >= len(self.data):
            self._head(connection, 416, {"Content-Range": f"bytes */{len(self.data)}"})
            return True
        if isinstance(fault, Chunked):
            self._head(connection, 200, headers | {"Transfer-Encoding": "chunked"})
            for at in range(0, len(body), 2**16):
                if fault.at is not None and at >= fault.at:
                    if fault.pretends:
                        break
                    return False
                piece = body[at : at + 2**16]
                connection.sendall(b"%x\r\n" % len(piece))
                connection.sendall(piece)
                connection.sendall(b"\r\n")
                self.sent += len(piece)
            connection.sendall(b"0\r\n\r\n")
            return True
        if not isinstance(fault, Unframed):
            headers["Content-Length"] = str(len(body))
        is_part = bool(start) or getattr(fault, "unasked", False)
        if is_part:
            hides = getattr(fault, "hides_total", not getattr(fault, "total", True))
            total = "*" if hides else len(self.data)
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{total}"
        self._head(connection, 206 if is_part else 200, headers)
        at = getattr(fault, "at", None)
        for place in range(0, len(body) if at is None else min(at, len(body)), 2**16):
            piece = body[place : min(place + 2**16, len(body) if at is None else at)]
            connection.sendall(piece)
            self.sent += len(piece)
        if isinstance(fault, Hold):
            self.held.wait(30)
            return False
        if isinstance(fault, Cut) and fault.reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return at is None and not isinstance(fault, Unframed)

    def _head(self, connection: socket.socket, status: int, headers: dict) -> None:
        lines = [f"HTTP/1.1 {status} Whatever"]
        lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
        connection.sendall("\r\n".join([*lines, "", ""]).encode(errors="surrogateescape"))

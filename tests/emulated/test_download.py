"""Videos arrive whole or not at all: over real connections, real disks and real kills.

The file server is a thread with plain sockets, so that it can end a connection at a chosen byte.
`GROK_VIDEO_ALL_CUTS=1` runs all 200 cut points; otherwise a seeded sample of them runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import gc
import hashlib
import json
import os
import random
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import anyio
import pytest
from attrs import define, field, frozen
from blockbuster import blockbuster_ctx

from grok_video import (
    APIConnectionError,
    DestinationError,
    DownloadError,
    JobExpired,
    LinkExpired,
    NotAVideo,
    Retry,
    Truncated,
    _disk,
    _download,
    _partfile,
)
from grok_video._models import Video
from grok_video._policies import Deadline
from grok_video._redaction import Secret
from grok_video._transfer import Transfer
from grok_video._transports._aiohttp import AiohttpTransport
from grok_video._transports._base import Transport, TransportConfig
from grok_video._transports._httpx import HttpxTransport
from grok_video._urls import Origin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

MIB = 2**20
ID = "4b2cd27e-0000-4000-8000-000000000000"
KEY = "sk-canary-0123456789"
CUTS = random.Random(20261124).sample(range(20 * MIB), 200)
ALL_CUTS = os.environ.get("GROK_VIDEO_ALL_CUTS") == "1"
EAGER = Retry(base=0.001, cap=0.01)
PUBLIC = Origin.of("https://api.cometapi.com/grok/v1")


def clip(size: int, seed: int = 1) -> bytes:
    return b"\0\0\0\x18ftypmp42" + random.Random(seed).randbytes(size - 12)


SMALL = clip(300_000)
MEDIUM = clip(3 * MIB)


# --- a file server that misbehaves on request ----------------------------------------------------


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
class Change:
    """From now on the file is another one."""

    data: bytes
    etag: str | None
    obey_if_range: bool = True
    at: int | None = None


@frozen
class Chunked:
    """Send without a length."""

    at: int | None = None


@frozen
class Unframed:
    """Send without anything that tells where the answer ends, up to `at`."""

    at: int | None = None
    #: Send the whole file again, whatever range is asked for.
    ignores_range: bool = False
    #: Say of a range where it ends and not how long the file is.
    hides_total: bool = False


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
                    name, _, value = line.decode().partition(":")
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
        if start >= len(self.data):
            self._head(connection, 416, {"Content-Range": f"bytes */{len(self.data)}"})
            return True
        if isinstance(fault, Chunked):
            self._head(connection, 200, headers | {"Transfer-Encoding": "chunked"})
            for at in range(0, len(body), 2**16):
                if fault.at is not None and at >= fault.at:
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
        if start:
            total = "*" if getattr(fault, "hides_total", False) else len(self.data)
            headers["Content-Range"] = f"bytes {start}-{len(self.data) - 1}/{total}"
        self._head(connection, 206 if start else 200, headers)
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
        connection.sendall("\r\n".join([*lines, "", ""]).encode())


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        yield running


@define
class Job:
    """The job as a download sees it."""

    server: FileServer
    links: list = field(factory=list)
    failure: Exception | None = None
    polls: int = 0
    request_id: str = ID

    async def fresh_video(self) -> Video:
        self.polls += 1
        if self.failure is not None:
            raise self.failure
        return Video(ID, self.links.pop(0) if self.links else self.server.link())


@define
class Downloads:
    """`save` and `stream` with everything but the question filled in."""

    transport: Transport
    server: FileServer
    job: Job

    def _words(self, timeout: float | None, retry: Retry, api: Origin) -> dict[str, Any]:
        return {
            "deadline": Deadline.after(anyio.current_time(), timeout),
            "retry": retry,
            "api_origin": api,
            "random": random.Random(1),
        }

    async def save(
        self,
        destination: str | os.PathLike[str],
        *,
        url: str | None = None,
        overwrite: bool = False,
        sha256: bool = True,
        timeout: float | None = 30.0,
        retry: Retry = EAGER,
        api: Origin | None = None,
        request_id: str = ID,
        on_bytes: Callable[[int, int | None], None] | None = None,
    ) -> Video:
        return await _download.save(
            self.transport,
            self.job,
            Video(request_id, url or self.server.link()),
            destination,
            overwrite=overwrite,
            sha256=sha256,
            on_bytes=on_bytes,
            **self._words(timeout, retry, api or Origin.of(self.server.origin)),
        )

    def stream(self) -> Any:
        words = self._words(None, EAGER, Origin.of(self.server.origin))
        del words["deadline"]
        video = Video(ID, self.server.link())
        return _download.stream(self.transport, self.job, video, **words)

    async def refused(
        self, kind: type[DownloadError], destination: str | os.PathLike[str], **words: Any
    ) -> Any:
        """Return the error of a download that fails, after checking what every one must hold."""
        with pytest.raises(kind) as caught:
            await self.save(destination, **words)
        error = caught.value
        assert type(error) is kind
        assert error.request_id == ID
        assert f"client.job({ID!r})" in str(error)
        assert "canary" not in str(error) + error.url
        assert (error.part is None) == (error.bytes_kept == 0)
        if error.part is not None:
            assert error.part.stat().st_size == error.bytes_kept
            assert f"{error.bytes_kept} bytes are kept in {error.part}" in str(error)
        return error


def config(timeout: float = 10.0) -> TransportConfig:
    return TransportConfig(
        # Another origin than the file's, as in life.
        base_url="http://127.0.0.1:9/grok/v1",
        api_key=Secret(KEY),
        timeout=timeout,
        proxy=None,
        ssl_context=None,
        headers={},
    )


@pytest.fixture
async def downloads(lane: tuple[str, str], server: FileServer) -> AsyncIterator[Downloads]:
    kind = AiohttpTransport if lane[1] == "aiohttp" else HttpxTransport
    transport = kind(config())
    yield Downloads(transport, server, Job(server))
    with anyio.CancelScope(shield=True):
        await transport.aclose()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def is_whole(video: Video, path: Path, data: bytes) -> bool:
    return (
        path.read_bytes() == data
        and video.path == path
        and video.sha256 == hashlib.sha256(data).hexdigest()
        and video.size == len(data)
    )


# --- whole ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [12, 1000, MIB - 1, MIB, MIB + 1, 5 * MIB + 17])
async def test_a_video_arrives_whole(downloads: Downloads, tmp_path: Path, size: int) -> None:
    downloads.server.data = clip(size)
    seen: list[tuple[int, int | None]] = []
    video = await downloads.save(
        tmp_path / "cat.mp4", on_bytes=lambda here, total: seen.append((here, total))
    )
    assert is_whole(video, tmp_path / "cat.mp4", downloads.server.data)
    assert names(tmp_path) == {"cat.mp4"}
    assert downloads.server.sent == size
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)


@pytest.mark.parametrize("lane", [("asyncio", "aiohttp"), ("asyncio", "httpx")], indirect=True)
async def test_the_event_loop_is_never_blocked(downloads: Downloads, tmp_path: Path) -> None:
    await downloads.save(tmp_path / "first.mp4")  # what is imported by the first connection
    downloads.server.data, downloads.server.etag = MEDIUM, '"v2"'
    downloads.server.script.extend([Cut(MIB + 5), Say(503)])
    with blockbuster_ctx("grok_video"):
        video = await downloads.save(tmp_path / "cat.mp4")
    assert is_whole(video, tmp_path / "cat.mp4", MEDIUM)


async def test_a_disk_that_takes_little_at_a_time_gets_it_all(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_disk, "write", lambda file, chunks: os.write(file, chunks[0][:1000]))
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)


async def test_a_name_of_the_greatest_length_can_be_used(
    downloads: Downloads, tmp_path: Path
) -> None:
    path = tmp_path / ("ä" * 125 + ".mp4")
    downloads.server.script.append(Cut(1000))
    assert is_whole(await downloads.save(path), path, SMALL)
    assert names(tmp_path) == {path.name}


async def test_a_relative_path_means_the_folder_of_the_call(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    def move(_: int, __: int | None) -> None:
        os.chdir(tmp_path / "elsewhere")

    video = await downloads.save("cat.mp4", on_bytes=move)
    assert video.path == Path("cat.mp4")
    assert (tmp_path / "cat.mp4").read_bytes() == SMALL


async def test_a_file_without_a_length_is_taken_to_its_end(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.always = Chunked()
    video = await downloads.save(tmp_path / "cat.mp4")
    assert is_whole(video, tmp_path / "cat.mp4", SMALL)


async def test_a_file_that_only_ends_with_the_connection_is_checked_by_its_boxes(
    downloads: Downloads, tmp_path: Path
) -> None:
    data = clip(12) + bytes(12) + (200_000).to_bytes(4, "big") + b"mdat" + clip(199_992)
    downloads.server.data = data
    downloads.server.script.extend([Unframed(150_000), Unframed()])
    video = await downloads.save(tmp_path / "cat.mp4")
    assert is_whole(video, tmp_path / "cat.mp4", data)
    assert downloads.server.ranges == [None, "bytes=150000-"]
    path = tmp_path / "dog.mp4"
    downloads.server.script.append(Unframed())
    assert is_whole(await downloads.save(path), path, data)


@pytest.mark.parametrize(
    "second",
    [
        Unframed(9, ignores_range=True),
        Unframed(160_000, ignores_range=True),
        Unframed(10, hides_total=True),
    ],
    ids=["less than is here", "a little more", "a part of a part"],
)
async def test_an_answer_without_a_length_that_breaks_off_again_is_no_whole_file(
    downloads: Downloads, tmp_path: Path, second: Unframed
) -> None:
    data = clip(12) + bytes(12) + (200_000).to_bytes(4, "big") + b"mdat" + clip(199_992)
    downloads.server.data = data
    downloads.server.script.extend([Unframed(150_000), second])
    downloads.server.always = Unframed(hides_total=True)
    video = await downloads.save(tmp_path / "cat.mp4")
    assert is_whole(video, tmp_path / "cat.mp4", data)


async def test_a_download_leaves_nothing_that_only_the_collector_frees(
    downloads: Downloads, tmp_path: Path
) -> None:
    gc.collect()
    gc.disable()
    try:
        for number in range(3):
            await downloads.save(tmp_path / f"{number}.mp4")
        left = [found for found in gc.get_objects() if isinstance(found, Transfer)]
    finally:
        gc.enable()
    assert left == []


# --- broken and resumed --------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["in the same call", "in the next call"])
async def test_a_file_cut_anywhere_ends_identical(
    downloads: Downloads, tmp_path: Path, way: str
) -> None:
    """At most the file and 1 MiB are transferred (in fact: the file, to the byte)."""
    server = downloads.server
    server.data = clip(20 * MIB)
    whole = hashlib.sha256(server.data).hexdigest()
    cuts = CUTS if ALL_CUTS else random.Random(str(downloads.transport)).sample(CUTS, 5)
    for cut in cuts:
        path = tmp_path / f"{cut}.mp4"
        server.sent = 0
        server.script.append(Cut(cut))
        if way == "in the next call":
            server.script.extend([Say(403)] * 5)
            error = await downloads.refused(LinkExpired, path)
            assert error.bytes_kept == cut
        video = await downloads.save(path)
        assert (video.sha256, video.size) == (whole, 20 * MIB)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == whole
        assert server.sent <= 21 * MIB
        assert names(tmp_path) == {path.name}
        path.unlink()
    assert not server.script


@pytest.mark.parametrize("tries", [(False, False), (False, True), (True, False)])
async def test_a_hash_covers_all_of_a_video_that_came_in_two_tries_or_is_not_told(
    downloads: Downloads, tmp_path: Path, tries: tuple[bool, bool]
) -> None:
    downloads.server.data = MEDIUM
    downloads.server.script.extend([Cut(2 * MIB), *[Say(403)] * 5])
    path = tmp_path / "cat.mp4"
    error = await downloads.refused(LinkExpired, path, sha256=tries[0])
    assert error.bytes_kept == 2 * MIB
    video = await downloads.save(path, sha256=tries[1])
    assert downloads.server.ranges[-1] == f"bytes={2 * MIB}-"
    assert path.read_bytes() == MEDIUM
    assert video.sha256 == (hashlib.sha256(MEDIUM).hexdigest() if tries[1] else None)
    assert (video.path, video.size) == (path, len(MEDIUM))


async def test_a_video_that_changed_on_the_way_is_hashed_anew_or_not_at_all(
    downloads: Downloads, tmp_path: Path
) -> None:
    for wanted in (True, False):
        path = tmp_path / f"{wanted}.mp4"
        downloads.server.script.extend([Cut(2 * MIB), Change(MEDIUM, f'"{wanted}"')])
        downloads.server.data = clip(3 * MIB, seed=2)
        video = await downloads.save(path, sha256=wanted)
        assert path.read_bytes() == MEDIUM
        assert video.sha256 == (hashlib.sha256(MEDIUM).hexdigest() if wanted else None)


@pytest.mark.parametrize("cut", [1, 7, 8, 11, MIB, 2 * MIB + 1])
async def test_a_reset_in_the_middle_is_resumed(
    downloads: Downloads, tmp_path: Path, cut: int
) -> None:
    downloads.server.data = MEDIUM
    downloads.server.script.extend([Cut(cut, reset=True), Cut(cut, reset=True)])
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", MEDIUM)


async def test_what_was_received_before_a_break_is_not_fetched_again(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the disk is slow and the library buffers: aiohttp would forget 2 MiB."""
    downloads.server.data = clip(9 * MIB)
    downloads.server.script.append(Cut(8 * MIB))
    written = threading.Event()

    def slow(part: _partfile.PartFile, batch: _partfile.Batch) -> None:
        written.wait(0.2)  # until the connection has broken, as far as it can
        store(part, batch)

    store = _partfile.PartFile.store
    monkeypatch.setattr(_partfile.PartFile, "store", slow)
    video = await downloads.save(tmp_path / "cat.mp4")
    assert is_whole(video, tmp_path / "cat.mp4", downloads.server.data)
    assert downloads.server.ranges == [None, f"bytes={8 * MIB}-"]


async def test_progress_begins_the_count_of_failures_anew(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.script.extend([Cut(70_000), Say(503), Say(502)] * 4)
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert not downloads.server.script


async def test_a_transfer_that_keeps_breaking_ends_and_keeps_what_came(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.always = Cut(1000)  # with each answer, less than counts as progress
    error = await downloads.refused(Truncated, tmp_path / "cat.mp4")
    assert len(downloads.server.requests) == 8
    assert error.bytes_kept == 8000
    assert names(tmp_path) == {"cat.mp4.part", "cat.mp4.part.json"}
    assert "canary" not in (tmp_path / "cat.mp4.part.json").read_text()
    downloads.server.always = None
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.server.ranges[-1] == "bytes=8000-"


async def test_an_ignored_range_costs_bytes_and_nothing_else(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.script.extend([Cut(100_000), IgnoreRange(50_000), IgnoreRange()])
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)


@pytest.mark.parametrize("obey", [True, False])
async def test_a_file_that_changed_begins_anew(
    downloads: Downloads, tmp_path: Path, obey: bool
) -> None:
    other = clip(300_000, seed=2)
    downloads.server.script.extend([Cut(200_000), Change(other, '"v2"', obey)])
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", other)


async def test_a_file_that_changed_between_two_calls_begins_anew(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.script.extend([Cut(200_000), *[Say(404)] * 5])
    await downloads.refused(LinkExpired, tmp_path / "cat.mp4")
    downloads.server.data, downloads.server.etag = clip(100_000, seed=3), '"v3"'
    video = await downloads.save(tmp_path / "cat.mp4")
    assert is_whole(video, tmp_path / "cat.mp4", clip(100_000, seed=3))


async def test_a_file_that_never_stops_changing_is_given_up(
    downloads: Downloads, tmp_path: Path
) -> None:
    changes = [Change(clip(300_000, n), f'"{n}"', at=200_000) for n in range(2, 30)]
    downloads.server.script.extend([Cut(100_000), *changes])
    error = await downloads.refused(Truncated, tmp_path / "cat.mp4")
    assert "keeps changing" in str(error)
    assert len(downloads.server.requests) < 10


async def test_a_server_without_validators_is_never_trusted_with_the_rest(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.etag = None
    downloads.server.script.extend([Cut(200_000), *[Say(404)] * 5])
    error = await downloads.refused(LinkExpired, tmp_path / "cat.mp4")
    assert error.bytes_kept == 0
    assert names(tmp_path) == set()
    downloads.server.script.append(Cut(100_000))
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert set(downloads.server.ranges) == {None}


async def test_last_modified_serves_where_there_is_no_etag(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.etag = 'W/"v1"'
    downloads.server.modified = "Tue, 24 Nov 2026 02:33:35 GMT"
    downloads.server.script.append(Cut(100_000))
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.server.ranges == [None, "bytes=100000-"]


async def test_a_part_of_another_job_is_not_continued(downloads: Downloads, tmp_path: Path) -> None:
    downloads.server.script.extend([Cut(100_000), *[Say(404)] * 5])
    await downloads.refused(LinkExpired, tmp_path / "cat.mp4")
    downloads.server.data = clip(300_000, seed=9)  # and, by chance, the same ETag
    await downloads.save(tmp_path / "cat.mp4", request_id="another-job")
    assert downloads.server.ranges[-1] is None
    assert (tmp_path / "cat.mp4").read_bytes() == downloads.server.data


@pytest.mark.parametrize(
    "record",
    [b"", b"{", b"[]", b'{"format": 99}', b"\xff\xfe", b"null", b'{"format": 1}'],
)
async def test_a_record_that_cannot_be_read_begins_anew(
    downloads: Downloads, tmp_path: Path, record: bytes
) -> None:
    (tmp_path / "cat.mp4.part").write_bytes(SMALL[:1000])
    (tmp_path / "cat.mp4.part.json").write_bytes(record)
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.server.ranges == [None]


async def test_a_part_from_before_a_power_cut_is_not_relied_on(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads.server.script.extend([Cut(100_000), *[Say(404)] * 5])
    await downloads.refused(LinkExpired, tmp_path / "cat.mp4")
    monkeypatch.setattr(_disk, "boot", lambda: "another boot")
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.server.ranges[-1] is None


@pytest.mark.parametrize("extra", [b"", b"more than the file has"])
async def test_a_part_that_is_already_whole(
    downloads: Downloads, tmp_path: Path, extra: bytes
) -> None:
    """Nothing is fetched for it; one that is too long is no part."""
    downloads.server.script.extend([Cut(299_999), *[Say(404)] * 5])
    await downloads.refused(LinkExpired, tmp_path / "cat.mp4")
    (tmp_path / "cat.mp4.part").write_bytes(SMALL + extra)
    requests = len(downloads.server.requests)
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert len(downloads.server.requests) == requests + bool(extra)


# --- dead links ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_a_dead_link_is_replaced_by_one_poll(
    downloads: Downloads, tmp_path: Path, status: int
) -> None:
    downloads.server.script.extend([Cut(100_000), Say(status)])
    downloads.job.links = [downloads.server.link("fresh.mp4")]
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.job.polls == 1
    assert downloads.server.requests[-1]["path"].startswith("/fresh.mp4")
    assert downloads.server.ranges[-1] == "bytes=100000-"


async def test_a_link_that_is_not_ready_yet_is_waited_for(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.script.extend([Say(404), Say(403), Say(404)])
    began = anyio.current_time()
    video = await downloads.save(tmp_path / "cat.mp4", retry=Retry(base=0.1, cap=0.1))
    assert is_whole(video, tmp_path / "cat.mp4", SMALL)
    assert anyio.current_time() - began >= 3 * 0.05


async def test_a_fresh_link_is_used_at_once(downloads: Downloads, tmp_path: Path) -> None:
    downloads.server.script.append(Say(403))
    downloads.job.links = [downloads.server.link("fresh.mp4")]
    slow = Retry(base=100.0, cap=100.0)  # with which any wait would be past the deadline
    video = await downloads.save(tmp_path / "cat.mp4", retry=slow)
    assert is_whole(video, tmp_path / "cat.mp4", SMALL)


async def test_links_that_are_all_dead_end_it(downloads: Downloads, tmp_path: Path) -> None:
    downloads.server.always = Say(403)
    error = await downloads.refused(LinkExpired, tmp_path / "cat.mp4")
    assert "HTTP 403" in str(error)
    assert downloads.job.polls == 4
    assert names(tmp_path) == set()


async def test_a_job_that_has_expired_meanwhile_ends_it(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.script.extend([Cut(100_000), Say(404)])
    downloads.job.failure = JobExpired("the provider dropped it.", request_id=ID)
    error = await downloads.refused(LinkExpired, tmp_path / "cat.mp4")
    assert isinstance(error.__cause__, JobExpired)
    assert error.bytes_kept == 100_000
    assert downloads.job.polls == 1


async def test_a_poll_that_fails_in_passing_is_not_the_end(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.script.append(Say(403))
    downloads.job.failure = APIConnectionError("reset", may_have_been_sent=True)
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)


# --- what is no video, too large, elsewhere ------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"<!DOCTYPE html><title>Sign in</title>", b'{"error": "x"}', b"", b"ftyp", b"\0" * 99]
)
async def test_what_is_no_video_leaves_no_file(
    downloads: Downloads, tmp_path: Path, body: bytes
) -> None:
    downloads.server.script.append(Say(200, body))
    await downloads.refused(NotAVideo, tmp_path / "cat.mp4")
    assert names(tmp_path) == set()


async def test_what_is_no_video_does_not_cost_the_part(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.script.extend([Cut(100_000), Say(200, b"<html>the portal of the hotel")])
    error = await downloads.refused(NotAVideo, tmp_path / "cat.mp4")
    assert error.bytes_kept == 100_000
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.server.ranges[-1] == "bytes=100000-"


async def test_a_compressed_answer_is_no_video(downloads: Downloads, tmp_path: Path) -> None:
    downloads.server.script.append(Say(200, SMALL, {"Content-Encoding": "gzip"}))
    await downloads.refused(NotAVideo, tmp_path / "cat.mp4")


async def test_a_file_of_more_than_4_gib_is_refused_unread(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.script.append(Say(200, SMALL, {"Content-Length": str(4 * 2**30 + 1)}))
    error = await downloads.refused(DownloadError, tmp_path / "cat.mp4")
    assert str(4 * 2**30 + 1) in str(error)
    assert names(tmp_path) == set()


async def test_a_file_without_a_length_has_a_bound_too(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grok_video._transfer.MOST_BYTES", 200_000)
    downloads.server.always = Chunked()
    await downloads.refused(DownloadError, tmp_path / "cat.mp4")
    assert not (tmp_path / "cat.mp4").exists()


async def test_a_redirect_is_followed_without_the_key(downloads: Downloads, tmp_path: Path) -> None:
    with FileServer() as other:
        downloads.server.script.append(Say(302, headers={"Location": other.link("moved.mp4")}))
        assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
        for request in downloads.server.requests + other.requests:
            assert KEY not in json.dumps(request)
            assert "authorization" not in request


async def test_redirects_in_a_circle_end(downloads: Downloads, tmp_path: Path) -> None:
    downloads.server.always = Say(302, headers={"Location": "/again.mp4"})
    error = await downloads.refused(DownloadError, tmp_path / "cat.mp4")
    assert "redirected more than 5 times" in str(error)
    assert len(downloads.server.requests) == 6


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "ftp://x/y",
        "http://user:pw@host/x",
        "http://[x",
        "//[::1",
        "http://host:port/x",
        "http://\u2100.example/x",
        "http://a..example/x",
        f"http://{'a' * 70}.example/x",
        "http://.example/x",
        "http://\u00ad/x",
    ],
)
async def test_a_redirect_elsewhere_is_refused(
    downloads: Downloads, tmp_path: Path, target: str
) -> None:
    downloads.server.script.append(Say(302, headers={"Location": target}))
    error = await downloads.refused(DownloadError, tmp_path / "cat.mp4")
    assert "not followed" in str(error)
    assert len(downloads.server.requests) == 1


async def test_a_link_that_the_library_cannot_request_is_refused_at_once(
    downloads: Downloads, lane: tuple[str, str], tmp_path: Path
) -> None:
    # Each library has its own idea of a URL.
    url = {"aiohttp": "http://127.1/v.mp4", "httpx": "http://127.0.0.1/v\0.mp4"}[lane[1]]
    error = await downloads.refused(DownloadError, tmp_path / "cat.mp4", url=url)
    assert "not followed" in str(error)


@frozen
class Elsewhere:
    """A transport whose every answer is a redirect to http, as over TLS."""

    status: int = 302
    headers: dict[str, str] = field(factory=lambda: {"location": "http://files.example/v.mp4"})

    @contextlib.asynccontextmanager
    async def stream(self, *_: object, **__: object) -> AsyncIterator[Elsewhere]:
        yield self


async def test_a_redirect_from_https_to_http_is_refused(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.transport = Elsewhere()
    link = "https://files.example/v.mp4?signature=canary"
    error = await downloads.refused(DownloadError, tmp_path / "cat.mp4", url=link)
    assert "it leads from https to http" in str(error)


async def test_a_private_link_of_a_public_api_is_refused(
    downloads: Downloads, tmp_path: Path
) -> None:
    error = await downloads.refused(DownloadError, tmp_path / "cat.mp4", api=PUBLIC)
    assert "private network" in str(error)
    assert downloads.server.requests == []


async def test_a_job_without_a_link_says_so(downloads: Downloads, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="upload_url"):
        await _download.save(
            downloads.transport,
            downloads.job,
            Video(ID, None),
            tmp_path / "cat.mp4",
            overwrite=False,
            sha256=True,
            deadline=Deadline.after(anyio.current_time(), None),
            retry=Retry(),
            api_origin=PUBLIC,
            random=random.Random(1),
        )
    assert names(tmp_path) == set()


# --- waiting -------------------------------------------------------------------------------------


async def test_a_retry_after_is_honoured(downloads: Downloads, tmp_path: Path) -> None:
    downloads.server.script.extend(
        [Say(503, headers={"Retry-After-Ms": "150"}), Say(429, headers={"Retry-After-Ms": "100"})]
    )
    began = anyio.current_time()
    await downloads.save(tmp_path / "cat.mp4")
    assert anyio.current_time() - began >= 0.25


@pytest.mark.parametrize(("wish", "timeout"), [("60", 20.0), ("3600", None)])
async def test_a_retry_after_that_is_too_long_ends_it_at_once(
    downloads: Downloads, tmp_path: Path, wish: str, timeout: float | None
) -> None:
    downloads.server.script.extend([Cut(100_000), Say(503, headers={"Retry-After": wish})])
    began = anyio.current_time()
    error = await downloads.refused(Truncated, tmp_path / "cat.mp4", timeout=timeout)
    assert f"asks to wait {wish} s" in str(error)
    assert error.bytes_kept == 100_000
    assert anyio.current_time() - began < 5


async def test_the_deadline_ends_a_transfer_and_keeps_what_came(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.data = MEDIUM
    downloads.server.script.append(Hold(2 * MIB))
    error = await downloads.refused(Truncated, tmp_path / "cat.mp4", timeout=0.4)
    assert "deadline of 0.4 s" in str(error)
    assert "downloading again continues" in str(error)
    assert error.bytes_kept == 2 * MIB
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", MEDIUM)


async def test_a_server_that_falls_silent_is_asked_again(
    lane: tuple[str, str], server: FileServer, tmp_path: Path
) -> None:
    kind = AiohttpTransport if lane[1] == "aiohttp" else HttpxTransport
    transport = kind(config(timeout=0.3))
    server.script.append(Hold(100_000))
    video = await Downloads(transport, server, Job(server)).save(tmp_path / "cat.mp4")
    await transport.aclose()
    assert is_whole(video, tmp_path / "cat.mp4", SMALL)


# --- cancelled and killed ------------------------------------------------------------------------


def descriptors() -> set[str]:
    gc.collect()
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(link.readlink()))
    return found


async def test_a_cancelled_download_keeps_its_part_and_nothing_open(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.data = MEDIUM
    downloads.server.script.append(Hold(2 * MIB))
    with anyio.CancelScope() as scope:
        await downloads.save(
            tmp_path / "cat.mp4",
            on_bytes=lambda here, _: scope.cancel() if here == 2 * MIB else None,
        )
    assert scope.cancelled_caught
    assert not any(str(tmp_path) in name for name in descriptors())
    assert (tmp_path / "cat.mp4.part").stat().st_size == 2 * MIB
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", MEDIUM)
    assert downloads.server.ranges == [None, f"bytes={2 * MIB}-"]


@pytest.mark.parametrize("lane", [("asyncio", "aiohttp"), ("asyncio", "httpx")], indirect=True)
async def test_a_task_cancelled_by_asyncio_itself_at_any_moment_keeps_a_usable_part(
    downloads: Downloads, tmp_path: Path
) -> None:
    """Not by a scope: the thread that writes goes on while its caller is already gone."""
    downloads.server.data = MEDIUM
    for pieces in range(12):
        path = tmp_path / f"{pieces}.mp4"
        left, tasks = [pieces], []

        def count(_: int, __: int | None, left: list[int] = left, tasks: list = tasks) -> None:
            left[0] -= 1
            if left[0] == 0:
                tasks[0].cancel()

        tasks.append(asyncio.ensure_future(downloads.save(path, on_bytes=count)))
        if not pieces:
            await asyncio.sleep(0)
            tasks[0].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await tasks[0]
        assert not any(str(path) in name for name in descriptors())
        assert is_whole(await downloads.save(path, overwrite=True), path, MEDIUM)


CHILD = """
import asyncio, random, resource, signal, sys
from pathlib import Path
from grok_video import Retry, DestinationError, _download
from grok_video._models import Video
from grok_video._policies import Deadline
from grok_video._redaction import Secret
from grok_video._transports._aiohttp import AiohttpTransport
from grok_video._transports._base import TransportConfig
from grok_video._urls import Origin

url, path, limit, job = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))

async def main():
    transport = AiohttpTransport(TransportConfig(url, Secret("k"), 10.0, None, None, {}))
    try:
        video = await _download.save(
            transport, None, Video(job, url), path, overwrite=False, sha256=True,
            deadline=Deadline.after(asyncio.get_running_loop().time(), 30.0), retry=Retry(),
            api_origin=Origin.of(url), random=random.Random(1),
            on_bytes=lambda here, total: print(here, flush=True),
        )
        print("whole", video.sha256)
    except DestinationError as error:
        print("refused", error.bytes_kept, error)
    await transport.aclose()

asyncio.run(main())
"""


def child(server: FileServer, path: Path, limit: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CHILD, server.link(), str(path), str(limit), ID],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_a_killed_process_is_continued_by_the_next(server: FileServer, tmp_path: Path) -> None:
    path = tmp_path / "cat.mp4"
    server.data = clip(8 * MIB)
    server.script.append(Hold(6 * MIB))
    with child(server, path) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if int(line) == 6 * MIB:
                break
        first.send_signal(signal.SIGKILL)
    assert names(tmp_path) == {"cat.mp4.part", "cat.mp4.part.json"}
    kept = (tmp_path / "cat.mp4.part").stat().st_size
    assert kept > 4 * MIB  # all but what waited for a full MiB
    with child(server, path) as second:
        assert second.stdout is not None
        *_, last = second.stdout
    assert last.split() == ["whole", hashlib.sha256(server.data).hexdigest()]
    assert server.ranges == [None, f"bytes={kept}-"]
    assert names(tmp_path) == {"cat.mp4"}


# --- the destination -----------------------------------------------------------------------------


async def test_an_existing_file_is_kept(downloads: Downloads, tmp_path: Path) -> None:
    (tmp_path / "cat.mp4").write_bytes(b"precious")
    error = await downloads.refused(DestinationError, tmp_path / "cat.mp4")
    assert "it exists, and it is kept as it is" in str(error)
    assert (tmp_path / "cat.mp4").read_bytes() == b"precious"
    assert downloads.server.requests == []
    assert names(tmp_path) == {"cat.mp4"}


async def test_an_existing_file_is_replaced_when_asked_and_only_by_a_whole_one(
    downloads: Downloads, tmp_path: Path
) -> None:
    path = tmp_path / "cat.mp4"
    path.write_bytes(b"old")
    downloads.server.script.extend([Cut(100_000), *[Say(404)] * 5])
    await downloads.refused(LinkExpired, path, overwrite=True)
    assert path.read_bytes() == b"old"
    assert is_whole(await downloads.save(path, overwrite=True), path, SMALL)
    assert names(tmp_path) == {"cat.mp4"}


async def test_a_file_that_appears_meanwhile_is_not_replaced(
    downloads: Downloads, tmp_path: Path
) -> None:
    path = tmp_path / "cat.mp4"
    error = await downloads.refused(
        DestinationError, path, on_bytes=lambda *_: path.write_bytes(b"theirs")
    )
    assert "made by somebody else" in str(error)
    assert path.read_bytes() == b"theirs"
    assert error.bytes_kept == len(SMALL)
    path.unlink()
    assert is_whole(await downloads.save(path), path, SMALL)
    assert len(downloads.server.requests) == 1


async def test_a_folder_that_cannot_be_synced_is_told_and_the_file_is_there(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(_disk, "sync_folder", refuse)
    error = await downloads.refused(DestinationError, tmp_path / "cat.mp4")
    assert "it is there and whole" in str(error)
    assert (tmp_path / "cat.mp4").read_bytes() == SMALL
    assert names(tmp_path) == {"cat.mp4"}
    assert not any(str(tmp_path) in name for name in descriptors())


async def test_a_file_is_synced_before_it_has_its_name_and_its_folder_after(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    sync = os.fsync

    def watch(descriptor: int) -> None:
        seen.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), (tmp_path / "cat.mp4").exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    await downloads.save(tmp_path / "cat.mp4")
    assert seen == [(False, False), (True, True)]


async def test_no_hard_links_is_no_obstacle(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "cat.mp4"
    assert is_whole(await downloads.save(path), path, SMALL)
    assert names(tmp_path) == {"cat.mp4"}
    error = await downloads.refused(
        DestinationError,
        tmp_path / "dog.mp4",
        on_bytes=lambda *_: (tmp_path / "dog.mp4").write_bytes(b"theirs"),
    )
    assert error.bytes_kept == len(SMALL)
    assert (tmp_path / "dog.mp4").read_bytes() == b"theirs"


async def test_what_cannot_hold_a_file_is_told_before_a_byte_is_fetched(
    downloads: Downloads, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    os.mkfifo(tmp_path / "pipe")
    before = names(tmp_path)
    for destination, words in {
        tmp_path: "it is a folder",
        f"{tmp_path}/new/": "it is a folder",
        "": "it is a folder",
        tmp_path / "missing" / "cat.mp4": "does not exist",
        tmp_path / "file" / "cat.mp4": "is not a folder",
        tmp_path / "pipe": "pipe, socket or device",
        "/dev/null": "pipe, socket or device",
        tmp_path / ("x" * 300): "too long",
        f"{tmp_path}/a\0b": "null byte",
    }.items():
        for overwrite in (False, True):
            error = await downloads.refused(DestinationError, destination, overwrite=overwrite)
            assert words in str(error)
            with pytest.raises(DestinationError, match=words):
                await _download.check_destination(destination, overwrite=overwrite, request_id=ID)
    assert downloads.server.requests == []
    assert names(tmp_path) == before


async def test_a_good_destination_is_checked_without_a_trace(tmp_path: Path) -> None:
    await _download.check_destination(tmp_path / "cat.mp4", overwrite=False, request_id=ID)
    assert names(tmp_path) == set()


async def test_a_part_that_is_not_ours_is_left_alone(downloads: Downloads, tmp_path: Path) -> None:
    """Browsers name their own the same way."""
    part = tmp_path / "cat.mp4.part"
    part.write_bytes(b"half of a browser's download")
    error = await downloads.refused(DestinationError, tmp_path / "cat.mp4")
    assert "not a file of ours" in str(error)
    assert part.read_bytes() == b"half of a browser's download"
    part.unlink()
    (tmp_path / "victim").write_bytes(b"kept")
    part.symlink_to(tmp_path / "victim")
    await downloads.refused(DestinationError, tmp_path / "cat.mp4")
    assert (tmp_path / "victim").read_bytes() == b"kept"
    (tmp_path / "victim").unlink()
    await downloads.refused(DestinationError, tmp_path / "cat.mp4")
    assert not (tmp_path / "victim").exists()
    part.unlink()
    os.mkfifo(part)
    await downloads.refused(DestinationError, tmp_path / "cat.mp4")
    assert downloads.server.requests == []


async def test_a_death_between_link_and_unlink_cannot_harm_the_finished_file(
    downloads: Downloads, tmp_path: Path
) -> None:
    path = tmp_path / "cat.mp4"
    await downloads.save(path)
    (tmp_path / "cat.mp4.part").hardlink_to(path)
    before = path.stat().st_ino
    downloads.server.data, downloads.server.etag = clip(200_000, seed=5), '"v5"'
    downloads.server.script.extend([Cut(100_000), *[Say(404)] * 5])
    await downloads.refused(LinkExpired, path, overwrite=True)
    assert path.read_bytes() == SMALL
    assert path.stat().st_ino == before


async def test_two_downloads_to_one_place_never_mix(downloads: Downloads, tmp_path: Path) -> None:
    path = tmp_path / "cat.mp4"
    downloads.server.data = MEDIUM
    downloads.server.script.append(Hold(MIB + 5))
    under_way = anyio.Event()
    outcomes: list[Video] = []

    async def first() -> None:
        outcomes.append(await downloads.save(path, on_bytes=lambda *_: under_way.set()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await under_way.wait()
        with pytest.raises(DestinationError, match="by another download at this moment"):
            await downloads.save(path, overwrite=True)
        downloads.server.held.set()
    assert is_whole(outcomes[0], path, MEDIUM)


async def test_another_process_that_holds_the_part_is_respected(
    downloads: Downloads, tmp_path: Path
) -> None:
    with (tmp_path / "cat.mp4.part").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        await downloads.refused(DestinationError, tmp_path / "cat.mp4")
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[bool]:
    """Mount a small disk in memory there; yields False where that is not allowed."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False)
    ok = bool(done) and done.returncode == 0
    try:
        yield ok
    finally:
        if ok:
            subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_read_only_folder_is_told_before_a_byte_is_fetched(
    downloads: Downloads, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as undo:
        folder = tmp_path / "folder"
        if not undo.enter_context(mounted(folder, "size=1m,ro")):
            folder = Path(undo.enter_context(tempfile.TemporaryDirectory()))
            folder.chmod(0o555)
            undo.callback(folder.chmod, 0o755)
            if os.geteuid() == 0:  # whom modes do not stop
                os.seteuid(65534)
                undo.callback(os.seteuid, 0)
        error = await downloads.refused(DestinationError, folder / "cat.mp4")
        assert "cannot be written" in str(error) or "read-only" in str(error)
        with pytest.raises(DestinationError):
            await _download.check_destination(folder / "cat.mp4", overwrite=True, request_id=ID)
        assert names(folder) == set()
    assert downloads.server.requests == []


def test_a_full_disk_keeps_what_came(server: FileServer, tmp_path: Path) -> None:
    """The length is not announced, so that the disk fills in the middle."""
    folder, server.data, server.always = tmp_path / "disk", clip(4 * MIB), Chunked()
    path = folder / "cat.mp4"
    with mounted(folder, "size=2m") as real:
        # Where nothing can be mounted, the system's own limit for a file stands for the disk.
        with child(server, path, limit=0 if real else 2 * MIB) as process:
            assert process.stdout is not None
            *_, last = process.stdout
        verdict, kept, words = last.split(maxsplit=2)
        assert verdict == "refused"
        assert ("the disk is full" if real else "larger than this process") in words
        assert f"{kept} bytes are kept in {path}.part" in words
        assert MIB < int(kept) <= 2 * MIB
        assert names(folder) == {"cat.mp4.part", "cat.mp4.part.json"}
        if real:
            subprocess.run(["mount", "-o", "remount,size=16m", str(folder)], check=True)
        server.always = None
        with child(server, path) as process:
            assert process.stdout is not None
            *_, last = process.stdout
        assert last.split() == ["whole", hashlib.sha256(server.data).hexdigest()]
        assert server.ranges[-1] == f"bytes={kept}-"


async def test_a_disk_that_is_too_small_is_told_as_soon_as_the_length_is_known(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads.server.data = MEDIUM
    monkeypatch.setattr(_disk, "free_space", lambda _: 2 * MIB)
    error = await downloads.refused(DestinationError, tmp_path / "cat.mp4")
    assert "the disk is full" in str(error)
    assert names(tmp_path) == set()


# --- streamed ------------------------------------------------------------------------------------


async def collect(chunks: AsyncIterator[bytes], received: list[bytes]) -> None:
    async for chunk in chunks:
        received.append(chunk)


async def test_a_stream_gives_every_byte_once_over_breaks_and_dead_links(
    downloads: Downloads,
) -> None:
    downloads.server.data = MEDIUM
    downloads.server.script.extend(
        [Cut(5), Cut(MIB + 3), Say(403), Cut(1), IgnoreRange(MIB), Cut(MIB), Say(500)]
    )
    received = b"".join([chunk async for chunk in downloads.stream()])
    assert received == MEDIUM
    assert not downloads.server.script


async def test_a_stream_of_a_file_that_changed_cannot_be_continued(downloads: Downloads) -> None:
    downloads.server.script.extend([Cut(100_000), Change(clip(300_000, 2), '"v2"')])
    received: list[bytes] = []
    with pytest.raises(Truncated, match="after 100000 bytes were handed out"):
        await collect(downloads.stream(), received)
    assert b"".join(received) == SMALL[:100_000]


async def test_a_stream_of_something_else_gives_nothing(downloads: Downloads) -> None:
    downloads.server.script.append(Say(200, b"<html>"))
    received: list[bytes] = []
    with pytest.raises(NotAVideo):
        await collect(downloads.stream(), received)
    assert received == []


async def test_a_stream_left_early_leaves_nothing_open(downloads: Downloads) -> None:
    downloads.server.data = MEDIUM
    chunks = downloads.stream()
    async for _ in chunks:
        break
    await chunks.aclose()
    gc.collect()


async def test_a_part_of_unknown_length_is_not_continued_without_a_length_by_the_next_process(
    downloads: Downloads, tmp_path: Path
) -> None:
    data = clip(12) + bytes(12) + (200_000).to_bytes(4, "big") + b"mdat" + clip(199_992)
    downloads.server.data = data
    downloads.server.script.extend([Unframed(150_000), *[Say(403)] * 5])
    await downloads.refused(LinkExpired, tmp_path / "cat.mp4")
    downloads.server.script.extend([Unframed(10, hides_total=True)])
    downloads.server.always = Unframed(hides_total=True)
    video = await downloads.save(tmp_path / "cat.mp4")
    assert is_whole(video, tmp_path / "cat.mp4", data)

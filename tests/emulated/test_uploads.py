"""Local pictures on their way through each transport to a server that reads what really arrives."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import PIL.Image
import pytest
from blockbuster import blockbuster_ctx

from grok_video import AsyncClient, InvalidRequest, VideoRequest
from grok_video._body import create_body
from grok_video._images import LARGE_PIECE

from ..conftest import PHOTO
from .serving import serving

#: More than the buffers of two sockets hold, so that the sender has to wait for the reader.
LARGE = 16 * 2**20
ANSWER = b'{"request_id":"4b2cd27e-0000-4000-8000-000000000000"}'


class Server:
    """Takes creates on loopback; `bodies` are the whole ones, `cut` the lengths of the others."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.cut: list[int] = []
        self.base_url = ""
        #: Called once, when the head of a request has come and nothing more was read.
        self.meanwhile: Callable[[], None] = lambda: None
        self.done = anyio.Event()

    async def handle(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    await self._answer(stream)
            self.done.set()

    async def _answer(self, stream: anyio.abc.SocketStream) -> None:
        head, _, body = (await stream.receive()).partition(b"\r\n\r\n")
        self.meanwhile()
        names = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        assert b"transfer-encoding" not in names
        length = int(names[b"content-length"])
        whole = bytearray(body)
        try:
            while len(whole) < length:
                whole += await stream.receive(2**20)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            self.cut.append(length - len(whole))
            raise
        self.bodies.append(bytes(whole))
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
        await stream.send(b"Content-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER)


@pytest.fixture
async def server(anyio_backend: str) -> AsyncIterator[Server]:
    server = Server()
    async with serving(server.handle) as server.base_url:
        yield server


@pytest.fixture
async def uploader(
    server: Server, new_client: Callable[..., AsyncClient]
) -> AsyncIterator[AsyncClient]:
    async with new_client(base_url=server.base_url, api_key="sk-test") as made:
        yield made


def a_picture(size: int) -> bytes:
    return b"\xff\xd8\xff\xe0" + random.Random(size).randbytes(size - 4)


def picture_in(body: bytes) -> bytes:
    uri: str = json.loads(body)["image"]["url"]
    assert uri.startswith("data:image/jpeg;base64,")
    return base64.b64decode(uri.partition(",")[2], validate=True)


async def test_every_source_arrives_whole_and_with_its_length(
    uploader: AsyncClient, server: Server, tmp_path: Path
) -> None:
    content = a_picture(LARGE_PIECE + 100_000)
    path = tmp_path / "cat.jpg"
    path.write_bytes(content)
    sources: list[Any] = [
        path,
        content,
        io.BytesIO(content),
        "data:image/jpeg;base64," + base64.b64encode(content).decode(),
    ]
    for source in sources:
        job = await uploader.submit('a "quoted" 🐈', source, duration=6)
        assert job.request_id.startswith("4b2cd27e")
    assert [picture_in(body) for body in server.bodies] == [content] * 4
    assert {json.loads(body)["prompt"] for body in server.bodies} == {'a "quoted" 🐈'}


async def test_a_pil_image_becomes_a_job(client: AsyncClient, tmp_path: Path) -> None:
    with PIL.Image.open(PHOTO) as photograph:
        video = await client.generate(
            "drift", photograph, duration=1, resolution="480p", save_to=tmp_path / "out.mp4"
        )
    assert video.size is not None
    assert video.size > 1000


async def test_many_pictures_at_once_arrive_each_as_itself(
    uploader: AsyncClient, server: Server
) -> None:
    contents = [a_picture(LARGE_PIECE + count) for count in range(12)]
    async with anyio.create_task_group() as tasks:
        for content in contents:
            tasks.start_soon(uploader.submit, "drift", content)
    assert sorted(picture_in(body) for body in server.bodies) == sorted(contents)


@pytest.mark.parametrize("change", ["grow", "shrink", "vanish"])
async def test_a_picture_that_changes_on_its_way_is_refused_and_never_accepted(
    uploader: AsyncClient, server: Server, tmp_path: Path, change: str
) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(a_picture(LARGE))

    def meanwhile() -> None:
        server.meanwhile = lambda: None
        match change:
            case "grow":
                os.truncate(path, LARGE + 1)
            case "shrink":
                os.truncate(path, 1000)
            case _:
                path.unlink()

    server.meanwhile = meanwhile
    with pytest.raises(InvalidRequest, match="must not change while it is being sent") as caught:
        await uploader.submit("drift", path)
    assert caught.value.field == "image"
    await server.done.wait()
    assert server.bodies == []
    assert len(server.cut) == 1
    assert server.cut[0] > 0


@pytest.mark.parametrize("bad", ["missing", "folder", "empty", "GIF", "text"])
async def test_a_bad_picture_is_refused_before_any_connection(
    uploader: AsyncClient, server: Server, tmp_path: Path, bad: str
) -> None:
    path = tmp_path / "cat.png"
    match bad:
        case "folder":
            path.mkdir()
        case "empty":
            path.touch()
        case "GIF":
            path.write_bytes(b"GIF89a" + bytes(100))
        case "text":
            path.write_text("this is no picture")
        case _:
            pass
    server.meanwhile = lambda: pytest.fail("something was sent")
    with pytest.raises(InvalidRequest, match="Nothing was sent"):
        await uploader.submit("drift", path)
    assert server.bodies == []


async def test_no_upload_blocks_the_event_loop(
    uploader: AsyncClient, server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "cat.jpg"
    content = a_picture(LARGE_PIECE * 2)
    path.write_bytes(content)
    sources: list[Any] = [path, content, io.BytesIO(content), a_picture(1000)]
    with blockbuster_ctx("grok_video"), path.open("rb") as file:
        for source in [*sources, file]:
            await uploader.submit("drift", source)
    assert len(server.bodies) == 5


async def test_a_body_is_the_same_each_time_it_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(a_picture(LARGE_PIECE * 3 + 1))
    async with create_body(VideoRequest("drift", path)) as body:
        broken_off = body.chunks()
        for _ in range(3):
            await anext(broken_off)
        first = b"".join([chunk async for chunk in body.chunks()])
        assert len(first) == body.length
        assert first == b"".join([chunk async for chunk in body.chunks()])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_cancelled_upload_leaves_no_file_open(
    uploader: AsyncClient, server: Server, tmp_path: Path
) -> None:
    path = (tmp_path / "cat.jpg").resolve()
    path.write_bytes(a_picture(LARGE))
    async with anyio.create_task_group() as tasks:
        server.meanwhile = tasks.cancel_scope.cancel
        tasks.start_soon(uploader.submit, "drift", path)
    assert path not in open_files()


def open_files() -> list[Path]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists the folder
            found.append(link.readlink())
    return found

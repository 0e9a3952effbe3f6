"""A picture on a slow line, or on one that breaks: what no server had whole, none was paid for."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import anyio.abc
import pytest

from grok_video import (
    APIConnectionError,
    APITimeoutError,
    AsyncClient,
    CreateOutcomeUnknown,
    Retry,
    _create,
)

from .serving import serving
from .test_uploads import ANSWER, LARGE, a_picture

#: Seconds of silence that are borne.
TIMEOUT = 0.3
STEP = 2**21
#: What a server does once it has the head of a request: read so many bytes, then this.
Part = Callable[[anyio.abc.SocketStream, int], Awaitable[None]]


async def read(stream: anyio.abc.SocketStream, count: int) -> None:
    while count > 0:
        count -= len(await stream.receive(min(count, STEP)))


async def accept(stream: anyio.abc.SocketStream) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    await stream.send(head % len(ANSWER) + ANSWER)


async def accepts(stream: anyio.abc.SocketStream, left: int) -> None:
    await read(stream, left)
    await accept(stream)


async def accepts_slowly(stream: anyio.abc.SocketStream, left: int) -> None:
    """Take two or three times as long as a silence may last."""
    while left > 0:
        await read(stream, min(left, STEP))
        left -= STEP
        await anyio.sleep(TIMEOUT / 4)
    await accept(stream)


async def stands_still(stream: anyio.abc.SocketStream, _: int) -> None:
    await read(stream, STEP)
    await anyio.sleep_forever()


async def breaks(stream: anyio.abc.SocketStream, _: int) -> None:
    await read(stream, STEP)


async def fails_early(stream: anyio.abc.SocketStream, _: int) -> None:
    await read(stream, STEP)
    await stream.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")


def says_half_a_yes(said: bytes, then: Callable[[], None] = lambda: None) -> Part:
    """Say yes before the whole picture is there, and end that before it is whole."""

    async def part(stream: anyio.abc.SocketStream, left: int) -> None:
        await read(stream, STEP)
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + said)
        then()
        await stream.send_eof()
        await read(stream, left - STEP)

    return part


async def never_answers(stream: anyio.abc.SocketStream, left: int) -> None:
    await read(stream, left)
    await anyio.sleep_forever()


class Server:
    """Plays one part for each connection; `visits` are those there were."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.visits = 0
        self.base_url = ""
        #: Set once a part of a picture is here.
        self.has_some = anyio.Event()

    async def handle(self, stream: anyio.abc.SocketStream) -> None:
        part = self.parts[self.visits]
        self.visits += 1
        # Megabytes of buffers on this side would hide how slowly it reads.
        socket_ = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        socket_.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        async with stream:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                head, _, body = (await stream.receive()).partition(b"\r\n\r\n")
                names = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
                self.has_some.set()
                await part(stream, int(names[b"content-length"]) - len(body))


@pytest.fixture
async def server(anyio_backend: str) -> AsyncIterator[Server]:
    server = Server()
    async with serving(server.handle) as server.base_url:
        yield server


@pytest.fixture
async def uploader(
    server: Server, new_client: Callable[..., AsyncClient]
) -> AsyncIterator[AsyncClient]:
    retry = Retry(attempts=2, base=0.01)
    base = server.base_url
    async with new_client(base_url=base, api_key="k", timeout=TIMEOUT, retry=retry) as made:
        yield made


async def test_an_upload_may_take_longer_than_the_timeout_as_long_as_it_gets_on(
    uploader: AsyncClient, server: Server
) -> None:
    server.parts = [accepts_slowly]
    began = anyio.current_time()
    await uploader.submit("drift", a_picture(LARGE))
    assert anyio.current_time() - began > 2 * TIMEOUT


@pytest.mark.parametrize("part", [stands_still, breaks, fails_early])
async def test_what_was_not_sent_whole_is_sent_again(
    uploader: AsyncClient, server: Server, part: Part
) -> None:
    server.parts = [part, accepts]
    await uploader.submit("drift", a_picture(LARGE))
    assert server.visits == 2


async def test_an_upload_that_stands_still_says_that_nothing_was_created(
    uploader: AsyncClient, server: Server
) -> None:
    server.parts = [stands_still, stands_still]
    with pytest.raises(APITimeoutError, match="not sent whole, and nothing was created") as caught:
        await uploader.submit("drift", a_picture(LARGE))
    assert not caught.value.may_have_been_sent


@pytest.mark.parametrize("part", [stands_still, breaks])
async def test_an_upload_that_the_server_ends_says_that_it_may_be_a_refusal(
    uploader: AsyncClient, server: Server, part: Part
) -> None:
    """Over httpx on asyncio the answer of a server that closes early cannot be had."""
    server.parts = [part, part]
    with pytest.raises(APIConnectionError, match="refused early, for its size") as caught:
        await uploader.submit("drift", a_picture(LARGE))
    assert not caught.value.may_have_been_sent


@pytest.mark.parametrize(
    "part", [never_answers, says_half_a_yes(b'{"reque')], ids=["never_answers", "says_half_a_yes"]
)
async def test_an_upload_that_may_have_been_taken_and_has_no_whole_answer_is_in_doubt(
    uploader: AsyncClient, server: Server, part: Part
) -> None:
    server.parts = [part, accepts]
    with pytest.raises(CreateOutcomeUnknown):
        await uploader.submit("drift", a_picture(LARGE))
    assert server.visits == 1


async def test_the_id_in_half_a_yes_in_the_middle_of_an_upload_is_used(
    uploader: AsyncClient, server: Server
) -> None:
    server.parts = [says_half_a_yes(b'{"request_id": "paid", "model": "gr')]
    job = await uploader.submit("drift", a_picture(LARGE))
    assert job.request_id == "paid"


# httpx reads no answer before it has sent all there is.
@pytest.mark.parametrize("lane", [("asyncio", "aiohttp")], indirect=True)
async def test_the_id_in_half_a_yes_is_used_even_if_the_picture_changes_then(
    uploader: AsyncClient, server: Server, tmp_path: Path
) -> None:
    picture = tmp_path / "cat.jpg"
    picture.write_bytes(a_picture(LARGE))
    said = b'{"request_id": "paid", "model": "gr'
    server.parts = [says_half_a_yes(said, lambda: os.truncate(picture, LARGE // 2))]
    job = await uploader.submit("drift", picture)
    assert job.request_id == "paid"


async def test_an_upload_that_is_cancelled_ends_at_once_and_was_not_paid_for(
    server: Server, new_client: Callable[..., AsyncClient], caplog: pytest.LogCaptureFixture
) -> None:
    server.parts = [stands_still]
    notes: list[str] = []

    async def submit(client: AsyncClient) -> None:
        try:
            await client.submit("drift", a_picture(LARGE))
        except anyio.get_cancelled_exc_class() as error:
            notes.extend(error.__notes__)
            raise

    async with new_client(base_url=server.base_url, api_key="k") as client:
        with anyio.fail_after(_create.CANCEL_GRACE / 2):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(submit, client)
                await server.has_some.wait()
                tasks.cancel_scope.cancel()
    assert notes == [_create.NOTHING_SENT]
    assert not caplog.records


async def test_an_upload_that_outlasts_its_call_is_not_in_doubt(
    server: Server, new_client: Callable[..., AsyncClient]
) -> None:
    server.parts = [stands_still]
    async with new_client(base_url=server.base_url, api_key="k") as client:
        with pytest.raises(APITimeoutError, match=r"whole within the 0\.3 s .*nothing was created"):
            await client.generate("drift", a_picture(LARGE), timeout=0.3)

"""Open files and pipes are read from where they stood, and nobody waits for a silent one."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import threading

import anyio
import anyio.lowlevel
import pytest

from grok_video import (
    VideoRequest,
    _pictures,
)
from grok_video._body import create_body
from grok_video._images import LARGE_PIECE
from grok_video._pictures import SMALL

from .conftest import JPEG, Pipe, a_picture, refusal, sent_picture


async def test_a_file_is_read_from_where_it_stood_and_left_there_open():
    content = a_picture(LARGE_PIECE + 10)
    file = io.BytesIO(b"header" + content)
    file.seek(6)
    assert await sent_picture(file) == ("image/jpeg", content)
    assert file.tell() == 6
    assert not file.closed


async def test_two_creates_may_read_one_file_object_at_the_same_time():
    content = a_picture(4 * LARGE_PIECE)
    file = io.BytesIO(content)
    seen = []

    async def read():
        seen.append(await sent_picture(file))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(read)
    assert seen == [("image/jpeg", content)] * 4


async def test_a_file_is_what_its_methods_say_not_what_its_descriptor_holds(tmp_path):
    content = a_picture(SMALL)
    (tmp_path / "cat.gz").write_bytes(gzip.compress(content))
    with gzip.open(tmp_path / "cat.gz") as file:
        assert await sent_picture(file) == ("image/jpeg", content)


async def test_a_pipe_with_too_much_in_it_is_refused_in_time(monkeypatch):
    monkeypatch.setattr(_pictures, "LARGEST_UNSEEKABLE", 100_000)
    assert "must not be over 100000 bytes" in await refusal(Pipe(a_picture(200_000)))


async def test_an_upload_that_is_cancelled_does_not_wait_for_a_silent_pipe():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb") as other_end:

        class Telling:
            """Says when it is being read."""

            def seekable(self):
                return False

            def read(self, size):
                begun.set()
                return pipe.read(size)

        begun = threading.Event()

        async def send():
            async with create_body(VideoRequest("drift", Telling())):
                pytest.fail("a body was made")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            while not begun.is_set():
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        other_end.write(JPEG)  # the thread that was left alone ends


def test_a_process_does_not_wait_at_its_end_for_a_pipe_that_it_gave_up():
    program = """
import asyncio, os
from grok_video import APITimeoutError, AsyncClient
async def main():
    reading, writing = os.pipe()
    async with AsyncClient("k", base_url="http://127.0.0.1:9") as client:
        try:
            await client.generate("drift", image=os.fdopen(reading, "rb"), timeout=0.2)
        except APITimeoutError:
            print("gave up", flush=True)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "gave up\n"

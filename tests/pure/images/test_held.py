"""Uploads hold no file, no thread of the application, and no other upload."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from grok_video import (
    Image,
    VideoRequest,
    _base64,
    _images,
)
from grok_video._body import create_body
from grok_video._images import LARGE_PIECE, SMALL_PIECE

from .conftest import a_data_uri, a_picture, sent_picture


def descriptors_of(path):
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists the folder
            found.append(link.readlink())
    return found.count(path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_no_file_is_open_between_two_pieces_nor_after_a_cancellation(tmp_path):
    path = tmp_path.resolve() / "cat.jpg"
    path.write_bytes(a_picture(4 * LARGE_PIECE))
    with anyio.CancelScope() as scope:
        async with create_body(VideoRequest("drift", path)) as body:
            async for _ in body.chunks():
                assert descriptors_of(path) == 0
                scope.cancel()
    assert scope.cancelled_caught
    assert descriptors_of(path) == 0


async def test_uploads_that_stall_hold_up_no_other(codec, monkeypatch):
    monkeypatch.setattr(_images, "PATIENCE", 0)
    turns = _images.LARGE_PIECES if codec == "pybase64" else _images.SLOW_PIECES
    await sent_picture(a_picture(10))  # from here on it is known which encoder there is
    content = a_picture(2 * LARGE_PIECE)
    request = VideoRequest("drift", content)
    async with anyio.create_task_group() as tasks:
        stalled = anyio.Event()
        holding = []

        async def stall():
            async with create_body(request) as body:
                chunks = body.chunks()
                await anext(chunks)
                holding.append(len(await anext(chunks)))
                assert holding[-1] > SMALL_PIECE * 4 // 3
                if len(holding) == turns:
                    stalled.set()
                await anyio.sleep_forever()

        for _ in range(turns):
            tasks.start_soon(stall)
        await stalled.wait()
        async with create_body(request) as body:
            sizes = [len(chunk) async for chunk in body.chunks()]
        assert max(sizes) <= SMALL_PIECE * 4 // 3
        assert sum(sizes) == body.length
        tasks.cancel_scope.cancel()
    async with create_body(request) as body:
        assert max([len(chunk) async for chunk in body.chunks()]) > SMALL_PIECE * 4 // 3


async def test_reading_happens_in_worker_threads_that_are_not_the_applications():
    seen = set()
    applications = anyio.to_thread.current_default_thread_limiter()

    class Watched(io.BytesIO):
        def read(self, size=-1):
            seen.add((threading.get_ident(), applications.borrowed_tokens))
            return super().read(size)

    await sent_picture(Watched(a_picture(LARGE_PIECE)))
    assert {borrowed for _, borrowed in seen} == {0}
    assert threading.get_ident() not in {thread for thread, _ in seen}


async def test_the_first_look_for_pybase64_is_not_made_by_the_event_loop(monkeypatch):
    looked = []

    class Finder:
        @staticmethod
        def find_spec(name, path, target=None):
            if name == "pybase64":
                looked.append(threading.get_ident())
                raise ImportError(name)

    monkeypatch.delitem(sys.modules, "pybase64", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    content = a_picture(100)
    for image in (content, a_data_uri(content), io.BytesIO(content)):
        _base64.forget_codec()
        assert await sent_picture(image) == ("image/jpeg", content)
    monkeypatch.undo()
    _base64.forget_codec()
    assert len(looked) >= 3
    assert threading.get_ident() not in looked


async def test_a_large_picture_is_sent_and_logged(caplog, monkeypatch):
    monkeypatch.setattr(_images, "LARGE_PICTURE", 1000)
    with caplog.at_level(logging.WARNING, logger="grok_video"):
        await sent_picture(a_picture(1000))
        assert not caplog.records
        await sent_picture(a_picture(1001))
    assert [record.name for record in caplog.records] == ["grok_video"]


async def test_memory_of_another_shape_is_sent_as_its_bytes():
    content = a_picture(99)
    assert (await sent_picture(Image("bytes", memoryview(content).cast("B", (9, 11)))))[
        1
    ] == content

"""Open files and pipes are read from where they stood, and nobody waits for a silent one."""

from __future__ import annotations

import base64
import gc
import gzip
import io
import os
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import zipfile

import anyio
import anyio.lowlevel
import pytest

from grok_video import (
    APITimeoutError,
    InvalidRequest,
    VideoRequest,
    _openfiles,
)
from grok_video._body import create_body
from grok_video._images import LARGE_PIECE
from grok_video._pictures import SMALL, lock_of
from grok_video._policies import Deadline
from grok_video._transports._loops import current_time

from .conftest import JPEG, Pipe, a_picture, refusal, sent_picture, whole


async def test_a_file_is_read_from_where_it_stood_and_left_there_open():
    content = a_picture(LARGE_PIECE + 10)
    file = io.BytesIO(b"header" + content)
    file.seek(6)
    assert await sent_picture(file) == ("image/jpeg", content)
    assert file.tell() == 6
    assert not file.closed


async def test_a_picture_in_memory_is_sent_as_it_was_and_not_moved_by_it():
    content = a_picture(LARGE_PIECE + 10)
    file = io.BytesIO(b"header" + content)
    file.seek(6)
    async with create_body(VideoRequest("drift", file)) as body:
        file.seek(0, os.SEEK_END)
        file.write(b"the next picture")
        assert base64.b64encode(content) in await whole(body)
        assert file.tell() == len(file.getvalue())


async def test_an_upload_needs_no_new_thread_for_each_piece_of_its_file():
    class Telling(io.BytesIO):
        """Knows which threads have read it."""

        def read(self, size=-1):
            threads.add(threading.current_thread())
            return super().read(size)

    threads = set()
    file = Telling(a_picture(10 * LARGE_PIECE))
    async with create_body(VideoRequest("drift", file)) as body:
        await whole(body)
    assert len(threads) <= 2, "one, and one more if it came back a moment too late"


@pytest.mark.parametrize("kind", [io.BytesIO, type("Subclass", (io.BytesIO,), {})])
async def test_two_creates_may_read_one_file_object_at_the_same_time(kind):
    content = a_picture(4 * LARGE_PIECE)
    file = kind(content)
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
    monkeypatch.setattr(_openfiles, "LARGEST_UNSEEKABLE", 100_000)
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


class Silent(io.BytesIO):
    """A file on a network that does not answer: it says when it is read, and waits for that."""

    def __init__(self, content):
        super().__init__(content)
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.readers = set()

    def read(self, size=-1):
        self.readers.add(threading.get_ident())
        self.begun.set()
        assert self.may_go_on.wait(5), "it was never let go on"
        return super().read(size)


async def test_files_that_do_not_answer_hold_up_no_other_upload(tmp_path):
    content = a_picture(LARGE_PIECE)
    path = tmp_path / "cat.jpg"
    path.write_bytes(content)
    silent = [Silent(content) for _ in range(4)]
    seen = []

    async def send(file):
        seen.append(await sent_picture(file))

    async with anyio.create_task_group() as tasks:
        for file in silent:
            tasks.start_soon(send, file)
        while not all(file.begun.is_set() for file in silent):
            await anyio.lowlevel.checkpoint()
        with anyio.fail_after(4):
            for healthy in (path, content, io.BytesIO(content)):
                assert await sent_picture(healthy) == ("image/jpeg", content)
        assert seen == []
        for file in silent:
            file.may_go_on.set()
    assert seen == [("image/jpeg", content)] * 4


async def test_a_file_that_does_not_answer_is_left_at_the_end_of_the_call_to_one_thread():
    content = a_picture(1000)
    file = Silent(content)
    for _ in range(3):
        with pytest.raises(APITimeoutError, match="nothing was sent"):
            async with create_body(
                VideoRequest("drift", file), Deadline.after(current_time(), 0.05)
            ):
                pytest.fail("a body was made")
    reading = [one for one in threading.enumerate() if one.name == "grok_video reading a file"]
    assert {one.ident for one in reading} >= file.readers
    assert len(file.readers) == 1
    file.may_go_on.set()
    assert await sent_picture(file) == ("image/jpeg", content)


async def test_a_file_is_back_in_its_place_when_a_call_has_ended_that_had_no_time_for_it():
    class Slow(io.BytesIO):
        def read(self, size=-1):
            piece = super().read(size)
            threading.Event().wait(0.2)
            return piece

    file = Slow(b"header" + a_picture(1000))
    file.seek(6)
    with pytest.raises(APITimeoutError, match="nothing was sent"):
        async with create_body(VideoRequest("drift", file), Deadline.after(current_time(), 0.05)):
            pytest.fail("a body was made")
    assert file.tell() == 6


async def test_an_upload_in_the_midst_of_which_a_file_is_silent_ends_soon_when_cancelled():
    file = Silent(a_picture(2 * LARGE_PIECE))
    file.may_go_on.set()
    with anyio.fail_after(4):
        async with (
            create_body(VideoRequest("drift", file)) as body,
            anyio.create_task_group() as tasks,
        ):
            file.may_go_on.clear()
            file.begun.clear()

            async def send():
                async for _ in body.chunks():
                    pass

            tasks.start_soon(send)
            while not file.begun.is_set():
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    file.may_go_on.set()


async def test_an_upload_that_is_cancelled_just_as_its_file_is_turned_to_locks_no_other_out():
    content = a_picture(1000)
    file = Silent(content)
    file.may_go_on.set()
    place = lock_of(file)

    def is_turned_to():
        frames = sys._current_frames().values()
        return any(frame.f_code is type(place).__enter__.__code__ for frame in frames)

    async def send():
        try:
            await sent_picture(file)
        finally:
            ended.append(True)

    ended = []
    with anyio.fail_after(4):
        async with anyio.create_task_group() as tasks:
            with place:
                tasks.start_soon(send)
                while not is_turned_to():
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
                while not ended:
                    await anyio.lowlevel.cancel_shielded_checkpoint()
        assert await sent_picture(file) == ("image/jpeg", content)


class Place:
    """A file of many parts that has one place, and sees whether two threads are at it."""

    def __init__(self, content):
        self._content = io.BytesIO(content)
        self._inside = 0
        self.most = 0

    def seek(self, offset):
        return self._content.seek(offset)

    def read(self, size):
        self._inside += 1
        self.most = max(self.most, self._inside)
        threading.Event().wait(0.02)  # long enough for any other thread to come
        piece = self._content.read(size)
        self._inside -= 1
        return piece


class Member(io.RawIOBase):
    """A part of such a file, as the members of an archive are."""

    def __init__(self, place, start, size):
        self._place, self._start, self._size, self._at = place, start, size, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self._at

    def seek(self, offset, whence=os.SEEK_SET):
        self._at = offset + (self._size if whence == os.SEEK_END else 0)
        return self._at

    def readinto(self, buffer):
        self._place.seek(self._start + self._at)
        piece = self._place.read(min(len(buffer), self._size - self._at))
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def with_a_buffer_of_its_own(raw):
    """Have a file of its own, found before the one it shares."""
    own = vars(raw).copy()
    vars(raw).clear()
    vars(raw).update({"_buffer": io.BytesIO()} | own)
    return raw


def with_its_reader(raw):
    """Lie in a circle of files that hold each other."""
    raw.reader = io.BytesIO.__new__(type("Reader", (io.BytesIO,), {}))
    raw.reader.member = raw
    return raw


@pytest.mark.parametrize(
    "wrap", [lambda raw: raw, io.BufferedReader, with_a_buffer_of_its_own, with_its_reader]
)
async def test_files_that_share_one_place_are_read_one_after_the_other(wrap):
    """Two threads in it would send pieces of one picture as another's, and both are paid for."""
    pictures = [a_picture(SMALL + number) for number in range(4)]
    place, start = Place(b"".join(pictures)), 0
    members, seen = [], []
    for picture in pictures:
        members.append(wrap(Member(place, start, len(picture))))
        start += len(picture)

    async def send(file):
        seen.append((await sent_picture(file))[1])

    async with anyio.create_task_group() as tasks:
        for member in members:
            tasks.start_soon(send, member)
    assert sorted(seen) == sorted(pictures)
    assert place.most == 1


async def test_a_member_of_a_tar_is_refused_and_one_of_a_zip_is_not(tmp_path):
    """Reading on in a tar moves all its members; those of a zip file have a lock."""
    content = a_picture(LARGE_PIECE)
    (tmp_path / "cat.jpg").write_bytes(content)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "cat.jpg", "cat.jpg")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "cat.jpg", "cat.jpg")
    with tarfile.open(tmp_path / "a.tar") as archive:
        member = archive.extractfile("cat.jpg")
        assert "pass its bytes, that is .read()" in await refusal(member)
        assert await sent_picture(member.read()) == ("image/jpeg", content)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive, archive.open("cat.jpg") as member:
        assert await sent_picture(member) == ("image/jpeg", content)


async def test_what_cannot_seek_is_sent_whole_or_refused_however_often_it_is_given():
    content = a_picture(SMALL * 4)
    pipe, seen = Pipe(content), []

    async def send():
        try:
            seen.append(await sent_picture(pipe))
        except InvalidRequest as error:
            assert "was read already" in str(error)

    async with create_body(VideoRequest("drift", pipe)), anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(send)
    assert seen
    assert seen == [("image/jpeg", content)] * len(seen)
    assert "cannot seek can be sent once, and was read already" in await refusal(pipe)


async def test_what_cannot_seek_may_be_sent_again_until_it_was_accepted():
    content = a_picture(SMALL * 4)
    pipe = Pipe(content)
    with pytest.raises(ConnectionError):
        async with create_body(VideoRequest("drift", pipe)):
            raise ConnectionError
    assert await sent_picture(pipe) == ("image/jpeg", content)


async def test_what_cannot_seek_and_broke_while_it_was_read_is_not_taken_for_its_rest():
    class Breaks(Pipe):
        def read(self, size=-1):
            if self._rest.tell():
                raise OSError("it broke")
            return super().read(size)

    pipe = Breaks(a_picture(SMALL * 4))
    assert "it broke" in await refusal(pipe)
    assert "was read already" in await refusal(pipe)


async def test_what_cannot_seek_and_is_no_picture_is_not_kept():
    pipe = Pipe(bytes(10_000_000))
    tracemalloc.start()
    try:
        assert "must be a JPEG" in await refusal(pipe)
        gc.collect()  # the refusal, and with it its frames
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000
    assert "was read already" in await refusal(pipe)

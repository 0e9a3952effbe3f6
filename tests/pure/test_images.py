"""Pictures become bodies that are exact, restartable and refused before anything is sent."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import logging
import os
import random
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import anyio
import anyio.lowlevel
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok_video import (
    Image,
    InvalidRequest,
    VideoRequest,
    _base64,
    _images,
    _pictures,
)
from grok_video._images import LARGE_PIECE, SMALL_PIECE, create_body
from grok_video._pictures import SMALL

JPEG = b"\xff\xd8\xff\xe0"
PNG = b"\x89PNG\r\n\x1a\n"
WEBP = b"RIFF\x00\x00\x00\x00WEBP"
TYPES = {JPEG: "image/jpeg", PNG: "image/png", WEBP: "image/webp"}
#: Around every border there is: a triple, the inline limit, a small piece, a large one, several.
SIZES = sorted(
    {
        border + step
        for border in (21, SMALL, SMALL_PIECE, LARGE_PIECE, 2 * LARGE_PIECE + SMALL_PIECE)
        for step in (-1, 0, 1)
    }
)


@pytest.fixture(params=["asyncio", "trio"], scope="module")
def anyio_backend(request):
    return request.param


@pytest.fixture(params=["pybase64", "stdlib"])
def codec(request, monkeypatch):
    """Run the test with either base64 there is."""
    if request.param == "stdlib":
        monkeypatch.setitem(sys.modules, "pybase64", None)
    else:
        assert find_spec("pybase64"), "the extra `speed` is part of the tests"
    _base64.forget_codec()
    yield request.param
    monkeypatch.undo()
    _base64.forget_codec()


def a_picture(size, magic=JPEG):
    return magic + random.Random(size).randbytes(size - len(magic))


def a_data_uri(content, mime="image/jpeg"):
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


async def whole(body):
    return b"".join([chunk async for chunk in body.chunks()])


async def sent(image, prompt="drift", **settings):
    """Return the document that would be sent, checked against the announced length."""
    async with create_body(VideoRequest(prompt, image, **settings)) as body:
        content = await whole(body)
        assert len(content) == body.length
        assert await whole(body) == content, "a second round must give the same body"
    return json.loads(content)


async def sent_picture(image):
    """Return (type, content) of the picture that would be sent."""
    document = await sent(image)
    head, _, payload = document["image"]["url"].partition(",")
    return head.removeprefix("data:").removesuffix(";base64"), base64.b64decode(
        payload, validate=True
    )


async def refusal(image):
    """Return the refusal of an image, which comes before there is a body."""
    with pytest.raises(InvalidRequest) as caught:
        async with create_body(VideoRequest("drift", image)):
            pytest.fail("a body was made")
    assert caught.value.field == "image"
    assert str(caught.value).count("Nothing was sent") == 1
    return str(caught.value)


def sources(content, folder):
    path = folder / "picture"
    path.write_bytes(content)
    return {
        "path": path,
        "bytes": content,
        "data": a_data_uri(content),
        "file": io.BytesIO(content),
        "pipe": Pipe(content),
    }


class Pipe(io.RawIOBase):
    """A binary file that cannot seek and gives little at a time."""

    def __init__(self, content):
        self._rest = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._rest.readinto(memoryview(buffer)[:50_000])


# --- exactness -----------------------------------------------------------------------------------


@given(
    magic=st.sampled_from(sorted(TYPES)),
    rest=st.binary(min_size=8, max_size=300),
    prompt=st.text(min_size=1).filter(
        lambda text: text.strip() and text.encode("utf-8", "replace").decode() == text
    ),
    kind=st.sampled_from(["bytes", "data", "file"]),
)
async def test_a_body_says_what_was_asked_and_nothing_else(magic, rest, prompt, kind):
    content = magic + rest
    image = {
        "bytes": content,
        "data": a_data_uri(content, TYPES[magic]),
        "file": io.BytesIO(content),
    }[kind]
    document = await sent(image, prompt=prompt, duration=6)
    assert document == {
        "model": "grok-imagine-video-1.5",
        "prompt": prompt,
        "duration": 6,
        "image": {"url": a_data_uri(content, TYPES[magic])},
    }


@pytest.mark.parametrize("size", SIZES)
async def test_a_picture_of_any_size_arrives_byte_for_byte(size, codec, tmp_path):
    content = a_picture(size)
    for kind, image in sources(content, tmp_path).items():
        assert await sent_picture(image) == ("image/jpeg", content), kind


async def test_the_first_piece_of_a_body_waits_for_nothing(tmp_path):
    """A connection is taken for it by then, which must not grow old before its first byte."""
    content = a_picture(LARGE_PIECE * 2)
    for image in [*sources(content, tmp_path).values(), "https://example.com/a.jpg", None]:
        async with create_body(VideoRequest("drift", image)) as body:
            with pytest.raises(StopIteration) as first:
                body.chunks().__anext__().send(None)
            assert first.value.value.startswith(b"{")


async def test_a_request_without_a_picture_is_one_small_chunk():
    async with create_body(VideoRequest('say "hi" 🐈')) as body:
        chunks = [chunk async for chunk in body.chunks()]
    assert len(chunks) == 1
    assert body.length == len(chunks[0])
    assert json.loads(chunks[0])["prompt"] == 'say "hi" 🐈'


@pytest.mark.parametrize(
    "url",
    ["https://host/cat.jpg?a=1&b=2#c", 'https://host/"quoted"\\back.jpg', "https://host/é🐈.png"],
)
async def test_a_url_is_sent_as_it_is(url):
    assert (await sent(url))["image"] == {"url": url}


async def test_the_type_is_told_by_the_bytes_not_by_the_name(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(a_picture(100, WEBP))
    assert (await sent_picture(path))[0] == "image/webp"


async def test_a_data_uri_with_the_type_of_another_picture_is_sent_with_its_own():
    content = a_picture(100)
    uri = a_data_uri(content, "image/png")
    assert await sent_picture(uri) == ("image/jpeg", content)


async def test_wrapped_or_percent_encoded_base64_is_the_same_picture(codec):
    content = a_picture(SMALL + 5)
    head = "data:image/jpeg;base64,"
    wrapped = head + base64.encodebytes(content).decode().replace("\n", "\r\n")
    escaped = head + quote(base64.b64encode(content).decode(), safe="")
    assert "%2B" in escaped
    assert await sent_picture(wrapped) == ("image/jpeg", content)
    assert await sent_picture(escaped) == ("image/jpeg", content)


async def test_no_chunk_is_large(tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(a_picture(5 * LARGE_PIECE))
    async with create_body(VideoRequest("drift", path)) as body:
        longest = max([len(chunk) async for chunk in body.chunks()])
    assert longest <= LARGE_PIECE * 4 // 3


async def test_after_each_large_chunk_comes_a_tiny_one_for_transports_to_keep():
    """A transport holds its last chunk while it waits; fifty that wait must not hold fifty MiB."""
    async with create_body(VideoRequest("drift", a_picture(3 * LARGE_PIECE + 1))) as body:
        sizes = [len(chunk) async for chunk in body.chunks()]
    large = [place for place, size in enumerate(sizes) if size > SMALL_PIECE * 4 // 3]
    assert len(large) == 3
    assert all(sizes[place + 1] <= 8 for place in large)


async def test_nothing_prints_the_picture():
    uri = a_data_uri(a_picture(1000))
    async with create_body(VideoRequest("drift", uri)) as body:
        assert len(repr(body)) < 100
        assert len(repr(body.chunks())) < 200


# --- open files ----------------------------------------------------------------------------------


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


# --- Pillow --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *((mode, "JPEG") for mode in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")),
        *((mode, "PNG") for mode in ("LA", "La", "PA", "RGBA", "RGBa", "I;16")),
    ],
)
async def test_a_pil_image_of_any_mode_becomes_png_only_where_it_must(mode, kind):
    _, content = await sent_picture(PIL.Image.new(mode, (32, 24)))
    with PIL.Image.open(io.BytesIO(content)) as seen:
        assert (seen.format, seen.size) == (kind, (32, 24))


async def test_a_pil_image_that_is_opaque_all_over_is_a_jpeg():
    assert (await sent_picture(PIL.Image.new("RGBA", (8, 8), "red")))[0] == "image/jpeg"


async def test_transparency_survives():
    _, content = await sent_picture(PIL.Image.new("RGBA", (8, 8), (255, 0, 0, 128)))
    with PIL.Image.open(io.BytesIO(content)) as seen:
        assert seen.getpixel((0, 0)) == (255, 0, 0, 128)


async def test_a_photograph_that_lies_on_its_side_is_sent_upright(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (32, 16)).save(tmp_path / "side.jpg", exif=exif)
    with PIL.Image.open(tmp_path / "side.jpg") as image:
        _, content = await sent_picture(image)
    with PIL.Image.open(io.BytesIO(content)) as seen:
        assert seen.size == (16, 32)


async def test_a_pil_image_that_cannot_be_read_is_refused(tmp_path):
    path = tmp_path / "cut.jpg"
    PIL.Image.effect_noise((256, 256), 90).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with PIL.Image.open(path) as image:
        assert "must be a PIL image that can be saved" in await refusal(image)
    assert "convert it to L or RGB" in await refusal(PIL.Image.new("F", (8, 8)))


# --- refusals ------------------------------------------------------------------------------------


async def test_a_missing_file_is_refused(tmp_path):
    message = await refusal(tmp_path / "nowhere.jpg")
    assert "must be a file that exists" in message
    assert "nowhere.jpg" in message


async def test_a_folder_is_refused(tmp_path):
    assert "this is a folder" in await refusal(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
async def test_a_named_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a pipe or a device" in await refusal(tmp_path / "pipe")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no devices here")
async def test_a_device_is_refused():
    assert "not a pipe or a device" in await refusal(Path("/dev/zero"))


async def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    path = tmp_path / "secret.jpg"
    path.write_bytes(a_picture(100))
    path.chmod(0)
    # root may read everything; "nobody" (65534) may not, and it counts for all threads.
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        message = await refusal(path)
    finally:
        os.seteuid(me)
    assert "must be a file that can be read (Permission denied)" in message


async def test_a_path_that_cannot_be_one_is_refused():
    assert "must be a file that can be read" in await refusal(Path("cat\0.jpg"))
    assert "must be a file that can be read" in await refusal(Path("x" * 5000))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "must not be empty"),
        (b"GIF89a" + bytes(50), "looks like a GIF"),
        (b"this is no picture at all", "has the bytes of none of them"),
        (b"\xff\xd8", "has the bytes of none of them"),
    ],
)
async def test_what_is_no_picture_is_refused_wherever_it_comes_from(content, words, tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(content)
    assert words in await refusal(path)
    assert words in await refusal(io.BytesIO(content))
    assert words in await refusal(Pipe(content))
    if content:
        assert words in await refusal(a_data_uri(content, "image/png"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text[:-1], "no multiple of 4"),
        (lambda text: text.replace("+", " "), "was a '+' decoded as a space?"),
        (lambda text: text.replace("+", "-").replace("/", "_"), "not the one for URLs"),
        (lambda text: text[:40] + "=" + text[41:], "only A-Z"),
        (lambda text: text[:40] + "é" + text[41:], "base64"),
        (lambda text: text[:40] + "\udc80" + text[41:], "base64"),
        (lambda text: text[:-4] + "A===", "only A-Z"),
        (lambda text: "====", "only A-Z"),
        (lambda text: text[:40] + "!" + text[41:], "only A-Z"),
    ],
)
async def test_a_data_uri_with_broken_base64_is_refused(spoil, words, codec):
    for size in (100, 3 * SMALL):
        spoiled = spoil(base64.b64encode(a_picture(size)).decode())
        message = await refusal(f"data:image/jpeg;base64,{spoiled}")
        assert words in message
        assert len(message) < 400


async def test_padding_between_two_looks_is_found(codec, monkeypatch):
    monkeypatch.setattr(_pictures, "_VALIDATED_AT_ONCE", 16)
    payload = base64.b64encode(a_picture(60)).decode()
    assert "only A-Z" in await refusal(f"data:image/jpeg;base64,{payload[:15]}={payload[16:]}")


@pytest.mark.parametrize("uri", ["data:text/plain;base64,aGk=", "data:image/gif;base64,R0lGODlh"])
def test_a_data_uri_of_another_type_is_refused_at_once(uri):
    with pytest.raises(InvalidRequest, match="must be a data URI of type image/jpeg"):
        VideoRequest("drift", uri)


def test_a_string_is_never_a_path(tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(a_picture(100))
    with pytest.raises(InvalidRequest, match=r"pathlib\.Path"):
        VideoRequest("drift", str(path))


async def test_text_files_closed_files_and_async_files_are_refused(tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(a_picture(100))

    class Upload:
        async def read(self, size):
            pytest.fail("it was read")

    with path.open("rb") as closed:
        pass
    with path.open("ab") as for_writing:
        assert "must be a readable file" in await refusal(for_writing)
    assert "must be a readable file" in await refusal(closed)
    assert "binary mode: its read() gave str" in await refusal(io.StringIO("text"))
    assert "pass the plain file under it" in await refusal(Upload())


# --- changes on the way --------------------------------------------------------------------------


def grow(path):
    with path.open("ab") as file:
        file.write(b"more")


def shrink(path):
    os.truncate(path, 100)


def rewrite(path):
    measured = path.stat()
    path.write_bytes(a_picture(measured.st_size, PNG))
    os.utime(path, ns=(measured.st_atime_ns, measured.st_mtime_ns + 1))


@pytest.mark.parametrize("change", [grow, shrink, rewrite, Path.unlink])
async def test_a_file_that_changes_while_it_is_sent_never_completes_its_body(change, tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(a_picture(LARGE_PIECE * 2))
    got = 0
    async with create_body(VideoRequest("drift", path)) as body:
        chunks = body.chunks()
        for _ in range(2):
            got += len(await anext(chunks))
        change(path)
        with pytest.raises(InvalidRequest, match="must not change while it is being sent") as info:
            async for chunk in chunks:
                got += len(chunk)
        assert got < body.length
        assert body.failure is info.value


async def test_a_file_object_that_grows_or_shrinks_is_found_out():
    for change in (lambda file: file.truncate(50), lambda file: file.write(b"more")):
        file = io.BytesIO(a_picture(SMALL))
        async with create_body(VideoRequest("drift", file)) as body:
            file.seek(0, os.SEEK_END)
            change(file)
            file.seek(0)
            with pytest.raises(InvalidRequest, match="must not change"):
                await whole(body)


async def test_the_reason_of_a_break_stands_on_the_body_until_the_next_round(tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(content := a_picture(SMALL))
    measured = path.stat()
    async with create_body(VideoRequest("drift", path)) as body:
        grow(path)
        with pytest.raises(InvalidRequest, match="must not change") as caught:
            await whole(body)
        assert body.failure is caught.value
        path.write_bytes(content)
        os.utime(path, ns=(measured.st_atime_ns, measured.st_mtime_ns))
        await whole(body)
        assert body.failure is None


# --- what is held --------------------------------------------------------------------------------


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


async def test_uploads_that_stall_hold_up_no_other(monkeypatch):
    monkeypatch.setattr(_images, "PATIENCE", 0)
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
                if len(holding) == _images.LARGE_PIECES:
                    stalled.set()
                await anyio.sleep_forever()

        for _ in range(_images.LARGE_PIECES):
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
            borrowed = anyio.from_thread.run_sync(lambda: applications.borrowed_tokens)
            seen.add((threading.get_ident(), borrowed))
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

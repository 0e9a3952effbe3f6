"""What is no picture is refused before anything is sent, with what is wrong."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

import pytest

from grok_video import (
    InvalidRequest,
    VideoRequest,
    _pictures,
)
from grok_video._pictures import SMALL

from .conftest import Pipe, a_data_uri, a_picture, refusal


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


async def test_a_file_that_was_just_written_is_told_to_be_wound_back():
    file = io.BytesIO()
    file.write(a_picture(100))
    assert "is at its end: seek(0) first" in await refusal(file)


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

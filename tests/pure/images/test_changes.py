"""A file that changes while it is sent never completes its body."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from grok_video import (
    InvalidRequest,
    VideoRequest,
)
from grok_video._body import create_body
from grok_video._images import LARGE_PIECE
from grok_video._pictures import SMALL, difference, is_another

from .conftest import JPEG, PNG, a_picture, grow, whole


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


async def test_a_file_that_is_another_one_of_the_same_size_is_found_out_and_told(tmp_path):
    """In the same second as well, and where it was given the time of the one before it."""
    path, other = tmp_path / "cat.jpg", tmp_path / "new.jpg"
    path.write_bytes(a_picture(SMALL))
    measured = path.stat()
    async with create_body(VideoRequest("drift", path)) as body:
        rewrite(path)
        with pytest.raises(InvalidRequest, match=r"modified since, at .*UTC"):
            await whole(body)
        other.write_bytes(a_picture(SMALL, PNG))
        os.utime(other, ns=(measured.st_atime_ns, measured.st_mtime_ns))
        other.replace(path)
        with pytest.raises(InvalidRequest, match="another file is in its place"):
            await whole(body)


def seen_with(found, place, value, **more):
    """Return what a file system told, but for one number."""
    times = {name: getattr(found, name) for name in ("st_mtime", "st_mtime_ns", "st_ctime_ns")}
    return os.stat_result((*found[:place], value, *found[place + 1 :]), times | more)


def test_a_file_that_was_modified_after_the_year_9999_is_told(tmp_path):
    found = tmp_path.stat()
    late = seen_with(found, 8, 253402300800, st_mtime=253402300800.0, st_mtime_ns=1)
    assert difference(found, late) == "it was modified since"


def test_a_file_that_its_mount_numbers_anew_is_the_same_one(tmp_path):
    found = tmp_path.stat()
    numbered = seen_with(found, 1, found.st_ino + 1)
    assert numbered.st_ino != found.st_ino
    assert not is_another(found, numbered)


async def test_a_relative_path_is_the_same_file_after_the_process_has_moved(tmp_path, monkeypatch):
    for name, magic in (("here", JPEG), ("there", PNG)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cat.jpg").write_bytes(a_picture(SMALL, magic))
    monkeypatch.chdir(tmp_path / "here")
    request = VideoRequest("drift", Path("cat.jpg"))
    async with create_body(request) as body:
        monkeypatch.chdir(tmp_path / "there")
        assert b"image/jpeg" in await whole(body)
    assert request.image.describe() == "cat.jpg"


async def test_a_file_object_that_grows_or_shrinks_is_found_out(tmp_path):
    for change in (lambda file: file.truncate(50), lambda file: file.write(b"more")):
        (tmp_path / "cat.jpg").write_bytes(a_picture(SMALL))
        file = (tmp_path / "cat.jpg").open("r+b")
        async with create_body(VideoRequest("drift", file)) as body:
            file.seek(0, os.SEEK_END)
            change(file)
            file.seek(0)  # and writes what was written
            with file, pytest.raises(InvalidRequest, match="must not change"):
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

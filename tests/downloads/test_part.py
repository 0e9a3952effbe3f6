"""The part file and its own rules, on a real disk."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from grok_video import DestinationError, DownloadError, LinkExpired, _disk
from grok_video._partfile import Batch, PartFile
from grok_video._ranges import Version

from ..disks import mounted
from .fileserver import MEDIUM, MIB, SMALL, Chunked, Cut, Say, boxed
from .harness import ID, Downloads, is_whole, names


@pytest.mark.parametrize("change", ["cut", "grown"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_part_that_changed_after_its_last_byte_is_not_called_the_video(
    tmp_path: Path, change: str, overwrite: bool
) -> None:
    path, part = tmp_path / "cat.mp4", tmp_path / "cat.mp4.part"
    if overwrite:
        path.write_bytes(b"an older video")
    file = PartFile(path, overwrite=overwrite, sha256=True, request_id=ID)
    file.open()
    version = Version(total=len(SMALL), etag='"v1"')
    file.store(Batch(restart=version, chunks=[SMALL], size=len(SMALL)))
    os.truncate(part, len(SMALL) + (1000 if change == "grown" else -1000))
    with pytest.raises(DestinationError, match=r"cat\.mp4\.part was changed by somebody"):
        file.finish(Batch())
    assert not file.saved
    assert file.close(Batch()) == 0, "and nothing of it is believed"
    assert names(tmp_path) == ({"cat.mp4"} if overwrite else set())
    assert not overwrite or path.read_bytes() == b"an older video"


@pytest.mark.parametrize("always", [None, Chunked()], ids=["with a length", "without one"])
@pytest.mark.parametrize("between", ["nothing", "a try that is closed at once"])
async def test_a_whole_video_is_kept_without_an_etag_where_its_name_was_taken(
    downloads: Downloads, tmp_path: Path, always: object, between: str
) -> None:
    """Nothing is to be added to it, so nobody need tell which version its rest is of."""
    path = tmp_path / "cat.mp4"
    downloads.server.data = data = boxed(200_000)
    downloads.server.etag, downloads.server.always = None, always
    error = await downloads.refused(
        DestinationError, path, on_bytes=lambda *_: path.write_bytes(b"theirs")
    )
    assert "made by somebody else" in str(error)
    assert error.bytes_kept == len(data)
    path.unlink()
    if between == "a try that is closed at once":
        file = PartFile(path, overwrite=False, sha256=True, request_id=ID)
        file.open()
        assert file.close(Batch()) == len(data)
    downloads.server.always = Say(404)
    assert is_whole(await downloads.save(path), path, data)
    assert len(downloads.server.requests) == 1
    assert names(tmp_path) == {"cat.mp4"}


async def test_a_whole_video_without_an_etag_that_somebody_changed_is_fetched_again(
    downloads: Downloads, tmp_path: Path
) -> None:
    path, part = tmp_path / "cat.mp4", tmp_path / "cat.mp4.part"
    downloads.server.etag = None
    await downloads.refused(DestinationError, path, on_bytes=lambda *_: path.write_bytes(b"theirs"))
    path.unlink()
    data = bytearray(part.read_bytes())
    data[77_777] ^= 1
    part.write_bytes(data)
    assert is_whole(await downloads.save(path), path, SMALL)
    assert downloads.server.ranges == [None, None]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("kept", ["a part", "the whole video"])
async def test_a_try_that_brings_nothing_leaves_what_another_job_kept(
    downloads: Downloads, tmp_path: Path, kept: str
) -> None:
    path = tmp_path / "cat.mp4"
    if kept == "a part":
        downloads.server.script.extend([Cut(100_000), *[Say(404)] * 5])
        await downloads.refused(LinkExpired, path)
    else:
        await downloads.refused(
            DestinationError, path, on_bytes=lambda *_: path.write_bytes(b"theirs")
        )
        path.unlink()
    before = contents(tmp_path)
    for answers in ([Say(503)] * 8, [Say(200, b"<html>")]):
        downloads.server.script.extend(answers)
        with pytest.raises(DownloadError) as caught:
            await downloads.save(path, request_id="another-job")
        assert (caught.value.bytes_kept, caught.value.part) == (0, None)
        assert contents(tmp_path) == before
    assert is_whole(await downloads.save(path), path, SMALL)
    is_asked = downloads.server.ranges[-1] == "bytes=100000-"
    assert is_asked == (kept == "a part"), "and of the whole one nothing is fetched again"


async def test_a_try_of_another_job_that_broke_leaves_nothing_of_either_that_misleads(
    downloads: Downloads, tmp_path: Path
) -> None:
    """What it began is its own to remove, also where the part was another's before."""
    path = tmp_path / "cat.mp4"
    downloads.server.script.extend([Cut(100_000), *[Say(404)] * 5])
    await downloads.refused(LinkExpired, path)
    downloads.server.etag = None
    downloads.server.script.extend([Cut(50_000), *[Say(404)] * 5])
    with pytest.raises(LinkExpired):
        await downloads.save(path, request_id="another-job")
    assert names(tmp_path) == set()


def a_part(path: Path, data: bytes, version: Version, *, request_id: str = ID) -> None:
    """Leave a part as a process does that was killed."""
    file = PartFile(path, overwrite=False, sha256=False, request_id=request_id)
    file.open()
    file.store(Batch(restart=version, chunks=[data], size=len(data)))
    file.forget()  # and nothing is written, sealed or removed any more


async def test_a_part_of_the_same_job_that_is_of_no_use_to_anybody_goes_with_a_try(
    downloads: Downloads, tmp_path: Path
) -> None:
    """Of a process that was killed, from a server without an ETag: nothing can be added to it."""
    path = tmp_path / "cat.mp4"
    a_part(path, MEDIUM[:MIB], Version(total=len(MEDIUM)))
    downloads.server.always = Say(404)
    await downloads.refused(LinkExpired, path)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("why", ["another boot", "an empty record", "a torn one", "no length"])
async def test_a_part_that_may_be_all_there_is_of_a_video_is_left_by_a_try_that_brings_nothing(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """It is not relied on, but a person may look at it: its link may be dead for good."""
    path, record = tmp_path / "cat.mp4", tmp_path / "cat.mp4.part.json"
    a_part(path, SMALL, Version(total=None if why == "no length" else len(SMALL)))
    if why == "another boot":
        monkeypatch.setattr(_disk, "boot", lambda: "another boot")
    elif why == "a torn one":
        record.write_bytes(record.read_bytes()[:-1])
    elif why == "an empty record":  # of a process that was killed while it noted the length
        record.write_bytes(b"")
    before = contents(tmp_path)
    downloads.server.always = Say(404)
    await downloads.refused(LinkExpired, path)
    assert contents(tmp_path) == before
    downloads.server.always = None
    assert is_whole(await downloads.save(path), path, SMALL)
    assert names(tmp_path) == {"cat.mp4"}


# Where nothing can be mounted, all of these have room enough.
async def test_a_part_of_another_job_gives_its_room_on_a_disk_that_is_nearly_full(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.data, path = MEDIUM, tmp_path / "disk" / "cat.mp4"
    with mounted(path.parent, "size=4m"):
        a_part(path, MEDIUM[: 2 * MIB], Version('"v1"'), request_id="another-job")
        assert is_whole(await downloads.save(path), path, MEDIUM)


@pytest.mark.parametrize(("hole", "needed"), [(False, MIB), (True, 3 * MIB)])
async def test_a_disk_is_full_where_not_even_the_room_of_the_part_would_do(
    downloads: Downloads, tmp_path: Path, hole: bool, needed: int
) -> None:
    """A hole in a file takes no room, and gives none back."""
    downloads.server.data, path = MEDIUM, tmp_path / "disk" / "cat.mp4"
    with mounted(path.parent, f"size={1 if hole else 3}m") as real:
        a_part(path, b"" if hole else MEDIUM[: 2 * MIB], Version('"v1"'), request_id="another-job")
        os.truncate(path.parent / "cat.mp4.part", 2 * MIB)
        if not real:
            assert is_whole(await downloads.save(path), path, MEDIUM)
            return
        error = await downloads.refused(DestinationError, path)
        assert f"the disk is full (the video needs {needed} bytes more" in str(error)
        assert (path.parent / "cat.mp4.part").stat().st_size == 2 * MIB, "it is left to its job"


@contextlib.contextmanager
def child_with(descriptor: int) -> Generator[None]:
    """Have a child that has this descriptor as well, and does not know of it."""
    command = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[descriptor])
    try:
        yield
    finally:
        command.communicate(timeout=30)


def test_a_child_that_was_forked_while_a_part_was_opened_does_not_keep_it(tmp_path: Path) -> None:
    def held() -> PartFile:
        file = PartFile(tmp_path / "cat.mp4", overwrite=False, sha256=False, request_id=ID)
        file.open()
        return file

    first = held()
    with child_with(first._descriptor):
        first.store(Batch(restart=Version('"v1"'), chunks=[SMALL], size=len(SMALL)))
        assert first.close(Batch()) == len(SMALL)
        assert held().close(Batch()) == len(SMALL)


async def test_a_part_that_a_backup_has_linked_is_gone_on_with_apart_from_it(
    downloads: Downloads, tmp_path: Path
) -> None:
    """A second name that is not the destination's is somebody's, and its file is not to change."""
    path, backup = tmp_path / "cat.mp4", tmp_path / "backup"
    downloads.server.script.extend([Cut(100_000), *[Say(404)] * 5])
    await downloads.refused(LinkExpired, path)
    backup.hardlink_to(tmp_path / "cat.mp4.part")
    assert is_whole(await downloads.save(path), path, SMALL)
    assert backup.read_bytes() == SMALL[:100_000]
    assert names(tmp_path) == {"cat.mp4", "backup"}

"""The place on disk: checked beforehand, never overwritten unasked, synced, locked."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import anyio
import pytest

from grok_video import DestinationError, LinkExpired, _disk, _download
from grok_video._models import Video

from ..disks import mounted
from .children import child
from .fileserver import MEDIUM, MIB, SMALL, Change, Chunked, Cut, FileServer, Hold, Say, clip
from .harness import ID, Downloads, descriptors, is_whole, names


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


@pytest.mark.parametrize("change", ["replaced", "cut", "removed"])
async def test_a_part_that_somebody_changes_is_not_called_the_video(
    downloads: Downloads, tmp_path: Path, change: str
) -> None:
    path, part = tmp_path / "cat.mp4", tmp_path / "cat.mp4.part"

    def meddle(here: int, _: int | None) -> None:
        if here < len(MEDIUM):
            return
        if change == "cut":
            os.truncate(part, 10)
        else:
            part.unlink(missing_ok=True)
            if change == "replaced":
                part.write_bytes(b"theirs")

    downloads.server.data = MEDIUM
    error = await downloads.refused(DestinationError, path, on_bytes=meddle)
    assert not path.exists()
    if change != "cut":
        assert (error.bytes_kept, error.part) == (0, None)
        assert not part.exists() or part.read_bytes() == b"theirs"


FORKING = """
import os, sys
from grok_video._partfile import Batch, PartFile
def held():
    part = PartFile(sys.argv[1], overwrite=False, sha256=False, request_id="r")
    part.open()
    return part
part = held()
ready, ends = os.pipe(), os.pipe()
if not (child := os.fork()):
    os.close(ends[1])
    os.write(ready[1], b".")
    os.read(ends[0], 1)
    os._exit(0)
os.read(ready[0], 1)
part.forget()  # the file stays, as after a transfer that broke
held().close(Batch())
os.close(ends[1])
os.waitpid(child, 0)
"""


def test_a_forked_child_holds_no_part_of_its_parent(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING, tmp_path / "cat.mp4"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")


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


async def test_what_a_sync_could_not_put_on_the_disk_is_fetched_again(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost write is told once, and its page may be gone: the next sync says that all is well."""
    failures: list[int] = []
    sync = os.fsync

    def lose(descriptor: int) -> None:
        if not failures:
            failures.append(os.pwrite(descriptor, bytes(4096), 100_000))
            raise OSError(errno.EIO, "Input/output error")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", lose)
    error = await downloads.refused(DestinationError, tmp_path / "cat.mp4")
    assert (error.bytes_kept, error.part) == (0, None)
    assert names(tmp_path) == set()
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.server.ranges == [None, None]


@pytest.mark.parametrize("code", ["EPERM", "EACCES", "EXDEV", "EMLINK", "EINVAL", "ENOSYS"])
async def test_no_hard_links_is_no_obstacle(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """File systems, and what guards them, have many words for that."""

    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, code), code)

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
        tmp_path / "\ud83d.mp4": "no lone surrogates",
        tmp_path / ("\ud83d" * 100): "no lone surrogates",
        tmp_path / "\ud83d" / "cat.mp4": "no lone surrogates",
    }.items():
        for overwrite in (False, True):
            error = await downloads.refused(DestinationError, destination, overwrite=overwrite)
            assert words in str(error)
            with pytest.raises(DestinationError, match=words):
                await _download.check_destination(destination, overwrite=overwrite, request_id=ID)
    assert downloads.server.requests == []
    assert names(tmp_path) == before


async def test_a_relative_path_in_a_folder_that_is_gone_is_refused_and_an_absolute_one_is_not(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for destination in ("cat.mp4", "", "../cat.mp4"):
        error = await downloads.refused(DestinationError, destination)
        assert "the working directory is gone; name the file by an absolute path" in str(error)
        with pytest.raises(DestinationError, match="the working directory is gone"):
            await _download.check_destination(destination, overwrite=True, request_id=ID)
    assert downloads.server.requests == []
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)


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
    part.unlink()
    part.write_bytes(b"half of a browser's download")
    (tmp_path / "snapshot").hardlink_to(part)
    for overwrite in (False, True):
        if overwrite:
            (tmp_path / "cat.mp4").write_bytes(b"an older video")
        error = await downloads.refused(DestinationError, tmp_path / "cat.mp4", overwrite=overwrite)
        assert "not a file of ours" in str(error)
    assert part.samefile(tmp_path / "snapshot")
    assert downloads.server.requests == []


FOREIGN = [
    b"mine",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"url": "https://files.example/cat.mp4", "format": 1}',
    b'{"format": {"filename": "cat.mp4"}}',
    b"\0" * 2**21,
]


@pytest.mark.parametrize("part", [None, b"", b"half of somebody's download"])
@pytest.mark.parametrize("content", FOREIGN, ids=lambda content: repr(content[:9]))
async def test_a_record_that_is_not_ours_is_left_alone(
    downloads: Downloads, tmp_path: Path, content: bytes, part: bytes | None
) -> None:
    record = tmp_path / "cat.mp4.part.json"
    record.write_bytes(content)
    if part is not None:
        (tmp_path / "cat.mp4.part").write_bytes(part)
    before = names(tmp_path)
    error = await downloads.refused(DestinationError, tmp_path / "cat.mp4")
    assert "cat.mp4.part.json is not a file of ours; move it away" in str(error)
    assert record.read_bytes() == content
    assert names(tmp_path) == before, "nothing new is left behind"
    assert part is None or (tmp_path / "cat.mp4.part").read_bytes() == part
    assert downloads.server.requests == []
    assert not any(str(tmp_path) in name for name in descriptors())


async def test_a_record_is_not_followed_anywhere(downloads: Downloads, tmp_path: Path) -> None:
    path, record, victim = (tmp_path / name for name in ("cat.mp4", "cat.mp4.part.json", "victim"))
    words = "cat.mp4.part.json is not a file of ours"
    record.symlink_to(victim)
    assert words in str(await downloads.refused(DestinationError, path))
    assert not victim.exists()
    victim.write_bytes(b'{"format": 1}')  # also where it leads to one of ours
    assert words in str(await downloads.refused(DestinationError, path))
    assert victim.read_bytes() == b'{"format": 1}'
    record.unlink()
    os.mkfifo(record)
    assert words in str(await downloads.refused(DestinationError, path))
    record.unlink()
    record.mkdir()
    assert words in str(await downloads.refused(DestinationError, path))
    assert names(tmp_path) == {record.name, victim.name}
    assert downloads.server.requests == []


@pytest.mark.parametrize("kind", ["file", "link"])
@pytest.mark.parametrize("end", ["whole", "broken", "given up", "begun anew"])
async def test_a_record_that_somebody_puts_in_the_place_of_ours_is_left_alone(
    downloads: Downloads, tmp_path: Path, end: str, kind: str
) -> None:
    """At every place where ours would be written or removed."""
    path, record, victim = (tmp_path / name for name in ("cat.mp4", "cat.mp4.part.json", "victim"))
    victim.write_bytes(b"precious")
    downloads.server.data = MEDIUM

    def replace(here: int, _: int | None) -> None:
        if here >= 2 * MIB and record.exists() and not record.is_symlink():
            record.unlink()
            if kind == "link":
                record.symlink_to(victim)
            else:
                record.write_bytes(b"precious")

    match end:
        case "whole":
            assert is_whole(await downloads.save(path, on_bytes=replace), path, MEDIUM)
        case "broken":
            downloads.server.script.extend([Cut(2 * MIB), *[Say(404)] * 5])
            await downloads.refused(LinkExpired, path, on_bytes=replace)
        case "given up":
            downloads.server.etag = None  # so that nothing of it can be used again
            downloads.server.script.extend([Cut(2 * MIB), *[Say(404)] * 5])
            await downloads.refused(LinkExpired, path, on_bytes=replace)
        case _:
            downloads.server.script.extend([Cut(2 * MIB), Change(clip(3 * MIB, 2), '"v2"')])
            error = await downloads.refused(DestinationError, path, on_bytes=replace)
            assert "cat.mp4.part.json is not a file of ours" in str(error)
    assert record.read_bytes() == victim.read_bytes() == b"precious"
    assert record.is_symlink() == (kind == "link")


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

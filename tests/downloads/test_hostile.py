"""What servers do that no specification allows, and folders that go away meanwhile."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import anyio
import pytest

from grok_video import AsyncClient, DestinationError, DownloadTimeout, Retry, Truncated, _disk
from grok_video._place import check
from grok_video.emulator import Emulator

from .fileserver import MIB, SMALL, Change, Cut, FileServer, Hold, Say, clip
from .harness import ID, Downloads, is_whole, names


async def test_a_range_that_brings_more_than_it_says_adds_nothing_foreign(
    downloads: Downloads, tmp_path: Path
) -> None:
    for path, end in (("middle.mp4", 150_000), ("end.mp4", 300_000)):
        body = SMALL[100_000:end] + b"X" * 10_000
        span = {"Content-Range": f"bytes 100000-{end - 1}/300000", "ETag": '"v1"'}
        downloads.server.script.extend([Cut(100_000), Say(206, body, span)])
        assert is_whole(await downloads.save(tmp_path / path), tmp_path / path, SMALL)


async def test_weak_etags_that_differ_tell_two_versions_of_one_second_apart(
    downloads: Downloads, tmp_path: Path
) -> None:
    other = clip(len(SMALL), seed=2)
    downloads.server.etag, downloads.server.modified = 'W/"1"', "Fri, 27 Nov 2026 20:00:00 GMT"
    downloads.server.script.extend([Cut(100_000), Change(other, 'W/"2"')])
    path = tmp_path / "cat.mp4"
    assert is_whole(await downloads.save(path), path, other)

    # Also for the next try, in another process.
    downloads.server.script.append(Cut(100_000))
    downloads.server.always = Say(503)
    await downloads.refused(Truncated, tmp_path / "dog.mp4")
    downloads.server.always = None
    downloads.server.data, downloads.server.etag = SMALL, 'W/"3"'
    path = tmp_path / "dog.mp4"
    assert is_whole(await downloads.save(path), path, SMALL)


async def test_after_one_odd_answer_the_rest_is_continued_again(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.data = clip(10 * MIB)
    cuts = [Cut(at * MIB) for at in (4, 6, 8)]
    downloads.server.script.extend([Cut(2 * MIB), Say(416), *cuts])
    path = tmp_path / "cat.mp4"
    assert is_whole(await downloads.save(path), path, downloads.server.data)
    assert downloads.server.sent < 13 * MIB  # the first two once more, and nothing else


async def test_a_file_that_changed_has_its_own_progress(
    downloads: Downloads, tmp_path: Path
) -> None:
    new = clip(9 * MIB, seed=2)
    downloads.server.data = clip(9 * MIB)
    downloads.server.script.extend([Cut(8 * MIB + 5), Change(new, '"v2"', at=MIB)])
    downloads.server.script.extend(Cut(MIB) for _ in range(7))
    path = tmp_path / "cat.mp4"
    assert is_whole(await downloads.save(path), path, new)


@pytest.mark.parametrize("coding", ["", "identity", "utf-8", "aws-chunked"])
async def test_a_word_that_compresses_nothing_is_no_reason_to_lose_a_video(
    downloads: Downloads, tmp_path: Path, coding: str
) -> None:
    headers = {"ETag": '"v1"', "Content-Encoding": coding}
    downloads.server.script.append(Say(200, SMALL, headers))
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)


async def test_a_download_tries_until_its_deadline_and_not_for_half_of_it(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.always = Say(503)
    began = anyio.current_time()
    await downloads.refused(
        DownloadTimeout, tmp_path / "cat.mp4", timeout=3.0, retry=Retry(base=20.0, cap=60.0)
    )
    # The first wait would be longer than all that is left: the last attempt is a second before.
    assert 1.9 < anyio.current_time() - began < 3.0
    assert len(downloads.server.requests) == 2


async def test_a_deadline_promises_nothing_that_is_not_kept(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.etag = None
    downloads.server.script.append(Hold(100_000))
    error = await downloads.refused(DownloadTimeout, tmp_path / "cat.mp4", timeout=0.5)
    assert error.bytes_kept == 0
    assert "continue" not in error.message
    assert names(tmp_path) == set()


async def test_a_folder_that_is_replaced_meanwhile_ends_the_download_and_holds_nothing(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.data = clip(5 * MIB)
    folder, away, done = tmp_path / "videos", tmp_path / "moved", list[int]()
    folder.mkdir()

    def replace(here: int, _: int | None) -> None:
        if here > 2 * MIB and not done:
            done.append(here)
            folder.rename(away)
            folder.write_bytes(b"a file")

    with pytest.raises(DestinationError) as caught:
        await downloads.save(folder / "cat.mp4", on_bytes=replace)
    assert caught.value.request_id == ID
    folder.unlink()
    away.rename(folder)
    path = folder / "cat.mp4"
    assert is_whole(await downloads.save(path), path, downloads.server.data)


async def test_a_relative_path_means_the_folder_of_the_call_also_after_the_wait(
    new_client: Callable[..., AsyncClient],
    grok_emulator_factory: Callable[..., Emulator],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = grok_emulator_factory(time_scale=1.0)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    client = new_client(slow)
    job = await client.submit("drift", duration=1)

    async def download() -> None:
        video = await job.download("cat.mp4")
        assert video.path == here / "cat.mp4"

    async def generate() -> None:
        await client.generate("drift", duration=1, save_to=Path("dog.mp4"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(download)
        tasks.start_soon(generate)
        while slow.accepted < 2:  # noqa: ASYNC110 - another thread counts
            await anyio.sleep(0.01)
        os.chdir(there)
        for create in slow.creates:
            slow.finish(create.request_id)
    await client.aclose()
    assert names(here) == {"cat.mp4", "dog.mp4"}
    assert names(there) == set()


@pytest.mark.parametrize("foreign", ["file", "folder", "link", "record"])
def test_a_part_that_is_not_ours_is_found_before_anything_is_paid(
    tmp_path: Path, foreign: str
) -> None:
    path, part = tmp_path / "cat.mp4", tmp_path / "cat.mp4.part"
    match foreign:
        case "file":
            part.write_bytes(b"somebody's")
        case "folder":
            part.mkdir()
        case "link":
            part.symlink_to(tmp_path / "elsewhere")
        case _:
            (tmp_path / "cat.mp4.part.json").write_text("somebody's")
    with pytest.raises(DestinationError, match="is not a file of ours; move it away"):
        check(path, overwrite=False, request_id=None)


@contextlib.contextmanager
def shared_folder(
    mode: int, monkeypatch: pytest.MonkeyPatch, **modes: int
) -> Generator[Path, None, None]:
    """Give a folder of ours with what a try has left in it, and be somebody else for a while."""
    with contextlib.ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(mode)
        for name, content in {
            "cat.mp4.part": SMALL[:1000],
            "cat.mp4.part.json": b'{"format": 1}',
            "dog.mp4": b"precious",
        }.items():
            (folder / name).write_bytes(content)
            (folder / name).chmod(modes.get(name, 0o666))
        if os.geteuid() == 0:
            os.seteuid(65534)
            undo.callback(os.seteuid, 0)
        else:  # who cannot be anybody else
            monkeypatch.setattr(os, "geteuid", lambda: 65534)
        yield folder


@pytest.mark.parametrize("name", ["cat.mp4.part", "cat.mp4.part.json"])
@pytest.mark.parametrize("mode", [0o444, 0o000])
def test_what_a_try_of_another_user_left_is_named_before_anything_is_paid(
    monkeypatch: pytest.MonkeyPatch, name: str, mode: int
) -> None:
    words = f"{name} may not be read and written by this user; move it away"
    with shared_folder(0o777, monkeypatch, **{name: mode}) as folder:
        with pytest.raises(DestinationError, match=re.escape(f": {words}. Nothing was sent")):
            check(folder / "cat.mp4", overwrite=False, request_id=None)
        with pytest.raises(PermissionError) as refused:
            os.open(folder / name, os.O_RDWR)
        assert _disk.words(refused.value) == words


@pytest.mark.parametrize(("name", "found"), [("dog.mp4", "dog.mp4"), ("cat.mp4", "cat.mp4.part")])
def test_what_only_its_owner_may_replace_is_named_before_anything_is_paid(
    monkeypatch: pytest.MonkeyPatch, name: str, found: str
) -> None:
    """As in /tmp, where anybody may write, and nobody may remove what is another's."""
    words = f": {found} is another user's, and its folder lets nobody else replace it"
    with shared_folder(0o1777, monkeypatch) as folder:
        with pytest.raises(DestinationError, match=re.escape(words)):
            check(folder / name, overwrite=True, request_id=None)
        check(folder / "new.mp4", overwrite=True, request_id=None)
    with shared_folder(0o777, monkeypatch) as folder:
        check(folder / name, overwrite=True, request_id=None)


async def test_a_part_of_ours_is_no_obstacle(downloads: Downloads, tmp_path: Path) -> None:
    server: FileServer = downloads.server
    server.script.append(Cut(100_000))
    server.always = Say(503)
    await downloads.refused(Truncated, tmp_path / "cat.mp4")
    assert names(tmp_path) == {"cat.mp4.part", "cat.mp4.part.json"}
    check(tmp_path / "cat.mp4", overwrite=False, request_id=None)

"""A download that is cancelled or killed keeps a part that the next one can use."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
from pathlib import Path

import anyio
import pytest

from grok_video import DownloadTimeout, _threads

from .children import child
from .fileserver import MEDIUM, MIB, SMALL, FileServer, Hold, clip
from .harness import Downloads, descriptors, is_whole, names


async def test_a_cancelled_download_keeps_its_part_and_nothing_open(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.data = MEDIUM
    downloads.server.script.append(Hold(2 * MIB))
    with anyio.CancelScope() as scope:
        await downloads.save(
            tmp_path / "cat.mp4",
            on_bytes=lambda here, _: scope.cancel() if here == 2 * MIB else None,
        )
    assert scope.cancelled_caught
    assert not any(str(tmp_path) in name for name in descriptors())
    assert (tmp_path / "cat.mp4.part").stat().st_size == 2 * MIB
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", MEDIUM)
    assert downloads.server.ranges == [None, f"bytes={2 * MIB}-"]


@pytest.mark.parametrize("lane", [("asyncio", "aiohttp"), ("asyncio", "httpx")], indirect=True)
@pytest.mark.parametrize("times", [1, 2])
async def test_a_cancellation_names_what_is_kept(
    downloads: Downloads, tmp_path: Path, times: int
) -> None:
    """Whoever interrupts a program is to know; the second one comes while that is written down."""
    downloads.server.data = MEDIUM
    downloads.server.script.append(Hold(2 * MIB))
    there = asyncio.Event()
    task = asyncio.ensure_future(
        downloads.save(
            tmp_path / "cat.mp4", on_bytes=lambda here, _: there.set() if here == 2 * MIB else None
        )
    )
    await there.wait()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    (note,) = caught.value.__notes__
    assert note.startswith(f"{2 * MIB} bytes are kept in {tmp_path / 'cat.mp4.part'}")


@pytest.mark.parametrize("lane", [("asyncio", "aiohttp"), ("asyncio", "httpx")], indirect=True)
async def test_a_task_cancelled_by_asyncio_itself_at_any_moment_keeps_a_usable_part(
    downloads: Downloads, tmp_path: Path
) -> None:
    """Not by a scope: the thread that writes goes on while its caller is already gone."""
    downloads.server.data = MEDIUM
    for pieces in range(12):
        path = tmp_path / f"{pieces}.mp4"
        left, tasks = [pieces], []

        def count(_: int, __: int | None, left: list[int] = left, tasks: list = tasks) -> None:
            left[0] -= 1
            if left[0] == 0:
                tasks[0].cancel()

        tasks.append(asyncio.ensure_future(downloads.save(path, on_bytes=count)))
        if not pieces:
            await asyncio.sleep(0)
            tasks[0].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await tasks[0]
        assert not any(str(path) in name for name in descriptors())
        assert is_whole(await downloads.save(path, overwrite=True), path, MEDIUM)


@pytest.mark.parametrize("end", ["deadline", "cancellation"])
async def test_a_download_that_never_got_a_thread_ends_without_one(
    downloads: Downloads, tmp_path: Path, end: str
) -> None:
    limiter = _threads.FILES._limiter()
    holders = [object() for _ in range(int(limiter.total_tokens))]
    for holder in holders:
        limiter.acquire_on_behalf_of_nowait(holder)
    with anyio.fail_after(20):
        if end == "deadline":
            await downloads.refused(DownloadTimeout, tmp_path / "cat.mp4", timeout=0.1)
        else:
            with anyio.move_on_after(0.1):
                await downloads.save(tmp_path / "cat.mp4")
    assert names(tmp_path) == set()
    assert downloads.server.requests == []
    for holder in holders:
        limiter.release_on_behalf_of(holder)
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)


def test_a_killed_process_is_continued_by_the_next(server: FileServer, tmp_path: Path) -> None:
    path = tmp_path / "cat.mp4"
    server.data = clip(8 * MIB)
    server.script.append(Hold(6 * MIB))
    with child(server, path) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if int(line) == 6 * MIB:
                break
        first.send_signal(signal.SIGKILL)
    assert names(tmp_path) == {"cat.mp4.part", "cat.mp4.part.json"}
    kept = (tmp_path / "cat.mp4.part").stat().st_size
    assert kept > 4 * MIB  # all but what waited for a full MiB
    with child(server, path) as second:
        assert second.stdout is not None
        *_, last = second.stdout
    assert last.split() == ["whole", hashlib.sha256(server.data).hexdigest()]
    assert server.ranges == [None, f"bytes={kept}-"]
    assert names(tmp_path) == {"cat.mp4"}

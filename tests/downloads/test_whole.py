"""A video arrives whole or not at all, at every size and over every kind of framing."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from grok_video import _disk
from grok_video._transfer import Transfer

from .fileserver import MEDIUM, MIB, SMALL, Chunked, Cut, Say, Unframed, clip
from .harness import Downloads, is_whole, names


@pytest.mark.parametrize("size", [12, 1000, MIB - 1, MIB, MIB + 1, 5 * MIB + 17])
async def test_a_video_arrives_whole(downloads: Downloads, tmp_path: Path, size: int) -> None:
    downloads.server.data = clip(size)
    seen: list[tuple[int, int | None]] = []
    video = await downloads.save(
        tmp_path / "cat.mp4", on_bytes=lambda here, total: seen.append((here, total))
    )
    assert is_whole(video, tmp_path / "cat.mp4", downloads.server.data)
    assert names(tmp_path) == {"cat.mp4"}
    assert downloads.server.sent == size
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)


@pytest.mark.parametrize("lane", [("asyncio", "aiohttp"), ("asyncio", "httpx")], indirect=True)
async def test_the_event_loop_is_never_blocked(downloads: Downloads, tmp_path: Path) -> None:
    await downloads.save(tmp_path / "first.mp4")  # what is imported by the first connection
    downloads.server.data, downloads.server.etag = MEDIUM, '"v2"'
    downloads.server.script.extend([Cut(MIB + 5), Say(503)])
    with blockbuster_ctx("grok_video"):
        video = await downloads.save(tmp_path / "cat.mp4")
    assert is_whole(video, tmp_path / "cat.mp4", MEDIUM)


async def test_a_disk_that_takes_little_at_a_time_gets_it_all(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_disk, "write", lambda file, chunks: os.write(file, chunks[0][:1000]))
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)


async def test_a_name_of_the_greatest_length_can_be_used(
    downloads: Downloads, tmp_path: Path
) -> None:
    path = tmp_path / ("ä" * 125 + ".mp4")
    downloads.server.script.append(Cut(1000))
    assert is_whole(await downloads.save(path), path, SMALL)
    assert names(tmp_path) == {path.name}


async def test_a_relative_path_means_the_folder_of_the_call(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    def move(_: int, __: int | None) -> None:
        os.chdir(tmp_path / "elsewhere")

    video = await downloads.save("cat.mp4", on_bytes=move)
    assert video.path == Path("cat.mp4")
    assert (tmp_path / "cat.mp4").read_bytes() == SMALL


async def test_a_file_without_a_length_is_taken_to_its_end(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.always = Chunked()
    video = await downloads.save(tmp_path / "cat.mp4")
    assert is_whole(video, tmp_path / "cat.mp4", SMALL)


async def test_a_file_that_only_ends_with_the_connection_is_checked_by_its_boxes(
    downloads: Downloads, tmp_path: Path
) -> None:
    data = clip(12) + bytes(12) + (200_000).to_bytes(4, "big") + b"mdat" + clip(199_992)
    downloads.server.data = data
    downloads.server.script.extend([Unframed(150_000), Unframed()])
    video = await downloads.save(tmp_path / "cat.mp4")
    assert is_whole(video, tmp_path / "cat.mp4", data)
    assert downloads.server.ranges == [None, "bytes=150000-"]
    path = tmp_path / "dog.mp4"
    downloads.server.script.append(Unframed())
    assert is_whole(await downloads.save(path), path, data)


@pytest.mark.parametrize(
    "second",
    [
        Unframed(9, ignores_range=True),
        Unframed(160_000, ignores_range=True),
        Unframed(10, hides_total=True),
    ],
    ids=["less than is here", "a little more", "a part of a part"],
)
async def test_an_answer_without_a_length_that_breaks_off_again_is_no_whole_file(
    downloads: Downloads, tmp_path: Path, second: Unframed
) -> None:
    data = clip(12) + bytes(12) + (200_000).to_bytes(4, "big") + b"mdat" + clip(199_992)
    downloads.server.data = data
    downloads.server.script.extend([Unframed(150_000), second])
    downloads.server.always = Unframed(hides_total=True)
    video = await downloads.save(tmp_path / "cat.mp4")
    assert is_whole(video, tmp_path / "cat.mp4", data)


async def test_a_download_leaves_nothing_that_only_the_collector_frees(
    downloads: Downloads, tmp_path: Path
) -> None:
    def transfers() -> list[Transfer]:
        return [found for found in gc.get_objects() if isinstance(found, Transfer)]

    gc.collect()
    others = transfers()  # errors that another test keeps hold on to theirs
    gc.disable()
    try:
        for number in range(3):
            await downloads.save(tmp_path / f"{number}.mp4")
        left = [found for found in transfers() if found not in others]
    finally:
        gc.enable()
    assert left == []

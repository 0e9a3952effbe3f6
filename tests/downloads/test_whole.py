"""A video arrives whole or not at all, at every size and over every kind of framing."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from grok_video import LinkExpired, Retry, Truncated, _disk
from grok_video._transfer import Transfer

from .fileserver import (
    FTYP,
    MEDIUM,
    MIB,
    MOOV,
    SMALL,
    Chunked,
    Cut,
    Say,
    Slice,
    Unframed,
    boxed,
    clip,
)
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
    assert is_whole(video, tmp_path / "cat.mp4", SMALL), "and the path leads there from elsewhere"


async def test_a_relative_path_is_told_as_it_was_named_while_it_leads_to_the_file(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (await downloads.save("cat.mp4")).path == Path("cat.mp4")


async def test_what_is_kept_of_a_relative_path_is_told_by_a_path_that_leads_there(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    downloads.server.script.extend([Cut(1000), *[Say(404)] * 5])
    error = await downloads.refused(
        LinkExpired, "cat.mp4", on_bytes=lambda *_: os.chdir(tmp_path / "elsewhere")
    )
    assert error.part == tmp_path / "cat.mp4.part"


async def test_two_dots_behind_a_link_mean_what_they_mean_to_the_system(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that would have the name, were the dots taken off by text, is somebody's."""
    (tmp_path / "releases" / "1").mkdir(parents=True)
    (tmp_path / "current").symlink_to(tmp_path / "releases" / "1")
    (tmp_path / "cat.mp4").write_bytes(b"precious")
    monkeypatch.chdir(tmp_path)
    for named in (Path("current/../cat.mp4"), tmp_path / "current" / ".." / "dog.mp4"):
        video = await downloads.save(named, overwrite=True)
        assert is_whole(video, named, SMALL)
    assert names(tmp_path / "releases") == {"1", "cat.mp4", "dog.mp4"}
    assert (tmp_path / "cat.mp4").read_bytes() == b"precious"


async def test_a_file_without_a_length_is_taken_to_its_end(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.data = data = boxed(299_976)
    downloads.server.always = Chunked()
    video = await downloads.save(tmp_path / "cat.mp4")
    assert is_whole(video, tmp_path / "cat.mp4", data)
    assert downloads.server.ranges == [None]


async def test_a_file_without_a_length_that_ends_inside_a_box_is_asked_for_its_rest(
    downloads: Downloads, tmp_path: Path
) -> None:
    """However well the answer ended: it may be a proxy's, which has no more of it."""
    downloads.server.data = data = boxed(299_976)
    downloads.server.script.append(Chunked(2**16, pretends=True))
    video = await downloads.save(tmp_path / "cat.mp4")
    assert is_whole(video, tmp_path / "cat.mp4", data)
    assert downloads.server.ranges == [None, "bytes=65536-"]


@pytest.mark.parametrize(
    "fault",
    [Unframed(16), Unframed(3 * 2**16), Chunked(3 * 2**16, pretends=True)],
    ids=["behind the head", "behind the pictures", "ended by a proxy"],
)
async def test_a_file_without_a_length_that_ends_before_its_index_is_asked_for_its_rest(
    downloads: Downloads, tmp_path: Path, fault: Unframed | Chunked
) -> None:
    """A box ends there, but no film: what writes one mostly puts the index last."""
    pictures = 3 * 2**16 - len(FTYP)
    data = FTYP + pictures.to_bytes(4, "big") + b"mdat" + bytes(pictures - 8) + MOOV
    downloads.server.data = data
    downloads.server.script.append(fault)
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", data)
    assert downloads.server.ranges == [None, f"bytes={fault.at}-"]


async def test_a_file_that_ends_inside_a_box_is_whole_if_its_server_says_so(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.script.append(Chunked())
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.server.ranges == [None, f"bytes={len(SMALL)}-"]


async def test_a_file_without_a_length_that_never_ends_where_it_may_is_given_up(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.data = boxed(299_976)
    downloads.server.always = Chunked(2**16, pretends=True)
    error = await downloads.refused(Truncated, tmp_path / "cat.mp4")
    assert error.bytes_kept == 2**16
    assert not (tmp_path / "cat.mp4").exists()


@pytest.mark.parametrize("size", [34_488, 70_000, 100_000])
async def test_the_end_of_a_slice_is_not_the_end_of_the_file(
    downloads: Downloads, tmp_path: Path, size: int
) -> None:
    """Also not where a box ends with it. Only the server can say that there is no more."""
    downloads.server.data = data = boxed(100_000, 100_000)
    downloads.server.script.append(Chunked(2**16))
    downloads.server.always = Slice(size)
    video = await downloads.save(tmp_path / "cat.mp4")
    assert is_whole(video, tmp_path / "cat.mp4", data)
    starts = [*range(2**16, len(data), size), len(data)]
    assert downloads.server.ranges == [None, *(f"bytes={start}-" for start in starts)]


async def test_slices_of_a_file_of_unknown_length_go_on_in_the_next_process_without_a_wait(
    downloads: Downloads, tmp_path: Path
) -> None:
    path = tmp_path / "cat.mp4"
    downloads.server.data = MEDIUM
    downloads.server.script.extend([Chunked(2**16), Slice(MIB), *[Say(403)] * 5])
    error = await downloads.refused(LinkExpired, path)
    assert error.bytes_kept == 2**16 + MIB
    downloads.server.requests.clear()
    downloads.server.always = Slice(MIB)
    slow = Retry(base=100.0, cap=100.0)  # with which any wait would be past the deadline
    assert is_whole(await downloads.save(path, retry=slow), path, MEDIUM)
    assert downloads.server.ranges == [
        f"bytes={start}-" for start in [*range(2**16 + MIB, 3 * MIB, MIB), 3 * MIB]
    ]


async def test_a_slice_that_nobody_asked_for_is_not_taken_for_the_file(
    downloads: Downloads, tmp_path: Path
) -> None:
    for number, total in enumerate((False, True)):
        path = tmp_path / f"{number}.mp4"
        downloads.server.requests.clear()
        downloads.server.script.append(Slice(100_000, unasked=True, total=total))
        assert is_whole(await downloads.save(path), path, SMALL)
        assert downloads.server.ranges == [None, None]
    downloads.server.always = Slice(100_000, unasked=True)
    await downloads.refused(Truncated, tmp_path / "cat.mp4")
    assert not (tmp_path / "cat.mp4").exists()


@pytest.mark.parametrize("cut", [0, 100_000])
async def test_a_part_that_nobody_asked_for_and_that_is_the_whole_file_is_as_good(
    downloads: Downloads, tmp_path: Path, cut: int
) -> None:
    """To a first request, and to the one that gives up asking for a part."""
    part = Slice(len(SMALL), unasked=True, total=True)
    downloads.server.script.extend([Cut(cut), Say(206)] if cut else [])
    downloads.server.script.append(part)
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.server.ranges == [None, *(["bytes=100000-", None] if cut else [])]


@pytest.mark.parametrize("says", ["bytes 100000-99999/*", "bytes 100000-100009/100005"])
async def test_a_range_that_cannot_be_is_not_added_to_what_is_here(
    downloads: Downloads, tmp_path: Path, says: str
) -> None:
    headers = {"Content-Range": says, "ETag": '"v1"'}
    downloads.server.script.extend([Chunked(2**16), Slice(34_464), Say(206, b"x" * 10, headers)])
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)


async def test_a_file_that_only_ends_with_the_connection_is_checked_by_its_boxes(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.data = data = boxed(200_000)
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
    downloads.server.data = data = boxed(200_000)
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

"""What broke is continued where it broke, and only if it is the same file.

`GROK_VIDEO_ALL_CUTS=1` runs all 200 cut points; otherwise a seeded sample of them runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from grok_video import LinkExpired, Truncated, _disk, _partfile
from grok_video._partfile import Batch, PartFile
from grok_video._ranges import Follows, Version, judge

from .fileserver import (
    MEDIUM,
    MIB,
    SMALL,
    Change,
    Chunked,
    Cut,
    IgnoreRange,
    Say,
    Unframed,
    boxed,
    clip,
)
from .harness import ID, Downloads, is_whole, names

CUTS = random.Random(20261124).sample(range(20 * MIB), 200)
ALL_CUTS = os.environ.get("GROK_VIDEO_ALL_CUTS") == "1"


@pytest.mark.parametrize("way", ["in the same call", "in the next call"])
async def test_a_file_cut_anywhere_ends_identical(
    downloads: Downloads, tmp_path: Path, way: str
) -> None:
    """At most the file and 1 MiB are transferred (in fact: the file, to the byte)."""
    server = downloads.server
    server.data = clip(20 * MIB)
    whole = hashlib.sha256(server.data).hexdigest()
    cuts = CUTS if ALL_CUTS else random.Random(str(downloads.transport)).sample(CUTS, 5)
    for cut in cuts:
        path = tmp_path / f"{cut}.mp4"
        server.sent = 0
        server.script.append(Cut(cut))
        if way == "in the next call":
            server.script.extend([Say(403)] * 5)
            error = await downloads.refused(LinkExpired, path)
            assert error.bytes_kept == cut
        video = await downloads.save(path)
        assert (video.sha256, video.size) == (whole, 20 * MIB)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == whole
        assert server.sent <= 21 * MIB
        assert names(tmp_path) == {path.name}
        path.unlink()
    assert not server.script


@pytest.mark.parametrize("tries", [(False, False), (False, True), (True, False)])
async def test_a_hash_covers_all_of_a_video_that_came_in_two_tries_or_is_not_told(
    downloads: Downloads, tmp_path: Path, tries: tuple[bool, bool]
) -> None:
    downloads.server.data = MEDIUM
    downloads.server.script.extend([Cut(2 * MIB), *[Say(403)] * 5])
    path = tmp_path / "cat.mp4"
    error = await downloads.refused(LinkExpired, path, sha256=tries[0])
    assert error.bytes_kept == 2 * MIB
    video = await downloads.save(path, sha256=tries[1])
    assert downloads.server.ranges[-1] == f"bytes={2 * MIB}-"
    assert path.read_bytes() == MEDIUM
    assert video.sha256 == (hashlib.sha256(MEDIUM).hexdigest() if tries[1] else None)
    assert (video.path, video.size) == (path, len(MEDIUM))


async def test_a_video_that_changed_on_the_way_is_hashed_anew_or_not_at_all(
    downloads: Downloads, tmp_path: Path
) -> None:
    for wanted in (True, False):
        path = tmp_path / f"{wanted}.mp4"
        downloads.server.script.extend([Cut(2 * MIB), Change(MEDIUM, f'"{wanted}"')])
        downloads.server.data = clip(3 * MIB, seed=2)
        video = await downloads.save(path, sha256=wanted)
        assert path.read_bytes() == MEDIUM
        assert video.sha256 == (hashlib.sha256(MEDIUM).hexdigest() if wanted else None)


@pytest.mark.parametrize("cut", [1, 7, 8, 11, MIB, 2 * MIB + 1])
async def test_a_reset_in_the_middle_is_resumed(
    downloads: Downloads, tmp_path: Path, cut: int
) -> None:
    downloads.server.data = MEDIUM
    downloads.server.script.extend([Cut(cut, reset=True), Cut(cut, reset=True)])
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", MEDIUM)


async def test_what_was_received_before_a_break_is_not_fetched_again(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the disk is slow and the library buffers: aiohttp would forget 2 MiB."""
    downloads.server.data = clip(9 * MIB)
    downloads.server.script.append(Cut(8 * MIB))
    written = threading.Event()

    def slow(part: _partfile.PartFile, batch: _partfile.Batch) -> None:
        written.wait(0.2)  # until the connection has broken, as far as it can
        store(part, batch)

    store = _partfile.PartFile.store
    monkeypatch.setattr(_partfile.PartFile, "store", slow)
    video = await downloads.save(tmp_path / "cat.mp4")
    assert is_whole(video, tmp_path / "cat.mp4", downloads.server.data)
    assert downloads.server.ranges == [None, f"bytes={8 * MIB}-"]


async def test_progress_begins_the_count_of_failures_anew(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.script.extend([Cut(70_000), Say(503), Say(502)] * 4)
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert not downloads.server.script


async def test_a_transfer_that_keeps_breaking_ends_and_keeps_what_came(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.always = Cut(1000)  # with each answer, less than counts as progress
    error = await downloads.refused(Truncated, tmp_path / "cat.mp4")
    assert len(downloads.server.requests) == 8
    assert error.bytes_kept == 8000
    assert names(tmp_path) == {"cat.mp4.part", "cat.mp4.part.json"}
    assert "canary" not in (tmp_path / "cat.mp4.part.json").read_text()
    downloads.server.always = None
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.server.ranges[-1] == "bytes=8000-"


async def test_an_ignored_range_costs_bytes_and_nothing_else(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.script.extend([Cut(100_000), IgnoreRange(50_000), IgnoreRange()])
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)


@pytest.mark.parametrize("obey", [True, False])
async def test_a_file_that_changed_begins_anew(
    downloads: Downloads, tmp_path: Path, obey: bool
) -> None:
    other = clip(300_000, seed=2)
    downloads.server.script.extend([Cut(200_000), Change(other, '"v2"', obey)])
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", other)


async def test_a_file_that_changed_between_two_calls_begins_anew(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.script.extend([Cut(200_000), *[Say(404)] * 5])
    await downloads.refused(LinkExpired, tmp_path / "cat.mp4")
    downloads.server.data, downloads.server.etag = clip(100_000, seed=3), '"v3"'
    video = await downloads.save(tmp_path / "cat.mp4")
    assert is_whole(video, tmp_path / "cat.mp4", clip(100_000, seed=3))


async def test_a_file_that_never_stops_changing_is_given_up(
    downloads: Downloads, tmp_path: Path
) -> None:
    changes = [Change(clip(300_000, n), f'"{n}"', at=200_000) for n in range(2, 30)]
    downloads.server.script.extend([Cut(100_000), *changes])
    error = await downloads.refused(Truncated, tmp_path / "cat.mp4")
    assert "keeps changing" in str(error)
    assert len(downloads.server.requests) < 10


async def test_a_server_without_validators_is_never_trusted_with_the_rest(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.etag = None
    downloads.server.script.extend([Cut(200_000), *[Say(404)] * 5])
    error = await downloads.refused(LinkExpired, tmp_path / "cat.mp4")
    assert error.bytes_kept == 0
    assert names(tmp_path) == set()
    downloads.server.script.append(Cut(100_000))
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert set(downloads.server.ranges) == {None}


async def test_last_modified_serves_where_there_is_no_etag(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.etag = 'W/"v1"'
    downloads.server.modified = "Tue, 24 Nov 2026 02:33:35 GMT"
    downloads.server.script.append(Cut(100_000))
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.server.ranges == [None, "bytes=100000-"]


@pytest.mark.parametrize("modified", [None, "Tue, 24 Nov 2026 02:33:35 GMT"])
@pytest.mark.parametrize("etag", ['"caf\u00e9"', '"caf\udce9"'], ids=["UTF-8", "Latin-1"])
async def test_an_etag_that_cannot_be_sent_back_is_none(
    downloads: Downloads, tmp_path: Path, etag: str, modified: str | None
) -> None:
    """A byte above 127 may stand in an ETag, but not every library sends it."""
    downloads.server.etag, downloads.server.modified = etag, modified
    downloads.server.script.append(Cut(100_000))
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.server.ranges == [None, "bytes=100000-" if modified else None]
    assert not any("if-range" in request for request in downloads.server.requests)


@pytest.mark.parametrize("modified", [None, "Tue, 24 Nov 2026 02:33:35 GMT"])
@pytest.mark.parametrize("etag", ['"caf\xe9"', '"v\r\n1"', '"\udce9"', 'W/"v1"'])
async def test_an_etag_that_cannot_be_sent_back_is_none_in_a_record_either(
    downloads: Downloads, tmp_path: Path, etag: str, modified: str | None
) -> None:
    """An earlier version of this package has kept them."""
    path, record = tmp_path / "cat.mp4", tmp_path / "cat.mp4.part.json"
    downloads.server.etag, downloads.server.modified = '"v1"', modified
    downloads.server.script.extend([Cut(100_000), *[Say(404)] * 5])
    await downloads.refused(LinkExpired, path)
    facts, seal = record.read_text().splitlines()
    record.write_text(json.dumps(json.loads(facts) | {"etag": etag}) + "\n" + seal)
    downloads.server.etag = 'W/"v1"'
    assert is_whole(await downloads.save(path), path, SMALL)
    assert downloads.server.ranges[-1] == ("bytes=100000-" if modified else None)


@pytest.mark.parametrize(
    "says", ["bytes 100000-299999/{}", "bytes {}-299999/300000", "bytes 100000-{}/*"]
)
async def test_a_range_with_more_digits_than_any_file_has_is_not_used(
    downloads: Downloads, tmp_path: Path, says: str
) -> None:
    headers = {"Content-Range": says.format("9" * 5000), "ETag": '"v1"'}
    downloads.server.script.extend([Cut(100_000), Say(206, SMALL[100_000:], headers)])
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.server.ranges == [None, "bytes=100000-", None]


def test_a_length_with_more_digits_than_any_file_has_is_none() -> None:
    """Told by an answer's headers alone: the libraries refuse it before."""
    verdict = judge(200, {"content-length": "9" * 5000}, have=0, version=Version())
    assert verdict == Follows(0, Version())


async def test_a_part_of_another_job_is_not_continued(downloads: Downloads, tmp_path: Path) -> None:
    downloads.server.script.extend([Cut(100_000), *[Say(404)] * 5])
    await downloads.refused(LinkExpired, tmp_path / "cat.mp4")
    downloads.server.data = clip(300_000, seed=9)  # and, by chance, the same ETag
    await downloads.save(tmp_path / "cat.mp4", request_id="another-job")
    assert downloads.server.ranges[-1] is None
    assert (tmp_path / "cat.mp4").read_bytes() == downloads.server.data


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b'{"format": 99}',
        b'{"format": 1}',
        b'{"format": 1, "request_id": "4b',
        b'{"format": 1, "etag": ' + b"[" * 100_000,
        b"\0" * 180,
    ],
)
async def test_a_record_that_cannot_be_read_begins_anew(
    downloads: Downloads, tmp_path: Path, record: bytes
) -> None:
    """A crash leaves the first bytes of it, or none, or zeros; and others may have written it."""
    (tmp_path / "cat.mp4.part").write_bytes(SMALL[:1000])
    (tmp_path / "cat.mp4.part.json").write_bytes(record)
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.server.ranges == [None]


async def test_a_part_from_before_a_power_cut_is_not_relied_on(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads.server.script.extend([Cut(100_000), *[Say(404)] * 5])
    await downloads.refused(LinkExpired, tmp_path / "cat.mp4")
    monkeypatch.setattr(_disk, "boot", lambda: "another boot")
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.server.ranges[-1] is None


def shorten(part: Path) -> None:
    os.truncate(part, 50_000)


def lengthen(part: Path) -> None:
    part.write_bytes(part.read_bytes() + b"more")


def refill(part: Path) -> None:
    os.truncate(part, 50_000)
    os.truncate(part, 100_000)


def flip(part: Path) -> None:
    data = bytearray(part.read_bytes())
    data[77_777] ^= 1
    part.write_bytes(data)


@pytest.mark.parametrize("change", [shorten, lengthen, refill, flip])
@pytest.mark.parametrize("tries", [(True, True), (False, False), (False, True), (True, False)])
async def test_a_part_that_somebody_changed_between_two_tries_is_not_continued(
    downloads: Downloads,
    tmp_path: Path,
    tries: tuple[bool, bool],
    change: Callable[[Path], None],
) -> None:
    """Known by its hash, also where the video itself is not to be hashed."""
    path, part = tmp_path / "cat.mp4", tmp_path / "cat.mp4.part"
    downloads.server.script.extend([Cut(100_000), *[Say(404)] * 5])
    error = await downloads.refused(LinkExpired, path, sha256=tries[0])
    assert error.bytes_kept == 100_000
    written = part.stat().st_mtime_ns
    change(part)
    os.utime(part, ns=(written, written))
    await downloads.save(path, sha256=tries[1])
    assert path.read_bytes() == SMALL
    assert downloads.server.ranges[-1] is None
    assert names(tmp_path) == {"cat.mp4"}


async def test_a_part_is_known_again_after_any_number_of_tries(
    downloads: Downloads, tmp_path: Path
) -> None:
    """With a hash and without, and with tries between them that bring nothing."""
    path, part = tmp_path / "cat.mp4", tmp_path / "cat.mp4.part"
    kept = 0
    for size, wanted in [(50_000, True), (0, True), (0, False), (70_000, False), (30_000, True)]:
        faults = [Cut(size)] if size else []
        downloads.server.script.extend([*faults, *[Say(404)] * 5])
        error = await downloads.refused(LinkExpired, path, sha256=wanted)
        kept += size
        assert error.bytes_kept == part.stat().st_size == kept
        record = tmp_path / "cat.mp4.part.json"
        assert len(record.read_bytes().splitlines()) == 2
    flip(part)
    assert is_whole(await downloads.save(path), path, SMALL)
    assert downloads.server.ranges[-1] is None


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_part_that_was_only_touched_or_copied_is_continued(
    downloads: Downloads, tmp_path: Path, wanted: bool
) -> None:
    path, part = tmp_path / "cat.mp4", tmp_path / "cat.mp4.part"
    downloads.server.script.extend([Cut(100_000), *[Say(404)] * 5])
    await downloads.refused(LinkExpired, path, sha256=wanted)
    os.utime(part, (0, 0))
    await downloads.save(path, sha256=wanted)
    assert path.read_bytes() == SMALL
    assert downloads.server.ranges[-1] == "bytes=100000-"


@pytest.mark.parametrize("end", ["closed", "killed"])
@pytest.mark.parametrize("tries", [(True, True), (True, False), (False, True), (False, False)])
async def test_a_try_that_ends_before_it_has_looked_at_the_part_vouches_for_nothing(
    downloads: Downloads, tmp_path: Path, end: str, tries: tuple[bool, bool]
) -> None:
    path, part = tmp_path / "cat.mp4", tmp_path / "cat.mp4.part"
    downloads.server.script.extend([Cut(100_000), *[Say(404)] * 5])
    await downloads.refused(LinkExpired, path)
    flip(part)
    between = PartFile(path, overwrite=False, sha256=tries[0], request_id=ID)
    between.open()
    if end == "closed":
        assert between.close(Batch()) == 100_000
    else:
        os.close(between._descriptor)
    await downloads.save(path, sha256=tries[1])
    assert path.read_bytes() == SMALL
    assert downloads.server.ranges[-1] is None


@pytest.mark.parametrize(
    "seal", [b"[", b"{}", b"7", b"null", b"[1]", b'["a", "b", "c"]', b"[100000, null]", b"\xff"]
)
async def test_a_seal_that_cannot_be_read_begins_anew(
    downloads: Downloads, tmp_path: Path, seal: bytes
) -> None:
    path = tmp_path / "cat.mp4"
    downloads.server.script.extend([Cut(100_000), *[Say(404)] * 5])
    await downloads.refused(LinkExpired, path)
    as_a_kill_leaves_it(tmp_path)
    with (tmp_path / "cat.mp4.part.json").open("ab") as record:
        record.write(b"\n" + seal)
    assert is_whole(await downloads.save(path), path, SMALL)
    assert downloads.server.ranges[-1] is None


def as_a_kill_leaves_it(folder: Path) -> None:
    record = folder / "cat.mp4.part.json"
    record.write_bytes(record.read_bytes().splitlines()[0])


@pytest.mark.parametrize("extra", [b"", b"more than the file has"])
async def test_a_part_that_is_already_whole(
    downloads: Downloads, tmp_path: Path, extra: bytes
) -> None:
    """Nothing is fetched for it; one that is too long is no part."""
    downloads.server.script.extend([Cut(299_999), *[Say(404)] * 5])
    await downloads.refused(LinkExpired, tmp_path / "cat.mp4")
    (tmp_path / "cat.mp4.part").write_bytes(SMALL + extra)
    as_a_kill_leaves_it(tmp_path)
    requests = len(downloads.server.requests)
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert len(downloads.server.requests) == requests + bool(extra)


async def test_a_part_of_unknown_length_is_not_continued_without_a_length_by_the_next_process(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.data = data = boxed(200_000)
    downloads.server.script.extend([Unframed(150_000), *[Say(403)] * 5])
    await downloads.refused(LinkExpired, tmp_path / "cat.mp4")
    downloads.server.script.extend([Unframed(10, hides_total=True)])
    downloads.server.always = Unframed(hides_total=True)
    video = await downloads.save(tmp_path / "cat.mp4")
    assert is_whole(video, tmp_path / "cat.mp4", data)


async def test_a_part_of_unknown_length_is_fetched_anew_by_the_next_process_if_no_part_is_given(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.data = data = boxed(299_976)
    downloads.server.script.extend([Chunked(2**16), *[Say(403)] * 5])
    await downloads.refused(LinkExpired, tmp_path / "cat.mp4")
    downloads.server.always = Chunked()
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", data)
    assert downloads.server.ranges[-2:] == ["bytes=65536-", None]

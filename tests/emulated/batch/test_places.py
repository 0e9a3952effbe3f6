"""Where a batch puts its files: a folder that is gone, a place that somebody else has taken."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from grok_video import AsyncClient, DestinationError
from grok_video.emulator import Emulator, faults

from .conftest import outcomes, requests, states, until


async def test_what_was_never_sent_for_want_of_a_folder_is_sent_by_the_same_call(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    async with client.batch(requests(3), **words) as batch:
        words["out"].rmdir()
        found = {one.key: one async for one in batch}
    assert set(states(found).values()) == {"left"}
    assert all(isinstance(one.error, DestinationError) for one in found.values())
    assert grok_emulator.accepted == 0
    again = await outcomes(client, requests(3), **words)
    assert set(states(again).values()) == {"saved"}


async def test_a_file_put_in_the_place_of_one_that_was_still_fetched_is_kept(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    file, part = tmp_path / "videos" / "key-000.mp4", tmp_path / "videos" / "key-000.mp4.part"
    grok_emulator.script("download", [faults.Stall(30.0)])
    async with client.batch(requests(1), **words):
        # The request has to come for its fault; the part is there before.
        await until(lambda: any(one.path.endswith(".mp4") for one in grok_emulator.requests))
        assert part.exists()
    part.touch()  # as a death leaves it
    file.write_bytes(b"the work of a person")
    found = await outcomes(client, requests(1), **words)
    assert states(found) == {"key-000": "unfetched"}
    assert file.read_bytes() == b"the work of a person"
    file.unlink()
    assert states(await outcomes(client, requests(1), **words)) == {"key-000": "saved"}


async def torn_out(client: AsyncClient, emulator: Emulator, folder: Path) -> dict[str, Any]:
    """Leave a batch in the middle of its one fetch, before the first byte: nothing is there."""
    words = {"out": folder / "videos", "ledger": folder / "a.sqlite"}
    emulator.script("download", [faults.Stall(30.0)])
    async with client.batch(requests(1), **words):
        await until(lambda: any(one.path.endswith(".mp4") for one in emulator.requests))
    assert list(words["out"].iterdir()) == []
    return words


@pytest.mark.parametrize("place", ["the same folder", "another folder"])
@pytest.mark.parametrize("size", ["of another size", "of the video's size"])
async def test_a_file_that_came_after_a_fetch_that_left_nothing_is_kept(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path, place: str, size: str
) -> None:
    """That a fetch had no end does not make somebody's file in its place the batch's own."""
    words = await torn_out(client, grok_emulator, tmp_path)
    if place == "another folder":
        words["out"] = tmp_path / "other"
        words["out"].mkdir()
    theirs = b"a holiday film"
    if size == "of the video's size":
        video = await client.job(grok_emulator.creates[0].request_id).download(tmp_path / "a.mp4")
        assert video.size is not None
        theirs = bytes(video.size)
    file = words["out"] / "key-000.mp4"
    file.write_bytes(theirs)
    for _ in range(3):
        found = await outcomes(client, requests(1), **words)
        assert states(found) == {"key-000": "unfetched"}
        error = found["key-000"].error
        assert isinstance(error, DestinationError)
        assert error.is_taken
        assert "overwrite=True" in str(error)
        assert file.read_bytes() == theirs
    found = await outcomes(client, requests(1), overwrite=True, **words)
    assert states(found) == {"key-000": "saved"}
    assert file.read_bytes() != theirs
    assert grok_emulator.accepted == 1


@pytest.mark.parametrize("deaths", [1, 2])
async def test_a_file_that_is_the_video_byte_for_byte_is_taken_for_it(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path, deaths: int
) -> None:
    """As a death leaves it between the file's name and the ledger's word for it.

    A second one may have come while it was compared, and leaves the part that it was compared with.
    """
    words = await torn_out(client, grok_emulator, tmp_path)
    file = words["out"] / "key-000.mp4"
    await client.job(grok_emulator.creates[0].request_id).download(file)
    if deaths == 2:
        file.with_name("key-000.mp4.part").touch()
    before = file.stat()
    found = await outcomes(client, requests(1), **words)
    assert states(found) == {"key-000": "saved"}
    assert found["key-000"].video is not None
    assert found["key-000"].video.size == before.st_size
    assert file.stat().st_ino == before.st_ino, "it was not touched"
    assert list(words["out"].iterdir()) == [file]
    assert grok_emulator.accepted == 1


@pytest.mark.parametrize("theirs", [False, True], ids=["the video", "somebody's"])
async def test_a_run_that_failed_does_not_hide_what_the_one_before_may_have_saved(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path, theirs: bool
) -> None:
    """An error that was written down says nothing of the file of an earlier death."""
    words = await torn_out(client, grok_emulator, tmp_path)
    file, copy = words["out"] / "key-000.mp4", tmp_path / "a.mp4"
    await client.job(grok_emulator.creates[0].request_id).download(copy)
    whole = copy.read_bytes()
    there = bytes(len(whole)) if theirs else whole
    file.write_bytes(there)
    grok_emulator.script("download", [faults.Answer(503, b"x")] * 8)
    found = await outcomes(client, requests(1), **words)
    grok_emulator.assert_faults_consumed()
    assert states(found) == {"key-000": "unfetched"}
    assert not isinstance(found["key-000"].error, DestinationError)
    for state in ("unfetched", "unfetched") if theirs else ("saved", "skipped"):
        assert states(await outcomes(client, requests(1), **words)) == {"key-000": state}
        assert file.read_bytes() == there
    assert grok_emulator.accepted == 1


async def test_a_video_whose_folder_could_not_be_synced_is_known_again(
    client: AsyncClient,
    grok_emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is there, and whole: only that it outlasts a power cut was not certain."""
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    sync = os.fsync

    def refuse(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), words["out"].stat()):
            raise OSError(errno.EIO, "Input/output error")
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        found = await outcomes(client, requests(1), **words)
    assert states(found) == {"key-000": "unfetched"}
    assert "it is there and whole" in str(found["key-000"].error)
    assert states(await outcomes(client, requests(1), **words)) == {"key-000": "saved"}
    assert {path.name for path in words["out"].iterdir()} == {"key-000.mp4"}
    assert grok_emulator.accepted == 1


@pytest.mark.parametrize("theirs", [False, True], ids=["the video", "somebody's"])
async def test_a_run_that_died_before_a_word_of_its_fetch_was_written_may_have_saved_the_video(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path, theirs: bool
) -> None:
    """That a fetch begins is written with the next group, and a quick one may be done by then."""
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    async with client.batch(requests(1), **words):
        await until(lambda: grok_emulator.accepted)
    file, copy = words["out"] / "key-000.mp4", tmp_path / "a.mp4"
    await client.job(grok_emulator.creates[0].request_id).download(copy)
    whole = copy.read_bytes()
    file.write_bytes(bytes(len(whole)) if theirs else whole)
    found = await outcomes(client, requests(1), **words)
    assert states(found) == {"key-000": "unfetched" if theirs else "saved"}
    assert file.read_bytes() == (bytes(len(whole)) if theirs else whole)
    assert grok_emulator.accepted == 1

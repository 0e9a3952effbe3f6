"""Where a batch puts its files: a folder that is gone, a place that somebody else has taken."""

from __future__ import annotations

from pathlib import Path

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

"""Nothing is bought that could not be kept: a batch whose disk is full sends no more."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from grok_video import AsyncClient
from grok_video.emulator import Emulator

from ...disks import fill, mounted
from .conftest import outcomes, requests, states

#: What the system says of a file system that has no room.
NO_ROOM = os.statvfs_result((4096, 4096, 1000, 0, 0, 1000, 1000, 1000, 0, 255))


async def test_a_batch_buys_no_more_once_the_disk_of_its_videos_is_full(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "disk"
    words = {"out": out, "ledger": tmp_path / "a.sqlite", "max_in_flight": 1}
    with mounted(out, "size=16m") as real:
        with monkeypatch.context() as patch:
            if real:
                filler = fill(out)
            else:
                # Where nothing can be mounted, the system's word on the room stands for the disk.
                patch.setattr(os, "statvfs", lambda _: NO_ROOM)
            async with client.batch(requests(20), **words) as batch:
                found = {one.key: one async for one in batch}
            assert Counter(states(found).values()) == {"unfetched": 1, "left": 19}
            assert batch.summary.stopped is not None
            assert "the disk is full" in batch.summary.stopped
            assert grok_emulator.accepted == 1
        if real:
            filler.unlink()
        # With room again the same call fetches what was paid for, and buys the rest.
        assert set(states(await outcomes(client, requests(20), **words)).values()) == {"saved"}
        assert grok_emulator.accepted == 20

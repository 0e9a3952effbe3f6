"""Deadlines hold where the application's own work, or a disk that hangs, holds the threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from grok_video import AsyncClient, DestinationError
from grok_video.emulator import Emulator

CLIP = b"\0\0\0\x18ftypmp42" + bytes(3 * 2**20)
#: Generous: a call that waits for others' threads is a failed test.
PATIENCE = 20.0


@contextmanager
def no_thread_of_the_application_is_free() -> Iterator[None]:
    limiter = anyio.to_thread.current_default_thread_limiter()
    holders = [object() for _ in range(int(limiter.total_tokens))]
    for holder in holders:
        limiter.acquire_on_behalf_of_nowait(holder)
    try:
        yield
    finally:
        for holder in holders:
            limiter.release_on_behalf_of(holder)


async def test_a_video_is_made_and_saved_while_the_applications_threads_are_all_at_work(
    new_client: Callable[..., AsyncClient],
    grok_emulator_factory: Callable[..., Emulator],
    tmp_path: Path,
) -> None:
    emulator = grok_emulator_factory(clip=CLIP)
    with anyio.fail_after(PATIENCE), no_thread_of_the_application_is_free():
        async with new_client(emulator) as client:
            made = await client.generate("drift", save_to=tmp_path / "made.mp4")
            await client.job(made.request_id).download(tmp_path / "again.mp4")
    assert (tmp_path / "made.mp4").read_bytes() == (tmp_path / "again.mp4").read_bytes() == CLIP


@pytest.mark.parametrize("call", ["download", "generate"])
async def test_a_disk_that_hangs_makes_no_call_late_and_nothing_is_paid(
    call: str, client: AsyncClient, grok_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    access = os.access

    def hang(*arguments: Any, **words: Any) -> bool:
        goes_on.wait(2 * PATIENCE)
        return access(*arguments, **words)

    monkeypatch.setattr(os, "access", hang)
    try:
        with (
            anyio.fail_after(PATIENCE),
            pytest.raises(DestinationError, match=r"looked at within the 0\.2 s") as caught,
        ):
            if call == "generate":
                await client.generate("drift", save_to="cat.mp4", timeout=0.2)
            else:
                await client.job("job-1").download("cat.mp4", timeout=0.2)
    finally:
        goes_on.set()
    assert grok_emulator.requests == ()
    if call == "generate":
        assert "Nothing was sent" in str(caught.value)
        assert caught.value.request_id is None
    else:
        assert caught.value.request_id == "job-1"

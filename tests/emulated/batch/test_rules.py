"""Rules of use, and a loop that is never blocked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from blockbuster import blockbuster_ctx

from grok_video import (
    AsyncClient,
    ConfigurationError,
    GrokVideoError,
    InvalidRequest,
    LedgerError,
    Polling,
)
from grok_video.emulator import Emulator

from ...conftest import PHOTO
from .conftest import NewClient, outcomes, requests

EMULATOR = "grok_video.emulator"


@pytest.fixture
def no_blocking() -> Iterator[None]:
    AsyncClient("key", transport="httpx")  # it imports what it needs when it is made
    excluded = [sys.modules[name] for name in sys.modules if name.startswith(EMULATOR)]
    with blockbuster_ctx(scanned_modules=["grok_video"], excluded_modules=excluded):
        yield


@pytest.mark.usefixtures("no_blocking")
async def test_a_batch_never_blocks_its_loop(
    new_client: NewClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    async with new_client(grok_emulator) as client:
        for _ in range(2):
            found = await outcomes(client, requests(10, image=PHOTO), **words)
            assert all(outcome.is_ok for outcome in found.values())


async def test_a_batch_is_used_inside_its_context_and_once(client: AsyncClient) -> None:
    batch = client.batch(requests(1))
    with pytest.raises(GrokVideoError, match="inside its context"):
        await anext(batch)
    async with batch:
        pass
    with pytest.raises(GrokVideoError, match="run once"):
        async with batch:
            pass
    with pytest.raises(StopAsyncIteration):
        await anext(batch)
    assert batch.summary.total == 0


async def test_a_batch_that_two_tasks_enter_at_once_is_run_once(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    """Each would send all of it; without a ledger nothing else keeps them apart."""
    batch = client.batch(requests(2))
    ends: list[str] = []

    async def enter() -> None:
        try:
            async with batch:
                ends.extend([outcome.state async for outcome in batch])
        except ConfigurationError as error:
            assert "run once" in str(error)
            ends.append("refused")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
        tasks.start_soon(enter)
    assert sorted(ends) == ["done", "done", "refused"]
    assert grok_emulator.accepted == 2


async def test_a_batch_that_could_not_be_entered_can_be_entered_later(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    ledger = tmp_path / "a.sqlite"
    ledger.write_bytes(b"something else")
    batch = client.batch(iter(requests(2)), ledger=ledger)
    with pytest.raises(LedgerError):
        await batch.__aenter__()
    ledger.unlink()
    async with batch:
        assert [outcome.state async for outcome in batch] == ["done", "done"]
    assert grok_emulator.accepted == 2


@pytest.mark.parametrize(
    "words",
    [
        {"max_in_flight": 0},
        {"max_in_flight": True},
        {"max_in_flight": 1.5},
        {"max_cost_usd": -1},
        {"max_cost_usd": "much"},
        {"max_cost_usd": float("nan")},
        {"name": "video.mp4"},
        {"name": "../{key}.mp4"},
        {"timeout": 0},
    ],
    ids=str,
)
async def test_settings_are_checked_before_anything_happens(
    client: AsyncClient, words: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        client.batch([], **words)
    with pytest.raises(InvalidRequest):
        client.batch("a.csv")  # type: ignore[arg-type]  # refused: the test


async def test_polling_can_be_anything(grok_emulator: Emulator, new_client: NewClient) -> None:
    async with new_client(grok_emulator, polling=Polling()) as client:
        assert (await client.run_batch(requests(3))).is_complete

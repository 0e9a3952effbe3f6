"""What the tests of batches share."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from grok_video import (
    AsyncClient,
    Outcome,
    VideoRequest,
)
from grok_video.emulator import Emulator, faults

NewClient = Callable[..., AsyncClient]


NewEmulator = Callable[..., Emulator]


def requests(count: int, **words: Any) -> list[tuple[str, VideoRequest]]:
    words.setdefault("duration", 1)
    return [(f"key-{n:03}", VideoRequest(f"drift {n}", **words)) for n in range(count)]


async def outcomes(client: AsyncClient, things: Any, **words: Any) -> dict[str, Outcome]:
    found = {}
    async with client.batch(things, **words) as batch:
        async for outcome in batch:
            assert outcome.key not in found
            found[outcome.key] = outcome
    assert batch.summary.counts == Counter(outcome.state for outcome in found.values())
    assert batch.summary.in_flight == 0
    return found


async def until(true: Callable[[], bool]) -> None:
    """Return when something is true of the emulator, which runs in another thread."""
    with anyio.fail_after(20):
        while not true():  # noqa: ASYNC110 - it tells no one
            await anyio.sleep(0.005)


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def states(found: dict[str, Outcome]) -> dict[str, str]:
    return {key: outcome.state.value for key, outcome in found.items()}


def read(ledger: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(ledger)) as file:
        return file.execute(query).fetchall()


async def doubtful(client: AsyncClient, emulator: Emulator, folder: Path, **more: Any) -> Any:
    """Leave a ledger with one item whose create was accepted and never answered."""
    emulator.script("create", [faults.CutRequest(accepted=True)])
    words = {"out": folder / "videos", "ledger": folder / "a.sqlite"} | more
    found = await outcomes(client, requests(1), **words)
    assert states(found) == {"key-000": "in_doubt"}
    return words


def age(ledger: Path, seconds: int = 3600) -> None:
    """Make all that happened so much older: a fresh id may be unknown to the API for a while."""
    with closing(sqlite3.connect(ledger)) as file:
        file.execute("DROP TRIGGER event_is_never_changed")
        file.execute(
            "UPDATE event SET at = strftime('%Y-%m-%dT%H:%M:%fZ', at, ?)", (f"-{seconds} seconds",)
        )
        file.commit()

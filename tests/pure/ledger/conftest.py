"""What the tests of the ledger share: entries, and reading it as a person does."""

from __future__ import annotations

import json
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from grok_video import LedgerError, VideoRequest
from grok_video._entry import Entry
from grok_video._ledger import Ledger
from grok_video._lifecycle import Event

BACKENDS = ["asyncio", "trio"]


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def cut_off(tmp_path: Path) -> Callable[[Path, str], Path]:
    """Copy what stands in a folder while a ledger is written there, as a death leaves it."""

    def copy(path: Path, *endings: str) -> Path:
        place = tmp_path / "copied"
        place.mkdir()
        for ending in ("", *endings):
            shutil.copy(f"{path}{ending}", place)
        return place / path.name

    return copy


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        one.name: (one.read_bytes(), one.stat().st_mtime_ns)
        for one in folder.iterdir()
        if one.is_file()
    }


def new_entry(key: str = "cat", prompt: str = "drift", image: Any = None) -> Entry:
    request = VideoRequest(prompt, image)
    entry = Entry(key, request.fingerprint())
    entry.describe(request, Decimal("0.14"))
    return entry


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Read as a person does, while it is being written or afterwards."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        return file.execute(query).fetchall()


async def write(path: Path, *events: Event, key: str = "cat") -> Entry:
    """Leave a ledger with one item to which this has happened."""
    ledger = await Ledger.open(path)
    entry = new_entry(key)
    for event in events:
        if event is Event.ACCEPTED:
            entry.request_id = "4b2cd27e"
        await ledger.record(entry, event)
    await ledger.close()
    return entry


def die_in_a_step(path: Path, place: Path) -> Path:
    """Leave a copy of a ledger as a death leaves it in the middle of a step, where WAL is not."""
    place.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        assert file.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
        file.execute("PRAGMA cache_size = 1")  # what does not fit is written before all is there
        file.execute("BEGIN IMMEDIATE")
        names = json.dumps([f"{number} {'x' * 500}" for number in range(500)])
        for step in (
            "INSERT INTO request (key, fingerprint, prompt, model, estimate_usd) "
            "SELECT value, '', '', '', 0 FROM json_each(?)",
            "INSERT INTO run (started_at, host, pid) SELECT '', value, 1 FROM json_each(?)",
        ):
            file.execute(step, (names,))
        for name in (path.name, f"{path.name}-journal"):
            shutil.copy(path.with_name(name), place)
        file.execute("ROLLBACK")
    return place / path.name


async def found(path: Path, key: str = "cat") -> Entry | None:
    ledger = await Ledger.open(path)
    try:
        return (await ledger.find([key])).known.get(key)
    finally:
        await ledger.close()


async def refused(path: Path, words: str) -> None:
    """Opening says so and changes nothing, not even the time of the file."""
    before = snapshot(path.parent)
    with pytest.raises(LedgerError, match=words) as caught:
        await Ledger.open(path)
    assert "Nothing was sent" in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.path == path
    assert snapshot(path.parent) == before


def run(script: str, path: Path, *, limit: int | None = None) -> str:
    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=restrict,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

"""How many durable changes a second does the ledger take? By how many wait at once, in one run.

Durable means: synced to the disk before the next step is taken. Compared with one transaction for
each change, which is what a journal without groups would do on the same disk.

    python -m benchmarks.ledger [--tiny]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import anyio

from benchmarks._bars import at_least
from grok_video import VideoRequest
from grok_video._ledger import Entry, Ledger
from grok_video._lifecycle import Event

REQUEST = VideoRequest("slow push-in", "https://example.com/cat.jpg")
#: Items in flight for which there is a bar; what has none is measured in fewer rounds.
PROMISED, FEWER_ROUNDS = 200, 3


def run(tiny: bool) -> dict:
    """Return the figures of one run; `goals` must hold wherever a sync takes under 10 ms."""
    rounds = 1 if tiny else 7
    items = {1: 5, 50: 60} if tiny else {1: 100, 10: 300, 50: 1000, 200: 3000, 500: 3000}
    found: dict = {
        "question": "durable state changes a second, by items in flight",
    }
    rates: dict[str, list[float]] = {}
    for number in range(rounds):
        has_all = number < FEWER_ROUNDS
        if has_all:
            rates.setdefault("one transaction each", []).append(one_by_one(20 if tiny else 300))
        for width, count in items.items():
            if has_all or width == PROMISED:
                rate = asyncio.run(lives(width, count))
                rates.setdefault(f"{width} at once", []).append(rate)
    for name, seen in rates.items():
        found[name] = {
            "median": round(statistics.median(seen)),
            "min": round(min(seen)),
            "max": round(max(seen)),
            "runs": len(seen),
        }
    if not tiny:
        name = f"{PROMISED} at once"
        found["bars"] = [at_least(f"changes/s, {name}", found[name], 2000)]
    found["opening"] = asyncio.run(opening(100 if tiny else 100_000))
    return found


async def lives(width: int, items: int) -> float:
    """Lead items through their lives, so many at once; return durable changes a second."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = await Ledger.open(Path(folder, "run.sqlite"))
        left = iter(range(items))

        async def worker() -> None:
            for number in left:
                entry = new_entry(number)
                await ledger.record(entry, Event.SENDING_BEGAN)
                entry.request_id = "4b2cd27e-0b0d-4000-8000-000000000000"
                await ledger.record(entry, Event.ACCEPTED)
                ledger.note(entry, Event.RENDERED)
                ledger.note(entry, Event.FETCHING_BEGAN)
                await ledger.record(entry, Event.SAVED)

        began = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(width):
                tasks.start_soon(worker)
        took = time.perf_counter() - began
        await ledger.close()
    return 3 * items / took


def new_entry(number: int) -> Entry:
    entry = Entry(f"key-{number:06}", "f" * 64)
    entry.describe(REQUEST, Decimal("0.14"))
    return entry


def one_by_one(count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "plain.sqlite")  # noqa: PTH118
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = FULL")
            file.execute("CREATE TABLE event (key TEXT, state TEXT)")
            began = time.perf_counter()
            for number in range(count):
                file.execute("INSERT INTO event VALUES (?, 'submitting')", (f"key-{number}",))
            return count / (time.perf_counter() - began)


async def opening(items: int) -> dict:
    """Return what it takes to open a ledger of so many items, checked, and to look keys up."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.sqlite")
        ledger = await Ledger.open(path)
        for number in range(items):
            entry = new_entry(number)
            for event in (Event.SENDING_BEGAN, Event.ACCEPTED, Event.RENDERED):
                ledger.note(entry, event)
            if not number % 1000:
                await ledger.find([])
        await ledger.close()
        size = path.stat().st_size / 2**20
        began = time.perf_counter()
        ledger = await Ledger.open(path)
        opened = time.perf_counter() - began
        began = time.perf_counter()
        for number in range(0, items, 64):
            await ledger.find([f"key-{n:06}" for n in range(number, min(items, number + 64))])
        looked = time.perf_counter() - began
        await ledger.close()
    return {
        "items": items,
        "mib": round(size, 1),
        "seconds": round(opened, 3),
        "looked up/s": round(items / looked),
    }


if __name__ == "__main__":
    print(json.dumps(run("--tiny" in sys.argv), indent=1))

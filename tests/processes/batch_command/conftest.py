"""`grok-video batch` as people run it: child processes, an emulator outside them, real signals.

The manifest is checked before anything is sent, one bad item never ends the rest, and the same
command goes on wherever the last one ended.
"""

from __future__ import annotations

import csv
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes.command import (
    PATIENCE,
    environment,
)

OUTCOME_KEYS = {
    "key", "state", "request_id", "path", "url", "duration", "size", "sha256", "error", "reason",
    "cost_usd", "attempts", "polls", "seconds", "changed",
}  # fmt: skip


QUICK = ("--duration", "1", "--resolution", "480p", "--poll-interval", "0.05")


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a command, with the way to an emulator in another process."""
    child = subprocess.Popen(
        [sys.executable, "-m", "grok_video.emulator", "--port", "0", "--time-scale", "0.0001"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    told = json.loads(child.stdout.readline())
    yield environment(COMETAPI_KEY=told["api_key"], GROK_VIDEO_BASE_URL=told["base_url"])
    child.send_signal(signal.SIGTERM)
    child.wait(PATIENCE)
    child.stdout.close()


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a manifest: JSON Lines or CSV, by its name."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def items(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"key": f"k{n:03}", "prompt": f"drift {n}", **more} for n in range(count)]


def lines(out: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return the outcomes of --json by key, and the last line."""
    *outcomes, last = [json.loads(line) for line in out.splitlines()]
    assert all(set(outcome) == OUTCOME_KEYS for outcome in outcomes)
    assert set(last) >= {"summary", "error", "message", "resume", "exit_code"}
    return {outcome["key"]: outcome for outcome in outcomes}, last


def states(ledger: Path) -> dict[str, int]:
    with sqlite3.connect(ledger) as file:
        found = dict(file.execute("SELECT state, count(*) FROM item GROUP BY state"))
    file.close()
    return found

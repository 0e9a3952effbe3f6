"""Ledgers that cannot be used."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from grok_video import (
    AsyncClient,
    LedgerError,
    OutcomeState,
)
from grok_video.emulator import Emulator

from .conftest import requests


async def test_a_second_batch_on_one_ledger_is_refused_with_the_first_ones_pid(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    ledger = tmp_path / "a.sqlite"
    async with client.batch(requests(1), ledger=ledger):
        with pytest.raises(LedgerError, match=f"process {os.getpid()} on ") as caught:
            await client.run_batch(requests(3), ledger=ledger)
        assert "Nothing was sent" in str(caught.value)
    await client.run_batch(requests(1), ledger=ledger)


@pytest.mark.parametrize(
    ("event", "accepted"), [("sending_began", 2), ("accepted", 3), ("rendered", 3), ("told", 3)]
)
async def test_a_ledger_that_breaks_in_the_middle_sends_no_more_and_says_so(
    client: AsyncClient,
    grok_emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    event: str,
    accepted: int,
) -> None:
    """What was accepted is still fetched; the error is raised when all outcomes were told."""
    from grok_video._ledgerfile import LedgerFile

    real, count = LedgerFile._commit, 0

    def breaking(self: LedgerFile, rows: list[Any], events: list[Any]) -> None:
        nonlocal count
        count += sum(event in one for one in events)
        if count > 2:
            raise sqlite3.OperationalError("disk I/O error")
        real(self, rows, events)

    monkeypatch.setattr(LedgerFile, "_commit", breaking)
    told = []
    async with client.batch(requests(30), ledger=tmp_path / "a.sqlite", max_in_flight=1) as batch:
        with pytest.raises(LedgerError, match="disk I/O error"):
            async for outcome in batch:
                told.append(outcome)
    assert len(told) == 30
    assert grok_emulator.accepted == accepted
    counts = Counter(one.state for one in told)
    assert counts[OutcomeState.DONE] == grok_emulator.accepted
    assert counts[OutcomeState.LEFT] == 30 - grok_emulator.accepted


async def test_a_ledger_that_is_written_at_the_second_try_ends_the_sending_in_its_own_words(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a disk that dies; that it is full would be a guess."""
    from grok_video._ledgerfile import LedgerFile

    real, count = LedgerFile._commit, 0

    def failing_once(self: LedgerFile, *words: Any) -> None:
        nonlocal count
        count += 1
        if count == 7:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error
        real(self, *words)

    monkeypatch.setattr(LedgerFile, "_commit", failing_once)
    async with client.batch(requests(30), ledger=tmp_path / "a.sqlite", max_in_flight=1) as batch:
        told = Counter([outcome.state async for outcome in batch])
    assert batch.summary.stopped is not None
    assert "disk I/O error" in batch.summary.stopped
    assert "full" not in batch.summary.stopped
    assert told[OutcomeState.DONE] == grok_emulator.accepted == 3
    assert told[OutcomeState.LEFT] == 27

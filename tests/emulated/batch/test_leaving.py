"""Batches that are left early or cancelled: what was paid for is kept, and told."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from grok_video import (
    AsyncBatch,
    AsyncClient,
    OutcomeState,
)
from grok_video._lifecycle import State
from grok_video.emulator import Emulator, faults

from .conftest import NewClient, NewEmulator, outcomes, read, requests, states, until


async def test_leaving_early_keeps_what_was_paid_for(
    grok_emulator_factory: NewEmulator, new_client: NewClient, tmp_path: Path
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    async with new_client(emulator) as client:
        async with client.batch(requests(20), max_in_flight=4, **words) as batch:
            await until(lambda: emulator.accepted >= 4)
            emulator.finish(emulator.creates[0].request_id)
            async for _ in batch:
                break
        accepted = emulator.accepted
        assert accepted <= 5
        rows = dict(read(words["ledger"], "SELECT request_id, state FROM item"))
        assert set(rows) == {create.request_id for create in emulator.creates}
        assert Counter(rows.values()) == {"saved": 1, "pending": accepted - 1}
        for create in emulator.creates[1:]:
            emulator.finish(create.request_id)
        found = await outcomes(client, requests(accepted), **words)
    assert Counter(states(found).values()) == {"saved": accepted - 1, "skipped": 1}
    assert emulator.accepted == accepted


@pytest.mark.parametrize("finished", [1, 4])
async def test_leaving_early_without_a_ledger_tells_the_log_what_was_paid_for(
    grok_emulator_factory: NewEmulator,
    new_client: NewClient,
    caplog: pytest.LogCaptureFixture,
    finished: int,
) -> None:
    """Those that are still awaited, and those that had ended and were not asked for yet."""
    emulator = grok_emulator_factory(time_scale=1.0)
    async with (
        new_client(emulator) as client,
        client.batch(requests(20), max_in_flight=4) as batch,
    ):
        await until(lambda: emulator.accepted >= 4)
        for create in emulator.creates[:finished]:
            emulator.finish(create.request_id)
        await until(lambda: batch.summary.total >= finished)
        told = (await anext(batch)).request_id
    accepted = {create.request_id for create in emulator.creates}
    assert ids_in_warnings(caplog, accepted) == accepted - {told}


def ids_in_warnings(caplog: pytest.LogCaptureFixture, ids: set[str]) -> set[str]:
    said = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    return {request_id for request_id in ids if any(request_id in words for words in said)}


async def test_what_is_run_without_a_ledger_tells_the_log_which_jobs_go_on(
    grok_emulator_factory: NewEmulator, new_client: NewClient, caplog: pytest.LogCaptureFixture
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    async with new_client(emulator) as client:
        summary = await client.run_batch(requests(3), timeout=0.2)
    assert summary.counts == {OutcomeState.PENDING: 3}
    accepted = {create.request_id for create in emulator.creates}
    assert ids_in_warnings(caplog, accepted) == accepted


async def test_leaving_early_warns_of_nothing_that_the_ledger_has(
    grok_emulator_factory: NewEmulator,
    new_client: NewClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    async with (
        new_client(emulator) as client,
        client.batch(requests(4), ledger=tmp_path / "a.sqlite"),
    ):
        await until(lambda: emulator.accepted >= 4)
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


async def test_leaving_early_tells_the_log_what_a_broken_ledger_could_not_take(
    grok_emulator_factory: NewEmulator,
    new_client: NewClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from grok_video._ledgerfile import LedgerFile

    real = LedgerFile._commit

    def breaking(self: LedgerFile, rows: list[Any], events: list[Any]) -> None:
        if any("accepted" in event for event in events):
            raise sqlite3.OperationalError("disk I/O error")
        real(self, rows, events)

    monkeypatch.setattr(LedgerFile, "_commit", breaking)
    emulator = grok_emulator_factory(time_scale=1.0)
    async with (
        new_client(emulator) as client,
        client.batch(requests(1), ledger=tmp_path / "a.sqlite") as batch,
    ):
        await until(lambda: batch.summary.stopped is not None)
    accepted = {create.request_id for create in emulator.creates}
    assert len(accepted) == 1
    assert ids_in_warnings(caplog, accepted) == accepted


async def test_a_cancelled_batch_lets_creates_answer_and_writes_them_down(
    grok_emulator_factory: NewEmulator, new_client: NewClient, tmp_path: Path
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    emulator.script("create", [faults.Pass()] + [faults.Stall(0.3, resume=True)] * 3)
    ledger = tmp_path / "a.sqlite"
    async with new_client(emulator) as client:
        with anyio.CancelScope() as scope:
            async with client.batch(requests(20), ledger=ledger, max_in_flight=4) as batch:

                async def cancel() -> None:
                    await until(lambda: len(emulator.faults_consumed) >= 4)
                    scope.cancel()

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(cancel)
                    async for _ in batch:
                        pass
        assert scope.cancelled_caught
    assert dict(read(ledger, "SELECT request_id, state FROM item")) == {
        create.request_id: "pending" for create in emulator.creates
    }
    assert emulator.accepted == 4


async def test_an_error_of_the_consumer_is_the_callers_own(client: AsyncClient) -> None:
    with pytest.raises(ZeroDivisionError):
        async with client.batch(requests(3)) as batch:
            async for _ in batch:
                _ = 1 / 0


async def test_a_create_that_waits_for_the_disk_is_not_sent_once_its_batch_is_left(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    ledger, entered = tmp_path / "a.sqlite", list[AsyncBatch]()

    async def leave(holder: list[sqlite3.Connection]) -> None:
        async with client.batch(requests(5), ledger=ledger) as batch:
            holder.append(sqlite3.connect(ledger, isolation_level=None))
            holder[0].execute("BEGIN IMMEDIATE")  # nobody else writes from here on
            entered.append(batch)
            await until(lambda: any(e.state is State.SUBMITTING for e in batch._entered().untold))

    others = list[sqlite3.Connection]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave, others)
        await until(lambda: bool(entered) and entered[0].summary.stopped is not None)
        others[0].execute("ROLLBACK")
    others[0].close()
    assert entered[0].summary.stopped == "the batch was left"
    assert grok_emulator.accepted == 0
    assert {entry[0] for entry in read(ledger, "SELECT state FROM item")} == {"planned"}

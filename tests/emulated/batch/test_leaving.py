"""Batches that are left early or cancelled: what was paid for is kept, and told."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from grok_video import (
    AsyncBatch,
    AsyncClient,
    ConfigurationError,
    Outcome,
    OutcomeState,
    VideoRequest,
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


# --- left by another task than entered it, or by none ---------------------------------------------


async def told_by(batch: AsyncBatch, left: anyio.Event) -> AsyncGenerator[Outcome]:
    """A generator around a batch: dropped half-way, it is closed by a task of the library's."""
    try:
        async with batch:
            async for outcome in batch:
                yield outcome
    finally:
        left.set()


def stalled(emulator: Emulator) -> None:
    """Have the first create answered at once, and those behind it only after a while."""
    emulator.script("create", [faults.Pass()] + [faults.Stall(0.3, resume=True)] * 3)


async def until_three_are_on_their_way(emulator: Emulator) -> None:
    await until(lambda: len(emulator.faults_consumed) >= 4 and emulator.accepted >= 1)
    emulator.finish(emulator.creates[0].request_id)


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # trio would not have it so
async def test_a_generator_around_a_batch_may_be_dropped_by_its_consumer(
    grok_emulator_factory: NewEmulator, new_client: NewClient, tmp_path: Path
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    stalled(emulator)
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    async with new_client(emulator) as client:
        left = anyio.Event()
        batch = client.batch(requests(20), max_in_flight=4, **words)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_three_are_on_their_way, emulator)
            async for outcome in told_by(batch, left):
                assert outcome.state is OutcomeState.SAVED
                break
        gc.collect()
        with anyio.fail_after(20):
            await left.wait()
        accepted = emulator.accepted
        assert accepted <= 5
        assert set(read(words["ledger"], "SELECT request_id FROM item WHERE request_id <> ''")) == {
            (create.request_id,) for create in emulator.creates
        }
        for create in emulator.creates[1:]:
            emulator.finish(create.request_id)
        # The ledger is free, and this task was never cancelled.
        found = await outcomes(client, requests(accepted), **words)
    assert Counter(states(found).values()) == {"saved": accepted - 1, "skipped": 1}
    assert emulator.accepted == accepted


async def in_a_task(function: Callable[[], Awaitable[object]]) -> None:
    async def run() -> None:
        await function()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)


@pytest.mark.parametrize("iterated", ["not", "in part", "to its end"])
async def test_a_batch_may_be_entered_iterated_and_left_by_three_tasks(
    client: AsyncClient, tmp_path: Path, iterated: str
) -> None:
    """As fixtures do whose set-up and tear-down are run in different tasks."""
    words = {"ledger": tmp_path / "a.sqlite"}
    batch = client.batch(requests(6), **words)

    async def iterate() -> None:
        async for _ in batch:
            if iterated == "in part":
                break

    async def leave() -> None:
        await batch.__aexit__(None, None, None)

    await in_a_task(batch.__aenter__)
    if iterated != "not":
        await in_a_task(iterate)
    with anyio.fail_after(20):
        await in_a_task(leave)
    assert await anext(batch, None) is None
    found = await outcomes(client, requests(6), **words)
    if iterated == "to its end":
        assert set(states(found).values()) == {"skipped"}


@pytest.mark.parametrize("ledger", ["a.sqlite", None])
@pytest.mark.parametrize("entered", ["by hand", "in a generator"])
def test_a_batch_that_nobody_leaves_ends_with_its_loop(
    grok_emulator_factory: NewEmulator,
    new_client: NewClient,
    lane: tuple[str, str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    entered: str,
    ledger: str | None,
) -> None:
    """Its creates are answered, and what was paid for is in the ledger or told to the log."""
    emulator = grok_emulator_factory(time_scale=1.0)
    stalled(emulator)
    place = tmp_path / ledger if ledger is not None else None
    client = new_client(emulator)
    kept: list[object] = []
    told = set[str]()

    async def main() -> None:
        batch = client.batch(requests(20), max_in_flight=4, ledger=place)
        if entered == "by hand":
            kept.append(await batch.__aenter__())
            await until_three_are_on_their_way(emulator)
            return
        outcomes_told = told_by(batch, anyio.Event())
        kept.append(outcomes_told)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_three_are_on_their_way, emulator)
            told.add((await anext(outcomes_told)).request_id or "")

    async def again() -> None:
        for create in emulator.creates:
            emulator.finish(create.request_id)
        found = await outcomes(client, requests(emulator.accepted), ledger=place)
        assert OutcomeState.LEFT not in {one.state for one in found.values()}
        await client.aclose()

    anyio.run(main, backend=lane[0])
    accepted = {create.request_id for create in emulator.creates}
    assert 4 <= len(accepted) <= 5
    if place is not None:
        rows = read(place, "SELECT request_id FROM item WHERE request_id <> ''")
        assert {row[0] for row in rows} == accepted
        anyio.run(again, backend=lane[0])
        assert emulator.accepted == len(accepted)
    else:
        assert ids_in_warnings(caplog, accepted) == accepted - told


@pytest.mark.parametrize("lane", [("asyncio", "aiohttp")], indirect=True)
async def test_who_iterates_is_told_when_all_other_tasks_were_cancelled(
    client: AsyncClient, tmp_path: Path
) -> None:
    """Some programs end like that. It must not look as if the batch had come to its end."""
    words = {"ledger": tmp_path / "a.sqlite"}
    others = asyncio.all_tasks()
    async with client.batch(requests(6), **words) as batch:
        await anext(batch)
        for task in asyncio.all_tasks() - others:
            task.cancel()
        with pytest.raises(ConfigurationError, match="broken off"):
            async for _ in batch:
                pass
    assert len(await outcomes(client, requests(6), **words)) == 6


TRIO = pytest.mark.parametrize("lane", [("trio", "httpx")], indirect=True)


@TRIO  # asyncio ends its loop in the middle, whoever the task belongs to
def test_what_a_manifest_raises_to_end_the_program_comes_out_of_its_batch_alone(
    grok_emulator_factory: NewEmulator, new_client: NewClient
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)

    def exiting() -> Iterator[tuple[str, VideoRequest]]:
        yield from requests(1)
        raise SystemExit(3)

    async def main() -> None:
        async with new_client(emulator) as client, client.batch(exiting()) as batch:
            async for _ in batch:
                pass

    with pytest.raises(SystemExit) as caught:
        trio.run(main)
    assert caught.value.code == 3


@TRIO
def test_ctrl_c_in_a_manifest_comes_out_of_its_batch(
    grok_emulator_factory: NewEmulator, new_client: NewClient
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)

    async def interrupted() -> AsyncIterator[tuple[str, VideoRequest]]:
        for one in requests(2):
            yield one
        await until(lambda: emulator.accepted == 2)
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        async with new_client(emulator) as client, client.batch(interrupted()) as batch:
            async for _ in batch:
                pass

    with pytest.raises(KeyboardInterrupt) as caught:
        trio.run(main)
    told = "".join(caught.value.__notes__)
    assert all(create.request_id in told for create in emulator.creates)


class Interrupting(logging.Handler):
    """Presses Ctrl-C once, in the middle of what the batch does: as it logs these words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words
        self.has_pressed = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.has_pressed and self._words in record.getMessage():
            self.has_pressed = True
            signal.raise_signal(signal.SIGINT)


@TRIO
def test_ctrl_c_in_the_middle_of_an_item_is_raised_in_the_main_task_and_costs_no_id(
    grok_emulator_factory: NewEmulator, new_client: NewClient, tmp_path: Path
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    emulator.script("poll", [faults.Answer(500)])
    ledger, interrupting = tmp_path / "a.sqlite", Interrupting("failed in passing")

    async def main() -> None:
        with trio.fail_after(20):
            async with new_client(emulator) as client, client.batch(requests(1), ledger=ledger):
                logging.getLogger("grok_video").addHandler(interrupting)
                await trio.sleep_forever()  # it asks for no outcome

    try:
        with pytest.raises(KeyboardInterrupt):
            trio.run(main)
    finally:
        logging.getLogger("grok_video").removeHandler(interrupting)
    assert interrupting.has_pressed
    assert read(ledger, "SELECT request_id, state FROM item") == [
        (create.request_id, "pending") for create in emulator.creates
    ]


@TRIO
def test_ctrl_c_beside_a_body_that_asks_for_no_outcome_ends_the_program(
    grok_emulator_factory: NewEmulator, new_client: NewClient, tmp_path: Path
) -> None:
    emulator, ledger = grok_emulator_factory(time_scale=1.0), tmp_path / "a.sqlite"
    interrupting = Interrupting("another request")

    async def main() -> None:
        async with new_client(emulator) as client:
            await client.run_batch(requests(1), ledger=ledger, timeout=0.1)
            with trio.fail_after(20):
                async with client.batch(requests(1, resolution="480p"), ledger=ledger):
                    await trio.sleep_forever()

    logging.getLogger("grok_video").addHandler(interrupting)
    try:
        with pytest.raises(KeyboardInterrupt):
            trio.run(main)
    finally:
        logging.getLogger("grok_video").removeHandler(interrupting)
    assert emulator.accepted == 1


async def test_a_manifest_sees_the_callers_context(client: AsyncClient) -> None:
    tenant, seen = ContextVar("tenant", default="nobody"), list[str]()

    async def lines() -> AsyncIterator[tuple[str, VideoRequest]]:
        for one in requests(2):
            seen.append(tenant.get())
            yield one

    tenant.set("tenant-7")
    await outcomes(client, lines())
    assert seen == ["tenant-7"] * 2


@pytest.mark.parametrize("lane", [("asyncio", "aiohttp")], indirect=True)
async def test_a_timeout_of_asyncio_around_a_batch_leaves_no_cancellation_behind(
    grok_emulator_factory: NewEmulator, new_client: NewClient, tmp_path: Path
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    stalled(emulator)
    async with new_client(emulator) as client:
        with pytest.raises(TimeoutError):
            async with (
                asyncio.timeout(None) as limit,
                client.batch(requests(4), ledger=tmp_path / "a.sqlite") as batch,
            ):
                await until(lambda: len(emulator.faults_consumed) >= 4)
                limit.reschedule(asyncio.get_running_loop().time())
                async for _ in batch:
                    pass
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
    assert emulator.accepted == 4
    assert len(read(tmp_path / "a.sqlite", "SELECT 1 FROM item WHERE state = 'pending'")) == 4

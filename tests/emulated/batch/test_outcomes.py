"""Batches against the emulator, on every lane: every item has one outcome."""

from __future__ import annotations

import asyncio
import hashlib
from decimal import Decimal
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from grok_video import (
    AsyncClient,
    OutcomeState,
    VideoRequest,
)
from grok_video.emulator import Emulator

from ...conftest import PHOTO
from .conftest import NewClient, NewEmulator, files_in, outcomes, read, requests, states, until


async def test_every_item_has_one_outcome_and_one_file(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    found = await outcomes(
        client, requests(12, image=PHOTO), out=tmp_path / "videos", ledger=tmp_path / "a.sqlite"
    )
    assert set(states(found).values()) == {"saved"}
    assert grok_emulator.accepted == 12
    for key, outcome in found.items():
        assert outcome.is_ok
        assert outcome.video is not None
        assert outcome.video.path == tmp_path / "videos" / f"{key}.mp4"
        assert outcome.video.path.read_bytes()[4:8] == b"ftyp"
        assert outcome.cost_usd == Decimal("0.15")
        assert (outcome.attempts, outcome.error) == (1, None)
        assert outcome.polls >= 1
        assert outcome.seconds is not None
    rows = read(tmp_path / "a.sqlite", "SELECT key, state, request_id, path, cost_usd FROM item")
    assert {row[0]: row[1:] for row in rows} == {
        key: ("saved", outcome.request_id, str(outcome.video.path), 0.15)
        for key, outcome in found.items()
        if outcome.video is not None
    }
    beside = files_in(tmp_path) - files_in(tmp_path / "videos")
    assert {path.name for path in beside} <= {"a.sqlite"}


async def test_a_batch_is_complete_once_all_of_its_manifest_is_done_and_not_before(
    client: AsyncClient,
) -> None:
    async with client.batch(requests(5), max_in_flight=2) as batch:
        assert not batch.summary.is_complete
        async for _ in batch:
            assert not batch.summary.is_complete or batch.summary.total == 5
    assert batch.summary.is_complete
    async with client.batch(requests(5), max_in_flight=2) as batch:
        async for _ in batch:
            break
    assert not batch.summary.is_complete
    async with client.batch(requests(5), max_in_flight=2) as batch:
        async for _ in batch:
            batch.stop()
    assert not batch.summary.is_complete


async def test_without_a_folder_nothing_is_downloaded_and_without_a_ledger_nothing_kept(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    summary = await client.run_batch(requests(5), max_in_flight=2)
    assert summary.counts == {OutcomeState.DONE: 5}
    assert summary.is_complete
    assert summary.total == 5
    assert grok_emulator.downloads == 0
    assert summary.cost_usd == Decimal("0.70")
    assert summary.median_seconds is not None
    assert summary.p99_seconds is not None
    assert summary.p99_seconds >= summary.median_seconds
    assert summary.polls_per_job is not None
    assert summary.polls_per_job >= 1


async def test_outcomes_come_in_the_order_in_which_items_end(
    grok_emulator_factory: NewEmulator, new_client: NewClient
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    async with (
        new_client(emulator) as client,
        client.batch(requests(3), max_in_flight=3) as batch,
    ):
        await until(lambda: emulator.accepted >= 3)
        by_prompt = {create.fields["prompt"]: create.request_id for create in emulator.creates}
        for number in (2, 0, 1):
            emulator.finish(by_prompt[f"drift {number}"])
            outcome = await anext(batch)
            assert outcome.key == f"key-{number:03}"
        with pytest.raises(StopAsyncIteration):
            await anext(batch)


@pytest.mark.parametrize("turns", range(4))
async def test_an_outcome_that_comes_while_its_wait_is_cancelled_is_told_to_who_asks_next(
    grok_emulator_factory: NewEmulator, new_client: NewClient, lane: tuple[str, str], turns: int
) -> None:
    """As by `asyncio.timeout`, so many turns of the loop after it came: one of them lost it."""
    emulator = grok_emulator_factory(time_scale=1.0)
    told: list[str] = []
    async with (
        new_client(emulator) as client,
        client.batch(requests(6), max_in_flight=6) as batch,
    ):

        async def ask() -> None:
            told.append((await anext(batch)).key)

        async def ask_and_give_up(ended: int) -> None:
            async with anyio.create_task_group() as tasks:
                task = None
                if lane[0] == "asyncio":
                    task = asyncio.create_task(ask())
                else:
                    tasks.start_soon(ask)
                while batch.summary.total < ended:
                    await anyio.lowlevel.checkpoint()
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                if task is None:
                    tasks.cancel_scope.cancel()
                elif task.cancel():
                    await asyncio.wait([task])

        await until(lambda: emulator.accepted >= 6)
        for ended, create in enumerate(emulator.creates, start=1):
            emulator.finish(create.request_id)
            await ask_and_give_up(ended)
        told += [outcome.key async for outcome in batch]
    assert sorted(told) == [key for key, _ in requests(6)]


async def test_bare_requests_are_known_by_their_fingerprint(client: AsyncClient) -> None:
    plain = [request for _, request in requests(2)]
    found = await outcomes(client, plain)
    assert set(found) == {request.fingerprint() for request in plain}


async def test_files_are_hashed_unless_that_is_declined(
    client: AsyncClient, tmp_path: Path
) -> None:
    hashes = {}
    for wanted in (True, False):
        words = {"out": tmp_path, "name": f"{wanted}-{{key}}.mp4", "sha256": wanted}
        ledger = tmp_path / f"{wanted}.sqlite"
        found = await outcomes(client, requests(1), ledger=ledger, **words)
        outcome = found["key-000"]
        assert outcome.video is not None
        hashes[wanted] = outcome.video.sha256
        assert read(ledger, "SELECT sha256 FROM item") == [(hashes[wanted],)]
    whole = (tmp_path / "True-key-000.mp4").read_bytes()
    assert hashes == {True: hashlib.sha256(whole).hexdigest(), False: None}


async def test_pictures_in_memory_are_items_like_any_other(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    large = PHOTO.read_bytes() + bytes(2**17)
    plain = [VideoRequest("drift", large, duration=1), VideoRequest("drift", large, duration=2)]
    found = await outcomes(client, plain)
    assert set(found) == {request.fingerprint() for request in plain}
    assert grok_emulator.accepted == 2

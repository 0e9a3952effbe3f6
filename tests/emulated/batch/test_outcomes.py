"""Batches against the emulator, on every lane: every item has one outcome."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from grok_video import (
    AsyncClient,
    OutcomeState,
)
from grok_video.emulator import Emulator

from ...conftest import PHOTO
from .common import NewClient, NewEmulator, files_in, outcomes, read, requests, states, until


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


async def test_bare_requests_are_known_by_their_fingerprint(client: AsyncClient) -> None:
    plain = [request for _, request in requests(2)]
    found = await outcomes(client, plain)
    assert set(found) == {request.fingerprint() for request in plain}

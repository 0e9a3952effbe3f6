"""What stops a batch: ceilings, empty accounts, outages, and its caller."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from grok_video import (
    AsyncClient,
    AuthenticationError,
    BatchItem,
    GrokVideoError,
    InsufficientBalance,
    OutcomeState,
    Retry,
    VideoRequest,
)
from grok_video import _gate as gate_module
from grok_video.emulator import Emulator, faults

from .conftest import NewClient, NewEmulator, outcomes, read, requests, states, until


@pytest.mark.parametrize("max_in_flight", [1, 7])
async def test_the_ceiling_is_kept_and_what_is_left_is_said(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path, max_in_flight: int
) -> None:
    words = {"ledger": tmp_path / "a.sqlite", "max_in_flight": max_in_flight}
    async with client.batch(requests(30), max_cost_usd=Decimal("1.60"), **words) as batch:
        told = {one.key: one async for one in batch}
    summary = batch.summary
    assert grok_emulator.bill == Decimal("1.54")  # 11 at 0.14: one more would be 1.68
    assert summary.counts == {OutcomeState.DONE: 11, OutcomeState.LEFT: 19}
    assert set(summary.left) == {key for key, one in told.items() if one.state == "left"}
    assert summary.stopped is not None
    assert "max_cost_usd" in summary.stopped
    assert summary.is_at_ceiling
    assert summary.cost_usd == Decimal("1.54")

    # The ceiling is the ledger's: what earlier runs spent counts.
    summary = await client.run_batch(requests(30), max_cost_usd=1.9, **words)
    assert grok_emulator.bill == summary.cost_usd == Decimal("1.82")
    assert (summary.counts[OutcomeState.SKIPPED], summary.counts[OutcomeState.DONE]) == (11, 2)
    summary = await client.run_batch(requests(30), **words)
    assert summary.counts == {OutcomeState.SKIPPED: 13, OutcomeState.DONE: 17}


@pytest.mark.parametrize("max_in_flight", [1, 5])
async def test_what_is_too_dear_is_left_alone_and_what_fits_is_sent(
    client: AsyncClient, grok_emulator: Emulator, max_in_flight: int
) -> None:
    dear = VideoRequest("drift", duration=15, resolution="1080p")
    items = [BatchItem("dear", dear), *requests(4), BatchItem("dear too", dear)]
    async with client.batch(items, max_cost_usd=1, max_in_flight=max_in_flight) as batch:
        told = {one.key: one.state async for one in batch}
    assert {key for key, state in told.items() if state == "left"} == {"dear", "dear too"}
    assert grok_emulator.accepted == 4
    assert batch.summary.stopped is not None
    assert "one more create (up to 3.75 USD)" in batch.summary.stopped


async def test_what_is_in_doubt_counts_against_the_ceiling(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("create", [faults.Pass(), faults.CutRequest(accepted=True)])
    summary = await client.run_batch(
        requests(5), max_cost_usd=0.42, ledger=tmp_path / "a.sqlite", max_in_flight=1
    )
    assert summary.counts == {
        OutcomeState.DONE: 2,
        OutcomeState.IN_DOUBT: 1,
        OutcomeState.LEFT: 2,
    }
    assert (summary.cost_usd, summary.open_usd) == (Decimal("0.28"), Decimal("0.14"))


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (faults.invalid_token(), AuthenticationError),
        (faults.out_of_credits(), InsufficientBalance),
        (faults.out_of_quota(), InsufficientBalance),
    ],
)
async def test_an_account_that_cannot_pay_costs_one_refusal_and_no_more(
    client: AsyncClient,
    grok_emulator: Emulator,
    tmp_path: Path,
    fault: faults.Fault,
    kind: type[GrokVideoError],
) -> None:
    words = {"ledger": tmp_path / "a.sqlite"}
    grok_emulator.script("create", [fault] * 100)
    async with client.batch(requests(100), **words) as batch:
        told = [one async for one in batch]
    assert {one.state for one in told} == {OutcomeState.LEFT}
    assert all(isinstance(one.error, kind) for one in told)
    assert len(grok_emulator.faults_consumed) == 1
    assert len(batch.summary.left) == 100


async def test_pending_jobs_are_still_fetched_when_the_money_runs_out(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("create", [faults.Pass()] * 5 + [faults.out_of_credits()] * 95)
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    found = await outcomes(client, requests(100), max_in_flight=8, **words)
    assert Counter(states(found).values()) == {"saved": 5, "left": 95}
    consumed = Counter(type(one.fault) for one in grok_emulator.faults_consumed)
    assert consumed[faults.Answer] <= 8  # those that were on their way together
    # After topping up, the same call sends what was left: nobody has to say "retry".
    async with client.batch([], **words):
        pass
    assert dict(read(words["ledger"], "SELECT state, count(*) FROM item GROUP BY 1"))["saved"] == 5


async def test_lost_answers_end_the_sending_after_ten(
    client: AsyncClient, grok_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    grok_emulator.script("create", [faults.bad_upstream(accepted=True)] * 100)
    found = await outcomes(client, requests(100), max_in_flight=50)
    counts = Counter(states(found).values())
    assert counts == {"in_doubt": gate_module.MOST_LOST, "left": 100 - gate_module.MOST_LOST}


async def test_an_outage_is_waited_for_and_a_long_one_is_not(
    client: AsyncClient, grok_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    grok_emulator.script("create", [faults.Refuse(0.4)])
    assert set(states(await outcomes(client, requests(5))).values()) == {"done"}
    monkeypatch.setattr(gate_module, "PATIENCE", 0.2)
    grok_emulator.stop()
    found = await outcomes(client, requests(5))
    assert set(states(found).values()) == {"left"}


async def test_no_create_is_sooner_than_the_server_allows(
    grok_emulator: Emulator, new_client: NewClient, tmp_path: Path
) -> None:
    async with new_client(grok_emulator, retry=Retry(base=0.01, cap=0.05)) as client:
        await outcomes(client, requests(3))
        grok_emulator.storm(1.0, retry_after=0.4)
        summary = await client.run_batch(requests(6), out=tmp_path, max_in_flight=6)
    assert summary.counts == {OutcomeState.SAVED: 6}
    assert grok_emulator.accepted == 9
    assert [one.status for one in grok_emulator.requests if one.method == "POST"].count(429) >= 1
    # Those that were on their way when the first 429 was answered could not know of it.
    assert all(one.at < early_end(grok_emulator) for one in grok_emulator.early)


def early_end(emulator: Emulator) -> float:
    first = next(one for one in emulator.requests if one.method == "POST" and one.status == 429)
    assert first.answered is not None
    return first.answered + 0.1


async def test_stop_lets_what_was_sent_come_in(
    grok_emulator_factory: NewEmulator, new_client: NewClient
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    async with new_client(emulator) as client:
        async with client.batch(requests(10), max_in_flight=3) as batch:
            await until(lambda: emulator.accepted >= 3)
            batch.stop()
            for create in emulator.creates:
                emulator.finish(create.request_id)
            told = [one.state async for one in batch]
        assert Counter(told) == {OutcomeState.DONE: 3, OutcomeState.LEFT: 7}

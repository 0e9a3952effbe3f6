"""What a batch says it spent and may be billed: each create counts with its own price."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from grok_video import AsyncClient, BatchSummary, Retry, VideoRequest
from grok_video import _report as report
from grok_video.emulator import Emulator, faults

from .conftest import NewClient, NewEmulator, read, states

#: By the list, in US dollars: a second of 480p, 12 and 15 seconds of 1080p.
CHEAP, DEAR, DEAREST = Decimal("0.08"), Decimal("3.00"), Decimal("3.75")
SECONDS = {CHEAP: 1, DEAR: 12, DEAREST: 15}


def item(key: str, price: Decimal, prompt: str = "drift") -> tuple[str, VideoRequest]:
    resolution: Any = "480p" if price == CHEAP else "1080p"
    return key, VideoRequest(prompt, duration=SECONDS[price], resolution=resolution)


def money(summary: BatchSummary) -> tuple[Decimal, Decimal]:
    return summary.cost_usd, summary.open_usd


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Path]:
    """A ledger; when all is over, everybody who adds up what is in it has the same sums."""
    path = tmp_path / "a.sqlite"
    yield path
    with report.earlier(path) as earlier:
        spent, still_open = earlier.money()
    [(cost, may_be)] = read(path, "SELECT sum(cost_usd), sum(open_usd) FROM item")
    assert (cost or 0, may_be) == pytest.approx((float(spent), float(still_open)))
    page = report.write(path, tmp_path / "page.html").path.read_text()
    data = json.loads(re.findall(r'id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[0])
    assert sum(one["cost"] or 0 for one in data["items"]) == pytest.approx(float(spent))
    assert sum(one["open"] for one in data["items"]) == pytest.approx(float(still_open))


async def sums(ledger: Path) -> tuple[Decimal, Decimal]:
    with report.earlier(ledger) as earlier:
        return earlier.money()


async def in_doubt(client: AsyncClient, emulator: Emulator, ledger: Path, price: Decimal) -> None:
    emulator.script("create", [faults.CutRequest(accepted=True)])
    summary = await client.run_batch([item("a", price)], ledger=ledger)
    assert summary.in_doubt == ("a",)
    assert money(summary) == (0, price)


async def test_a_changed_request_does_not_change_what_its_item_may_be_billed(
    grok_emulator_factory: NewEmulator, new_client: NewClient, ledger: Path
) -> None:
    """The dearer one would hide what others may be billed, and the ceiling would be passed."""
    emulator = grok_emulator_factory(time_scale=1.0)
    async with new_client(emulator) as client:
        await in_doubt(client, emulator, ledger, DEAREST)
        summary = await client.run_batch([item("b", CHEAP)], ledger=ledger, timeout=0.2)
        assert money(summary) == (0, DEAREST + CHEAP)
        emulator.finish(emulator.creates[1].request_id)
        things = [item("b", DEAREST, "another"), item("c", DEAR)]
        summary = await client.run_batch(things, ledger=ledger, max_cost_usd=5, max_in_flight=1)
    assert summary.left == ("c",)
    assert money(summary) == (CHEAP, DEAREST) == await sums(ledger)
    assert emulator.accepted == 2


@pytest.mark.parametrize("end", ["in doubt", "expired"])
async def test_what_was_sent_before_counts_with_its_own_price_when_less_is_asked_for(
    client: AsyncClient, grok_emulator: Emulator, ledger: Path, end: str
) -> None:
    if end == "in doubt":
        await in_doubt(client, grok_emulator, ledger, DEAREST)
    else:
        grok_emulator.script("poll", [faults.Answer(200, {"status": "expired"})])
        await client.run_batch([item("a", DEAREST)], ledger=ledger)
    summary = await client.run_batch(
        [item("a", CHEAP, "another")], ledger=ledger, resubmit_in_doubt=True, retry_failed=True
    )
    assert summary.is_complete
    assert money(summary) == (CHEAP, DEAREST) == await sums(ledger)
    summary = await client.run_batch([item("b", DEAR)], ledger=ledger, max_cost_usd=4)
    assert summary.left == ("b",)
    assert grok_emulator.accepted == 2


def named(status: str, dollars: str | None, **more: Any) -> faults.Answer:
    """The answer to a poll, with the provider's own price or without one."""
    ticks = int(Decimal(dollars) * 10**10) if dollars is not None else 0
    usage = {"usage": {"cost_in_usd_ticks": ticks}} if dollars is not None else {}
    return faults.Answer(200, {"status": status, **usage, **more})


FAILED = {"error": {"code": "internal", "message": "no luck"}}
LINK = {"video": {"url": "https://files.test/a.mp4", "duration": 1}}


async def test_a_price_that_was_named_for_one_create_says_nothing_of_the_next(
    client: AsyncClient, grok_emulator: Emulator, ledger: Path
) -> None:
    grok_emulator.script("poll", [named("failed", "0.01", **FAILED), named("done", None, **LINK)])
    await client.run_batch([item("a", DEAREST)], ledger=ledger)
    assert await sums(ledger) == (Decimal("0.01"), 0)
    summary = await client.run_batch([item("a", DEAREST)], ledger=ledger, retry_failed=True)
    assert summary.is_complete
    assert money(summary) == (Decimal("0.01"), DEAREST) == await sums(ledger)


@pytest.mark.parametrize(
    ("answer", "spent", "still_open"),
    [
        (named("expired", "0.05"), "0.05", 0),
        (named("expired", None), 0, CHEAP),
        (named("failed", "0.05", **FAILED), "0.05", 0),
        # Failures other than moderation carried no usage (contract.md, section 5).
        (named("failed", None, **FAILED), 0, 0),
        (named("failed", None, error={"code": "x", "message": "moderated"}), 0, CHEAP),
        # Rendered: what is not known of it is the link alone.
        (named("done", "0.05", video={"duration": 1}), "0.05", 0),
        (named("done", None, video={"duration": 1}), 0, CHEAP),
    ],
    ids=[
        "expired and named",
        "expired",
        "failed and named",
        "failed",
        "moderated",
        "done without a link and named",
        "done without a link",
    ],
)
async def test_a_job_without_a_video_costs_what_the_provider_names_or_may_have_charged(
    client: AsyncClient,
    grok_emulator: Emulator,
    ledger: Path,
    answer: faults.Answer,
    spent: Any,
    still_open: Decimal,
) -> None:
    grok_emulator.script("poll", [answer])
    async with client.batch([item("a", CHEAP)], ledger=ledger) as batch:
        [told] = [one async for one in batch]
    assert told.state in ("failed", "expired")
    assert (told.cost_usd or 0) == Decimal(spent)
    assert money(batch.summary) == (Decimal(spent), still_open) == await sums(ledger)


async def test_a_create_that_was_lost_and_sent_again_counts_twice_for_the_ceiling(
    new_client: NewClient, grok_emulator: Emulator, ledger: Path
) -> None:
    cut = faults.CutRequest(accepted=True)
    grok_emulator.script("create", [cut, faults.Pass(), cut, faults.Pass()])
    again = Retry(base=0.01, cap=0.01, resend_unknown_creates=True)
    things = [item(f"k{n}", CHEAP) for n in range(4)]
    words: dict[str, Any] = {"ledger": ledger, "max_in_flight": 1, "max_cost_usd": 0.25}
    async with (
        new_client(grok_emulator, retry=again) as client,
        client.batch(things, **words) as batch,
    ):
        told = {one.key: one async for one in batch}
    # The second one is lost as well, and a fourth create would not fit.
    assert states(told) == {"k0": "done", "k1": "in_doubt", "k2": "left", "k3": "left"}
    assert "max_cost_usd" in str(getattr(told["k1"].error, "__notes__", None))
    assert money(batch.summary) == (CHEAP, 2 * CHEAP) == await sums(ledger)
    assert grok_emulator.accepted == 3


async def test_a_lost_create_that_is_too_dear_to_be_sent_again_says_so(
    new_client: NewClient, grok_emulator: Emulator, ledger: Path
) -> None:
    grok_emulator.script("create", [faults.CutRequest(accepted=True)])
    again = Retry(base=0.01, cap=0.01, resend_unknown_creates=True)
    async with (
        new_client(grok_emulator, retry=again) as client,
        client.batch([item("a", CHEAP)], ledger=ledger, max_cost_usd=0.1) as batch,
    ):
        [told] = [one async for one in batch]
    assert told.state == "in_doubt"
    assert "beyond max_cost_usd (0.10 USD)" in str(told.error)
    assert "resubmit_in_doubt" in str(told.error)
    [(kept,)] = read(ledger, "SELECT error FROM item")
    assert "beyond max_cost_usd (0.10 USD)" in kept
    assert batch.summary.is_at_ceiling
    assert "beyond max_cost_usd (0.10 USD)" in str(batch.summary.stopped)
    assert grok_emulator.accepted == 1


async def test_a_create_that_was_not_taken_costs_nothing_and_a_doubt_before_it_still_does(
    client: AsyncClient, grok_emulator: Emulator, ledger: Path
) -> None:
    await in_doubt(client, grok_emulator, ledger, CHEAP)
    grok_emulator.script("create", [faults.rate_limited(0), faults.overloaded(), faults.Pass()])
    async with client.batch(
        [item("a", DEAR, "another")], ledger=ledger, resubmit_in_doubt=True, max_cost_usd=3.5
    ) as batch:
        [told] = [one async for one in batch]
    assert (told.state, told.attempts, told.is_changed) == ("done", 4, False)
    assert money(batch.summary) == (DEAR, CHEAP) == await sums(ledger)


async def test_what_a_ceiling_leaves_out_is_decided_in_the_order_of_the_manifest(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    """Not by whose turn it happens to be: nobody could foretell it."""
    seconds = [5, 1, 3, 2, 4, 1, 1, 5, 2, 3] * 6
    things = [
        (f"k{n:02}", VideoRequest(f"{n}", duration=one, resolution="480p"))
        for n, one in enumerate(seconds)
    ]
    ceiling, would_send, left = Decimal("3.60"), list[str](), Decimal("3.60")
    for (key, _), one in zip(things, seconds, strict=True):
        if one * CHEAP <= left:
            left -= one * CHEAP
            would_send.append(key)
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    async with client.batch(things, max_cost_usd=ceiling, **words) as batch:
        told = states({one.key: one async for one in batch})
    assert sorted(key for key, state in told.items() if state == "saved") == would_send
    assert batch.summary.cost_usd == ceiling - left
    assert len(grok_emulator.creates) == len(would_send)

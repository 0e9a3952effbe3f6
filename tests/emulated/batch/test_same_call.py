"""The same call again: what is done is not done twice, what failed is tried again when asked."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest

from grok_video import AsyncBatch, AsyncClient, JobExpired, JobTimeout, VideoRequest, _batchrun
from grok_video.emulator import Emulator, faults

from .conftest import NewClient, NewEmulator, outcomes, read, requests, states, until


async def test_the_same_call_again_sends_nothing(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    first = await outcomes(client, requests(4), **words)
    requests_seen = len(grok_emulator.requests)
    again = await outcomes(client, requests(5), **words)
    assert states(again) == {**dict.fromkeys(first, "skipped"), "key-004": "saved"}
    for key, outcome in first.items():
        assert outcome.video is not None
        video = again[key].video
        assert video is not None
        assert (video.path, video.size, video.sha256) == (
            outcome.video.path,
            outcome.video.size,
            outcome.video.sha256,
        )
    assert len(grok_emulator.requests) > requests_seen
    assert grok_emulator.accepted == 5


async def test_failed_items_are_tried_again_only_on_request(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("create", [faults.Failed("internal_error", "no luck")])
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    assert states(await outcomes(client, requests(1), **words)) == {"key-000": "failed"}
    again = await outcomes(client, requests(1), **words)
    assert states(again) == {"key-000": "failed"}
    assert "no luck" in str(again["key-000"].error)
    assert "retry_failed" in str(again["key-000"].error)
    assert grok_emulator.accepted == 1
    found = await outcomes(client, requests(1), retry_failed=True, **words)
    assert states(found) == {"key-000": "saved"}
    assert found["key-000"].attempts == 2
    assert grok_emulator.accepted == 2


async def test_a_wait_that_ends_leaves_the_job_pending(
    grok_emulator_factory: NewEmulator, new_client: NewClient, tmp_path: Path
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    words = {"ledger": tmp_path / "a.sqlite"}
    async with new_client(emulator) as client:
        found = await outcomes(client, requests(1), timeout=0.2, **words)
        assert states(found) == {"key-000": "pending"}
        assert isinstance(found["key-000"].error, JobTimeout)
        emulator.finish(emulator.creates[0].request_id)
        found = await outcomes(client, requests(1), **words)
        assert states(found) == {"key-000": "done"}
        assert found["key-000"].seconds is not None
        assert found["key-000"].seconds > 0.15  # counted from the create, in another run
    assert emulator.accepted == 1


async def test_a_done_item_is_downloaded_once_there_is_a_folder(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    ledger = tmp_path / "a.sqlite"
    assert states(await outcomes(client, requests(1), ledger=ledger)) == {"key-000": "done"}
    assert states(await outcomes(client, requests(1), ledger=ledger)) == {"key-000": "skipped"}
    found = await outcomes(client, requests(1), ledger=ledger, out=tmp_path)
    assert states(found) == {"key-000": "saved"}
    assert found["key-000"].cost_usd == Decimal("0.14")
    assert grok_emulator.accepted == 1


async def test_a_link_that_its_consumer_broke_at_or_never_saw_is_told_by_the_next_run(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    """Paid for, and told to nobody: "skipped" would hide it for ever after."""
    words, told = {"ledger": tmp_path / "a.sqlite"}, list[str]()
    with pytest.raises(ZeroDivisionError):
        async with client.batch(requests(5), **words) as batch:
            await until(lambda: batch.summary.total == 5)
            async for outcome in batch:
                told.append(outcome.key)
                if len(told) == 2:
                    _ = 1 / 0
    assert read(words["ledger"], "SELECT state, cost_usd FROM item") == [("ready", 0.14)] * 5
    found = await outcomes(client, requests(5), **words)
    assert [key for key, one in found.items() if one.state == "skipped"] == told[:1]
    for key in found.keys() - told[:1]:
        assert found[key].state == "done"
        assert found[key].video is not None
        assert found[key].video.url is not None
        assert (found[key].cost_usd, found[key].attempts) == (Decimal("0.14"), 1)
        assert found[key].seconds is not None
    again = await outcomes(client, requests(5), **words)
    assert set(states(again).values()) == {"skipped"}
    assert grok_emulator.accepted == 5


async def test_who_leaves_a_batch_as_they_please_is_told_the_last_link_once(
    client: AsyncClient, tmp_path: Path
) -> None:
    words = {"ledger": tmp_path / "a.sqlite"}
    async with client.batch(requests(3), max_in_flight=1, **words) as batch:
        async for outcome in batch:
            if outcome.key == "key-001":
                break
    found = await outcomes(client, requests(3), **words)
    assert states(found) == {"key-000": "skipped", "key-001": "skipped", "key-002": "done"}


async def test_what_a_run_with_a_folder_could_not_fetch_is_no_skipped_item_without_one(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    """Its link was told to nobody, and no file of it is here."""
    ledger = tmp_path / "a.sqlite"
    grok_emulator.script("download", [faults.html_page()] * 50)
    first = await outcomes(client, requests(1), ledger=ledger, out=tmp_path)
    assert states(first) == {"key-000": "unfetched"}
    found = await outcomes(client, requests(1), ledger=ledger)
    assert states(found) == {"key-000": "done"}
    assert found["key-000"].video is not None
    assert found["key-000"].video.url is not None
    assert grok_emulator.accepted == 1


async def test_a_link_that_died_before_it_was_told_is_no_skipped_item(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words: dict[str, Any] = {"ledger": tmp_path / "a.sqlite"}
    async with client.batch(requests(1), **words) as batch:
        await until(lambda: batch.summary.total == 1)
    grok_emulator.expire(grok_emulator.creates[0].request_id)
    words["retry_failed"] = True
    found = await outcomes(client, requests(1), **words)
    assert states(found) == {"key-000": "expired"}
    assert isinstance(found["key-000"].error, JobExpired)
    assert found["key-000"].cost_usd == Decimal("0.14")
    # It was rendered, and perhaps heard of: no mere retry pays for it again.
    assert not found["key-000"].retryable
    assert states(await outcomes(client, requests(1), **words)) == {"key-000": "skipped"}
    assert grok_emulator.accepted == 1


async def test_a_link_counts_as_told_when_the_task_that_has_it_asks_for_more(
    client: AsyncClient, tmp_path: Path
) -> None:
    words, kept = {"ledger": tmp_path / "a.sqlite"}, list[str]()

    async def keep_slowly(batch: AsyncBatch) -> None:
        kept.append((await anext(batch)).key)
        await anyio.sleep_forever()

    with pytest.raises(ZeroDivisionError):
        async with client.batch(requests(4), **words) as batch:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(keep_slowly, batch)
                await until(lambda: bool(kept))
                async for _ in batch:
                    pass
                tasks.cancel_scope.cancel()
            raise ZeroDivisionError
    found = await outcomes(client, requests(4), **words)
    assert [key for key, one in found.items() if one.state == "done"] == kept


async def test_tasks_that_ask_once_keep_few_links_from_being_told(
    client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `wait_for` does it: the memory of a batch does not grow with what it has told."""
    monkeypatch.setattr(_batchrun, "_TOLD_AT_MOST", 2)
    ledger = tmp_path / "a.sqlite"

    async def ask(batch: AsyncBatch) -> None:
        await anext(batch)

    async with client.batch(requests(6), ledger=ledger) as batch:
        for _ in range(6):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, batch)
        told = "SELECT count(*) FROM event WHERE event = 'told'"
        await until(lambda: read(ledger, told) == [(3,)])  # the last one's task is not over
    assert read(ledger, told) == [(6,)]


def delivered() -> list[tuple[str, VideoRequest]]:
    output = {"upload_url": "https://bucket.example/a.mp4"}
    return [("key-000", VideoRequest("drift", duration=1, output=output))]


async def test_what_was_delivered_elsewhere_and_told_is_never_bought_again(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    answer = {"status": "done", "video": {"url": None, "duration": 1}}
    grok_emulator.script("poll", [faults.Answer(200, answer)])
    words: dict[str, Any] = {"ledger": tmp_path / "a.sqlite", "out": tmp_path}
    assert states(await outcomes(client, delivered(), **words)) == {"key-000": "done"}
    grok_emulator.expire(grok_emulator.creates[0].request_id)
    for _ in range(2):
        found = await outcomes(client, delivered(), retry_failed=True, **words)
        assert states(found) == {"key-000": "skipped"}
    assert grok_emulator.accepted == 1


#: What a provider says of a video that it has put where it was asked to.
DONE_ELSEWHERE = faults.Answer(200, {"status": "done", "video": {"url": None, "duration": 1}})
#: What it says when it has forgotten the job, and in an outage.
NOT_FOUND = faults.Answer(404, {"code": "not-found", "error": "The entity was not found"})
OUTAGE = faults.Answer(500, {"error": {"message": "x"}})


@pytest.mark.parametrize("later", [DONE_ELSEWHERE, NOT_FOUND, OUTAGE], ids=["done", "404", "500"])
@pytest.mark.parametrize("folder", ["videos", None])
async def test_what_was_delivered_elsewhere_and_told_is_over_and_asked_for_no_more(
    client: AsyncClient,
    grok_emulator: Emulator,
    tmp_path: Path,
    folder: str | None,
    later: faults.Answer,
) -> None:
    words: dict[str, Any] = {"ledger": tmp_path / "a.sqlite", "timeout": 2.0}
    words["out"] = tmp_path / folder if folder is not None else None
    grok_emulator.script("poll", [DONE_ELSEWHERE])
    assert states(await outcomes(client, delivered(), **words)) == {"key-000": "done"}
    grok_emulator.script("poll", [later] * 50)
    polls = grok_emulator.polls
    for out in (words["out"], tmp_path / "other", None):
        again = await outcomes(client, delivered(), retry_failed=True, **words | {"out": out})
        assert states(again) == {"key-000": "skipped"}
    assert grok_emulator.polls == polls
    assert grok_emulator.accepted == 1


@pytest.mark.parametrize("folder", ["videos", None])
async def test_what_was_delivered_elsewhere_and_told_to_nobody_is_told_again_and_not_bought(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path, folder: str | None
) -> None:
    words: dict[str, Any] = {"ledger": tmp_path / "a.sqlite", "retry_failed": True}
    words["out"] = tmp_path / folder if folder is not None else None
    grok_emulator.script("poll", [DONE_ELSEWHERE])
    with pytest.raises(ZeroDivisionError):
        async with client.batch(delivered(), **words) as batch:
            async for outcome in batch:
                assert outcome.state == "done"
                raise ZeroDivisionError
    grok_emulator.expire(grok_emulator.creates[0].request_id)
    polls = grok_emulator.polls
    with pytest.raises(ZeroDivisionError):
        async with client.batch(delivered(), **words) as batch:
            async for outcome in batch:
                assert (outcome.state, outcome.retryable) == ("done", False)
                assert outcome.video is not None
                assert outcome.video.request_id == grok_emulator.creates[0].request_id
                assert batch.summary.polls_per_job == 0
                assert batch.summary.median_seconds is None
                raise ZeroDivisionError
    assert states(await outcomes(client, delivered(), **words)) == {"key-000": "done"}
    assert states(await outcomes(client, delivered(), **words)) == {"key-000": "skipped"}
    assert grok_emulator.polls == polls
    assert grok_emulator.accepted == 1


async def test_what_an_earlier_version_left_delivered_elsewhere_is_not_bought_again(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    """It wrote down that this was asked for, and not that it had come without a link."""
    words: dict[str, Any] = {"ledger": tmp_path / "a.sqlite", "out": tmp_path}
    grok_emulator.script("poll", [DONE_ELSEWHERE])
    async with client.batch(delivered(), **words) as batch:
        await until(lambda: batch.summary.total == 1)
    with closing(sqlite3.connect(words["ledger"])) as file:
        file.execute("DROP TRIGGER event_is_never_changed")
        file.execute("UPDATE event SET is_delivered = min(is_delivered, 1)")
        file.commit()
    grok_emulator.expire(grok_emulator.creates[0].request_id)
    words["retry_failed"] = True
    for _ in range(2):
        found = await outcomes(client, delivered(), **words)
        assert not found["key-000"].retryable
    assert grok_emulator.accepted == 1


async def test_a_link_of_what_is_delivered_elsewhere_is_fetched_by_a_run_with_a_folder(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words: dict[str, Any] = {"ledger": tmp_path / "a.sqlite"}
    assert states(await outcomes(client, delivered(), **words)) == {"key-000": "done"}
    grok_emulator.script("download", [faults.html_page()] * 50)
    words["out"] = tmp_path
    assert states(await outcomes(client, delivered(), **words)) == {"key-000": "unfetched"}
    assert read(words["ledger"], "SELECT state FROM item") == [("ready",)]
    found = await outcomes(client, delivered(), **words)
    while states(found) == {"key-000": "unfetched"}:  # the rest of the pages
        found = await outcomes(client, delivered(), **words)
    assert states(found) == {"key-000": "saved"}
    assert grok_emulator.accepted == 1


async def test_links_of_tasks_that_died_with_them_are_told_again(
    client: AsyncClient, tmp_path: Path
) -> None:
    words = {"ledger": tmp_path / "a.sqlite"}
    died = list[str]()

    async def die(batch: AsyncBatch) -> None:
        died.append((await anext(batch)).key)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with client.batch(requests(4), **words) as batch:
            for _ in range(4):
                with pytest.raises(ExceptionGroup):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(die, batch)
            raise ZeroDivisionError
    found = await outcomes(client, requests(4), **words)
    assert set(states(found).values()) == {"done"}
    assert sorted(died) == sorted(found)


async def test_a_ledger_that_breaks_while_links_are_told_keeps_none_of_them_back(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    ledger, told = tmp_path / "a.sqlite", list[str | None]()
    async with client.batch(requests(3), ledger=ledger) as batch:
        await until(lambda: batch.summary.total == 3)
        for one in (ledger, tmp_path / "a.sqlite-wal"):
            one.rename(one.with_name(f"moved-{one.name}"))
        async for outcome in batch:
            assert outcome.video is not None
            told.append(outcome.video.url)
    assert len(set(told)) == 3
    assert None not in told
    assert grok_emulator.accepted == 3

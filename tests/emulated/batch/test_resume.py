"""Batches that go on where others ended: files that are gone, what failed, what was changed."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from grok_video import (
    AsyncClient,
    BadRequest,
    DestinationError,
    JobExpired,
    VideoRequest,
)
from grok_video.emulator import Emulator, faults

from .conftest import NewClient, NewEmulator, age, doubtful, outcomes, read, requests, states

# --- files that are gone -------------------------------------------------------------------------


async def test_a_saved_file_that_was_removed_is_fetched_again_and_not_paid_for(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    first = await outcomes(client, requests(3), **words)
    whole = (tmp_path / "videos" / "key-001.mp4").read_bytes()
    (tmp_path / "videos" / "key-001.mp4").unlink()
    async with client.batch(requests(3), **words) as batch:
        again = {one.key: one async for one in batch}
    assert states(again) == {"key-000": "skipped", "key-001": "saved", "key-002": "skipped"}
    assert (tmp_path / "videos" / "key-001.mp4").read_bytes() == whole
    assert again["key-001"].seconds == pytest.approx(first["key-001"].seconds, abs=0.001)
    assert (again["key-001"].cost_usd, again["key-001"].attempts) == (Decimal("0.14"), 1)
    assert batch.summary.cost_usd == Decimal("0.42")
    assert batch.summary.open_usd == 0
    assert set(states(await outcomes(client, requests(3), **words)).values()) == {"skipped"}
    assert grok_emulator.accepted == 3
    # Where nothing is to be saved, nothing is missed.
    (tmp_path / "videos" / "key-001.mp4").unlink()
    again = await outcomes(client, requests(3), ledger=words["ledger"])
    assert set(states(again).values()) == {"skipped"}


async def test_a_summary_counts_what_its_own_run_has_asked_and_awaited(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    first = await client.run_batch(requests(2), **words)
    asked = grok_emulator.polls
    assert first.polls_per_job == asked / 2
    assert first.median_seconds is not None
    for file in words["out"].iterdir():
        file.unlink()
    # The files come again; that their jobs took a while, and were asked after, was the run before.
    second = await client.run_batch(requests(2), **words)
    assert second.counts == {"saved": 2}
    assert second.polls_per_job == (grok_emulator.polls - asked) / 2
    assert second.median_seconds is None


async def test_a_saved_file_that_was_changed_is_told_and_replaced_only_on_request(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    await outcomes(client, requests(1), **words)
    file = tmp_path / "videos" / "key-000.mp4"
    size = file.stat().st_size
    file.write_text("junk, or the work of a person")
    before = len(grok_emulator.requests)
    found = await outcomes(client, requests(1), retry_failed=True, **words)
    assert states(found) == {"key-000": "unfetched"}
    assert isinstance(found["key-000"].error, DestinationError)
    assert f"saved as {file} ({size} bytes) is not there any more as it was" in str(
        found["key-000"].error
    )
    assert "overwrite=True" in str(found["key-000"].error)
    video = found["key-000"].video
    assert video is not None
    assert (video.path, video.size) == (file, size)
    assert file.read_text() == "junk, or the work of a person"
    assert len(grok_emulator.requests) == before
    found = await outcomes(client, requests(1), overwrite=True, **words)
    assert states(found) == {"key-000": "saved"}
    assert file.stat().st_size == size
    assert grok_emulator.accepted == 1


async def test_a_saved_file_whose_job_is_gone_is_told_and_never_paid_for_again(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    await outcomes(client, requests(1), **words)
    file = tmp_path / "videos" / "key-000.mp4"
    file.rename(tmp_path / "elsewhere.mp4")
    grok_emulator.expire(grok_emulator.creates[0].request_id)
    for more in ({}, {"retry_failed": True}):
        found = await outcomes(client, requests(1), **words, **more)
        assert states(found) == {"key-000": "expired"}
        assert isinstance(found["key-000"].error, JobExpired)
        assert "was not fetched again" in str(found["key-000"].error)
        assert str(file) in str(found["key-000"].error)
    (tmp_path / "elsewhere.mp4").rename(file)
    assert states(await outcomes(client, requests(1), **words)) == {"key-000": "skipped"}
    assert grok_emulator.accepted == 1


async def test_another_folder_is_for_files_that_are_not_where_the_ledger_says(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    ledger, old, new = tmp_path / "a.sqlite", tmp_path / "old", tmp_path / "new"
    await outcomes(client, requests(3), out=old, ledger=ledger)
    new.mkdir()
    (old / "key-001.mp4").unlink()
    (old / "key-002.mp4").rename(new / "key-002.mp4")
    found = await outcomes(client, requests(3), out=new, ledger=ledger)
    assert states(found) == {"key-000": "skipped", "key-001": "saved", "key-002": "skipped"}
    paths = {key: one.video.path for key, one in found.items() if one.video is not None}
    assert paths == {
        "key-000": old / "key-000.mp4",
        "key-001": new / "key-001.mp4",
        "key-002": new / "key-002.mp4",
    }
    assert {path.name for path in new.iterdir()} == {"key-001.mp4", "key-002.mp4"}
    assert grok_emulator.accepted == 3


async def test_a_file_that_does_not_come_back_is_tried_by_the_next_run(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    await outcomes(client, requests(1), **words)
    (tmp_path / "videos" / "key-000.mp4").unlink()
    grok_emulator.script("poll", [faults.invalid_token()])
    found = await outcomes(client, requests(1), **words)
    assert states(found) == {"key-000": "unfetched"}
    assert "was not fetched again" in str(found["key-000"].error)
    assert states(await outcomes(client, requests(1), **words)) == {"key-000": "saved"}
    assert grok_emulator.accepted == 1


# --- what failed ---------------------------------------------------------------------------------


async def test_what_moderation_refused_is_not_paid_for_again(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = {"ledger": tmp_path / "a.sqlite"}
    things = [
        ("moderated", VideoRequest("[moderated] x", duration=1)),
        ("failed", VideoRequest("[failed] x", duration=1)),
        ("expired", VideoRequest("[expired] x", duration=1)),
    ]
    first = await outcomes(client, things, **words)
    assert {key: one.retryable for key, one in first.items()} == {
        "moderated": False,
        "failed": True,
        "expired": True,
    }
    summary = await client.run_batch(things, **words)
    assert summary.retryable == 2
    assert grok_emulator.accepted == 3
    again = await outcomes(client, things, retry_failed=True, **words)
    assert states(again) == {"moderated": "failed", "failed": "failed", "expired": "expired"}
    assert "another request, under another key" in str(again["moderated"].error)
    assert grok_emulator.accepted == 5
    # Nor is another one under its key: a picture that was moved would be one.
    things[0] = ("moderated", VideoRequest("[moderated] y", duration=1))
    for _ in range(2):
        again = await outcomes(client, things[:1], retry_failed=True, **words)
        assert states(again) == {"moderated": "failed"}
    assert grok_emulator.accepted == 5


@pytest.mark.parametrize("state", ["expired", "failed"])
@pytest.mark.parametrize(
    "refusals",
    [[faults.invalid_token()], [faults.rate_limited(0.01), faults.invalid_token()]],
    ids=["for good", "in passing first"],
)
async def test_what_a_person_let_be_sent_again_is_what_it_was_if_that_is_not_taken(
    client: AsyncClient,
    grok_emulator: Emulator,
    tmp_path: Path,
    state: str,
    refusals: list[faults.Fault],
) -> None:
    ledger = tmp_path / "a.sqlite"
    things = [("key", VideoRequest(f"[{state}] x", duration=1))]
    await outcomes(client, things, ledger=ledger)
    before = read(ledger, "SELECT state, request_id, open_usd, error FROM item")
    assert before[0][0] == state
    grok_emulator.script("create", refusals)
    again = await outcomes(client, things, ledger=ledger, retry_failed=True)
    grok_emulator.assert_faults_consumed()
    assert states(again) == {"key": state}
    assert read(ledger, "SELECT state, request_id, open_usd, error FROM item") == before
    assert states(await outcomes(client, things, ledger=ledger)) == {"key": state}
    assert grok_emulator.accepted == 1


async def test_what_the_server_finds_wrong_is_not_sent_again(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("create", [faults.disguised_bad_request()])
    words = {"ledger": tmp_path / "a.sqlite"}
    first = await outcomes(client, requests(1), **words)
    assert isinstance(first["key-000"].error, BadRequest)
    again = await outcomes(client, requests(1), retry_failed=True, **words)
    assert states(again) == {"key-000": "failed"}
    assert again["key-000"].retryable is False
    assert grok_emulator.accepted == 0


async def test_a_summary_names_what_failed_and_says_why(
    client: AsyncClient, tmp_path: Path
) -> None:
    things: list[Any] = [
        ("good", VideoRequest("x", duration=1)),
        ("bad", VideoRequest("[failed] x", duration=1)),
        ("late", VideoRequest("[expired] x", duration=1)),
        "no request",
    ]
    for _ in range(2):
        summary = await client.run_batch(things, ledger=tmp_path / "a.sqlite")
        why = dict(summary.failed)
        assert set(why) == {"bad", "late", "item 4"}
        assert "failed" in why["bad"]
        assert "expired" in why["late"]
        assert "must be a VideoRequest" in why["item 4"]
        assert summary.retryable == 2


async def test_the_doubt_is_told_once_in_each_run(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = await doubtful(client, grok_emulator, tmp_path)
    for _ in range(3):
        found = await outcomes(client, requests(1), **words)
        text = str(found["key-000"].error)
        assert text.count("may have been accepted and billed") == 1
        assert text.count("no request_id is known") == 1
        assert text.count("Look at the account's usage") == 1
        assert "found_ids" in text
        assert "resubmit_in_doubt" in text


async def test_an_item_that_was_changed_keeps_what_was_begun_and_says_so(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = {"ledger": tmp_path / "a.sqlite", "out": tmp_path}
    first = await outcomes(client, requests(3), **words)
    assert not any(one.is_changed for one in first.values())
    changed = [(key, VideoRequest("another", duration=1)) for key, _ in requests(2)]
    async with client.batch([*changed, requests(3)[2]], **words) as batch:
        found = {outcome.key: outcome async for outcome in batch}
    assert states(found) == dict.fromkeys(found, "skipped")
    assert [key for key, one in found.items() if one.is_changed] == ["key-000", "key-001"]
    assert batch.summary.changed == ("key-000", "key-001")
    assert caplog.text.count("was begun with another request") == 1
    assert "give it a new key" in caplog.text
    assert grok_emulator.accepted == 3
    # What is fetched again is what was begun.
    (tmp_path / "key-000.mp4").unlink()
    again = await outcomes(client, changed[:1], **words)
    assert (again["key-000"].state, again["key-000"].is_changed) == ("saved", True)
    assert grok_emulator.accepted == 3


async def test_an_item_that_failed_is_tried_again_with_its_new_request(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = {"ledger": tmp_path / "a.sqlite"}
    await outcomes(client, [("a", VideoRequest("[failed] x", duration=1))], **words)
    mended = [("a", VideoRequest("mended", duration=1))]
    kept = await outcomes(client, mended, **words)
    assert (kept["a"].state, kept["a"].is_changed) == ("failed", True)
    for retry_failed in (True, False):
        done = await outcomes(client, mended, retry_failed=retry_failed, **words)
        assert done["a"].is_ok
        assert not done["a"].is_changed, "the new request is what the item stands for now"
    assert read(words["ledger"], "SELECT prompt FROM item") == [("mended",)]
    assert grok_emulator.accepted == 2


async def test_an_item_that_ended_has_the_same_error_in_every_run(
    client: AsyncClient, tmp_path: Path
) -> None:
    words = {"ledger": tmp_path / "a.sqlite"}
    things = [
        (word, VideoRequest(f"[{word}] x", duration=1))
        for word in ("moderated", "failed", "expired")
    ]
    first = await outcomes(client, things, **words)
    again = await outcomes(client, things, **words)
    for key in first:
        assert type(again[key].error) is type(first[key].error)
        assert again[key].error.request_id == first[key].request_id
        assert "an earlier run ended with" in str(again[key].error)


async def test_a_file_of_somebody_else_is_kept_by_every_run(
    grok_emulator_factory: NewEmulator, new_client: NewClient, tmp_path: Path
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    words = {"ledger": tmp_path / "a.sqlite", "out": tmp_path}
    place = tmp_path / "key-000.mp4"
    async with new_client(emulator) as client:
        first = await outcomes(client, requests(1), timeout=0.2, **words)
        assert states(first) == {"key-000": "pending"}
        emulator.finish(emulator.creates[0].request_id)
        place.write_bytes(b"another paid video")
        for _ in range(2):
            found = await outcomes(client, requests(1), **words)
            assert states(found) == {"key-000": "unfetched"}
            assert found["key-000"].error.is_taken
            assert place.read_bytes() == b"another paid video"
        found = await outcomes(client, requests(1), overwrite=True, **words)
        assert states(found) == {"key-000": "saved"}
    assert emulator.accepted == 1


async def test_a_video_that_was_to_be_delivered_is_done_also_when_its_address_is_gone(
    grok_emulator_factory: NewEmulator, new_client: NewClient, tmp_path: Path
) -> None:
    """What was begun counts: no link is no failure of it, and no reason to pay once more."""
    emulator = grok_emulator_factory(time_scale=1.0)
    words = {"ledger": tmp_path / "a.sqlite"}
    begun = VideoRequest("drift", duration=1, output={"upload_url": "https://up.test/a?sig=1"})
    async with new_client(emulator) as client:
        first = await outcomes(client, [("a", begun)], timeout=0.2, **words)
        assert states(first) == {"a": "pending"}
        done = faults.Answer(200, {"status": "done", "video": {"duration": 1}})
        emulator.script("poll", [done] * 10)
        without = [("a", VideoRequest("drift", duration=1))]
        found = await outcomes(client, without, **words)
        assert (found["a"].state, found["a"].is_changed) == ("done", True)
        again = await outcomes(client, without, retry_failed=True, **words)
        assert states(again) == {"a": "skipped"}
    assert emulator.accepted == 1


async def test_a_job_that_the_provider_has_forgotten_says_what_a_person_can_do(
    grok_emulator_factory: NewEmulator, new_client: NewClient, tmp_path: Path
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    words = {"ledger": tmp_path / "a.sqlite"}
    async with new_client(emulator) as client:
        await outcomes(client, requests(1), timeout=0.2, **words)
        age(words["ledger"])
        gone = {"error": {"message": "Some requested entity was not found", "code": "not-found"}}
        emulator.script("poll", [faults.Answer(404, gone)])
        found = await outcomes(client, requests(1), resubmit_in_doubt=True, **words)
        assert states(found) == {"key-000": "pending"}
        text = str(found["key-000"].error)
        assert emulator.creates[0].request_id in text
        assert "the next run asks again" in text
        assert "give its request another key" in text
        assert "paid for once more" in text
    assert emulator.accepted == 1


async def test_a_forgotten_job_whose_video_was_to_be_delivered_is_not_called_lost(
    grok_emulator_factory: NewEmulator, new_client: NewClient, tmp_path: Path
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    words = {"ledger": tmp_path / "a.sqlite"}
    output = {"upload_url": "https://up.test/a?sig=1"}
    items = [("a", VideoRequest("drift", duration=1, output=output))]
    async with new_client(emulator) as client:
        await outcomes(client, items, timeout=0.2, **words)
        age(words["ledger"])
        gone = {"error": {"message": "Some requested entity was not found", "code": "not-found"}}
        emulator.script("poll", [faults.Answer(404, gone)])
        found = await outcomes(client, items, **words)
        assert states(found) == {"a": "pending"}
        text = str(found["a"].error)
        assert "look whether its video is at its upload_url" in text
        assert "lost" not in text
        assert "sig=1" not in text
    assert emulator.accepted == 1

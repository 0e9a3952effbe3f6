"""Batches that go on: found ids, files that are gone, and what is tried again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from grok_video import AsyncClient, CreateOutcomeUnknown, OutcomeState
from grok_video.emulator import Emulator, faults

from .test_batch import outcomes, read, requests, states

NewClient = Callable[..., AsyncClient]


async def doubtful(client: AsyncClient, emulator: Emulator, folder: Path, **more: Any) -> Any:
    """Leave a ledger with one item whose create was accepted and never answered."""
    emulator.script("create", [faults.CutRequest(accepted=True)])
    words = {"out": folder / "videos", "ledger": folder / "a.sqlite"} | more
    found = await outcomes(client, requests(1), **words)
    assert states(found) == {"key-000": "in_doubt"}
    return words


def age(ledger: Path, seconds: int = 3600) -> None:
    """Make all that happened so much older: a fresh id may be unknown to the API for a while."""
    with closing(sqlite3.connect(ledger)) as file:
        file.execute("DROP TRIGGER event_is_never_changed")
        file.execute(
            "UPDATE event SET at = strftime('%Y-%m-%dT%H:%M:%fZ', at, ?)", (f"-{seconds} seconds",)
        )
        file.commit()


# --- found ids -----------------------------------------------------------------------------------


async def test_a_found_id_that_the_api_does_not_know_leaves_the_item_in_doubt(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = await doubtful(client, grok_emulator, tmp_path)
    age(words["ledger"])
    before = read(words["ledger"], "SELECT count(*) FROM event")
    async with client.batch(requests(1), found_ids={"key-000": "bogus"}, **words) as batch:
        [told] = [one async for one in batch]
    assert told.state is OutcomeState.IN_DOUBT
    assert told.request_id is None
    assert isinstance(told.error, CreateOutcomeUnknown)
    assert "does not know the job 'bogus'" in str(told.error)
    assert "goes on" not in str(told.error)
    assert batch.summary.open_usd > 0
    assert read(words["ledger"], "SELECT count(*) FROM event") == before
    real = grok_emulator.creates[0].request_id
    found = await outcomes(client, requests(1), found_ids={"key-000": real}, **words)
    assert states(found) == {"key-000": "saved"}
    assert found["key-000"].request_id == real
    assert grok_emulator.accepted == 1


async def test_a_found_id_that_is_unknown_to_the_end_of_the_wait_is_told_as_that(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    """A create of a moment ago may be unknown for a while: it is waited for, and no longer."""
    words = await doubtful(client, grok_emulator, tmp_path)
    ids = {"key-000": "bogus"}
    found = await outcomes(client, requests(1), found_ids=ids, timeout=0.3, **words)
    assert states(found) == {"key-000": "in_doubt"}
    assert "does not know the job 'bogus'" in str(found["key-000"].error)
    assert "goes on" not in str(found["key-000"].error)
    # The person was wrong: it is sent again, and nothing stands in the way.
    found = await outcomes(client, requests(1), resubmit_in_doubt=True, **words)
    assert states(found) == {"key-000": "saved"}
    assert grok_emulator.accepted == 2


async def test_an_unknown_id_is_no_reason_to_send_again(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = await doubtful(client, grok_emulator, tmp_path)
    age(words["ledger"])
    ids = {"key-000": "bogus"}
    found = await outcomes(
        client, requests(1), found_ids=ids, resubmit_in_doubt=True, retry_failed=True, **words
    )
    assert states(found) == {"key-000": "in_doubt"}
    assert grok_emulator.accepted == 1


async def test_a_found_id_that_nobody_could_ask_about_changes_nothing(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = await doubtful(client, grok_emulator, tmp_path)
    grok_emulator.script("poll", [faults.overloaded()] * 1000)
    real = grok_emulator.creates[0].request_id
    ids = {"key-000": real}
    found = await outcomes(client, requests(1), found_ids=ids, timeout=0.3, **words)
    assert states(found) == {"key-000": "in_doubt"}
    assert "did not say that it knows the job" in str(found["key-000"].error)
    assert read(words["ledger"], "SELECT state, request_id FROM item") == [("in_doubt", None)]


async def test_a_wrong_id_that_an_earlier_version_wrote_down_gives_way_to_the_right_one(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = await doubtful(client, grok_emulator, tmp_path)
    with closing(sqlite3.connect(words["ledger"])) as file:
        file.execute(
            "INSERT INTO event (at, run, item, event, state, request_id, attempts, polls) "
            "SELECT at, run, item, 'id_found', 'pending', 'bogus', attempts, polls FROM event "
            "ORDER BY id DESC LIMIT 1"
        )
        file.commit()
    age(words["ledger"])
    found = await outcomes(client, requests(1), found_ids={"key-000": "worse"}, **words)
    assert states(found) == {"key-000": "pending"}
    assert "keeps the id 'bogus'" in str(found["key-000"].error)
    real = grok_emulator.creates[0].request_id
    found = await outcomes(client, requests(1), found_ids={"key-000": real}, **words)
    assert states(found) == {"key-000": "saved"}
    assert found["key-000"].request_id == real
    events = read(words["ledger"], "SELECT event, state, request_id FROM event ORDER BY id")
    assert ("id_found", "pending", real) in events
    # The same call again: it is taken, and there is nothing to do.
    again = await outcomes(client, requests(1), found_ids={"key-000": real}, **words)
    assert states(again) == {"key-000": "skipped"}
    assert grok_emulator.accepted == 1

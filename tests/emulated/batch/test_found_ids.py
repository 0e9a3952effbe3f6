"""Ids that a person found for items in doubt: taken once the API has shown that it knows them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from grok_video import (
    AsyncClient,
    CreateOutcomeUnknown,
    InvalidRequest,
    OutcomeState,
)
from grok_video.emulator import Emulator, faults

from .conftest import age, doubtful, outcomes, read, requests, states


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


@pytest.mark.parametrize(
    "answer",
    [
        faults.Answer(400, {"code": "invalid-argument", "error": "Invalid request_id"}),
        faults.Answer(200, {"error": {"code": "not_found", "message": "no such job"}}),
        faults.Answer(200, {"code": "success", "message": "", "data": None}),
        faults.empty_202(),
    ],
    ids=["a verdict", "an error", "nothing in an envelope", "nothing"],
)
async def test_an_answer_that_shows_no_job_proves_no_found_id(
    answer: faults.Answer, client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = await doubtful(client, grok_emulator, tmp_path)
    grok_emulator.script("poll", [answer] * 1000)
    ids = {"key-000": "bogus"}
    found = await outcomes(client, requests(1), found_ids=ids, timeout=0.3, **words)
    assert states(found) == {"key-000": "in_doubt"}
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


async def test_an_id_that_cannot_be_the_items_is_refused_before_anything_is_sent(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("create", [faults.Pass(), faults.CutRequest(accepted=True)])
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite", "max_in_flight": 1}
    found = await outcomes(client, requests(2), **words)
    assert states(found) == {"key-000": "saved", "key-001": "in_doubt"}
    saved = found["key-000"].request_id
    before = len(grok_emulator.requests)
    for ids, reason in (
        ({"key-001": saved}, "another item: 'key-000' has this one"),
        ({"key-000": "another"}, f"'key-000' is saved \\(job {saved}\\)"),
        ({"nobody": "another"}, "the ledger has none of the key 'nobody'"),
        ({"key-001": "one", "key-002": "two"}, "the ledger has none of the key 'key-002'"),
    ):
        with pytest.raises(InvalidRequest, match=reason) as caught:
            await client.run_batch(requests(3), found_ids=ids, **words)
        assert caught.value.field == "found_ids"
        assert list(ids)[-1] in caught.value.value
        assert "Nothing was sent" in str(caught.value)
    assert len(grok_emulator.requests) == before
    # The ledger is free again, and what an earlier call took may be said once more.
    ids = {"key-000": saved, "key-001": grok_emulator.creates[1].request_id}
    found = await outcomes(client, requests(2), found_ids=ids, **words)
    assert states(found) == {"key-000": "skipped", "key-001": "saved"}


@pytest.mark.parametrize(
    "ids",
    [["a"], "a", {"a": 7}, {"a": None}, {"a": " "}, {"a": ".."}, {7: "id"}, {"a": "x", "b": "x"}],
    ids=str,
)
async def test_found_ids_that_are_no_ids_are_refused_at_once(
    client: AsyncClient, tmp_path: Path, ids: Any
) -> None:
    with pytest.raises(InvalidRequest, match="found_ids must"):
        client.batch([], ledger=tmp_path / "a.sqlite", found_ids=ids)
    with pytest.raises(InvalidRequest, match="found_ids must come with the ledger"):
        client.batch([], found_ids={"a": "id"})


async def test_a_found_id_whose_item_never_comes_is_told_to_the_log(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = await doubtful(client, grok_emulator, tmp_path)
    ids = {"key-000": grok_emulator.creates[0].request_id}
    await client.run_batch([], found_ids=ids, **words)
    assert "found_ids has keys that the manifest has not" in caplog.text
    assert "'key-000'" in caplog.text
    caplog.clear()
    summary = await client.run_batch(requests(1), found_ids=ids, **words)
    assert summary.counts == {OutcomeState.SAVED: 1}
    await client.run_batch(requests(1), found_ids=ids, **words)
    assert "found_ids" not in caplog.text


async def test_two_found_ids_that_were_mixed_up_can_be_set_right_together(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = {"ledger": tmp_path / "a.sqlite", "max_in_flight": 1}
    grok_emulator.script("create", [faults.CutRequest(accepted=True)] * 2)
    await outcomes(client, requests(2), **words)
    a, b = (create.request_id for create in grok_emulator.creates)
    with closing(sqlite3.connect(words["ledger"])) as file:
        # As both were given while their jobs were rendered.
        for key, wrong in (("key-000", b), ("key-001", a)):
            file.execute(
                "INSERT INTO event (at, run, item, event, state, request_id, attempts, polls, "
                "open_usd) SELECT at, run, item, 'id_found', 'pending', ?, 1, 0, open_usd "
                "FROM event WHERE item = (SELECT id FROM request WHERE key = ?) "
                "ORDER BY id DESC LIMIT 1",
                (wrong, key),
            )
        file.commit()
    with pytest.raises(InvalidRequest, match="give 'key-001' its own one as well"):
        await outcomes(client, requests(2), found_ids={"key-000": a}, **words)
    right = {"key-000": a, "key-001": b}
    found = await outcomes(client, requests(2), found_ids=right, **words)
    assert {key: (one.state, one.request_id) for key, one in found.items()} == {
        "key-000": ("done", a),
        "key-001": ("done", b),
    }
    assert grok_emulator.accepted == 2

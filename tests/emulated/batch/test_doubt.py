"""Items whose create may have been accepted: listed, and never sent again by themselves."""

from __future__ import annotations

import io
import logging
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from grok_video import (
    AsyncClient,
    CreateOutcomeUnknown,
    LedgerError,
    Outcome,
    OutcomeState,
    Retry,
    VideoRequest,
)
from grok_video._transports._loops import current_time
from grok_video.emulator import Emulator, faults

from ...conftest import PHOTO
from .conftest import NewClient, outcomes, read, requests, states


async def test_items_in_doubt_are_listed_and_never_sent_again_by_themselves(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script(
        "create",
        [faults.Pass(), faults.CutRequest(accepted=True), faults.CutRequest(accepted=False)],
    )
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite", "max_in_flight": 1}
    found = await outcomes(client, requests(3), **words)
    assert states(found) == {"key-000": "saved", "key-001": "in_doubt", "key-002": "in_doubt"}
    assert isinstance(found["key-001"].error, CreateOutcomeUnknown)
    for _ in range(2):
        async with client.batch(requests(3), **words) as batch:
            told = {one.key: one async for one in batch}
        assert batch.summary.in_doubt == ("key-001", "key-002")
        assert "found_ids" in str(told["key-001"].error)
    assert grok_emulator.accepted == 2

    # A person looks at the provider's list: the one was accepted, the other was not.
    accepted = {create.fields["prompt"]: create.request_id for create in grok_emulator.creates}
    found = await outcomes(
        client,
        requests(3),
        found_ids={"key-001": accepted["drift 1"]},
        resubmit_in_doubt=True,
        **words,
    )
    assert states(found) == {"key-000": "skipped", "key-001": "saved", "key-002": "saved"}
    assert found["key-001"].request_id == accepted["drift 1"]
    assert grok_emulator.accepted == 3


class AtResend(logging.Handler):
    """Does something in the loop when a create has failed and will be sent again in a moment."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.act = act

    def emit(self, record: logging.LogRecord) -> None:
        if "sent again in" in record.getMessage():
            self.act()

    def __enter__(self) -> None:
        logging.getLogger("grok_video").addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("grok_video").removeHandler(self)


RESENDING = Retry(base=0.01, cap=0.01, resend_unknown_creates=True)


@pytest.mark.parametrize("hindrance", ["stop", "trouble", "ledger", "cancel"])
async def test_a_lost_create_that_is_not_sent_again_after_all_is_in_doubt(
    new_client: NewClient,
    grok_emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hindrance: str,
) -> None:
    from grok_video._ledgerfile import LedgerFile

    grok_emulator.script("create", [faults.Pass(), faults.CutRequest(accepted=True)])
    words = {"ledger": tmp_path / "a.sqlite", "max_in_flight": 1}
    broken, scope = anyio.Event(), anyio.CancelScope()
    real = LedgerFile._commit

    def breaking(self: LedgerFile, *rows: Any) -> None:
        if broken.is_set():
            raise sqlite3.OperationalError("disk I/O error")
        real(self, *rows)

    monkeypatch.setattr(LedgerFile, "_commit", breaking)
    told: dict[str, Outcome] = {}
    async with new_client(grok_emulator, retry=RESENDING) as client:
        batch = client.batch(requests(2), **words)

        def trouble() -> None:
            # What the failure of another item does.
            error = CreateOutcomeUnknown("lost", fingerprint="f", sent_at=0.0, phase="p")
            batch._entered().course.gate.failed(error, current_time(), alone=False)

        acts = {
            "stop": batch.stop,
            "trouble": trouble,
            "ledger": broken.set,
            "cancel": scope.cancel,
        }
        try:
            with AtResend(acts[hindrance]), scope:
                async with batch:
                    async for outcome in batch:
                        told[outcome.key] = outcome
        except LedgerError:
            assert hindrance == "ledger"
    assert grok_emulator.accepted == 2
    if hindrance != "cancel":
        outcome = told["key-001"]
        assert outcome.state is OutcomeState.IN_DOUBT
        assert isinstance(outcome.error, CreateOutcomeUnknown)
        assert "Why it was not sent again: " in str(outcome.error)
        assert batch.summary.in_doubt == ("key-001",)
    assert batch.summary.open_usd == Decimal("0.14")

    monkeypatch.setattr(LedgerFile, "_commit", real)
    async with new_client(grok_emulator) as client:
        found = await outcomes(client, requests(2), retry_failed=True, **words)
    assert states(found) == {"key-000": "skipped", "key-001": "in_doubt"}
    assert grok_emulator.accepted == 2


async def test_a_picture_that_changes_before_a_resend_leaves_the_lost_create_in_doubt(
    new_client: NewClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("create", [faults.CutRequest(accepted=True)])
    picture = tmp_path / "a.jpg"
    picture.write_bytes(PHOTO.read_bytes())
    things = [("a", VideoRequest("drift", picture, duration=1))]
    ledger = tmp_path / "a.sqlite"
    shorter = AtResend(lambda: picture.write_bytes(PHOTO.read_bytes()[:-100]))
    async with new_client(grok_emulator, retry=RESENDING) as client:
        with shorter:
            summary = await client.run_batch(things, ledger=ledger)
        assert summary.in_doubt == ("a",)
        assert summary.open_usd == Decimal("0.15")
        found = await outcomes(client, things, ledger=ledger, retry_failed=True)
    assert states(found) == {"a": "in_doubt"}
    assert grok_emulator.accepted == 1


# --- what a person wants sent again, and is not sent ---------------------------------------------

#: What keeps an item from being sent again, and words that say so.
HINDRANCES = {
    "the ceiling": "max_cost_usd",
    "a stop": "stop() was called",
    "its place": "it exists, and it is kept as it is",
    "the account": "user quota is not enough",
    "the server": "a field is missing",
}


async def hindered(
    client: AsyncClient, emulator: Emulator, words: dict[str, Any], hindrance: str, **more: Any
) -> Outcome:
    """Let a person have the item sent again, and keep it from being sent, or from being taken."""
    file = words["out"] / "key-000.mp4"
    if hindrance == "the ceiling":
        more["max_cost_usd"] = 0.13
    elif hindrance == "its place":
        file.write_bytes(b"mine")
    elif hindrance == "the account":
        emulator.script("create", [faults.out_of_quota()])
    elif hindrance == "the server":
        answer = {"error": {"message": "a field is missing", "code": "invalid_request"}}
        emulator.script("create", [faults.Answer(400, answer)])
    async with client.batch(requests(1), **words, **more) as batch:
        if hindrance == "a stop":
            batch.stop()
        [told] = [one async for one in batch]
    file.unlink(missing_ok=True)
    return told


@pytest.mark.parametrize("hindrance", HINDRANCES)
async def test_a_doubt_that_was_to_be_sent_again_and_was_not_stays_one(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path, hindrance: str
) -> None:
    grok_emulator.script("create", [faults.CutRequest(accepted=True)])
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    await outcomes(client, requests(1), **words)
    told = await hindered(client, grok_emulator, words, hindrance, resubmit_in_doubt=True)
    assert told.state is OutcomeState.IN_DOUBT
    assert isinstance(told.error, CreateOutcomeUnknown)
    assert HINDRANCES[hindrance] in str(told.error)
    assert "found_ids" in str(told.error)
    assert told.attempts == 1 + (hindrance in ("the account", "the server"))
    assert read(words["ledger"], "SELECT state, request_id FROM item") == [("in_doubt", None)]
    # The decision was for that run.
    found = await outcomes(client, requests(1), **words, retry_failed=True)
    assert states(found) == {"key-000": "in_doubt"}
    assert grok_emulator.accepted == 1
    real = grok_emulator.creates[0].request_id
    async with client.batch(requests(1), found_ids={"key-000": real}, **words) as batch:
        [told] = [one async for one in batch]
    assert (told.state, told.request_id) == ("saved", real)
    assert (batch.summary.cost_usd, batch.summary.open_usd) == (Decimal("0.14"), 0)
    assert grok_emulator.accepted == 1


@pytest.mark.parametrize("hindrance", HINDRANCES)
@pytest.mark.parametrize("end", ["failed", "expired"])
async def test_what_failed_and_was_to_be_sent_again_and_was_not_stays_as_it_ended(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path, hindrance: str, end: str
) -> None:
    fault = faults.Failed() if end == "failed" else faults.Expired()
    grok_emulator.script("create", [fault])
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    first = (await outcomes(client, requests(1), **words))["key-000"]
    assert first.state == end
    told = await hindered(client, grok_emulator, words, hindrance, retry_failed=True)
    assert HINDRANCES[hindrance] in str(told.error)
    found = await outcomes(client, requests(1), **words)
    assert grok_emulator.accepted == 1
    # A create that was refused for good is how the item ended now.
    is_final = hindrance == "the server"
    for one in (told, found["key-000"]):
        assert one.state in ("failed", "expired")
        assert one.retryable is not is_final
        if not is_final:
            assert type(one.error) is type(first.error)
            assert one.request_id == first.request_id


async def test_a_lost_create_of_a_picture_without_a_key_is_told_by_the_key_of_its_item(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("create", [faults.CutRequest(accepted=True)] * 2)
    pictures = [io.BytesIO(PHOTO.read_bytes() + more) for more in (b"1", b"2")]
    things = [VideoRequest("drift", picture, duration=1) for picture in pictures]
    found = await outcomes(client, things, ledger=tmp_path / "a.sqlite")
    assert list(states(found).values()) == ["in_doubt"] * 2
    for key, outcome in found.items():
        assert isinstance(outcome.error, CreateOutcomeUnknown)
        assert outcome.error.fingerprint == key

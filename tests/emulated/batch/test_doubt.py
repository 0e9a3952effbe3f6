"""Items whose create may have been accepted: listed, and never sent again by themselves."""

from __future__ import annotations

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
from .conftest import NewClient, outcomes, requests, states


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

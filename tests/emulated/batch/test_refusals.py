"""Creates that are refused: what stops a batch, and what the same call sends when it is mended."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from grok_video import AsyncClient, GrokVideoError, InsufficientBalance, NotFound, PermissionDenied
from grok_video import _gate as gate_module
from grok_video.emulator import Emulator, faults

from .conftest import outcomes, requests, states

NO_PERMISSION = faults.Answer(403, {"error": {"message": "this key may not make videos"}})


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(NO_PERMISSION, PermissionDenied), (faults.no_channel(), NotFound)],
    ids=["no permission", "no such model"],
)
async def test_a_refusal_that_all_would_meet_is_met_by_ten_one_after_another(
    client: AsyncClient, grok_emulator: Emulator, fault: faults.Answer, kind: type[GrokVideoError]
) -> None:
    grok_emulator.script("create", [fault] * 200)
    found = await outcomes(client, requests(200), max_in_flight=50)
    counts = Counter(states(found).values())
    assert counts == {"failed": gate_module.MOST_LOST, "left": 200 - gate_module.MOST_LOST}
    refused = [one for one in found.values() if one.state == "failed"]
    assert all(isinstance(one.error, kind) for one in refused)
    creates = [one for one in grok_emulator.requests if one.method == "POST"]
    assert len(creates) == gate_module.MOST_LOST
    for earlier, later in pairwise(creates):
        assert earlier.answered is not None
        assert later.at >= earlier.answered


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (402, "payment required"),
        (500, "user quota is not enough"),
        (503, "user quota is not enough"),
    ],
)
async def test_an_empty_account_leaves_its_items_to_be_sent_whatever_the_status(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path, status: int, words: str
) -> None:
    grok_emulator.script("create", [faults.Answer(status, {"error": {"message": words}})])
    ledger = tmp_path / "a.sqlite"
    found = await outcomes(client, requests(3), ledger=ledger)
    assert set(states(found).values()) == {"left"}
    assert all(isinstance(one.error, InsufficientBalance) for one in found.values())
    assert grok_emulator.accepted == 0
    # The account was topped up: nobody has to say "retry".
    again = await outcomes(client, requests(3), ledger=ledger)
    assert set(states(again).values()) == {"done"}
    assert grok_emulator.accepted == 3

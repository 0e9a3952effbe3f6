"""`grok-video batch --dry-run`: what a batch would send and cost, told before anything is sent.

It needs no key and no connection, and leaves nothing behind: the manifest, the pictures and the
ledger of earlier runs are read, and nothing is written.
"""

from __future__ import annotations

import os
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from grok_video import _disk, _place, _report
from grok_video._batchsettings import Settings
from grok_video._budget import Budget, dollars, list_price
from grok_video._cli._endings import DONE, FAILED
from grok_video._cli._words import SHOWN, reason_of
from grok_video._earlier import check_ids, is_sent_again
from grok_video._errors import DestinationError, InvalidRequest, LedgerError
from grok_video._filenames import file_name
from grok_video._ledgerfile import LedgerFile
from grok_video._lifecycle import State
from grok_video._pictures import DataPicture, PathPicture

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from grok_video._cli._console import Console
    from grok_video._cli._plan import Plan
    from grok_video._cli._rows import Rows
    from grok_video._entry import Entry
    from grok_video._outcomes import BatchItem

#: What the command calls a video.
FILE_NAME: Final = "{key}.mp4"
#: The pictures that are sent as data, and can be looked at here as they will be then.
_LOOKED_AT: Final = {"path": PathPicture, "data": DataPicture}


@define
class Forecast:
    """What became of each item so far, had it been sent."""

    items: int = 0
    would_send: int = 0
    #: What these cost by the list, in US dollars.
    estimate: Decimal = Decimal(0)
    #: Items with which earlier runs began: they go on, or have ended, without a create.
    begun: int = 0
    #: Items that the ceiling leaves out.
    left: int = 0
    #: Items that would be refused, each with why: its picture, or the place of its video.
    bad: list[tuple[str, str]] = field(factory=list[tuple[str, str]])


def forecast(rows: Rows, plan: Plan, ids: Mapping[str, str], console: Console) -> int:
    """Tell what the batch would send and cost; the exit code."""
    settings = Settings.checked(name=FILE_NAME, sha256=True, **plan.settings(ids))
    assert settings.out is not None  # noqa: S101 - for the type checker: the command requires it
    _require_folder(settings.out)
    _require_ledger(plan.ledger_path, settings.out)
    found = Forecast()
    with _report.earlier(plan.ledger_path) as earlier:
        if ids:
            known = {key: entry for key in ids if (entry := earlier.find(key)) is not None}
            check_ids(ids, known, earlier.owners(ids.values()))
        budget = Budget(settings.max_cost_usd, *earlier.money())
        for item in rows.items():
            found.items += 1
            price = list_price(item.request)
            if _has_begun(earlier.find(item.key), settings):
                found.begun += 1
            elif (problem := _problem(item, settings)) is not None:
                found.bad.append((item.key, reason_of(problem, None)))
            elif not budget.fits(price):
                found.left += 1
            else:
                budget.open += price
                found.would_send += 1
                found.estimate += price
    if not console.json_lines:
        for key, reason in found.bad[:SHOWN]:
            console.status(f"{key}: {reason}")
        if len(found.bad) > SHOWN:
            console.status(f"and {len(found.bad) - SHOWN:,} more")
    code = FAILED if found.bad else DONE
    console.result(_facts(found, budget, code), _sentence(found, budget))
    return code


def _has_begun(entry: Entry | None, settings: Settings) -> bool:
    if entry is None or entry.state is State.PLANNED:
        return False
    return not is_sent_again(entry, settings)


def _require_folder(folder: Path) -> None:
    """Raise `DestinationError` if the folder of the videos cannot be made."""
    # (`Path.exists` raises where a folder on the way may not be looked into.)
    places = (folder, *folder.parents)
    there = next(one for one in places if os.path.exists(one))  # noqa: PTH110 - as said
    if not there.is_dir():
        message = f"the folder {folder} cannot be made: {there} is no folder. Nothing was sent."
        raise DestinationError(message, request_id=None)
    if there != folder and not _disk.may(there, os.W_OK | os.X_OK):
        message = (
            f"the folder {folder} cannot be made: {there} cannot be written to. Nothing was sent."
        )
        raise DestinationError(message, request_id=None)


def _require_ledger(path: Path, out: Path) -> None:
    """Raise `LedgerError` if the command could not use the ledger."""
    file = LedgerFile(path)
    if not path.parent.is_dir() and path.absolute().parent != out:  # which the command makes
        message = f"the ledger {path} cannot be used: its folder does not exist. Nothing was sent."
        raise LedgerError(message, path=path)
    file.inspect()


def _problem(item: BatchItem, settings: Settings) -> InvalidRequest | DestinationError | None:
    """Return why the item would be refused when its turn comes."""
    image = item.request.image
    look = _LOOKED_AT.get(image.kind) if image is not None else None
    try:
        if settings.out is not None and settings.out.is_dir():
            place = settings.out / file_name(settings.name, item.key)
            _place.check(place, overwrite=settings.overwrite, request_id=None)
        if look is not None and image is not None:
            look(image)
    except (InvalidRequest, DestinationError) as error:
        return error
    return None


def _facts(found: Forecast, budget: Budget, code: int) -> dict[str, Any]:
    return {
        "dry_run": True,
        "items": found.items,
        "would_send": found.would_send,
        "estimate_usd": float(found.estimate),
        "begun_earlier": found.begun,
        "spent_usd": float(round(budget.spent, 6)),
        "left": found.left,
        "unusable": [{"key": key, "reason": reason} for key, reason in found.bad],
        "exit_code": code,
    }


def _sentence(found: Forecast, budget: Budget) -> str:
    price = f"{dollars(found.estimate)} by the provider's list"
    sent = f"{found.would_send:,} of {found.items:,} items would be sent, for"
    # What fails, or costs less than the list says, makes room under a ceiling for others.
    words = [f"at least {sent} {price}" if found.left else f"{sent} up to {price}"]
    if found.begun:
        words.append(f"{found.begun:,} were begun by an earlier run")
    if found.bad:
        words.append(f"{len(found.bad):,} would be refused, each for its own reason")
    if found.left:
        assert budget.ceiling is not None  # noqa: S101 - for the type checker: all fits without
        words.append(
            f"{found.left:,} may not fit under {dollars(budget.ceiling)}, and are sent if others "
            "cost less than that"
        )
    return f"{'; '.join(words)}. Nothing was sent."

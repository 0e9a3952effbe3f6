"""How a batch is run: its settings, refused by name before anything is opened or sent."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

from attrs import frozen

from grok_video._arguments import (
    problem_of_id,
    refuse,
    require_flags,
    require_path,
    require_seconds,
    require_whole,
)
from grok_video._filenames import check_template

if TYPE_CHECKING:
    import os


@frozen
class Settings:
    """How a batch is run, checked; `AsyncClient.batch` says what each of them means."""

    out: Path | None
    ledger: Path | None
    max_in_flight: int
    max_cost_usd: Decimal | None
    retry_failed: bool
    resubmit_in_doubt: bool
    found_ids: Mapping[str, str]
    name: str
    overwrite: bool
    sha256: bool
    timeout: float | None

    @classmethod
    def checked(
        cls,
        *,
        out: str | os.PathLike[str] | None,
        ledger: str | os.PathLike[str] | None,
        max_in_flight: int,
        max_cost_usd: Decimal | float | None,
        retry_failed: bool,
        resubmit_in_doubt: bool,
        found_ids: Mapping[str, str] | None,
        name: str,
        overwrite: bool,
        sha256: bool,
        timeout: float | None,
    ) -> Self:
        """Return the settings. Raises `InvalidRequest` naming the first one that cannot be."""
        require_whole("max_in_flight", max_in_flight)
        require_seconds("timeout", timeout)
        require_flags(
            retry_failed=retry_failed,
            resubmit_in_doubt=resubmit_in_doubt,
            overwrite=overwrite,
            sha256=sha256,
        )
        return cls(
            _place("out", out),
            _place("ledger", ledger),
            max_in_flight,
            _money(max_cost_usd),
            retry_failed,
            resubmit_in_doubt,
            _ids(found_ids, ledger),
            check_template(name),
            overwrite,
            sha256,
            timeout,
        )


def _place(field: str, named: str | os.PathLike[str] | None) -> Path | None:
    """Return where this is, once and for all: the working directory may change."""
    if named is None:
        return None
    require_path(field, named)
    try:
        return Path(named).absolute()
    except OSError:
        limit = "must be an absolute path: the working directory is gone"
        raise refuse(field, named, limit) from None


def _ids(
    found_ids: Mapping[str, str] | None, ledger: str | os.PathLike[str] | None
) -> dict[str, str]:
    """Return the found ids by key, as far as they can be checked without the ledger."""
    if found_ids is None:
        return {}
    if not isinstance(found_ids, Mapping):
        raise refuse("found_ids", found_ids, "must be a mapping of keys to request_ids")
    owners: dict[str, str] = {}
    for key, found in cast("Mapping[object, object]", found_ids).items():
        if not isinstance(key, str):
            raise refuse("found_ids", {key: found}, "must have keys of items, each a str")
        problem = problem_of_id(found)
        if problem is not None or not isinstance(found, str):
            raise refuse("found_ids", {key: found}, f"must give {key!r} an id, which {problem}")
        if found in owners:
            limit = f"must give each id once, and {owners[found]!r} has this one too"
            raise refuse("found_ids", {key: found}, limit)
        owners[found] = key
    if owners and ledger is None:
        limit = "must come with the ledger that has their items in doubt"
        raise refuse("found_ids", dict(found_ids), limit)
    return dict(found_ids)


def _money(value: Decimal | float | None) -> Decimal | None:
    if value is None:
        return None
    is_number = isinstance(value, Decimal | int | float) and not isinstance(value, bool)
    money = Decimal(str(value)) if is_number else Decimal(-1)
    if not money.is_finite() or money < 0:
        raise refuse("max_cost_usd", value, "must be US dollars, 0 or more, or None")
    return money

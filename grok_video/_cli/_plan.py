"""The options of one batch as they were given, and the command line that says the same again.

A batch is resumed by the command that began it; here is its spelling. Nothing is sent or read.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from attrs import field, fields_dict, frozen

from grok_video._arguments import refuse


def plain(place: str) -> str:
    """Return the same place as an absolute path without `..`, as a person would write it."""
    path = os.path.abspath(place)  # noqa: PTH100 - `resolve` would follow links
    if ".." not in place:
        return path
    # After a link, `..` is not the folder that the link is in.
    real = os.path.realpath(place)
    return path if os.path.realpath(path) == real else real


@frozen
class Plan:
    """The options of one batch, as they were given."""

    manifest: str
    out: str
    #: What lines leave out, by column.
    defaults: Mapping[str, str | None]
    ledger: str | None = None
    max_in_flight: int = 200
    max_cost: str | None = None
    retry_failed: bool = False
    resubmit_in_doubt: bool = False
    found_ids: Sequence[str] = ()
    overwrite: bool = False
    timeout: float = 600.0
    poll_interval: float | None = None
    connection_options: Sequence[str] = field(default=())

    @property
    def ledger_path(self) -> Path:
        """Where the ledger is: beside the videos, unless it was named."""
        return Path(self.ledger) if self.ledger else Path(self.out, "grok-video.sqlite")

    def money(self) -> Decimal | None:
        """Return the ceiling. Raises `InvalidRequest` if it is no number."""
        if self.max_cost is None:
            return None
        try:
            # Python reads 1_0 as ten, and who typed it may have meant a point.
            return Decimal(self.max_cost.replace("_", "?"))
        except InvalidOperation:
            raise refuse("max_cost", self.max_cost, "must be US dollars, 0 or more") from None

    def ids(self, has_key: Callable[[str], bool]) -> dict[str, str]:
        """Return the found ids by key. Raises `InvalidRequest` for what is no KEY=ID.

        Both may have the sign that divides them; what stands before it must be a key of the
        manifest, which `has_key` tells, and of two the longer one.
        """
        found: dict[str, str] = {}
        for pair in self.found_ids:
            divided = [
                (pair[:place], pair[place + 1 :])
                for place in range(len(pair) - 2, 0, -1)
                if pair[place] == "="
            ]
            if not divided:
                raise refuse("found_id", pair, "must be KEY=REQUEST_ID")
            known = [(key, request_id) for key, request_id in divided if has_key(key)]
            if not known:
                raise refuse("found_id", pair, f"must name a key of {self.manifest}")
            key, request_id = known[0]
            found[key] = request_id
        return found

    def settings(self, ids: Mapping[str, str]) -> dict[str, Any]:
        """Return what the batch is run with; `ids` are the found ones by key."""
        return {
            "out": plain(self.out),
            "ledger": self.ledger_path,
            "max_in_flight": self.max_in_flight,
            "max_cost_usd": self.money(),
            "retry_failed": self.retry_failed,
            "resubmit_in_doubt": self.resubmit_in_doubt,
            "found_ids": ids,
            "overwrite": self.overwrite,
            "timeout": self.timeout,
        }

    def command(self, *more: str, absolute: bool = False) -> str:
        """Return the command that goes on with this batch.

        It never has --resubmit-in-doubt of itself: that is for a person to say, each time.
        """
        place = plain if absolute else os.fspath
        manifest = place(self.manifest)
        if manifest.startswith("-"):
            manifest = os.path.join(os.curdir, manifest)  # noqa: PTH118 - `Path` would drop it
        words = ["grok-video", "batch", manifest, "-o", place(self.out)]
        if self.ledger is not None:
            words += ["--ledger", place(self.ledger)]
        for name, value in self.defaults.items():
            if value is not None:
                words += [f"--{name.replace('_', '-')}", value]
        if self.max_in_flight != Plan.default("max_in_flight"):
            words += ["--max-in-flight", str(self.max_in_flight)]
        if self.max_cost is not None and "--max-cost" not in more:
            words += ["--max-cost", self.max_cost]
        if self.overwrite:
            words.append("--overwrite")
        if self.timeout != Plan.default("timeout"):
            words += ["--timeout", f"{self.timeout:g}"]
        if self.poll_interval is not None:
            words += ["--poll-interval", f"{self.poll_interval:g}"]
        if self.retry_failed and "--retry-failed" not in more:
            words.append("--retry-failed")
        return shlex.join([*words, *self.connection_options, *more])

    @classmethod
    def default(cls, name: str) -> object:
        """Return the default of an option."""
        return fields_dict(cls)[name].default

"""What one case came to, what must hold for it, and the table of all of them."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from attrs import define, field

from grok_video import CreateOutcomeUnknown, GrokVideoError
from grok_video.emulator import faults

if TYPE_CHECKING:
    from grok_video.emulator import Emulator, Request

#: A POST may be followed by another only after one of these: a clear and passing refusal.
REFUSALS = (429, 503)


@define
class Account:
    """One case, counted on both sides of the wire."""

    fault: str
    phase: str
    door: str
    ending: str = "hung"
    #: Videos that the caller asked for.
    wanted: int = 1
    error: BaseException | None = None
    #: Faults planned, and those that happened.
    planned: int = 0
    consumed: int = 0
    posts: int = 0
    #: Creates the emulator accepted, those whose id the caller was told, and those it was told to
    #: look after (`CreateOutcomeUnknown`).
    accepted: int = 0
    known: int = 0
    in_doubt: int = 0
    #: Videos that exist at the emulator, and those that arrived byte for byte.
    finished: int = 0
    delivered: int = 0
    hung: int = 0
    untyped: int = 0
    lost: int = 0
    resent: int = 0
    notes: list[str] = field(factory=list)

    @property
    def extra(self) -> int:
        return max(0, self.accepted - self.wanted)

    def problems(self) -> list[str]:
        """Return what must not be, in words; nothing for a case as it should be."""
        found = list(self.notes)
        for count, words in (
            (self.extra, "extra creates"),
            (self.lost, "accepted creates that the caller does not know of"),
            (self.resent, "POSTs after one whose outcome nobody knew"),
            (self.hung, "hangs"),
            (self.untyped, "errors that are no GrokVideoError"),
            (self.planned - self.consumed, "planned faults that never happened"),
        ):
            if count:
                found.append(f"{count} {words}")
        if self.known and self.finished > self.delivered:
            found.append("a finished video of a known job was not delivered")
        return found


def settle(
    account: Account,
    emulator: Emulator,
    *,
    told: Iterable[str],
    errors: Iterable[BaseException],
    sha256: str | None,
) -> None:
    """Fill in what the emulator saw and what the caller was told."""
    errors = list(errors)
    ids = set(told) | {
        error.request_id
        for error in errors
        if isinstance(error, GrokVideoError) and error.request_id is not None
    }
    accepted = {create.request_id for create in emulator.creates}
    posts = [seen for seen in emulator.requests if seen.method == "POST"]
    account.posts = len(posts)
    refused = sum(post.status in REFUSALS or _is_cut_inside(post) for post in posts)
    account.resent = max(0, len(posts) - refused - account.wanted)
    account.accepted = emulator.accepted
    account.known = len(accepted & ids)
    account.in_doubt = sum(isinstance(error, CreateOutcomeUnknown) for error in errors)
    account.lost = max(0, len(accepted - ids) - account.in_doubt)
    account.untyped = sum(not isinstance(error, GrokVideoError) for error in errors)
    account.consumed = len(emulator.faults_consumed)
    if early := _early(emulator):
        account.notes.append(f"{early} requests before a Retry-After was over")
    if account.known:
        served = served_file(emulator, next(iter(accepted & ids)))
        account.finished = int(served is not None)
        account.delivered = int(sha256 is not None and sha256 == served)
        if sha256 is not None and sha256 != served:
            account.notes.append("what was delivered is not what the emulator serves")


def _is_cut_inside(post: Request) -> bool:
    """Return whether it may have been cut before its last byte: then nobody can have taken it.

    `test_cuts` knows how long a request is, and that one which is cut behind it is sent once.
    """
    return isinstance(post.fault, faults.CutRequest) and post.fault.after is not None


def _early(emulator: Emulator) -> int:
    """Return how many creates and polls came while an earlier `Retry-After` had time left.

    One that was a date is left out: it has whole seconds, and may be over when it is written.
    """
    asked = [seen for seen in emulator.requests if seen.origin == "api" and "/videos" in seen.path]
    return sum(
        told.answered < later.at < told.answered + told.retry_after
        for told in asked
        if told.retry_after
        and told.answered is not None
        and getattr(told.fault, "retry_after", None) != "date"
        for later in asked
        if later.method == told.method
    )


def served_file(emulator: Emulator, request_id: str) -> str | None:
    """Return the sha256 of the job's file, asked of the emulator without this package's help."""
    place = urlsplit(emulator.base_url)
    headers = {"Authorization": f"Bearer {emulator.api_key}"}
    line = http.client.HTTPConnection(place.hostname or "", place.port, timeout=20)
    try:
        line.request("GET", f"{place.path}/videos/{request_id}", headers=headers)
        task = json.loads(line.getresponse().read())
        url = (task.get("video") or {}).get("url")
        if not url:
            return None
        line.request("GET", urlsplit(url).path)
        answer = line.getresponse()
        assert answer.status == 200
        return hashlib.sha256(answer.read()).hexdigest()
    finally:
        line.close()


class Table:
    """Every account of a run, and their sums as lines for a terminal."""

    def __init__(self) -> None:
        self.accounts: list[Account] = []
        #: Further lines, of tests that count other things.
        self.lines: list[str] = []

    def add(self, account: Account) -> None:
        self.accounts.append(account)

    def text(self) -> list[str]:
        """Return the table: one row for each phase, one for each door, and the sum."""
        columns = (
            ("cases", lambda rows: len(rows)),
            ("faults", lambda rows: sum(row.consumed for row in rows)),
            ("POSTs", lambda rows: sum(row.posts for row in rows)),
            ("accepted", lambda rows: sum(row.accepted for row in rows)),
            ("known", lambda rows: sum(row.known for row in rows)),
            ("in doubt", lambda rows: sum(row.in_doubt for row in rows)),
            ("videos", lambda rows: sum(row.finished for row in rows)),
            ("delivered", lambda rows: sum(row.delivered for row in rows)),
            ("EXTRA", lambda rows: sum(row.extra + row.resent for row in rows)),
            ("LOST", lambda rows: sum(row.lost for row in rows)),
            ("HANGS", lambda rows: sum(row.hung for row in rows)),
            ("UNTYPED", lambda rows: sum(row.untyped for row in rows)),
        )
        lines: list[str] = []
        if self.accounts:
            lines.append(" " * 26 + "".join(f"{name:>10}" for name, _ in columns))
            for kind in ("phase", "door"):
                names = dict.fromkeys(getattr(row, kind) for row in self.accounts)
                for name in names:
                    rows = [row for row in self.accounts if getattr(row, kind) == name]
                    lines.append(f"{name:<26}" + "".join(f"{of(rows):>10}" for _, of in columns))
                lines.append("")
            lines.append(f"{'all':<26}" + "".join(f"{of(self.accounts):>10}" for _, of in columns))
            endings = dict.fromkeys(row.ending for row in self.accounts)
            counted = (f"{sum(r.ending == one for r in self.accounts)} {one}" for one in endings)
            lines.append("endings: " + ", ".join(counted))
        return lines + self.lines


TABLE = Table()

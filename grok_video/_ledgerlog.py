"""The log beside a ledger (-wal): what is written goes into one that others find.

SQLite keeps its newest rows there, and never asks whether that file still has its name. Everything
here blocks and is called in the ledger's own thread; nothing here knows a table.
"""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING, Final

from grok_video import _disk
from grok_video._log import logger

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["PATIENCE", "Hindered", "LedgerLog"]

#: Seconds to wait for a reader that holds the file up: at the beginning of a run, and where WAL is
#: not to be had.
PATIENCE: Final = 30.0
#: Seconds between two looks at what is held up.
_PAUSE: Final = 0.05
#: Seconds after which the log says what is waited for: whoever only looks in is gone by then.
_TOLD_AFTER: Final = 1.0


class Hindered(Exception):
    """Somebody holds the ledger up for too long; the message says who and what to do."""


class LedgerLog:
    """The log of one ledger that is open; used from one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = path.with_name(f"{path.name}-wal")
        #: What the log is; None where WAL is not to be had.
        self._identity: os.stat_result | None = None

    def begin(self, file: sqlite3.Connection) -> None:
        """The ledger has a log, where WAL is to be had."""
        # WAL: whoever looks in while it runs never waits and never holds it up. Where it is not to
        # be had it stays as it is; a person may have set another one meanwhile.
        (mode,) = file.execute("PRAGMA journal_mode = WAL").fetchone()
        file.execute("PRAGMA user_version").fetchone()  # the first look makes the log
        self._identity = self._place.stat() if mode == "wal" else None

    def put_into_the_file(
        self, file: sqlite3.Connection, *, is_unwanted: Callable[[], bool]
    ) -> None:
        """The file itself says that a run has begun: without its log, that something is missing.

        Raises `Hindered` where a reader holds that up for too long. Nothing can go into the file
        behind what it sees, and a copy of the file alone would pass for whole.
        """
        began, is_told = time.monotonic(), False
        # SQLite would wait for readers by itself, and look at nothing else meanwhile.
        file.execute("PRAGMA busy_timeout = 0")
        while file.execute("PRAGMA wal_checkpoint(FULL)").fetchone()[0]:
            waited = time.monotonic() - began
            if is_unwanted():
                message = "nobody waits for it any more"
                raise Hindered(message)
            if waited >= PATIENCE:
                message = (
                    "another program (the shell of SQLite, a notebook, a browser of databases) is "
                    f"reading it, and has not come to its end for {PATIENCE:g} s. Until then a "
                    "copy of the file alone would not say that jobs are missing in it, and they "
                    "would be paid again. Close it there"
                )
                raise Hindered(message)
            if waited >= _TOLD_AFTER and not is_told:
                is_told = True
                logger.warning(
                    "another program is reading the ledger %s; the batch begins when that has come "
                    "to its end, or is refused in %.0f s",
                    self._path,
                    PATIENCE - waited,
                )
            time.sleep(_PAUSE)
        file.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000:.0f}")

    def require(self, file: sqlite3.Connection) -> None:
        """What is written goes into a log that others find; into a new one if that was removed.

        SQLite never asks: it would go on in a file without a name, of which a kill leaves nothing.
        Raises `Hindered` if somebody reads the ledger, who keeps it from having a new one.
        """
        if self._identity is None or _disk.is_still(self._place, self._identity):
            return
        lost = (
            f"its log {self._place.name} was removed or replaced while a batch was writing it "
            "(by hand, or by who looked in after this program opened the file, which unlocks it)"
        )
        # What was written belongs into the ledger itself, whatever comes of the rest.
        file.execute("PRAGMA wal_checkpoint(PASSIVE)")
        try:
            file.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.Error as error:
            close = "Close it where it is read, and give the same call again: it goes on"
            message = f"{lost}, and has no new one: {error}. {close}"
            raise Hindered(message) from error
        self.begin(file)
        logger.warning("the ledger %s goes on, with all that it knew: %s", self._path, lost)

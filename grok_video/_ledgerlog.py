"""The log beside a ledger (-wal): what is written goes into one that others find.

SQLite keeps its newest rows there. It never asks whether that file still has its name, nor whether
it still has the locks that it took. Everything here blocks and is called in the ledger's own
thread; nothing here knows a table.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Final

from grok_video import _disk
from grok_video._log import logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["PATIENCE", "Hindered", "LedgerLog"]

#: Seconds to wait for a reader that holds the file up: at the beginning of a run, when a new log is
#: needed, and where WAL is not to be had.
PATIENCE: Final = 30.0
#: Seconds between two looks at what is held up.
_PAUSE: Final = 0.05
#: Seconds after which the log says what is waited for: whoever only looks in is gone by then.
_TOLD_AFTER: Final = 1.0
#: What SQLite locks of a file for as long as it reads it, or has it in WAL: SHARED_FIRST and
#: SHARED_SIZE of its os.h, behind the lock byte (https://sqlite.org/fileformat2.html, section 1.5).
_SHARED_FIRST: Final = 0x40000002
_SHARED_SIZE: Final = 510


class Hindered(Exception):
    """Somebody holds the ledger up for too long; the message says who and what to do."""


class LedgerLog:
    """The log of one ledger that is open; used from one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = path.with_name(f"{path.name}-wal")
        self._has_one = False
        #: What the log is, where there is one.
        self._identity: os.stat_result | None = None
        #: The ledger itself once more, to lock it with; -1 where nobody but SQLite needs to.
        self._descriptor = -1

    def begin(self, file: sqlite3.Connection) -> None:
        """The ledger has a log, where WAL is to be had."""
        # WAL: whoever looks in while it runs never waits and never holds it up. Where it is not to
        # be had it stays as it is; a person may have set another one meanwhile.
        (mode,) = file.execute("PRAGMA journal_mode = WAL").fetchone()
        file.execute("PRAGMA user_version").fetchone()  # the first look makes the log
        self._has_one = mode == "wal"
        self._identity = None
        with contextlib.suppress(FileNotFoundError):  # taken away at once: it is missed later
            self._identity = self._place.stat()
        if self._has_one and self._descriptor < 0 and os.name != "nt":
            self._descriptor = os.open(self._path, os.O_RDONLY)

    def close(self) -> None:
        """To be called once the ledger's connection is closed: SQLite's locks go with this one."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def put_into_the_file(
        self, file: sqlite3.Connection, *, is_unwanted: Callable[[], bool]
    ) -> None:
        """The file itself says that a run has begun: without its log, that something is missing.

        Raises `Hindered` where a reader holds that up for too long. Nothing can go into the file
        behind what it sees, and a copy of the file alone would pass for whole.
        """
        busy = (
            "another program (the shell of SQLite, a notebook, a browser of databases) is reading "
            f"it, and has not come to its end for {PATIENCE:g} s. Until then a copy of the file "
            "alone would not say that jobs are missing in it, and they would be paid again. Close "
            "it there"
        )

        def is_done() -> bool:
            (is_held_up, _, _) = file.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
            if is_held_up and is_unwanted():
                message = "nobody waits for it any more"
                raise Hindered(message)
            return not is_held_up

        self._wait(file, is_done, "the batch begins", busy)

    def require(self, file: sqlite3.Connection) -> None:
        """What is written goes into a log that others find; into a new one if that was removed.

        SQLite never asks: it would go on in a file without a name, of which a kill leaves nothing.
        To be called before a step, and again before anybody relies on it: another thread may have
        let go of the locks meanwhile. Raises `Hindered` where a reader keeps the ledger from having
        a new log for too long.
        """
        if not self._has_one:
            return
        self._keep_from_removal(file)
        if self._identity is not None and _disk.is_still(self._place, self._identity):
            return
        lost = (
            f"its log {self._place.name} was removed or replaced while a batch was writing it "
            "(by hand, or by who looked in after this program opened the file, which unlocks it)"
        )
        busy = (
            f"{lost}, and has no new one: another program is reading the ledger, for more than "
            f"{PATIENCE:g} s. Close it where it is read, and give the same call again: it goes on"
        )
        # What was written belongs into the ledger itself, whatever comes of the rest.
        file.execute("PRAGMA wal_checkpoint(PASSIVE)")
        for mode in ("DELETE", "WAL"):  # the way out, and back in
            change = f"PRAGMA journal_mode = {mode}"
            self._wait(file, functools.partial(_is_free_for, change, file), "it goes on", busy)
        self.begin(file)
        logger.warning("the ledger %s goes on, with all that it knew: %s", self._path, lost)

    def _keep_from_removal(self, file: sqlite3.Connection) -> None:
        """Nobody can take himself for the last one who has the ledger, and remove its log.

        Whoever closes a file lets go of all that its process has locked of it, also through others
        (POSIX): a program that copies its ledger does so to SQLite, which does not hear of it. Who
        looks in next then clears up, and what is written just then is lost with the log. The lock
        is taken here as SQLite believes it to be. Raises `Hindered` where somebody has all of the
        file for too long.
        """
        busy = (
            f"another program has all of it for itself, for more than {PATIENCE:g} s. Close it "
            "there, and give the same call again: it goes on"
        )
        share = functools.partial(_disk.share, self._descriptor, _SHARED_FIRST, _SHARED_SIZE)
        if self._descriptor >= 0 and not share():
            self._wait(file, share, "it goes on", busy)

    def _wait(
        self, file: sqlite3.Connection, step: Callable[[], bool], then: str, refusal: str
    ) -> None:
        """The step was done. Raises `Hindered` with `refusal` where readers hold it up too long.

        The log is told what comes then.
        """
        began, is_told = time.monotonic(), False
        # SQLite waits by itself for some steps, and looks at nothing else; for others not at all.
        file.execute("PRAGMA busy_timeout = 0")
        while not step():
            waited = time.monotonic() - began
            if waited >= PATIENCE:
                raise Hindered(refusal)
            if waited >= _TOLD_AFTER and not is_told:
                is_told = True
                logger.warning(
                    "another program is reading the ledger %s; %s when that has come to its end, "
                    "or is refused in %.0f s",
                    self._path,
                    then,
                    PATIENCE - waited,
                )
            time.sleep(_PAUSE)
        file.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000:.0f}")


def _is_free_for(statement: str, file: sqlite3.Connection) -> bool:
    """Return whether it was done: False where somebody else has the file at this moment."""
    try:
        file.execute(statement)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True

"""The ledger as a file: its tables, how it is opened without harm, and how rows get into it.

Everything here blocks and is called in the ledger's own thread. A file that is not a whole ledger
of a known version is never written to, and a row of `event` is never changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from grok_video import _database, _disk, _ledgerversions
from grok_video._errors import LedgerError
from grok_video._ledgerlog import PATIENCE, Hindered, LedgerLog
from grok_video._ledgersql import (
    ADD_EVENTS,
    ADD_REQUESTS,
    FIND,
    INTERRUPT,
    OWNERS,
    SCHEMA,
    TOTALS,
)
from grok_video._lifecycle import Event
from grok_video._lockfile import Held, LockFile

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Facts", "LedgerFile", "Opened"]

#: Bytes kept free beside the ledger, so that the creates in flight can still be written down when
#: the disk is full: 500 of them take about 150 KiB.
RESERVE: Final = 2**20
_RESERVE: Final = ".reserve"
#: What has a part of a ledger: its log, or where WAL is not to be had, what a step began with.
_PARTS: Final = ("-wal", "-journal")


@frozen
class Opened:
    """What a ledger says when it is opened."""

    next_item: int
    spent_usd: float
    open_usd: float


@frozen
class Facts:
    """What the ledger has on one key: its events, and the last row's columns."""

    fingerprint: str
    events: tuple[Event, ...]
    #: When the last create was sent, and when the last one was accepted; None where none was.
    sent_at: str | None
    accepted_at: str | None
    last: Sequence[Any]


class LedgerFile:
    """One SQLite file, held by this process alone; used from one thread."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock: LockFile | None = None
        #: True where the last writer's lock was still here: it died, and here.
        self._was_torn_off = False
        #: What the file was when it was opened: another one may take its name.
        self._identity: os.stat_result | None = None
        self._log: LedgerLog | None = None
        self._file: sqlite3.Connection | None = None
        self._run = 0
        #: Why nothing more should be begun, once a write has failed and the reserve was given up.
        self.trouble: str | None = None
        #: Set by whoever does not want it any more while it is opened: it is not waited for then.
        self.is_unwanted = False

    # --- opening ---------------------------------------------------------------------------------

    def open(self) -> Opened:
        """Hold the ledger, made now if there is none; return where it stands.

        What a dead process left in the middle is marked as interrupted. Raises `LedgerError` if
        the file cannot be used; it is as it was then.
        """
        try:
            # Two names of one file must meet at one lock.
            self.path = _database.file_behind(self.path)
            self._take_lock()
            try:
                return self._open()
            except BaseException:
                self.close()
                raise
        except Hindered as hindrance:
            raise self._refusal(str(hindrance)) from hindrance
        except (OSError, sqlite3.Error) as error:
            raise self.failure(error) from error

    def inspect(self) -> None:
        """Return if a batch could go on with the file, or make it; nothing is written for that.

        Whether another process holds it is not asked. Raises `LedgerError` as `open` does.
        """
        try:
            self.path = _database.file_behind(self.path)
            self._was_torn_off = self._beside(".lock").exists()
            if self.path.exists():
                self._inspect()
            else:
                self._require_no_log()
        except (OSError, sqlite3.Error) as error:
            raise self.failure(error) from error

    def _take_lock(self) -> None:
        if not self.path.parent.is_dir():
            raise self._refusal(f"its folder {self.path.parent} does not exist")
        try:
            self._was_torn_off = self._beside(".lock").exists()
            self._lock = LockFile.take(self._beside(".lock"))
        except Held as held:
            raise self._refusal(
                f"it is being written by {held}; one ledger has one writer. Wait for that process "
                "or end it"
            ) from None

    def _open(self) -> Opened:
        version = self._inspect() if self.path.exists() else _ledgerversions.VERSION
        self._set_aside()
        if not self.path.exists():
            self._create()
        self._file = file = _database.connect(self.path, "rw", PATIENCE)
        self._log = log = LedgerLog(self.path)
        log.begin(file)
        # FULL: a commit returns when the disk has it, which is the promise this file is for.
        file.execute("PRAGMA synchronous = FULL")
        file.execute("PRAGMA fullfsync = ON")  # macOS answers a plain fsync from a cache
        file.execute("PRAGMA cache_size = -8000")
        _ledgerversions.migrate(file, version)
        file.execute("BEGIN IMMEDIATE")
        self._run = (
            file.execute(
                "INSERT INTO run (started_at, host, pid) VALUES (?, ?, ?)",
                (iso_now(), socket.gethostname(), os.getpid()),
            ).lastrowid
            or 0
        )
        file.execute(INTERRUPT, {"now": iso_now(), "run": self._run})
        file.execute("COMMIT")
        log.put_into_the_file(file, is_unwanted=lambda: self.is_unwanted)
        self._identity = self.path.stat()
        # The keys that this run has seen, on disk: a manifest has as many lines as it likes.
        file.execute("CREATE TEMP TABLE seen (key TEXT PRIMARY KEY) WITHOUT ROWID")
        (next_item,) = file.execute("SELECT coalesce(max(id), 0) + 1 FROM request").fetchone()
        spent, open_ = file.execute(TOTALS).fetchone()
        return Opened(next_item, spent, open_)

    def _inspect(self) -> int:
        """Return the version of a ledger that is there, read and not written.

        But for a step in whose middle its writer died: that is taken back.
        """
        if not self.path.is_file():
            raise self._refusal("it is not a file")
        if not os.access(self.path, os.W_OK):
            # Opened all the same, SQLite would leave files beside it that nobody may write either.
            raise self._refusal("it may not be written")
        with self.path.open("rb") as file:
            head = file.read(len(_database.MAGIC))
        if not head:
            raise self._refusal(
                "it is empty, and a ledger never is: it was damaged, or is no ledger. If nothing "
                "was ever sent with it, remove it"
            )
        if head != _database.MAGIC:
            raise self._refusal("it is not a ledger (not a SQLite database)")
        has_all = self._was_torn_off or any(self._beside(end).exists() for end in _PARTS)
        mode = _database.looking_mode(self.path)
        with contextlib.closing(_database.connect(self.path, mode, PATIENCE)) as readable:
            (application,) = readable.execute("PRAGMA application_id").fetchone()
            (version,) = readable.execute("PRAGMA user_version").fetchone()
            if application != _database.APPLICATION:
                raise self._refusal("it is a SQLite database, but not a ledger of grok_video")
            if problem := _ledgerversions.version_problem(version):
                raise self._refusal(problem)
            if not has_all:
                self._require_whole(readable)
            # 100,000 items with five events each are read in about half a second; a ledger that
            # forgets would pay for them again.
            (verdict,) = readable.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise self._damaged(verdict)
        return int(version)

    def _require_whole(self, file: sqlite3.Connection) -> None:
        """Raise `LedgerError` if what the last run wrote is not here.

        A run that was killed leaves its newest rows in the log (-wal), and its lock. A copy of the
        file alone, or one that was moved alone, has neither.
        """
        (running,) = file.execute(
            "SELECT count(*) FROM run WHERE ended_at IS NULL AND id = (SELECT max(id) FROM run)"
        ).fetchone()
        if running:
            raise self._refusal(
                f"its last run did not come to its end, and {self.path.name}-wal, which has what "
                "that run wrote last, is not beside it: the ledger was copied or moved alone. Put "
                "that file here as well; without it jobs that are paid for would be paid again. If "
                "it was here, and another program (the shell of SQLite, say) has opened the ledger "
                "since, that program has put all of it into the ledger: make an empty file "
                f"{self._beside('.lock').name} beside it, and it is used as it is"
            )

    def _create(self) -> None:
        """Put a whole, empty ledger there; a death in between leaves nothing of its name."""
        self._require_no_log()
        new = self._beside(".new")
        for name in (new, self._beside(".new-journal"), self._beside(".new-wal")):
            name.unlink(missing_ok=True)
        try:
            with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as made:
                made.execute(f"PRAGMA application_id = {_database.APPLICATION}")
                version = _ledgerversions.VERSION
                made.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {version}; COMMIT;")
                made.execute("PRAGMA journal_mode = WAL")
            new.replace(self.path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        _disk.sync_folder(self.path.parent)

    def _require_no_log(self) -> None:
        for end in _PARTS:
            if self._beside(end).exists():
                raise self._refusal(
                    f"{self.path.name}{end} is there without it: the ledger was moved or removed "
                    "alone"
                )

    def _set_aside(self) -> None:
        descriptor = os.open(self._beside(_RESERVE), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            missing = RESERVE - os.fstat(descriptor).st_size
            if missing > 0:
                # Written, not `posix_fallocate`: some file systems only pretend to that.
                os.lseek(descriptor, 0, os.SEEK_END)
                while missing > 0:
                    missing -= os.write(descriptor, bytes(missing))
        except OSError:
            self._beside(_RESERVE).unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    # --- writing and reading ---------------------------------------------------------------------

    def commit(self, requests: list[Sequence[Any]], events: list[Sequence[Any]]) -> None:
        """All of it is on the disk, or nothing. Raises `LedgerError` if it cannot be written.

        A full disk (or a quota, or a passing error) takes the reserve first and sets `trouble`.
        """
        try:
            self._try_to_commit(requests, events)
            self._require_log()
        except Hindered as hindrance:
            raise self._refusal(str(hindrance)) from hindrance
        except sqlite3.Error as error:
            raise self.failure(error) from error

    def _try_to_commit(self, requests: list[Sequence[Any]], events: list[Sequence[Any]]) -> None:
        try:
            self._commit(requests, events)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if self.trouble is not None or code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            self.trouble = _database.trouble_of(error, code)
            self._give_up_reserve()
            self._commit(requests, events)

    def _commit(self, requests: list[Sequence[Any]], events: list[Sequence[Any]]) -> None:
        file = self._opened()
        self._require_place()
        self._require_log()
        try:
            if requests:
                file.execute("BEGIN IMMEDIATE")
                file.execute(ADD_REQUESTS, {"rows": json.dumps(requests)})
            file.execute(ADD_EVENTS, {"rows": json.dumps(events), "run": self._run})
            if requests:
                file.execute("COMMIT")
        except sqlite3.Error:
            if file.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    file.execute("ROLLBACK")
            raise

    def _require_log(self) -> None:
        assert self._log is not None  # noqa: S101 - for the type checker: it is open
        self._log.require(self._opened())

    def _require_place(self) -> None:
        """Raise `LedgerError` if the file or its lock is not where others would find it."""
        if self._identity is None or not _disk.is_still(self.path, self._identity):
            raise self._refusal("it was removed, moved or replaced while a batch was writing it")
        if self._lock is None or not self._lock.is_in_place():
            raise self._refusal("its lock file was removed, so that another process may write it")

    def _give_up_reserve(self) -> None:
        file = self._opened()
        with contextlib.suppress(OSError):
            self._beside(_RESERVE).unlink()
        # The log may have as much again: its pages go to their places in the file, most of which
        # exist, and from now on it is kept short.
        with contextlib.suppress(sqlite3.Error):
            file.execute("PRAGMA wal_autocheckpoint = 16")
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def find(self, keys: Iterable[str]) -> tuple[dict[str, Facts], set[str]]:
        """Return what is known of these keys, and those of them that this run asked for before."""
        file, wanted = self._opened(), json.dumps(list(keys))
        try:
            again: set[str] = {
                key
                for (key,) in file.execute(
                    "SELECT value FROM json_each(?) WHERE value IN (SELECT key FROM temp.seen)",
                    (wanted,),
                )
            }
            file.execute(
                "INSERT OR IGNORE INTO temp.seen SELECT value FROM json_each(?)", (wanted,)
            )
            return _histories(file, wanted), again
        except sqlite3.Error as error:
            raise self.failure(error) from error

    def look_up(
        self, keys: Iterable[str], request_ids: Iterable[str]
    ) -> tuple[dict[str, Facts], dict[str, str]]:
        """Return what is known of these keys, and the keys of the items that have these ids.

        Nothing is remembered of the question: `find` is for the items of a manifest.
        """
        file, ids = self._opened(), json.dumps(list(request_ids))
        try:
            owners = dict(file.execute(OWNERS, (ids,)).fetchall())
            return _histories(file, json.dumps(list(keys))), owners
        except sqlite3.Error as error:
            raise self.failure(error) from error

    def close(self) -> None:
        """The file is whole by itself (no -wal beside it) and anybody may hold it."""
        file, self._file = self._file, None
        has_ended = not self._run
        if file is not None:
            with contextlib.suppress(sqlite3.Error):
                file.execute("UPDATE run SET ended_at = ? WHERE id = ?", (iso_now(), self._run))
                has_ended = True
            with contextlib.suppress(sqlite3.Error):
                # Who still reads it keeps its log there, and it may be moved without that. Where
                # this end must stay in the log, the file goes on to say that its run has none.
                file.execute("PRAGMA wal_checkpoint(PASSIVE)")
            with contextlib.suppress(sqlite3.Error):
                file.close()
        if self._log is not None:
            self._log.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(OSError):
                self._beside(_RESERVE).unlink(missing_ok=True)
            # A run whose end could not be written leaves its lock file, as one that was killed.
            lock.release(keep=not has_ended)

    # --- words -----------------------------------------------------------------------------------

    def _opened(self) -> sqlite3.Connection:
        if self._file is None:
            raise self._refusal("it is closed")
        return self._file

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)

    def failure(self, error: OSError | sqlite3.Error) -> LedgerError:
        """Return what an error of the system or of SQLite means for this ledger."""
        if isinstance(error, OSError):
            return self._refusal(f"{error.strerror or error}")
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return self._refusal("the disk is full")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return self._damaged(str(error))
        return self._refusal(str(error))

    def _damaged(self, verdict: str) -> LedgerError:
        return self._refusal(
            f"it is damaged ({verdict.splitlines()[-1]}); restore it from a copy. A new ledger "
            "would know nothing of what was already paid for"
        )

    def _refusal(self, problem: str) -> LedgerError:
        # Before it is open nothing can have been sent with it.
        end = "" if self._identity else " Nothing was sent."
        message = f"the ledger {self.path} cannot be used: {problem}.{end}"
        return LedgerError(message, path=self.path)


def iso(seconds: float) -> str:
    """Return Unix seconds as ISO 8601 text in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")


def iso_now() -> str:
    """Return this moment, as `iso` writes it."""
    return iso(datetime.now(UTC).timestamp())


def _histories(file: sqlite3.Connection, wanted: str) -> dict[str, Facts]:
    rows: dict[str, list[Sequence[Any]]] = {}
    for row in file.execute(FIND, (wanted,)):
        rows.setdefault(row[0], []).append(row)
    return {key: _facts(found) for key, found in rows.items()}


def _facts(rows: list[Sequence[Any]]) -> Facts:
    events = tuple(Event(row[4]) for row in rows)
    times: dict[Event, str] = {event: row[2] for event, row in zip(events, rows, strict=True)}
    return Facts(
        rows[-1][1],
        events,
        times.get(Event.SENDING_BEGAN),
        times.get(Event.ACCEPTED),
        rows[-1][2:],
    )

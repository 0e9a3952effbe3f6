"""The store that outlives its process: one SQLite file with jobs, pictures, the key and the port.

Everything a restarted emulator needs to go on as if nothing had happened. Used from the server's
loop (jobs) and from the pool (pictures); it knows no HTTP.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import attrs

from . import faults
from ._faults import Backwards, LifeFault
from ._records import Create
from ._store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ._jobs import Job
    from ._records import Request

_VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE jobs (
    serial INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    price TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    created REAL NOT NULL,
    fields TEXT NOT NULL,
    job TEXT NOT NULL
);
CREATE TABLE pictures (digest TEXT PRIMARY KEY, bytes BLOB NOT NULL);
CREATE TABLE attempts (
    number INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    answered REAL,
    status INTEGER,
    retry_after REAL,
    request_id TEXT
);
"""


class SQLiteStore(Store):
    """Keeps everything in one file, safe against the death of the process at any moment."""

    def __init__(self, path: Path, folder: Path) -> None:
        super().__init__(folder)
        self._lock = threading.Lock()
        # Autocommit: each statement is a transaction and durable when it returns.
        self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._claim: sqlite3.Connection | None = None
        try:
            self._open(path)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> None:
        # Before anything is written, and before a file appears beside it: this may be no database.
        self._file.execute("PRAGMA user_version").fetchone()
        self._take(path)
        self._file.execute("PRAGMA journal_mode = WAL")
        # Enough against SIGKILL, which leaves the kernel's cache alone; a power cut is not among
        # the things an emulator has to survive, and no fsync keeps the loop free.
        self._file.execute("PRAGMA synchronous = OFF")
        (version,) = self._file.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise ValueError(f"{path} was written by another version of the emulator ({version})")
        if version == 0:
            self._file.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;"
            )
        # Beside the schema, because files of before have everything but this.
        self._file.execute("CREATE TABLE IF NOT EXISTS killed (name TEXT PRIMARY KEY)")
        self.secret = self.fact("secret", secrets.token_bytes(16))

    def _take(self, path: Path) -> None:
        """Claims the file for this emulator, until it is closed or its process is gone.

        Two would give their jobs the same numbers. The claim lies on an empty file beside it, so
        that whoever wants to read the state still can.
        """
        # Half a second, as one that is told to stop needs a moment.
        claim = sqlite3.connect(
            f"{path}-lock", timeout=0.5, isolation_level=None, check_same_thread=False
        )
        try:
            claim.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            claim.close()
            if "locked" not in str(error):
                raise
            raise ValueError(
                f"{path} is in use by another emulator{self._where()}: stop that, or give this one "
                "a state file of its own"
            ) from None
        self._claim = claim

    def _where(self) -> str:
        try:
            row = self._file.execute("SELECT value FROM facts WHERE name = 'port'").fetchone()
        except sqlite3.Error:  # it has only just begun
            row = None
        return f" (at http://127.0.0.1:{row[0]})" if row is not None else ""

    def fact(self, name: str, first: Any) -> Any:  # noqa: ANN401 - what SQLite can hold
        """The value kept under this name; `first` is kept if there is none."""
        with self._lock:
            row = self._file.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
            if row is not None:
                return row[0]
            self._file.execute("INSERT INTO facts VALUES (?, ?)", (name, first))
            return first

    def set_fact(self, name: str, value: Any) -> None:  # noqa: ANN401 - what SQLite can hold
        """From now on this value is kept under this name."""
        with self._lock:
            self._file.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def jobs(self) -> Iterable[Job]:
        """The jobs of earlier processes, in the order of their serials."""
        with self._lock:
            rows = self._file.execute("SELECT job FROM jobs ORDER BY serial").fetchall()
        return [_read(text) for (text,) in rows]

    def creates(self) -> Iterable[Create]:
        """The creates of earlier processes, in order."""
        with self._lock:
            rows = self._file.execute(
                "SELECT request_id, price, fields, fingerprint, created FROM jobs ORDER BY serial"
            ).fetchall()
        return [
            Create(request_id, Decimal(price), json.loads(fields), fingerprint, at)
            for request_id, price, fields, fingerprint, at in rows
        ]

    def accept(self, job: Job, create: Create) -> None:
        """The job and its price are safe before this returns."""
        row = (
            job.serial,
            job.request_id,
            str(create.price),
            create.fingerprint,
            create.at,
            json.dumps(create.fields),
            _written(job),
        )
        with self._lock:
            self._file.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def update(self, job: Job) -> None:
        """What changed about the job is safe before this returns."""
        with self._lock:
            self._file.execute(
                "UPDATE jobs SET job = ? WHERE serial = ?", (_written(job), job.serial)
            )

    def attempt(self, log: Request) -> None:
        """Notes that a create came, and what it was answered."""
        row = (log.at, log.answered, log.status, log.retry_after, log.request_id)
        with self._lock:
            self._file.execute(
                "INSERT INTO attempts (at, answered, status, retry_after, request_id)"
                " VALUES (?, ?, ?, ?, ?)",
                row,
            )

    def killed(self) -> Iterable[str]:
        """The links that earlier processes killed."""
        with self._lock:
            return [name for (name,) in self._file.execute("SELECT name FROM killed")]

    def kill(self, name: str) -> None:
        """This link is dead, for later processes too."""
        with self._lock:
            self._file.execute("INSERT OR IGNORE INTO killed VALUES (?)", (name,))

    def keep_picture(self, digest: str, data: bytes) -> None:
        """The picture can be read back under its digest, by a later process too."""
        with self._lock:
            self._file.execute("INSERT OR IGNORE INTO pictures VALUES (?, ?)", (digest, data))

    def picture(self, digest: str) -> bytes | None:
        """The picture kept under this digest; `None` for the test card."""
        with self._lock:
            row = self._file.execute(
                "SELECT bytes FROM pictures WHERE digest = ?", (digest,)
            ).fetchone()
        return None if row is None else row[0]

    def drop_picture(self, digest: str) -> None:
        """The picture is gone: no job needs it any more."""
        with self._lock:
            self._file.execute("DELETE FROM pictures WHERE digest = ?", (digest,))

    def close(self) -> None:
        """The file is closed and its log folded into it."""
        with self._lock:
            self._file.close()
            if self._claim is not None:
                self._claim.close()


def _written(job: Job) -> str:
    fields = attrs.asdict(job)
    if job.fate is not None:
        fields["fate"]["fault"] = type(job.fate).__name__
    return json.dumps(fields)


def _read(text: str) -> Job:
    from ._jobs import Job
    from ._sources import Unusable

    fields: dict[str, Any] = json.loads(text)
    fields["size"] = tuple(fields["size"])
    if fields["problem"] is not None:
        fields["problem"] = Unusable(**fields["problem"])
    if fields["fate"] is not None:
        fields["fate"] = _fate(fields["fate"])
    return Job(**fields)


def _fate(facts: dict[str, Any]) -> LifeFault:
    kind: type[LifeFault] = getattr(faults, facts.pop("fault"))
    del facts["accepted"]
    if kind is Backwards:
        facts["percents"] = tuple(facts["percents"])
    return kind(**facts)

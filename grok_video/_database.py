"""The ledger as a SQLite file: how it is told from others, and opened so that a look does no harm.

No table is known here. What matters is what lies beside the file: a log (-wal) or a journal
(-journal) has a part of it, and without them nothing may even be made there to read it.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["APPLICATION", "MAGIC", "connect", "file_behind", "looking_mode", "trouble_of"]

#: SQLite's `application_id` of a ledger: the letters GRKV.
APPLICATION: Final = 0x47524B56
#: How every SQLite file begins.
MAGIC: Final = b"SQLite format 3\0"
#: Where the first bytes of the file say whether it has a write-ahead log (2) or none (1), and what
#: its application is (https://sqlite.org/fileformat2.html, section 1.3).
_READ_VERSION: Final = 19
_APPLICATION_ID: Final = slice(68, 72)


def connect(path: Path, mode: str, patience: float) -> sqlite3.Connection:
    """Return a connection that waits so many seconds for others; each statement is a step."""
    file = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=patience
    )
    # One text that cannot be read must not lock out all the others.
    file.text_factory = _decoded
    return file


def file_behind(path: Path) -> Path:
    """Return the file itself, beside which its log lies. Raises `OSError` if no name leads there.

    `Path.resolve` has other errors for that, and from Python 3.13 on none for a loop of links.
    """
    if "\0" in str(path):
        message = "there is a null in its name"
        raise OSError(message)
    try:
        found = path.resolve()
    except RuntimeError:
        found = path
    if found.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return found


def looking_mode(path: Path) -> str:
    """Return how a file is opened to be read as it is. Raises `OSError` if it cannot be.

    A ledger whose writer died in the middle of a step is half that step; its journal has what was
    there before, and SQLite puts that back when it may write. A file of others is never written.
    """
    with path.open("rb") as file:
        head = file.read(_APPLICATION_ID.stop)
    if os.path.lexists(f"{path}-journal"):
        is_ours = head[_APPLICATION_ID] == APPLICATION.to_bytes(4, "big")
        return "rw" if is_ours else "ro"
    # With a log, or where one is not to be had, locks keep its writer and who reads it apart;
    # nobody writes a file without the log that it should have.
    has_log = head[_READ_VERSION : _READ_VERSION + 1] == b"\2"
    if has_log and not os.path.lexists(f"{path}-wal"):
        return "ro&immutable=1"
    return "ro"


def trouble_of(error: sqlite3.Error, code: int) -> str:
    """Return what is wrong with a file that takes no more, as far as SQLite's `code` tells."""
    if code == sqlite3.SQLITE_FULL:
        return "the disk of the ledger is full"
    # SQLite has one word for all else, a quota among it, and keeps the system's own to itself.
    return (
        f"the ledger was written at the second try only ({error}): its disk may be failing, or a "
        "quota reached"
    )


def _decoded(text: bytes) -> str:
    try:
        # A path may have bytes that are no UTF-8: SQLite was given halves of characters for them.
        return text.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return text.decode("utf-8", "backslashreplace")

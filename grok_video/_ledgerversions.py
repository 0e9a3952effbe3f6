"""The versions of a ledger's tables: which of them are known, and what leads to the newest.

A version that is not known is refused by whoever opens a ledger, to write it or to look into it,
and in the same words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3

__all__ = ["MIGRATIONS", "VERSION", "migrate", "version_problem"]

#: The version of the tables that this package writes, kept as SQLite's `user_version`.
VERSION: Final = 2

#: What leads from a version to the next one; each runs in one transaction with its new number. The
#: report reads a ledger as it was before them.
MIGRATIONS: Final[dict[int, str]] = {}


def version_problem(version: int) -> str | None:
    """Return why a ledger of this version cannot be used, and what to do; None where it can."""
    known = f"(ledger version {version}; this one knows {VERSION})"
    if any(old not in MIGRATIONS for old in range(version, VERSION)):
        return (
            f"it was written by a grok_video from before the first release {known}. Go on with it "
            "in that one"
        )
    if version > VERSION:
        return f"it was written by a newer grok_video {known}. Update grok_video"
    return None


def migrate(file: sqlite3.Connection, version: int) -> None:
    """The tables are those of `VERSION`."""
    while version < VERSION:
        script = MIGRATIONS[version]
        version += 1
        file.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {version}; COMMIT;")

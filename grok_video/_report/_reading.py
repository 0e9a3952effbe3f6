"""A ledger as the report reads it: read-only, also while a batch is still writing to it.

Nothing here changes the ledger or holds its writer up, where WAL is to be had; but a step in whose
middle its writer died is taken back, as by whatever opens it. What cannot be read is refused with a
reason before a page is made of it.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from grok_video._database import connect, file_behind, looking_mode
from grok_video._entry import Entry, plain, read_id, written_id
from grok_video._errors import LedgerError
from grok_video._ledgersql import OWNERS, TOTALS
from grok_video._ledgerversions import version_problem
from grok_video._lifecycle import Event, State, advance

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Iterable

#: Seconds to wait for the writer, where WAL is not to be had.
_PATIENCE: Final = 10.0

_ITEMS: Final = """
SELECT key, state, request_id, prompt, image, model, duration, resolution, aspect_ratio, path, size,
    seconds, cost_usd, open_usd, estimate_usd, error_type, error, attempts, polls, began_at,
    changed_at
FROM item ORDER BY began_at, key
"""
_FATE: Final = """
SELECT request.fingerprint, item.state, item.request_id, item.error_type, (
    SELECT event FROM event WHERE item = request.id AND event IN ('accepted', 'id_found')
    ORDER BY id DESC LIMIT 1)
FROM item JOIN request ON request.key = item.key WHERE item.key = ?
"""
_RUN: Final = "SELECT started_at, ended_at, pid, host FROM run ORDER BY id DESC LIMIT 1"


@frozen
class Contents:
    """All of a ledger at one moment."""

    path: Path
    items: list[dict[str, Any]]
    #: The last run: when it began, and when it ended (None: it is running, or died).
    run: dict[str, Any] | None
    runs: int
    #: The command that made it, where it left its words beside it.
    command: str | None


def read(ledger: str | os.PathLike[str]) -> Contents:
    """Return what stands in the ledger. Raises `LedgerError` if it cannot be read."""
    path = Path(ledger).absolute()
    with _opened(path) as file:
        file.row_factory = sqlite3.Row
        # One transaction, one moment: a batch that goes on meanwhile is not seen by half.
        file.execute("BEGIN")
        items = [dict(row) for row in file.execute(_ITEMS)]
        run = file.execute(_RUN).fetchone()
        (runs,) = file.execute("SELECT count(*) FROM run").fetchone()
    return Contents(path, items, dict(run) if run is not None else None, runs, _command(path))


def count_states(ledger: str | os.PathLike[str]) -> dict[str, int]:
    """Return how many items are in each state. Raises `LedgerError` if it cannot be read."""
    with _opened(Path(ledger).absolute()) as file:
        return dict(file.execute("SELECT state, count(*) FROM item GROUP BY state"))


class Earlier:
    """What earlier runs left, asked of their ledger; a ledger that is not there knows nothing."""

    def __init__(self, path: Path, file: sqlite3.Connection | None) -> None:
        self._path = path
        self._file = file

    def find(self, key: str) -> Entry | None:
        """Return what decides about the item of a key: its state, its id, and what failed.

        Where it was on its way when its process died, the next run will find it in doubt.
        """
        for fingerprint, word, request_id, error_type, origin in self._ask(_FATE, plain(key)):
            state = State(word)
            if state is State.SUBMITTING:
                state = advance(state, Event.INTERRUPTED)
            return Entry(
                key,
                fingerprint,
                state=state,
                request_id=read_id(request_id),
                id_was_found=origin == Event.ID_FOUND,
                error_type=error_type,
            )
        return None

    def owners(self, request_ids: Iterable[str]) -> dict[str, str]:
        """Return the keys of the items that have these ids."""
        wanted = json.dumps([written_id(one) for one in request_ids])
        return {read_id(text) or "": key for text, key in self._ask(OWNERS, wanted)}

    def was_sent(self, key: str) -> bool:
        """Return whether an earlier run sent the item of this key."""
        entry = self.find(key)
        return entry is not None and entry.state is not State.PLANNED

    def money(self) -> tuple[Decimal, Decimal]:
        """Return US dollars: spent for certain, and what more may be billed."""
        for spent, still_open in self._ask(TOTALS):
            return Decimal(str(spent)), Decimal(str(still_open))
        return Decimal(0), Decimal(0)

    def _ask(self, question: str, *values: str) -> list[tuple[Any, ...]]:
        if self._file is None:
            return []
        try:
            return self._file.execute(question, values).fetchall()
        except sqlite3.Error as error:
            raise _unreadable(self._path, error) from error


@contextlib.contextmanager
def earlier(ledger: str | os.PathLike[str]) -> Generator[Earlier]:
    """Give what earlier runs left.

    That is nothing where the ledger cannot be read: the batch will tell of that.
    """
    path = Path(ledger).absolute()
    with contextlib.ExitStack() as stack:
        file: sqlite3.Connection | None = None
        with contextlib.suppress(LedgerError, OSError, sqlite3.Error):
            file = stack.enter_context(contextlib.closing(_open(path)))
        yield Earlier(path, file)


def command_beside(ledger: Path) -> Path:
    """Return the file in which a batch leaves the command that goes on with it."""
    return ledger.with_name(ledger.name + ".command")


@contextlib.contextmanager
def _opened(path: Path) -> Generator[sqlite3.Connection]:
    try:
        with contextlib.closing(_open(path)) as file:
            yield file
    except (OSError, sqlite3.Error) as error:
        raise _unreadable(path, error) from error


def _open(path: Path) -> sqlite3.Connection:
    path = file_behind(path)
    if not path.is_file():
        message = f"the ledger {path} cannot be read: there is no such file."
        raise LedgerError(message, path=path)
    with contextlib.ExitStack() as stack:
        file = connect(path, looking_mode(path), _PATIENCE)
        stack.enter_context(contextlib.closing(file))
        (version,) = file.execute("PRAGMA user_version").fetchone()
        [(known,)] = file.execute(
            "SELECT count(*) FROM sqlite_master WHERE name IN ('item', 'event', 'run')"
        )
        if known != 3:
            message = f"{path} is a SQLite database, but not a ledger of grok_video."
            raise LedgerError(message, path=path)
        if problem := version_problem(version):
            message = f"the ledger {path} cannot be read: {problem}."
            raise LedgerError(message, path=path)
        stack.pop_all()
    return file


def _unreadable(path: Path, error: OSError | sqlite3.Error) -> LedgerError:
    words = error.strerror if isinstance(error, OSError) else None
    return LedgerError(f"the ledger {path} cannot be read: {words or error}.", path=path)


def _command(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        # It has paths, and these may have bytes that are no UTF-8.
        text = command_beside(path).read_bytes().decode(errors="surrogateescape")
        return text.strip() or None
    return None

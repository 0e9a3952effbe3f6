"""A ledger that is not all there, or not where it was: nobody pays for what it knew."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from grok_video import LedgerError, _ledgerlog
from grok_video._ledger import Ledger
from grok_video._lifecycle import Event, State

from .conftest import found, new_entry, refused, rows, run, snapshot, write


async def dying(path: Path, copy: Callable[..., Path], *endings: str) -> Path:
    """Return a copy of a ledger in the middle of a run that has a job."""
    await write(path, Event.SENDING_BEGAN, key="of an earlier run")
    ledger = await Ledger.open(path)
    entry = new_entry("cat")
    await ledger.record(entry, Event.SENDING_BEGAN)
    entry.request_id = "4b2cd27e"
    await ledger.record(entry, Event.ACCEPTED)
    place = copy(path, *endings)
    await ledger.close()
    return place


async def test_a_copy_without_the_log_of_a_run_that_died_is_refused(
    tmp_path: Path, cut_off: Callable[..., Path]
) -> None:
    place = await dying(tmp_path / "run.sqlite", cut_off)
    await refused(place, "run.sqlite-wal, which has what that run wrote last, is not beside it")


async def test_a_copy_with_its_log_goes_on(tmp_path: Path, cut_off: Callable[..., Path]) -> None:
    place = await dying(tmp_path / "run.sqlite", cut_off, "-wal")
    entry = await found(place)
    assert entry is not None
    assert (entry.state, entry.request_id) == (State.PENDING, "4b2cd27e")


async def test_a_log_that_another_program_has_put_into_its_file_is_not_missed(
    tmp_path: Path, cut_off: Callable[..., Path]
) -> None:
    """As the shell of SQLite does; the lock of the dead says that it died here."""
    place = await dying(tmp_path / "run.sqlite", cut_off, "-wal", ".lock")
    with closing(sqlite3.connect(place)) as file:
        file.execute("SELECT count(*) FROM event").fetchone()
    assert f"{place.name}-wal" not in snapshot(place.parent)
    entry = await found(place)
    assert entry is not None
    assert entry.request_id == "4b2cd27e"


async def test_a_log_that_was_put_into_a_file_without_its_lock_is_for_a_person_to_tell(
    tmp_path: Path, cut_off: Callable[..., Path]
) -> None:
    """Moved with its log and looked at, it is as a file that was moved alone; both look alike."""
    place = await dying(tmp_path / "run.sqlite", cut_off, "-wal")
    with closing(sqlite3.connect(place)) as file:
        file.execute("SELECT count(*) FROM event").fetchone()
    await refused(place, "make an empty file run.sqlite.lock beside it")
    (place.parent / "run.sqlite.lock").touch()
    entry = await found(place)
    assert entry is not None
    assert (entry.state, entry.request_id) == (State.PENDING, "4b2cd27e")


async def test_a_ledger_whose_run_has_ended_may_be_moved_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    await write(path, Event.SENDING_BEGAN, Event.ACCEPTED)
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / "a.sqlite")
    assert await found(moved) is not None


@pytest.mark.parametrize("what", ["removed", "moved", "replaced", "lock", "another's lock"])
async def test_a_ledger_that_loses_its_place_while_it_is_written_says_so(
    tmp_path: Path, what: str
) -> None:
    path, lock = tmp_path / "run.sqlite", tmp_path / "run.sqlite.lock"
    ledger = await Ledger.open(path)
    await ledger.record(new_entry("before"), Event.SENDING_BEGAN)
    match what:
        case "removed":
            path.unlink()
        case "moved":
            path.rename(tmp_path / "b.sqlite")
        case "replaced":
            shutil.copy(path, tmp_path / "b.sqlite")
            (tmp_path / "b.sqlite").replace(path)
        case "lock":
            lock.unlink()
        case _:
            lock.unlink()
            lock.write_text("another's")
    words = "its lock file was removed" if "lock" in what else "removed, moved or replaced"
    with pytest.raises(LedgerError, match=words):
        await ledger.record(new_entry("cat"), Event.SENDING_BEGAN)
    assert not ledger.keeps
    await ledger.close()
    if what == "another's lock":
        assert lock.read_text() == "another's"


async def test_nothing_is_written_after_a_beginning_that_could_not_be(tmp_path: Path) -> None:
    """Its end would stand in the file without it, and the ledger would contradict itself."""
    path, away = tmp_path / "run.sqlite", tmp_path / "away"
    away.mkdir()
    ledger, entry = await Ledger.open(path), new_entry("cat")
    await ledger.record(entry, Event.SENDING_BEGAN, Event.NOT_TAKEN)
    move(tmp_path, away)
    with pytest.raises(LedgerError, match="removed, moved or replaced"):
        await ledger.record(entry, Event.SENDING_BEGAN)
    move(away, tmp_path)
    ledger.note(entry, Event.NOT_TAKEN)  # what an item says that was not sent after all
    with pytest.raises(LedgerError, match="removed, moved or replaced"):
        await ledger.record(new_entry("dog"), Event.SENDING_BEGAN)
    await ledger.close()
    assert rows(path, "SELECT event FROM event") == [("sending_began",), ("not_taken",)]
    ledger = await Ledger.open(path)
    known = (await ledger.find(["cat", "dog"])).known
    assert {key: one.state for key, one in known.items()} == {"cat": State.PLANNED}
    await ledger.record(known["cat"], Event.SENDING_BEGAN)
    await ledger.close()


def move(place: Path, to: Path) -> None:
    """Move a ledger with all that stands beside it."""
    for one in place.glob("run.sqlite*"):
        one.rename(to / one.name)


async def test_a_ledger_that_was_read_while_it_was_closed_is_whole_by_itself(
    tmp_path: Path,
) -> None:
    """The log stays as long as somebody reads; whoever moves the ledger may not know of it."""
    path, alone = tmp_path / "a.sqlite", tmp_path / "alone.sqlite"
    ledger = await Ledger.open(path)
    entry = new_entry()
    await ledger.record(entry, Event.SENDING_BEGAN)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        assert reader.execute("SELECT count(*) FROM item").fetchone() == (1,)
        await ledger.close()
        shutil.copy(path, alone)
    again = await Ledger.open(alone)
    assert set((await again.find(["cat"])).known) == {"cat"}
    await again.close()


#: Run where something goes wrong at the end: a close that is never told of would wait for ever.
CLOSE = """
import sys
from pathlib import Path
import anyio
from grok_video._ledger import Ledger
from grok_video._lockfile import LockFile

def broken(self, *, keep):
    raise RuntimeError("a bug")

async def main(path):
    ledger = await Ledger.open(path)
    WHAT
    await ledger.close()
    print("closed")

anyio.run(main, Path(sys.argv[1]))
"""


@pytest.mark.parametrize(
    "what",
    [
        "path.parent.rename(path.parent.with_name('away')); path.parent.write_text('x')",
        "LockFile.release = broken",
    ],
    ids=["a file is where its folder was", "a bug of ours"],
)
def test_whoever_closes_a_ledger_is_told_whatever_happens_then(tmp_path: Path, what: str) -> None:
    (tmp_path / "folder").mkdir()
    told = run(CLOSE.replace("WHAT", what), tmp_path / "folder" / "a.sqlite")
    assert told == "closed\n"


def look_on(reader: sqlite3.Connection) -> None:
    """Read as a notebook or a browser of databases does that goes on showing one moment."""
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM run").fetchone()


async def test_a_run_that_a_reader_would_hide_from_whoever_copies_the_file_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the reader's snapshot the file goes on to say that its last run has ended."""
    path, alone = tmp_path / "a.sqlite", tmp_path / "alone.sqlite"
    await write(path, Event.SENDING_BEGAN, Event.ACCEPTED, key="of an earlier run")
    monkeypatch.setattr(_ledgerlog, "PATIENCE", 0.1)
    with closing(sqlite3.connect(path)) as notebook:
        look_on(notebook)
        with pytest.raises(LedgerError, match=r"another program .* is reading it") as caught:
            await Ledger.open(path)
        assert "Nothing was sent" in str(caught.value)
        assert not (tmp_path / "a.sqlite.lock").exists()
        notebook.rollback()
    ledger = await Ledger.open(path)
    await ledger.record(new_entry(), Event.SENDING_BEGAN)
    shutil.copy(path, alone)
    await ledger.close()
    await refused(alone, "alone.sqlite-wal, which has what that run wrote last, is not beside it")


async def test_a_run_waits_for_whoever_has_nearly_read_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    await write(path, Event.SENDING_BEGAN, Event.ACCEPTED)
    with closing(sqlite3.connect(path)) as notebook:
        look_on(notebook)
        async with anyio.create_task_group() as tasks:
            opening = partial(write, path, Event.SENDING_BEGAN, key="dog")
            tasks.start_soon(opening)
            # The row of its run is there, and behind what the notebook sees: not in the file yet.
            with anyio.fail_after(20):
                while rows(path, "SELECT count(*) FROM run") != [(2,)]:
                    await anyio.lowlevel.checkpoint()
            assert rows(path, "SELECT key FROM item") == [("cat",)]
            notebook.rollback()
    assert rows(path, "SELECT count(*) FROM run WHERE ended_at IS NOT NULL") == [(2,)]


async def test_who_does_not_want_a_ledger_any_more_waits_for_none_of_its_readers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.sqlite"
    await write(path, Event.SENDING_BEGAN, Event.ACCEPTED)
    monkeypatch.setattr(_ledgerlog, "_TOLD_AFTER", 0.0)
    with closing(sqlite3.connect(path)) as notebook:
        look_on(notebook)
        began = anyio.current_time()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(Ledger.open, path)
                while not caplog.messages:
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
        assert anyio.current_time() - began < _ledgerlog.PATIENCE / 2
        assert f"another program is reading the ledger {path}" in caplog.text
        notebook.rollback()
    await write(path, Event.SENDING_BEGAN, key="dog")


async def test_a_ledger_whose_end_a_reader_holds_back_is_whole_with_its_log_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.sqlite"
    ledger = await Ledger.open(path)
    with closing(sqlite3.connect(path)) as notebook:
        look_on(notebook)
        await ledger.record(new_entry(), Event.SENDING_BEGAN)
        await ledger.close()
        for place, endings in (("alone", ("",)), ("whole", ("", "-wal"))):
            (tmp_path / place).mkdir()
            for ending in endings:
                shutil.copy(f"{path}{ending}", tmp_path / place)
        notebook.rollback()
    await refused(tmp_path / "alone" / "a.sqlite", "is not beside it")
    assert await found(tmp_path / "whole" / "a.sqlite") is not None

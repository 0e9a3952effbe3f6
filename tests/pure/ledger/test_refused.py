"""A ledger that is damaged, newer, or something else is refused, with what to do."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from grok_video import LedgerError, _ledgerversions
from grok_video._ledger import Ledger
from grok_video._ledgerfile import LedgerFile
from grok_video._ledgerversions import VERSION
from grok_video._lifecycle import Event, State

from .conftest import found, new_entry, refused, rows, write


async def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    await write(path, Event.SENDING_BEGAN)
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"PRAGMA user_version = {VERSION + 1}")
    await refused(
        path, rf"newer grok_video \(ledger version {VERSION + 1}; this one knows {VERSION}"
    )


async def test_a_ledger_from_before_the_first_release_is_refused(tmp_path: Path) -> None:
    """It does not say what each create may cost; what it knows is for the version that wrote it."""
    path = tmp_path / "a.sqlite"
    await write(path, Event.SENDING_BEGAN)
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 1")
    await refused(path, "from before the first release .* Go on with it in that one")


async def test_an_older_version_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.sqlite"
    await write(path, Event.SENDING_BEGAN, Event.ACCEPTED)
    monkeypatch.setattr(_ledgerversions, "VERSION", VERSION + 1)
    monkeypatch.setitem(
        _ledgerversions.MIGRATIONS, VERSION, "ALTER TABLE request ADD COLUMN note TEXT"
    )
    entry = await found(path)
    assert entry is not None
    assert entry.state is State.PENDING
    assert rows(path, "PRAGMA user_version") == [(VERSION + 1,)]
    assert rows(path, "SELECT note FROM request") == [(None,)]


async def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.sqlite"
    await write(path, Event.SENDING_BEGAN, Event.ACCEPTED)
    monkeypatch.setattr(_ledgerversions, "VERSION", VERSION + 1)
    monkeypatch.setitem(
        _ledgerversions.MIGRATIONS,
        VERSION,
        "ALTER TABLE request ADD COLUMN a; SELECT * FROM missing",
    )
    with pytest.raises(LedgerError, match="no such table"):
        await Ledger.open(path)
    assert rows(path, "PRAGMA user_version") == [(VERSION,)]
    monkeypatch.undo()
    assert await found(path) is not None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"key,image,prompt\n", "not a SQLite database"),
        (b"SQLite format 3\0" + b"\0" * 50, "not a database|malformed|damaged"),
    ],
)
async def test_what_is_no_ledger_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(content)
    await refused(path, words)


@pytest.mark.parametrize("application", [0, 0x47504B47], ids=["nobody's", "a GeoPackage"])
async def test_a_database_of_something_else_is_refused(tmp_path: Path, application: int) -> None:
    path = tmp_path / "a.sqlite"
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"PRAGMA application_id = {application}")
        file.execute(f"PRAGMA user_version = {VERSION + 1}")  # its own, which says nothing to us
        file.execute("CREATE TABLE item (key TEXT)")
    await refused(path, "not a ledger of grok_video")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.99])
async def test_a_truncated_ledger_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.sqlite"
    ledger = await Ledger.open(path)
    for number in range(300):
        ledger.note(new_entry(f"k{number}", "drift " * 30), Event.SENDING_BEGAN)
    await ledger.close()
    os.truncate(path, int(path.stat().st_size * share))
    await refused(path, "damaged")


async def test_a_flipped_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    ledger = await Ledger.open(path)
    for number in range(300):
        ledger.note(new_entry(f"k{number}", "drift " * 30), Event.SENDING_BEGAN)
    await ledger.close()
    content = bytearray(path.read_bytes())
    content[8 * 4096 : 9 * 4096] = os.urandom(4096)
    path.write_bytes(content)
    await refused(path, "damaged")


async def test_a_ledger_taken_from_its_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite-wal").write_bytes(b"what happened last")
    await refused(tmp_path / "a.sqlite", "moved or removed alone")


async def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="does not exist"):
        await Ledger.open(tmp_path / "missing" / "a.sqlite")
    (tmp_path / "folder").mkdir()
    with pytest.raises(LedgerError, match="not a file"):
        await Ledger.open(tmp_path / "folder")


@pytest.mark.parametrize(
    ("name", "words"), [("a.sqlite", "Too many levels of symbolic links"), ("a\0b", "null")]
)
@pytest.mark.parametrize("look", [LedgerFile.open, LedgerFile.inspect])
def test_a_name_that_leads_nowhere_is_refused(
    tmp_path: Path, name: str, words: str, look: Callable[[LedgerFile], object]
) -> None:
    (tmp_path / "a.sqlite").symlink_to("a.sqlite")
    with pytest.raises(LedgerError, match=words):
        look(LedgerFile(tmp_path / name))
    assert os.listdir(tmp_path) == ["a.sqlite"]


async def test_a_death_while_it_is_made_leaves_a_place_to_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.sqlite"

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        file = LedgerFile(path)
        with pytest.raises(KeyboardInterrupt):
            file.open()
    (tmp_path / "a.sqlite.new").write_bytes(b"half of it")
    assert not path.exists()
    assert await found(path) is None
    assert path.exists()


async def test_a_ledger_that_may_not_be_written_is_refused_and_nothing_is_left_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite would open it, and leave files that nobody may write either; root may write all."""
    path = tmp_path / "a.sqlite"
    await (await Ledger.open(path)).close()
    monkeypatch.setattr(os, "access", lambda place, mode: mode != os.W_OK)
    with pytest.raises(LedgerError, match="may not be written"):
        await Ledger.open(path)
    assert os.listdir(tmp_path) == ["a.sqlite"]

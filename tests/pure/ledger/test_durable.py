"""What the ledger was told is on disk before anybody is told."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest

from grok_video import VideoRequest
from grok_video._entry import Entry
from grok_video._ledger import Ledger
from grok_video._ledgerfile import LedgerFile
from grok_video._lifecycle import Event, State
from grok_video._lockfile import LockFile

from .conftest import found, new_entry, rows, snapshot, write


async def test_an_event_is_on_disk_when_it_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    ledger = await Ledger.open(path)
    entry = new_entry()
    await ledger.record(entry, Event.SENDING_BEGAN)
    assert rows(path, "SELECT key, state, request_id FROM item") == [("cat", "submitting", None)]
    entry.request_id = "4b2cd27e"
    await ledger.record(entry, Event.ACCEPTED)
    assert rows(path, "SELECT key, state, request_id FROM item") == [("cat", "pending", "4b2cd27e")]
    assert rows(path, "SELECT event FROM event") == [("sending_began",), ("accepted",)]
    await ledger.close()


async def test_what_was_noted_is_on_disk_at_the_latest_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    ledger = await Ledger.open(path)
    for number in range(500):
        ledger.note(new_entry(f"k{number}"), Event.SENDING_BEGAN)
    await ledger.close()
    assert rows(path, "SELECT count(*) FROM item WHERE state = 'submitting'") == [(500,)]
    left = set(snapshot(tmp_path))
    assert left <= {"a.sqlite", "a.sqlite-wal", "a.sqlite-shm"}  # the reader's own, if any


async def test_events_are_synced_before_anybody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit returns when the disk has it: FULL, and a write-ahead log."""
    ledger = await Ledger.open(tmp_path / "a.sqlite")
    asked: list[Any] = []

    def look(self: LedgerFile, keys: Any) -> Any:
        asked.append(self._opened().execute("PRAGMA synchronous").fetchone()[0])
        asked.append(self._opened().execute("PRAGMA journal_mode").fetchone()[0])
        return {}, set()

    monkeypatch.setattr(LedgerFile, "find", look)
    await ledger.find(["cat"])
    await ledger.close()
    assert asked == [2, "wal"]


async def test_a_new_ledger_has_its_name_for_good_before_anything_is_told_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut takes the name away, and with it all that was synced since."""
    path, synced, sync = tmp_path / "a.sqlite", list[bool](), os.fsync

    def watch(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), tmp_path.stat()):
            synced.append(path.exists())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    ledger = await Ledger.open(path)
    assert synced == [True]
    await ledger.close()


async def test_many_wait_for_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = await Ledger.open(tmp_path / "a.sqlite")
    groups: list[int] = []
    real = LedgerFile._commit

    def counted(self: LedgerFile, requests: Any, events: Any) -> None:
        groups.append(len(events))
        real(self, requests, events)

    monkeypatch.setattr(LedgerFile, "_commit", counted)
    async with anyio.create_task_group() as tasks:
        for number in range(200):
            tasks.start_soon(ledger.record, new_entry(f"k{number}"), Event.SENDING_BEGAN)
    await ledger.close()
    assert sum(groups) == 200
    assert len(groups) <= 20


async def test_a_cancelled_waiter_takes_nothing_back(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    ledger = await Ledger.open(path)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await ledger.record(new_entry(), Event.SENDING_BEGAN)
    await ledger.close()
    assert rows(path, "SELECT state FROM item") == [("submitting",)]


async def test_events_that_are_recorded_together_are_on_disk_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that died between them would take the item for one that was never sent."""
    path = tmp_path / "a.sqlite"
    ledger = await Ledger.open(path)
    groups: list[int] = []
    real = LedgerFile._commit

    def counted(self: LedgerFile, requests: Any, events: Any) -> None:
        groups.append(len(events))
        real(self, requests, events)

    monkeypatch.setattr(LedgerFile, "_commit", counted)
    entry = new_entry()
    await ledger.record(entry, Event.SENDING_BEGAN)
    await ledger.record(entry, Event.ANSWER_LOST, Event.RELEASED, Event.SENDING_BEGAN)
    await ledger.close()
    assert groups == [1, 3]
    assert rows(path, "SELECT state, attempts FROM item") == [("submitting", 2)]


async def cancel(
    manner: str, work: Callable[[], Awaitable[object]], then: Callable[[], object]
) -> None:
    """Cancel the work while it waits, do something meanwhile, and return when it was cancelled."""
    if manner == "scope":
        async with anyio.create_task_group() as tasks:

            async def cancellable() -> None:
                with scope:
                    await work()
                assert scope.cancelled_caught

            scope = anyio.CancelScope()
            tasks.start_soon(cancellable)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            then()
        return
    task = asyncio.ensure_future(work())
    await anyio.wait_all_tasks_blocked()
    for _ in range(2 if manner == "twice" else 1):
        task.cancel()
        await anyio.wait_all_tasks_blocked()
    then()
    with pytest.raises(asyncio.CancelledError):
        await task


MANNERS = [("asyncio", "once"), ("asyncio", "twice"), ("asyncio", "scope"), ("trio", "scope")]


@pytest.mark.parametrize(("anyio_backend", "manner"), MANNERS)
async def test_an_opening_that_is_cancelled_leaves_the_ledger_free(
    tmp_path: Path, anyio_backend: str, manner: str
) -> None:
    path = tmp_path / "a.sqlite"
    await write(path, Event.SENDING_BEGAN)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # which the opening waits for
        await cancel(manner, lambda: Ledger.open(path), lambda: other.execute("ROLLBACK"))
    await (await Ledger.open(path)).close()


@pytest.mark.parametrize(("anyio_backend", "manner"), MANNERS)
async def test_an_opening_that_is_cancelled_and_fails_is_over(
    tmp_path: Path, anyio_backend: str, manner: str
) -> None:
    path = tmp_path / "a.sqlite"
    await write(path, Event.SENDING_BEGAN)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        def spoil() -> None:
            other.execute("DROP TABLE run")
            other.execute("COMMIT")

        await cancel(manner, lambda: Ledger.open(path), spoil)
    LockFile.take(tmp_path / "a.sqlite.lock").release()


@pytest.mark.parametrize(("anyio_backend", "manner"), MANNERS)
async def test_a_closing_that_is_cancelled_leaves_the_ledger_whole_and_free(
    tmp_path: Path, anyio_backend: str, manner: str
) -> None:
    path = tmp_path / "a.sqlite"
    ledger = await Ledger.open(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ledger.note(new_entry(), Event.SENDING_BEGAN)
        await cancel(manner, ledger.close, lambda: other.execute("ROLLBACK"))
    assert rows(path, "SELECT state FROM item") == [("submitting",)]
    await (await Ledger.open(path)).close()


async def test_a_ledger_may_be_closed_twice(tmp_path: Path) -> None:
    ledger = await Ledger.open(tmp_path / "a.sqlite")
    await ledger.close()
    with anyio.fail_after(20):
        await ledger.close()


async def test_an_illegal_event_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    ledger = await Ledger.open(path)
    entry = new_entry()
    with pytest.raises(Exception, match="cannot be told"):
        await ledger.record(entry, Event.SAVED)
    await ledger.close()
    assert rows(path, "SELECT * FROM event") == []


async def test_events_are_never_changed_or_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    await write(path, Event.SENDING_BEGAN)
    with closing(sqlite3.connect(path)) as file:
        for change in ("DELETE FROM event", "UPDATE event SET state = 'planned'"):
            with pytest.raises(sqlite3.IntegrityError, match="never"):
                file.execute(change)


async def test_no_secret_and_no_picture_comes_in(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    picture = b"\xff\xd8\xff" + b"SECRETPICTURE" * 100
    link = "https://host/cat.jpg?signature=SECRETLINK"
    uri = "data:image/png;base64," + "QUFB" * 2000
    ledger = await Ledger.open(path)
    for number, image in enumerate([picture, link, uri, Path("cat.jpg")]):
        request = VideoRequest(
            f"like {uri}", image, output={"upload_url": "https://host/?SECRETTARGET"}
        )
        entry = Entry(f"k{number}", request.fingerprint())
        entry.describe(request, Decimal(1))
        entry.fail(ValueError(f"GET {link} with Bearer sk-abcdefghijklmnop said {uri}"))
        await ledger.record(entry, Event.REFUSED)
    await ledger.close()
    content = path.read_bytes()
    for secret in (b"SECRET", b"QUFBQUFB", b"sk-abcdef"):
        assert secret not in content
    images = [image for (image,) in rows(path, "SELECT image FROM item ORDER BY key")]
    assert images[0] == "1303 bytes"
    assert images[3] == str(Path.cwd() / "cat.jpg"), "it is to be found from any folder"


async def test_texts_that_are_no_utf8_are_kept_readable(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    ledger = await Ledger.open(path)
    entry = new_entry("käse 🧀", image=Path(os.fsdecode(b"caf\xe9.jpg")))
    await ledger.record(entry, Event.SENDING_BEGAN)
    assert (await ledger.find(["käse 🧀"])).known["käse 🧀"].state is State.SUBMITTING
    await ledger.close()
    [(shown,)] = rows(path, "SELECT image FROM item")
    assert shown == str(Path.cwd() / "caf\\udce9.jpg")


@pytest.mark.parametrize(
    "request_id", ["\ud800odd", "odd\0tail", '"quoted"', "line\nline", "plain"]
)
async def test_an_id_of_any_characters_is_given_back_as_it_was(
    tmp_path: Path, request_id: str
) -> None:
    path = tmp_path / "a.sqlite"
    ledger = await Ledger.open(path)
    entry = new_entry()
    await ledger.record(entry, Event.SENDING_BEGAN)
    entry.request_id = request_id
    await ledger.record(entry, Event.ACCEPTED)
    await ledger.close()
    entry = await found(path)
    assert entry is not None
    assert entry.request_id == request_id
    ledger = await Ledger.open(path)
    _, owners = await ledger.look_up({"another": request_id})
    await ledger.close()
    assert owners == {request_id: "cat"}


async def test_a_text_that_cannot_be_read_does_not_lock_out_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    for key in ("a", "b"):
        await write(path, Event.SENDING_BEGAN, Event.ACCEPTED, key=key)
    with closing(sqlite3.connect(path)) as file:
        # As an earlier version wrote an id with half a character.
        file.execute("DROP TRIGGER event_is_never_changed")
        file.execute("UPDATE event SET request_id = CAST(x'eda080' AS TEXT) WHERE item = 1")
        file.commit()
    ledger = await Ledger.open(path)
    known = (await ledger.find(["a", "b"])).known
    await ledger.close()
    assert known["b"].request_id == "4b2cd27e"
    assert known["a"].state is State.PENDING

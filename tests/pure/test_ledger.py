"""The ledger: what is durable, what recovery makes of it, and when it refuses to be opened."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from contextlib import closing
from decimal import Decimal
from functools import reduce
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grok_video import LedgerError, VideoRequest, _ledgerfile
from grok_video._ledger import Entry, Journal, Ledger
from grok_video._ledgerfile import RESERVE, VERSION, LedgerFile
from grok_video._lifecycle import _TABLE, Event, State, advance
from grok_video._lockfile import Held, LockFile

BACKENDS = ["asyncio", "trio"]


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


def new_entry(key: str = "cat", prompt: str = "drift", image: Any = None) -> Entry:
    request = VideoRequest(prompt, image)
    entry = Entry(key, request.fingerprint())
    entry.describe(request, Decimal("0.14"))
    return entry


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Read as a person does, while it is being written or afterwards."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        return file.execute(query).fetchall()


async def write(path: Path, *events: Event, key: str = "cat") -> Entry:
    """Leave a ledger with one item to which this has happened."""
    ledger = await Ledger.open(path)
    entry = new_entry(key)
    for event in events:
        if event is Event.ACCEPTED:
            entry.request_id = "4b2cd27e"
        await ledger.record(entry, event)
    await ledger.close()
    return entry


async def found(path: Path, key: str = "cat") -> Entry | None:
    ledger = await Ledger.open(path)
    try:
        return (await ledger.find([key])).known.get(key)
    finally:
        await ledger.close()


# --- what is durable -----------------------------------------------------------------------------


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


# --- recovery ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lived", "expected"),
    [
        ([Event.SENDING_BEGAN], State.IN_DOUBT),
        ([Event.SENDING_BEGAN, Event.NOT_TAKEN], State.PLANNED),
        ([Event.SENDING_BEGAN, Event.ACCEPTED], State.PENDING),
        ([Event.SENDING_BEGAN, Event.ACCEPTED, Event.RENDERED], State.READY),
        (
            [Event.SENDING_BEGAN, Event.ACCEPTED, Event.RENDERED, Event.FETCHING_BEGAN],
            State.READY,
        ),
    ],
)
async def test_a_process_that_died_comes_back_where_it_was(
    tmp_path: Path, lived: list[Event], expected: State
) -> None:
    path = tmp_path / "a.sqlite"
    await write(path, *lived)
    entry = await found(path)
    assert entry is not None
    assert entry.state is expected
    assert entry.request_id == ("4b2cd27e" if Event.ACCEPTED in lived else None)
    assert await found(path, "dog") is None
    ((last,),) = rows(path, "SELECT event FROM event ORDER BY id DESC LIMIT 1")
    cut_short = reduce(advance, lived, State.PLANNED) in (State.SUBMITTING, State.FETCHING)
    assert (last == "interrupted") is cut_short


@st.composite
def lives(draw: st.DrawFn) -> list[Event]:
    """Any life that the table allows."""
    state, events = State.PLANNED, []
    for _ in range(draw(st.integers(1, 12))):
        possible = [event for (of, event) in _TABLE if of is state]
        if not possible:
            break
        events.append(draw(st.sampled_from(possible)))
        state = advance(state, events[-1])
    return events


@given(st.lists(lives(), min_size=1, max_size=6), st.lists(st.integers(0, 5), max_size=40))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_recovery_is_the_sum_of_the_events(
    tmp_path_factory: pytest.TempPathFactory, lived: list[list[Event]], order: list[int]
) -> None:
    """Whatever happened to several items in whatever order, and whenever the process died."""
    path = tmp_path_factory.mktemp("ledger") / "a.sqlite"
    left = [list(life) for life in lived]
    written: list[list[Event]] = [[] for _ in lived]

    async def first() -> None:
        ledger = await Ledger.open(path)
        entries = [new_entry(f"k{number}") for number in range(len(lived))]
        for number in [*order, *range(len(lived))]:
            if number < len(left) and left[number]:
                event = left[number].pop(0)
                if event in (Event.ACCEPTED, Event.ID_FOUND):
                    entries[number].request_id = f"id-{number}"
                ledger.note(entries[number], event)
                written[number].append(event)
        await ledger.close()

    async def second() -> None:
        ledger = await Ledger.open(path)
        known = (await ledger.find([f"k{number}" for number in range(len(lived))])).known
        for number, events in enumerate(written):
            state = reduce(advance, events, State.PLANNED)
            if state in (State.SUBMITTING, State.FETCHING):
                state = advance(state, Event.INTERRUPTED)
            assert known[f"k{number}"].state is state
            assert known[f"k{number}"].attempts == events.count(Event.SENDING_BEGAN)
        await ledger.close()
        shown = dict(rows(path, "SELECT key, state FROM item"))
        assert shown == {key: entry.state.value for key, entry in known.items()}

    anyio.run(first)
    anyio.run(second)


async def test_money_is_added_up_over_runs(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    ledger = await Ledger.open(path)
    assert (ledger.spent_usd, ledger.open_usd) == (0, 0)
    saved, pending, refused = new_entry("saved"), new_entry("pending"), new_entry("refused")
    for entry in (saved, pending):
        await ledger.record(entry, Event.SENDING_BEGAN)
        await ledger.record(entry, Event.ACCEPTED)
    saved.cost_usd = Decimal("0.1")
    await ledger.record(saved, Event.RENDERED)
    await ledger.record(refused, Event.REFUSED)
    await ledger.close()
    ledger = await Ledger.open(path)
    assert (ledger.spent_usd, ledger.open_usd) == (Decimal("0.1"), Decimal("0.14"))
    await ledger.close()


async def test_keys_are_known_to_come_twice_in_one_run_only(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    for _ in range(2):
        ledger = await Ledger.open(path)
        assert (await ledger.find(["a", "b"])).again == set()
        assert (await ledger.find(["b", "c"])).again == {"b"}
        await ledger.close()


async def test_a_ledger_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    await write(path, Event.SENDING_BEGAN, Event.ACCEPTED)
    with closing(sqlite3.connect(path)) as file:
        file.execute("DROP TRIGGER event_is_never_changed")
        file.execute("UPDATE event SET state = 'saved' WHERE event = 'accepted'")
        file.commit()
    with pytest.raises(LedgerError, match="contradicts itself"):
        await found(path)


async def test_a_journal_without_a_file_keeps_nothing_and_counts_all_the_same() -> None:
    journal, entry = Journal(), new_entry()
    await journal.record(entry, Event.SENDING_BEGAN)
    journal.note(entry, Event.NOT_TAKEN)
    assert (entry.state, entry.attempts) == (State.PLANNED, 1)
    assert (await journal.find(["cat"])).known == {}
    await journal.close()


# --- refusing to open ----------------------------------------------------------------------------


async def refused(path: Path, words: str) -> None:
    """Opening says so and changes nothing, not even the time of the file."""
    before = snapshot(path.parent)
    with pytest.raises(LedgerError, match=words) as caught:
        await Ledger.open(path)
    assert "Nothing was sent" in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.path == path
    assert snapshot(path.parent) == before


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        one.name: (one.read_bytes(), one.stat().st_mtime_ns)
        for one in folder.iterdir()
        if one.is_file()
    }


async def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    await write(path, Event.SENDING_BEGAN)
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"PRAGMA user_version = {VERSION + 1}")
    await refused(path, r"newer grok_video \(ledger version 2; this one knows 1\)")


async def test_an_older_version_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.sqlite"
    await write(path, Event.SENDING_BEGAN, Event.ACCEPTED)
    monkeypatch.setattr(_ledgerfile, "VERSION", VERSION + 1)
    monkeypatch.setitem(_ledgerfile.MIGRATIONS, VERSION, "ALTER TABLE request ADD COLUMN note TEXT")
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
    monkeypatch.setattr(_ledgerfile, "VERSION", VERSION + 1)
    monkeypatch.setitem(
        _ledgerfile.MIGRATIONS, VERSION, "ALTER TABLE request ADD COLUMN a; SELECT * FROM missing"
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


async def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with closing(sqlite3.connect(path)) as file:
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


# --- one writer ----------------------------------------------------------------------------------

HOLD = """
import anyio, sys
from grok_video._ledger import Ledger

async def main():
    await Ledger.open(sys.argv[1])
    print("held", flush=True)
    sys.stdin.read()

anyio.run(main)
"""


def test_a_second_process_is_refused_with_the_pid_of_the_first_until_it_dies(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.sqlite"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdin is not None
    assert first.stdout is not None
    with first.stdin, first.stdout:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(LedgerError, match=f"process {first.pid} on .*, since 20"):
            LedgerFile(path).open()
        assert rows(path, "SELECT pid FROM run") == [(first.pid,)]
        first.kill()
        first.wait(20)
    file = LedgerFile(path)
    file.open()
    file.close()
    ended = rows(path, "SELECT pid, ended_at IS NULL FROM run ORDER BY id")
    assert ended == [(first.pid, 1), (os.getpid(), 0)]


def test_two_names_of_one_ledger_meet_at_one_lock(tmp_path: Path) -> None:
    first = LedgerFile(tmp_path / "a.sqlite")
    first.open()
    (tmp_path / "b.sqlite").symlink_to("a.sqlite")
    with pytest.raises(LedgerError, match=f"process {os.getpid()} on"):
        LedgerFile(tmp_path / "b.sqlite").open()
    first.close()


def test_a_forked_child_does_not_hold_on_to_the_lock_of_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    lock = LockFile.take(path)
    to_child, from_parent = os.pipe()
    child = os.fork()
    if not child:
        os.close(from_parent)
        os.read(to_child, 1)  # until the parent has finished
        os._exit(0)
    os.close(to_child)
    try:
        lock.release()
        LockFile.take(path).release()
        again = LockFile.take(path)
        descriptor = os.open(path, os.O_RDWR)  # the same file, as the child would still have it
        os.close(descriptor)
        again.release()
    finally:
        os.close(from_parent)
        os.waitpid(child, 0)


def test_a_lock_goes_from_hand_to_hand_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.write_text("what a dead process left")
    for _ in range(3):
        lock = LockFile.take(path)
        assert json.loads(path.read_text())["pid"] == os.getpid()
        with pytest.raises(Held, match=f"process {os.getpid()} on"):
            LockFile.take(path)
        lock.release()
        lock.release()
        assert not path.exists()


# --- a full disk ---------------------------------------------------------------------------------

#: Run where the disk (or the size of a file) ends early: writes until it cannot, and tells of it.
FILL = textwrap.dedent(
    """
    import anyio, sys
    from decimal import Decimal
    from grok_video import LedgerError, VideoRequest
    from grok_video._ledger import Entry, Ledger
    from grok_video._lifecycle import Event

    async def main():
        try:
            ledger = await Ledger.open(sys.argv[1])
        except LedgerError as error:
            print("refused", error)
            return
        request = VideoRequest("drift " * 200)
        for number in range(100_000):
            entry = Entry(f"k{number}", "f")
            entry.describe(request, Decimal(1))
            if not ledger.is_low:
                try:
                    await ledger.record(entry, Event.SENDING_BEGAN)
                except LedgerError as error:
                    print("failed", error)
                    break
                continue
            # What is on its way when the disk is full can still be written down.
            for rest in range(500):
                late = Entry(f"late{rest}", "f")
                late.describe(VideoRequest("x"), Decimal(1))
                await ledger.record(late, Event.SENDING_BEGAN)
            print("low", number)
            break
        await ledger.close()

    anyio.run(main)
    """
)


def test_a_full_disk_keeps_a_reserve_for_what_is_on_its_way(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={4 * 2**20}", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mount.returncode:
        pytest.skip("only root can mount a small disk; the test with RLIMIT_FSIZE runs anywhere")
    path = disk / "a.sqlite"
    try:
        told = run(FILL, path)
        assert told.startswith("low"), told
        count = int(told.split()[1])
        kept = rows(path, "SELECT count(*) FROM item WHERE state = 'submitting'")
        assert kept == [(count + 500,)]
        with (disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(bytes(4096))
        before = path.read_bytes()
        assert run(FILL, path).startswith("refused")
        assert path.read_bytes() == before
        assert {one.name for one in disk.iterdir()} <= {
            *("a.sqlite", "filler", "a.sqlite-wal", "a.sqlite-shm")
        }
        # A new one cannot be made there either, and nothing half-made stays.
        told = run(FILL, disk / "b.sqlite")
        assert told.startswith("refused")
        assert "full" in told or "No space" in told
        assert not list(disk.glob("b.*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    limit = 3 * RESERVE

    told = run(FILL, path, limit=limit)
    assert told.startswith(("low", "failed")), told
    assert "cannot be used" in told or told.startswith("low")
    file = LedgerFile(path)
    file.open()
    file.close()
    told = run(FILL, tmp_path / "b.sqlite", limit=RESERVE // 2)
    assert told.startswith("refused"), told
    assert not list(tmp_path.glob("b.*"))


def run(script: str, path: Path, *, limit: int | None = None) -> str:
    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=restrict,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

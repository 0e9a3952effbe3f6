"""A ledger whose log is taken away while it is written: nothing goes into a file without a name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from grok_video import LedgerError, _ledgerlog
from grok_video._ledger import Ledger
from grok_video._lifecycle import Event

from .conftest import found, new_entry

#: Another program that looks into the ledger, as the README says, until its input ends.
LOOK = """
import sqlite3
import sys
from contextlib import closing

with closing(sqlite3.connect(sys.argv[1])) as file:
    print(file.execute("SELECT count(*) FROM item").fetchone()[0], flush=True)
    sys.stdin.read()
"""


#: One that is about to close it as the last one that has it: it holds all of the file, has seen
#: all of the log, and is to remove that.
CLEAR_UP = LOOK.replace(
    "    print", "    file.execute('PRAGMA locking_mode = EXCLUSIVE')\n    print"
)


@contextmanager
def looking_on(path: Path, script: str = LOOK) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline().strip().isdigit()
        yield
        other.stdin.close()
    assert other.returncode == 0


def remove_log(path: Path) -> None:
    for ending in ("-wal", "-shm"):
        Path(f"{path}{ending}").unlink()


@pytest.mark.parametrize("how", ["by hand", "by hand and made anew", "by who looked in"])
async def test_a_ledger_whose_log_is_taken_away_goes_on_in_a_new_one(
    tmp_path: Path, cut_off: Callable[..., Path], caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """A kill would leave nothing of what is written into a file without a name."""
    path, log = tmp_path / "run.sqlite", tmp_path / "run.sqlite-wal"
    ledger = await Ledger.open(path)
    await ledger.record(new_entry("before"), Event.SENDING_BEGAN)
    if how == "by who looked in":
        # To close a file lets go of all that its process has locked of it, also through others
        # (POSIX): whoever looks in next takes itself for the last one, and clears up.
        shutil.copy(path, tmp_path / "copy")
    else:
        remove_log(path)
    if how != "by hand":
        with looking_on(path):
            pass
    assert log.exists() == (how == "by hand and made anew")
    await ledger.record(new_entry("cat"), Event.SENDING_BEGAN)
    await ledger.record(new_entry("dog"), Event.SENDING_BEGAN)
    assert caplog.text.count("was removed or replaced while a batch was writing it") == 1
    killed = cut_off(path, "-wal", ".lock")
    await ledger.close()
    for place in (killed, path):
        again = await Ledger.open(place)
        assert set((await again.find(["before", "cat", "dog"])).known) == {"before", "cat", "dog"}
        await again.close()


@pytest.mark.parametrize("how", ["by hand", "by who looked in"])
async def test_a_ledger_that_a_reader_keeps_from_a_new_log_says_so_and_forgets_nothing(
    tmp_path: Path, cut_off: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path = tmp_path / "run.sqlite"
    monkeypatch.setattr(_ledgerlog, "PATIENCE", 0.1)
    ledger = await Ledger.open(path)
    await ledger.record(new_entry("before"), Event.SENDING_BEGAN)
    if how == "by who looked in":
        shutil.copy(path, tmp_path / "copy")
        with looking_on(path):
            pass
    else:
        remove_log(path)
    with looking_on(path):
        with pytest.raises(
            LedgerError, match=r"run\.sqlite-wal was removed .* Close it where it is read"
        ):
            await ledger.record(new_entry("cat"), Event.SENDING_BEGAN)
        assert not ledger.keeps
        killed = cut_off(path, "-wal", ".lock")
        await ledger.close()
    for place in (killed, path):
        again = await Ledger.open(place)
        assert set((await again.find(["before", "cat"])).known) == {"before"}
        await again.close()


async def test_a_ledger_waits_with_its_new_log_for_whoever_looks_in_at_that_moment(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.sqlite"
    monkeypatch.setattr(_ledgerlog, "_TOLD_AFTER", 0.0)
    ledger = await Ledger.open(path)
    await ledger.record(new_entry("before"), Event.SENDING_BEGAN)
    remove_log(path)
    async with anyio.create_task_group() as tasks:
        with looking_on(path):
            tasks.start_soon(ledger.record, new_entry("cat"), Event.SENDING_BEGAN)
            with anyio.fail_after(20):
                while "another program is reading the ledger" not in caplog.text:
                    await anyio.lowlevel.checkpoint()
    assert set((await ledger.find(["before", "cat"])).known) == {"before", "cat"}
    await ledger.close()
    assert "goes on, with all that it knew" in caplog.text


def unlock(path: Path) -> None:
    """What a program does that copies its ledger: it lets go of all that it has locked of it."""
    path.open("rb").close()


async def test_nothing_is_written_into_a_log_that_somebody_is_about_to_remove(
    tmp_path: Path,
    cut_off: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It still has its name then: only a lock tells."""
    path = tmp_path / "run.sqlite"
    monkeypatch.setattr(_ledgerlog, "_TOLD_AFTER", 0.0)
    ledger = await Ledger.open(path)
    await ledger.record(new_entry("before"), Event.SENDING_BEGAN)
    unlock(path)
    done = anyio.Event()

    async def record() -> None:
        await ledger.record(new_entry("cat"), Event.SENDING_BEGAN)
        done.set()

    async with anyio.create_task_group() as tasks:
        with looking_on(path, CLEAR_UP):
            tasks.start_soon(record)
            with anyio.fail_after(20):
                while not (done.is_set() or caplog.messages):
                    await anyio.lowlevel.checkpoint()
    await told_by_a_copy(cut_off(path, "-wal", ".lock"), "before", "cat")
    await ledger.close()
    await told_by_a_copy(path, "before", "cat")


async def test_what_went_into_a_log_without_a_name_is_in_the_ledger_before_anybody_relies_on_it(
    tmp_path: Path, cut_off: Callable[..., Path]
) -> None:
    """Another thread copies the ledger just then, and somebody looks in."""
    path = tmp_path / "run.sqlite"
    ledger = await Ledger.open(path)
    seen: list[str] = []

    def look_in(statement: str) -> None:
        if statement.startswith("INSERT INTO event") and not seen:
            seen.append(statement)
            unlock(path)
            with looking_on(path):
                pass

    await ledger._ask(lambda file: file._opened().set_trace_callback(look_in))
    await ledger.record(new_entry("cat"), Event.SENDING_BEGAN)
    assert seen
    await told_by_a_copy(cut_off(path, "-wal", ".lock"), "cat")
    await ledger.close()
    await told_by_a_copy(path, "cat")


async def told_by_a_copy(path: Path, *keys: str) -> None:
    """The ledger as a kill leaves it has all of these."""
    ledger = await Ledger.open(path)
    assert set((await ledger.find(list(keys))).known) == set(keys)
    await ledger.close()


async def test_a_ledger_that_somebody_has_for_himself_for_too_long_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.sqlite"
    monkeypatch.setattr(_ledgerlog, "PATIENCE", 0.1)
    ledger = await Ledger.open(path)
    unlock(path)
    with looking_on(path, CLEAR_UP), pytest.raises(LedgerError, match="has all of it for itself"):
        await ledger.record(new_entry("cat"), Event.SENDING_BEGAN)
    await ledger.close()
    assert await found(path) is None

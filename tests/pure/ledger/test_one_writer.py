"""One process writes a ledger at a time; the lock ends with its process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grok_video import LedgerError
from grok_video._ledgerfile import LedgerFile
from grok_video._lockfile import Held, LockFile

from .conftest import rows

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


WRITE = """
import anyio, sys
from decimal import Decimal
from grok_video import VideoRequest
from grok_video._entry import Entry
from grok_video._ledger import Ledger
from grok_video._lifecycle import Event

async def main():
    ledger = await Ledger.open(sys.argv[1])
    for key in ("before", "after"):
        entry = Entry(key, "f")
        entry.describe(VideoRequest("drift"), Decimal(1))
        await ledger.record(entry, Event.SENDING_BEGAN)
        print(key, flush=True)
        sys.stdin.readline()
    await ledger.close()

anyio.run(main)
"""


def test_the_first_process_goes_on_whoever_was_refused_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", WRITE, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "before\n"
        beside = {one.name for one in tmp_path.iterdir()}
        for _ in range(2):
            with pytest.raises(LedgerError, match="one ledger has one writer"):
                LedgerFile(path).open()
        assert {one.name for one in tmp_path.iterdir()} == beside
        first.stdin.write("\n")
        first.stdin.flush()
        assert first.stdout.readline() == "after\n"
    assert first.returncode == 0
    assert rows(path, "SELECT key FROM item ORDER BY item.began_at") == [("before",), ("after",)]
    assert rows(path, "SELECT count(*) FROM run") == [(1,)]


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


def test_a_child_that_has_the_file_unknown_to_itself_does_not_hold_the_lock(tmp_path: Path) -> None:
    """One that was forked between the opening of the file and its being known as held."""
    path = tmp_path / "a.lock"
    lock = LockFile.take(path)
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock._descriptor])
    try:
        lock.release(keep=True)
        LockFile.take(path).release()
    finally:
        child.communicate(timeout=30)


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

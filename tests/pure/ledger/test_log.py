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

from .conftest import new_entry

#: Another program that looks into the ledger, as the README says, until its input ends.
LOOK = """
import sqlite3
import sys
from contextlib import closing

with closing(sqlite3.connect(sys.argv[1])) as file:
    print(file.execute("SELECT count(*) FROM item").fetchone()[0], flush=True)
    sys.stdin.read()
"""


@contextmanager
def looking_on(path: Path) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", LOOK, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
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

"""A full disk keeps a reserve for the jobs that are on their way."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

import pytest

from grok_video._ledgerfile import RESERVE, LedgerFile

from .conftest import rows, run

#: Run where the disk (or the size of a file) ends early: writes until it cannot, and tells of it.
FILL = textwrap.dedent(
    """
    import anyio, sys
    from decimal import Decimal
    from grok_video import LedgerError, VideoRequest
    from grok_video._entry import Entry
    from grok_video._ledger import Ledger
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
            if ledger.trouble is None:
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
            print("low", number, ledger.trouble)
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
        assert "the disk of the ledger is full" in told
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


def test_a_file_that_may_not_grow_is_no_full_disk_and_has_its_reserve_too(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    limit = 3 * RESERVE

    told = run(FILL, path, limit=limit)
    assert told.startswith("low"), told
    assert "disk I/O error" in told
    assert "full" not in told
    file = LedgerFile(path)
    file.open()
    file.close()
    told = run(FILL, tmp_path / "b.sqlite", limit=RESERVE // 2)
    assert told.startswith("refused"), told
    assert not list(tmp_path.glob("b.*"))

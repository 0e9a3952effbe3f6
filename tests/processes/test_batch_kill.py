"""Nothing is paid for twice and nothing is lost, whoever is killed and whenever."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from grok_video.emulator import Emulator, faults

from ..downloads.fileserver import FileServer, Hold
from .kills import PATIENCE, Server, Worker, make_pictures, run, states


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_an_interrupted_batch_lets_creates_answer_and_closes_its_ledger(
    tmp_path: Path, loop: str
) -> None:
    """A real SIGINT while creates are on their way; the same command goes on afterwards."""
    make_pictures(tmp_path / "pictures", 16, 0)
    server = Server(tmp_path / "server.sqlite", 0.005)
    server.start()
    try:
        settings = {
            **server.place,
            "pictures": str(tmp_path / "pictures"),
            "out": str(tmp_path / "videos"),
            "ledger": str(tmp_path / "run.sqlite"),
            "max_in_flight": 6,
            "loop": loop,
        }
        worker = Worker(settings)
        for _ in worker.lines():
            if len(worker.outcomes) == 3:
                server.ask(
                    "script", phase="create", faults=[["Stall", {"seconds": 0.5, "resume": True}]]
                )
                while server.ask()["faults_left"]:
                    pass
                break
        worker.interrupt()
        names = {path.name for path in tmp_path.glob("run.sqlite*")}
        assert names == {"run.sqlite"}, "closed, and nothing left beside it"
        known = states(tmp_path / "run.sqlite")
        assert {state for state, _ in known.values()} <= {"planned", "pending", "ready", "saved"}
        written = {request_id for _, request_id in known.values() if request_id is not None}
        assert written == {one for ids in server.creates().values() for one in ids}
        summary = Worker(settings).finish()
        assert set(summary["counts"]) == {"skipped", "saved"}
        assert sum(map(len, server.creates().values())) == 16
    finally:
        server.kill()


def test_a_batch_survives_kills_in_the_window_between_sending_and_hearing(tmp_path: Path) -> None:
    """Small; `python -m tests.processes.kills` is the same with 2,000 pictures and 30 kills."""
    counted = run(tmp_path, items=60, kills=6, forced=3, max_in_flight=8, say=print)
    assert counted["kills"] >= 4
    assert counted["forced into the window"] >= 2
    assert counted["extra"] == counted["lost"] == 0
    assert counted["valid MP4s"] == 60
    assert counted["accepted"] == 60 - counted["in doubt and never accepted"]


def test_the_server_is_killed_too_and_storms(tmp_path: Path) -> None:
    counted = run(
        tmp_path,
        items=40,
        kills=4,
        forced=2,
        server_kills=2,
        storm=1.0,
        max_in_flight=8,
        seed=5,
        say=print,
    )
    assert counted["storms"] == 1
    assert counted["extra"] == counted["lost"] == counted["early creates"] == 0
    assert counted["valid MP4s"] == 40


def test_a_file_that_had_its_name_when_the_process_was_killed_is_its_own(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    """Killed before the ledger heard of it: the file is its own, and nothing is paid twice."""
    make_pictures(tmp_path / "pictures", 1, 0)
    ledger, file = tmp_path / "run.sqlite", tmp_path / "videos" / "picture-00000.mp4"
    settings = {
        "base_url": grok_emulator.base_url,
        "api_key": grok_emulator.api_key,
        "pictures": str(tmp_path / "pictures"),
        "out": str(file.parent),
        "ledger": str(ledger),
        "max_in_flight": 1,
    }
    with FileServer() as files:
        done = {"status": "done", "video": {"url": files.link(), "duration": 1}}
        grok_emulator.script("poll", [faults.Answer(200, done)] * 100)
        files.script.append(Hold(1000))
        worker = Worker(settings)
        until(lambda: [state for state, _ in states(ledger).values()] == ["fetching"])
        with closing(sqlite3.connect(ledger, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # so that nothing more is written to it
            files.held.set()
            until(lambda: [one.name for one in file.parent.glob("*.mp4*")] == [file.name])
            assert worker.kill()
            other.execute("ROLLBACK")
        assert [state for state, _ in states(ledger).values()] == ["fetching"]
        again = Worker(settings)
        assert again.finish()["counts"] == {"saved": 1}, again.outcomes
        assert [one.name for one in file.parent.iterdir()] == [file.name]
        assert file.read_bytes() == files.data
    assert grok_emulator.accepted == 1


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_links_that_a_killed_process_was_not_told_or_still_worked_at_are_told_again(
    tmp_path: Path, grok_emulator: Emulator, loop: str
) -> None:
    make_pictures(tmp_path / "pictures", 5, 0)
    ledger = tmp_path / "run.sqlite"
    settings = {
        "base_url": grok_emulator.base_url,
        "api_key": grok_emulator.api_key,
        "pictures": str(tmp_path / "pictures"),
        "ledger": str(ledger),
        "max_in_flight": 5,
        "loop": loop,
    }
    worker = Worker({**settings, "holds": True})
    for _ in worker.lines():
        if worker.outcomes:
            break
    until(lambda: [state for state, _ in states(ledger).values()] == ["ready"] * 5)
    assert worker.kill()
    assert Worker(settings).finish()["counts"] == {"done": 5}
    assert Worker(settings).finish()["counts"] == {"skipped": 5}
    assert grok_emulator.accepted == 5


def test_a_program_that_copies_its_own_ledger_and_is_killed_pays_for_nothing_twice(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    """To close a file unlocks it: whoever looks in then takes the ledger's log away."""
    make_pictures(tmp_path / "pictures", 12, 0)
    settings = {
        "base_url": grok_emulator.base_url,
        "api_key": grok_emulator.api_key,
        "pictures": str(tmp_path / "pictures"),
        "ledger": str(tmp_path / "run.sqlite"),
        "max_in_flight": 1,
    }
    worker = Worker({**settings, "copies": True})
    for _ in worker.lines():
        if len(worker.outcomes) == 3:
            with closing(sqlite3.connect(tmp_path / "run.sqlite")) as other:
                assert other.execute("SELECT count(*) FROM item").fetchone() >= (3,)
        if len(worker.outcomes) == 9:
            break
    worker.kill()
    assert set(Worker(settings).finish()["counts"]) == {"skipped", "done"}
    prompts = [create.fields["prompt"] for create in grok_emulator.creates]
    assert len(prompts) == len(set(prompts)) == 12


def until(true: Callable[[], bool]) -> None:
    """Return when something is true of a process that tells nobody."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)

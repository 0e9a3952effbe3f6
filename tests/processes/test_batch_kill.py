"""Nothing is paid for twice and nothing is lost, whoever is killed and whenever."""

from __future__ import annotations

from pathlib import Path

from .kills import run


def test_a_batch_survives_kills_in_the_window_between_sending_and_hearing(tmp_path: Path) -> None:
    """Small; `python -m tests.processes.kills` is the same with 2,000 pictures and 30 kills."""
    counted = run(tmp_path, items=60, kills=6, forced=3, max_in_flight=8)
    assert counted["kills"] >= 4
    assert counted["forced into the window"] >= 2
    assert counted["extra"] == counted["lost"] == 0
    assert counted["valid MP4s"] == 60
    assert counted["accepted"] == 60 - counted["in doubt and never accepted"]


def test_the_server_is_killed_too_and_storms(tmp_path: Path) -> None:
    counted = run(
        tmp_path, items=40, kills=4, forced=2, server_kills=2, storm=1.0, max_in_flight=8, seed=5
    )
    assert counted["storms"] == 1
    assert counted["extra"] == counted["lost"] == counted["early creates"] == 0
    assert counted["valid MP4s"] == 40

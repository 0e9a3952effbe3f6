"""What stays on a terminal that had a bar: every result, whole, and nothing of the bar."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grok_video.emulator import Emulator, faults
from tests.processes.batch_command.conftest import QUICK, items, write
from tests.processes.command import environment
from tests.processes.terminal import shown_on_terminal

#: Enough for a bar with all its numbers to be drawn a few times between two results.
COUNT = 8


@pytest.mark.parametrize("columns", [100, 80, 40])
def test_every_path_of_a_batch_stays_on_the_terminal(
    columns: int, grok_emulator: Emulator, tmp_path: Path
) -> None:
    write(tmp_path / "m.csv", items(COUNT))
    refusal = {"error": {"message": "no", "code": "invalid_request"}}
    grok_emulator.script("create", [faults.Answer(400, refusal)])
    words = ("batch", "m.csv", "-o", "v", *QUICK, "--max-in-flight", "1")
    env = environment(grok_emulator)
    code, lines = shown_on_terminal(*words, columns=columns, env=env, cwd=tmp_path)
    assert code == 1
    told = "\n".join(lines)
    for n in range(1, COUNT):
        path = str(tmp_path / "v" / f"k{n:03}.mp4")
        wrapped = [path[at : at + columns] for at in range(0, len(path), columns)]
        assert "\n".join(["", *wrapped, ""]) in told, "on lines of its own"
    assert "━" not in told
    assert "running" not in told
    assert lines[0].startswith("grok-video: k000: failed: ")


def test_a_name_is_no_emoji_code_on_a_terminal(grok_emulator: Emulator, tmp_path: Path) -> None:
    write(tmp_path / "m.csv", items(1))
    env = environment(grok_emulator)
    out = ":cat: [bold]\u3000x"
    words = ("batch", "m.csv", "-o", out, *QUICK)
    code, lines = shown_on_terminal(*words, columns=300, env=env, cwd=tmp_path)
    assert code == 0
    assert f"{tmp_path}/{out}/k000.mp4" in lines
    words = ("generate", "x", *QUICK, "-o", "take:m:12:v:.mp4")
    code, lines = shown_on_terminal(*words, columns=300, env=env, cwd=tmp_path)
    assert code == 0
    assert lines[0].endswith(" -o take:m:12:v:.mp4")


def test_every_object_of_a_batch_stays_on_the_terminal(
    grok_emulator: Emulator, tmp_path: Path
) -> None:
    write(tmp_path / "m.csv", items(3))
    words = ("batch", "m.csv", "-o", "v", *QUICK, "--max-in-flight", "1", "--json")
    env = environment(grok_emulator)
    # So wide that no object is wrapped.
    code, lines = shown_on_terminal(*words, columns=9999, env=env, cwd=tmp_path)
    assert code == 0
    *outcomes, summary = [json.loads(line) for line in lines if line]
    assert [outcome["key"] for outcome in outcomes] == ["k000", "k001", "k002"]
    assert summary["exit_code"] == 0

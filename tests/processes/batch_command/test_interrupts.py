"""Ctrl-C in `grok-video batch`: nothing is lost and nothing repeated."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from pathlib import Path

from grok_video.emulator import Emulator, faults
from tests.pipes import rest
from tests.processes.command import (
    PATIENCE,
    environment,
    interrupt,
    run,
    run_line,
    start,
    until,
)

from .conftest import QUICK, items, lines, states, write


def until_line(child: subprocess.Popen[str], count: int) -> list[str]:
    assert child.stdout is not None
    return [child.stdout.readline() for _ in range(count)]


def test_ctrl_c_in_the_middle_and_the_same_command_loses_and_repeats_nothing(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    manifest, out = write(tmp_path / "m.csv", items(60)), tmp_path / "out"
    env = environment(grok_emulator)
    words = ("batch", str(manifest), "-o", str(out), *QUICK, "--max-in-flight", "6")
    rounds = 0
    while True:
        child = start(*words, "--json", env=env)
        first = until_line(child, 8 + 12 * rounds)
        rounds += 1
        if rounds == 4:
            told, err = rest(child, PATIENCE)
            break
        told, err, seconds = interrupt(child)
        assert child.returncode == 130, err
        assert seconds < 6
        last = json.loads(told.splitlines()[-1])
        assert (last["error"], last["exit_code"]) == ("Interrupted", 130)
        assert last["summary"]["counts"]["saved"] > 0
        assert last["states"] == states(out / "grok-video.sqlite")
        assert last["summary"]["in_flight"] == 0
        # What is printed is the command that was given.
        assert shlex.split(last["resume"]) == ["grok-video", *_sorted(words)]
        assert "no more creates are sent" in err
    outcomes, last = lines("".join(first) + told)
    assert child.returncode == 0, last
    assert len(outcomes) == 60
    assert states(out / "grok-video.sqlite") == {"saved": 60}
    assert grok_emulator.accepted == 60


def _sorted(words: tuple[str, ...]) -> list[str]:
    """The words as the command prints them: where it goes first, how next."""
    command, manifest, _, out, *options = words
    pairs = dict(zip(options[::2], options[1::2], strict=True))
    order = ("--duration", "--resolution", "--max-in-flight", "--poll-interval")
    return [command, manifest, "-o", out, *(w for name in order for w in (name, pairs[name]))]


def test_ctrl_c_lets_creates_on_their_way_be_answered(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.Stall(seconds=0.5, resume=True)])
    manifest, out = write(tmp_path / "m.csv", items(5)), tmp_path / "out"
    env = environment(grok_emulator)
    child = start("batch", str(manifest), "-o", str(out), *QUICK, env=env)
    until(lambda: bool(grok_emulator.faults_consumed))
    told, err, _ = interrupt(child)
    assert (child.returncode, told) == (130, "")
    assert "Accepted, paid for and going on: 1." in err
    assert states(out / "grok-video.sqlite") == {"pending": 1}
    resume = err.splitlines()[-1].partition("Resume with: ")[2]
    assert run_line(resume, env).returncode == 0
    assert grok_emulator.accepted == 5


def test_a_second_ctrl_c_leaves_at_once_and_the_ledger_knows_the_doubt(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.Stall(seconds=60)])
    manifest, out = write(tmp_path / "m.csv", items(1)), tmp_path / "out"
    env = environment(grok_emulator)
    child = start("batch", str(manifest), "-o", str(out), *QUICK, env=env)
    until(lambda: bool(grok_emulator.faults_consumed))
    child.send_signal(signal.SIGINT)
    assert child.stderr is not None
    assert "Once more leaves at once" in child.stderr.readline()
    told, err, seconds = interrupt(child)
    assert (child.returncode, told) == (130, "")
    assert seconds < 1
    assert "In doubt: 1; perhaps accepted and billed" in err
    assert "Traceback" not in err
    again = run("batch", str(manifest), "-o", str(out), *QUICK, env=env)
    assert again.returncode == 3
    assert len(grok_emulator.requests) >= 1
    assert grok_emulator.accepted <= 1

"""A stream that takes no more costs no id: the other one has it, and a file beside the caller.

The streams are real: a device that is always full, a file that may not grow.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from grok_video.emulator import Emulator, faults
from tests.processes.command import PATIENCE, environment

#: A device that no byte fits on (Linux).
FULL = Path("/dev/full")
#: A folder in which nobody can make a file, not even root.
NO_PLACE = Path("/proc")
QUICK = ("--duration", "1", "--resolution", "480p", "--poll-interval", "0.05")


def may_write_no_file() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def run_into(
    stdout: IO[str] | int,
    *words: str,
    env: dict[str, str],
    cwd: Path,
    stderr: IO[str] | int = subprocess.PIPE,
    before: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    # As users have it: what Python holds back, it writes at its end.
    env.pop("PYTHONUNBUFFERED", None)
    return subprocess.run(
        [sys.executable, "-m", "grok_video", *words],
        env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
        preexec_fn=before, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [(), ("--json",)])
@pytest.mark.parametrize("command", ["submit", "generate"])
def test_an_id_that_a_full_disk_does_not_take_is_told_on_stderr(
    command: str, kind: tuple[str, ...], grok_emulator: Emulator
) -> None:
    words = (command, "drift", *(QUICK if command == "generate" else QUICK[:4]), *kind)
    with FULL.open("w") as full:
        done = run_into(full, *words, env=environment(grok_emulator), cwd=NO_PLACE)
    request_id = grok_emulator.creates[0].request_id
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"grok-video: job {request_id}: No space left on device: stdout. Resume with: grok-video "
        f"wait {request_id}"
    )


def test_an_id_that_a_file_may_not_hold_is_told_on_stderr(
    grok_emulator: Emulator, tmp_path: Path
) -> None:
    env = environment(grok_emulator)
    with (tmp_path / "ids.jsonl").open("w") as ids:
        done = run_into(ids, "submit", "drift", "--json", env=env, cwd=tmp_path,
                        before=may_write_no_file)  # fmt: skip
    [line] = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.endswith(f"Resume with: grok-video wait {grok_emulator.creates[0].request_id}")


def test_an_object_that_stdout_does_not_take_is_left_in_a_file_as_well(
    grok_emulator: Emulator, tmp_path: Path
) -> None:
    """Whoever asked for JSON may have thrown stderr away."""
    env = environment(grok_emulator)
    with FULL.open("w") as full:
        done = run_into(full, "submit", "drift", "--json", env=env, cwd=tmp_path)
    facts = json.loads((tmp_path / "grok-video-unheard.jsonl").read_text())
    assert facts["request_id"] == grok_emulator.creates[0].request_id
    assert facts["request_id"] in done.stderr


NAMES = [
    "cat\u3000video.mp4",
    " lead.mp4 ",
    "Shot at 10.11\u202fAM.mp4",
    "a\u00a0b.mp4",
    "👩\u200d💻.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_on_stdout_names_the_file(
    name: str, grok_emulator: Emulator, tmp_path: Path
) -> None:
    env = environment(grok_emulator)
    words = ("generate", "drift", *QUICK, "-o", name)
    done = run_into(subprocess.PIPE, *words, env=env, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{name}\n")
    assert (tmp_path / name).is_file()
    # Nor is it another name in the command that resumes.
    [submitted, _] = done.stderr.splitlines()
    assert shlex.split(submitted.partition("to resume: ")[2])[-1] == name


def words_of(command: str) -> list[str]:
    """Return the words that a shell makes of a line."""
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True
    )
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


@pytest.mark.parametrize("name", ["a.mp4", "it's\n\\a\tb.mp4", "k\udcff.mp4"])
@pytest.mark.parametrize("request_id", ["a\x1b]0;evil\x07b", "猫'\u202e\x9b2J\n", "j 1"])
def test_a_command_that_resumes_moves_no_cursor_and_can_be_typed(
    request_id: str, name: str, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("create", [faults.Answer(200, {"request_id": request_id})])
    words = ("generate", "drift", *QUICK, "--timeout", "0.3", "-o", name)
    done = run_into(subprocess.PIPE, *words, env=environment(grok_emulator), cwd=tmp_path)
    assert done.stdout == ""
    assert done.stderr.replace("\n", "").isprintable()
    submitted, *_, last = done.stderr.splitlines()
    for line, mark in ((submitted, "to resume: "), (last, "Resume with: ")):
        command = line.partition(mark)[2]
        assert words_of(command) == ["grok-video", "wait", request_id, "-o", name]


@pytest.mark.parametrize("words", [["--help"], ["wait", "--help"], ["--version"]])
def test_help_that_a_full_disk_does_not_take_is_one_line(words: list[str], tmp_path: Path) -> None:
    with FULL.open("w") as full:
        done = run_into(full, *words, env=environment(), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "grok-video: No space left on device: stdout.\n"


def test_a_usage_error_that_a_full_disk_does_not_take_is_one_line(tmp_path: Path) -> None:
    for words in (["wait", "--json"], ["wait", "i", "--loop", "--json"]):
        with FULL.open("w") as full:
            done = run_into(full, *words, env=environment(), cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.endswith("See: grok-video wait --help\n")


def test_a_picture_from_a_stdin_that_is_closed_is_refused(grok_emulator: Emulator) -> None:
    line = shlex.join([sys.executable, "-m", "grok_video", "submit", "x", "--image", "-"])
    done = subprocess.run(
        ["sh", "-c", f"{line} <&-"],
        env=environment(grok_emulator), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "grok-video: --image - reads stdin, and stdin is closed here. Nothing was sent.\n"
    )
    assert not grok_emulator.requests


def test_a_full_stderr_changes_no_exit_code(grok_emulator: Emulator, tmp_path: Path) -> None:
    env = environment(grok_emulator)
    with FULL.open("w") as full:
        done = run_into(subprocess.PIPE, "generate", "drift", *QUICK, "-o", "a.mp4", env=env,
                        cwd=tmp_path, stderr=full)  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "a.mp4\n")
        lost = run_into(full, "submit", "drift", env=env, cwd=tmp_path, stderr=full)
    assert lost.returncode == 1
    facts = json.loads((tmp_path / "grok-video-unheard.jsonl").read_text())
    assert facts["request_id"] == grok_emulator.creates[1].request_id

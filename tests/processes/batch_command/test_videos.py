"""`grok-video batch` as a real command: every line becomes a video once, and is told."""

from __future__ import annotations

import os
import pty
import sqlite3
from pathlib import Path

import pytest

from grok_video.emulator import Emulator
from tests.processes.command import (
    PATIENCE,
    PHOTO,
    environment,
    run,
    run_line,
    start,
)

from .conftest import QUICK, items, lines, write


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_every_line_becomes_a_video_once(name: str, tmp_path: Path, beside: dict[str, str]) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "rocket.jpg").write_bytes(PHOTO.read_bytes())
    rows = items(4, image="pictures/rocket.jpg", duration="2", aspect_ratio="")
    manifest = write(tmp_path / name, rows)
    out = tmp_path / "out"
    done = run("batch", str(manifest), "-o", str(out), *QUICK, env=beside)
    assert done.returncode == 0, done.stderr
    paths = [out / f"k{n:03}.mp4" for n in range(4)]
    assert sorted(done.stdout.splitlines()) == [str(path) for path in paths]
    assert all(path.stat().st_size > 1000 for path in paths)
    assert "4 saved; cost" in done.stderr
    assert "Traceback" not in done.stderr
    with sqlite3.connect(out / "grok-video.sqlite") as ledger:
        # The line's own duration goes before the option's.
        assert ledger.execute("SELECT DISTINCT duration FROM item").fetchall() == [(2,)]
    ledger.close()

    again = run("batch", str(manifest), "-o", str(out), *QUICK, "--json", env=beside)
    outcomes, last = lines(again.stdout)
    assert again.returncode == 0
    assert {outcome["state"] for outcome in outcomes.values()} == {"skipped"}
    assert last["summary"]["counts"]["skipped"] == 4
    assert last["resume"] is None


def test_a_folder_of_pictures_needs_only_a_prompt(tmp_path: Path, grok_emulator: Emulator) -> None:
    pictures = tmp_path / "pictures"
    (pictures / "deep").mkdir(parents=True)
    for name in ("b.jpg", "a.JPG", "deep/c.jpeg", ".hidden.jpg", "notes.txt"):
        (pictures / name).write_bytes(PHOTO.read_bytes())
    env = environment(grok_emulator)
    words = ("batch", str(pictures), "-o", str(pictures / "out"), *QUICK)
    refused = run(*words, env=env)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "give one --prompt" in refused.stderr
    done = run(*words, "--prompt", "drift", "--json", env=env)
    outcomes, _ = lines(done.stdout)
    assert done.returncode == 0
    assert set(outcomes) == {"a", "b", "deep/c"}
    assert {create.fields["prompt"] for create in grok_emulator.creates} == {"drift"}
    assert run(*words, "--prompt", "drift", env=env).returncode == 0
    assert grok_emulator.accepted == 3


def test_names_of_pictures_may_have_any_space(tmp_path: Path, grok_emulator: Emulator) -> None:
    """macOS puts a narrow one that does not break before AM and PM, which is no key as it is."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("Shot at 10.11\u202fAM.jpg", "猫\u3000a.jpg"):
        (pictures / name).write_bytes(PHOTO.read_bytes())
    out = tmp_path / "out"
    words = ("batch", str(pictures), "-o", str(out), *QUICK, "--prompt", "drift")
    done = run(*words, env=environment(grok_emulator))
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"{out}/Shot at 10.11 AM.mp4", f"{out}/猫 a.mp4"]
    # Two that differ in nothing else are told, as every key that comes twice.
    (pictures / "猫 a.jpg").write_bytes(PHOTO.read_bytes())
    again = run(*words, env=environment(grok_emulator))
    assert (again.returncode, again.stdout) == (2, "")
    assert "must be given once" in again.stderr
    assert grok_emulator.accepted == 2


def test_lines_without_keys_keep_their_videos_from_any_folder(
    tmp_path: Path, grok_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.jsonl").write_text('{"prompt": "a"}\n\n{"prompt": "b", "duration": 1}\n')
    env = environment(grok_emulator)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    done = run("batch", "../m.jsonl", "-o", "../out", *QUICK, env=env)
    assert done.returncode == 0
    assert {str(Path(path).parent) for path in done.stdout.splitlines()} == {str(tmp_path / "out")}
    done = run("report", "../out/grok-video.sqlite", "-o", "../report.html", env=env)
    assert done.stdout == f"{tmp_path / 'report.html'}\n"
    monkeypatch.chdir("/")
    place = str(tmp_path / "m.jsonl")
    assert run("batch", place, "-o", str(tmp_path / "out"), *QUICK, env=env).returncode == 0
    assert grok_emulator.accepted == 2


def test_a_terminal_sees_the_numbers_and_a_pipe_does_not(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    manifest = write(tmp_path / "m.csv", items(20))
    words = ("batch", str(manifest), *QUICK)
    ours, theirs = pty.openpty()
    child = start(*words, "-o", str(tmp_path / "a"), env=environment(grok_emulator), stderr=theirs)
    os.close(theirs)
    out, _ = child.communicate(timeout=PATIENCE)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:
        pass
    os.close(ours)
    assert child.returncode == 0
    assert len(out.splitlines()) == 20
    for word in (b"/20", b"running", b"done", b"USD"):
        assert word in shown
    quiet = run(*words, "-o", str(tmp_path / "b"), env=environment(grok_emulator))
    assert "\x1b" not in quiet.stderr
    assert len(quiet.stderr.splitlines()) == 2


def test_paths_that_are_no_utf_8_are_run_resumed_and_reported(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    """`--dry-run` says that all is well with them, and so must the run."""
    env = environment(grok_emulator)
    manifest = write(tmp_path / "k\udcff.csv", items(2))
    out = tmp_path / "v\udcfe"
    words = ("batch", str(manifest), "-o", str(out), *QUICK)
    assert run(*words, "--dry-run", env=env).returncode == 0
    done = run(*words, "--max-cost", "0.1", "--json", env=env)
    _, last = lines(done.stdout)
    assert last["summary"]["counts"]["saved"] == 1, done.stderr
    again = run_line(last["resume"].replace("MORE", "1"), env)
    assert again.returncode == 0, again.stderr
    assert (grok_emulator.accepted, grok_emulator.downloads) == (2, 2)
    assert "1 saved, 1 skipped" in again.stderr
    command = (out / "grok-video.sqlite.command").read_bytes()
    assert os.fsencode(manifest) in command
    page = tmp_path / "page.html"
    told = run("report", str(out / "grok-video.sqlite"), "-o", str(page), env=env)
    assert told.returncode == 0, told.stderr
    assert "grok-video batch" in page.read_text()
    assert "MANIFEST" not in page.read_text()
    assert '"./v%FE/k000.mp4"' in page.read_text()

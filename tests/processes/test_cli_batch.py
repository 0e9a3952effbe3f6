"""`grok-video batch` as people run it: child processes, an emulator outside them, real signals.

The manifest is checked before anything is sent, one bad item never ends the rest, and the same
command goes on wherever the last one ended.
"""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grok_video._cli import main
from grok_video._cli._rows import open_rows
from grok_video.emulator import Emulator, faults
from tests.pipes import rest
from tests.processes.command import (
    PATIENCE,
    PHOTO,
    environment,
    interrupt,
    run,
    run_line,
    start,
    until,
)

OUTCOME_KEYS = {
    "key", "state", "request_id", "path", "url", "duration", "size", "sha256", "error", "reason",
    "cost_usd", "attempts", "polls", "seconds",
}  # fmt: skip
QUICK = ("--duration", "1", "--resolution", "480p", "--poll-interval", "0.05")


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a command, with the way to an emulator in another process."""
    child = subprocess.Popen(
        [sys.executable, "-m", "grok_video.emulator", "--port", "0", "--time-scale", "0.0001"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    told = json.loads(child.stdout.readline())
    yield environment(COMETAPI_KEY=told["api_key"], GROK_VIDEO_BASE_URL=told["base_url"])
    child.send_signal(signal.SIGTERM)
    child.wait(PATIENCE)
    child.stdout.close()


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a manifest: JSON Lines or CSV, by its name."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def items(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"key": f"k{n:03}", "prompt": f"drift {n}", **more} for n in range(count)]


def lines(out: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return the outcomes of --json by key, and the last line."""
    *outcomes, last = [json.loads(line) for line in out.splitlines()]
    assert all(set(outcome) == OUTCOME_KEYS for outcome in outcomes)
    assert set(last) >= {"summary", "error", "message", "resume", "exit_code"}
    return {outcome["key"]: outcome for outcome in outcomes}, last


def states(ledger: Path) -> dict[str, int]:
    with sqlite3.connect(ledger) as file:
        found = dict(file.execute("SELECT state, count(*) FROM item GROUP BY state"))
    file.close()
    return found


# --- what is sent --------------------------------------------------------------------------------


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


# --- what is refused before anything is sent -----------------------------------------------------


def test_every_bad_line_is_listed_and_nothing_is_sent(
    tmp_path: Path, grok_emulator: Emulator, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    rows = items(40, duration="1", resolution="480p", image="")
    bad = {
        3: ("duration", {"duration": "16"}),
        5: ("resolution", {"resolution": "4k"}),
        8: ("prompt", {"prompt": "  "}),
        13: ("key", {"key": "k000"}),
        21: ("image", {"image": "ftp://host/a.jpg"}),
        34: ("duration", {"duration": "1.5"}),
    }
    for line, (_, change) in bad.items():
        rows[line - 2] |= change
    manifest = write(tmp_path / "m.csv", rows)
    monkeypatch.setenv("COMETAPI_KEY", grok_emulator.api_key)
    monkeypatch.setenv("GROK_VIDEO_BASE_URL", grok_emulator.base_url)
    words = ["batch", str(manifest), "-o", str(tmp_path / "out")]
    assert main([*words, "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert [(one["line"], one["field"]) for one in told["lines"]] == [
        (line, field) for line, (field, _) in bad.items()
    ]
    assert told["total"] == len(bad)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{manifest}:3: duration must be an int from 1 to 15 (seconds); got 16." in err
    assert f"{manifest}:13: key must be given once, and line 2 has it; got 'k000'." in err
    assert err.splitlines()[-1].endswith("6 lines cannot be used. Nothing was sent.")
    assert grok_emulator.requests == ()
    assert not (tmp_path / "out").exists()


def test_pictures_that_are_not_there_stop_a_batch_before_it_begins(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    (tmp_path / "photo.jpg").write_bytes(PHOTO.read_bytes())
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    rows = items(8, image="photo.jpg", duration="1")
    for row, image in ((2, "nope.jpg"), (3, "empty.jpg"), (4, "folder.jpg"), (5, "pipe.jpg")):
        rows[row]["image"] = image
    # All that is wrong with a line is told at once, and it is still somebody's duplicate.
    rows[6] |= {"key": "k000", "duration": "16", "prompt": " ", "image": "gone.jpg"}
    manifest = write(tmp_path / "m.csv", rows)
    words = ("batch", str(manifest), "-o", str(tmp_path / "out"))
    done = run(*words, "--json", env=environment(grok_emulator))
    told = json.loads(done.stdout)
    assert (done.returncode, told["error"], told["resume"]) == (2, "BadManifest", None)
    assert [(one["line"], one["field"], one["message"].split(";")[0]) for one in told["lines"]] == [
        (4, "image", "image must be a file that exists"),
        (5, "image", "image must not be empty (JPEG, PNG or WebP)"),
        (6, "image", "image must be a file, and this is a folder"),
        (7, "image", "image must be a regular file, not a pipe or a device"),
        (8, "prompt", "prompt must be a str that is not blank"),
        (8, "duration", "duration must be an int from 1 to 15 (seconds)"),
        (8, "key", "key must be given once, and line 2 has it"),
        (8, "image", "image must be a file that exists"),
    ]
    assert told["total"] == 8
    assert "5 lines cannot be used" in told["message"]
    assert grok_emulator.requests == ()
    assert not (tmp_path / "out").exists()


def test_a_line_that_comes_twice_without_a_key_is_told_to_have_one(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("key,prompt,duration\n,drift,1\n,drift,1\n")
    done = run("batch", str(manifest), "-o", str(tmp_path / "out"), env=environment(grok_emulator))
    assert done.returncode == 2
    assert ":3: key must be given once, and line 2 has it (for several videos of one" in done.stderr
    assert "give each a key)" in done.stderr
    assert grok_emulator.requests == ()


def test_what_was_sent_is_fetched_also_without_its_picture(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    (tmp_path / "photo.jpg").write_bytes(PHOTO.read_bytes())
    grok_emulator.script("download", [faults.LinkDied()] * 5)
    manifest, out = write(tmp_path / "m.csv", items(1, image="photo.jpg")), tmp_path / "out"
    env = environment(grok_emulator)
    words = ("batch", str(manifest), "-o", str(out), *QUICK)
    assert run(*words, env=env).returncode == 1
    (tmp_path / "photo.jpg").unlink()
    done = run(*words, env=env)
    assert (done.returncode, done.stdout) == (0, f"{out / 'k000.mp4'}\n"), done.stderr
    # A new line has no such excuse.
    write(manifest, items(2, image="photo.jpg"))
    done = run(*words, env=env)
    assert done.returncode == 2
    assert f"{manifest}:3: image must be a file that exists" in done.stderr
    assert grok_emulator.accepted == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("key,prompt,size\na,b,c\n", "size is not an argument: this endpoint has no size"),
        ("key,prompt,colour\na,b,c\n", "column must be one of key, prompt, image"),
        ("key,key,prompt\na,b,c\n", "header must name each column once"),
        ("key,image\na,b\n", "must have a column prompt, or give --prompt"),
        ("key,prompt\n", "has no lines"),
        ("", "has no lines"),
        ('key,prompt\na,"b\n', "m.csv:2: line must be CSV"),
        ("key;prompt\na;b;c\n", "line must have 2 fields, as the header has"),
        ('{"prompt": 1}\n', "must be a str that is not blank"),
        ('{"prompt": "a"}\n[1]\n', "m.csv:2: line must be a JSON object"),
        ('{"prompt": "a"\n', "m.csv:1: line must be JSON"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused_with_its_reason(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / ("m.csv.txt" if text.startswith("{") else "m.csv")
    manifest.write_text(text)
    assert main(["batch", str(manifest), "-o", str(tmp_path / "out")]) == 2
    assert said.replace("m.csv:", f"{manifest.name}:") in capsys.readouterr().err


def test_a_mountain_of_bad_lines_is_counted_and_not_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write(tmp_path / "m.csv", items(3000, duration="99"))
    assert main(["batch", str(manifest), "-o", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 22
    assert told[-2] == "grok-video: and 2,980 more"
    assert "3,000 lines cannot be used" in told[-1]


def test_checking_a_manifest_takes_the_same_memory_for_any_length(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from grok_video._cli._rows import open_rows\n"
        "with open_rows(sys.argv[1], {}, out='out') as rows:\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    count = rows.check(); sum(1 for _ in rows.items())\n"
        "    print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown = {}
    for count in (5_000, 50_000):
        manifest = tmp_path / f"{count}.csv"
        with manifest.open("w") as file:
            file.write("key,prompt,image\n")
            file.writelines(f"key-{n:08},drift number {n},{PHOTO}\n" for n in range(count))
        done = subprocess.run(
            [sys.executable, "-c", program, str(manifest)], capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        counted, grown[count] = map(int, done.stdout.split())
        assert counted == count
    # KiB: the pages that SQLite keeps (8 MiB), whatever the length.
    assert grown[50_000] - grown[5_000] < 12_000


def test_a_manifest_that_changes_between_its_readings_is_told(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"prompt": "a"}\n')
    with open_rows(str(manifest), {}, out="out") as rows:
        assert rows.check() == 1
        manifest.write_text('{"prompt": ""}\n')
        with pytest.raises(Exception, match="changed while it was read: line 1"):
            list(rows.items())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max-cost", "much"), "--max-cost must be US dollars"),
        (("--max-in-flight", "0"), "--max-in-flight must be a whole number"),
        (("--found-id", "nobody=id"), "--found-id must name a key of"),
        (("--found-id", "id"), "--found-id must be KEY=REQUEST_ID"),
        (("--emulator",), "--emulator cannot work with batch"),
        (("--timeout", "0"), "--timeout must be a number of seconds above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COMETAPI_KEY", "k")
    manifest = write(tmp_path / "m.csv", items(1))
    assert main(["batch", str(manifest), "-o", str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_ledger_in_use_or_of_something_else_is_refused(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    manifest = write(tmp_path / "m.csv", items(1))
    foreign = tmp_path / "foreign.sqlite"
    foreign.write_text("not a ledger at all")
    words = ("batch", str(manifest), "-o", str(tmp_path / "out"), "--ledger", str(foreign))
    done = run(*words, "--json", env=environment(grok_emulator))
    told = json.loads(done.stdout)
    assert (done.returncode, told["error"], told["resume"]) == (2, "LedgerError", None)
    assert "Nothing was sent" in told["message"]
    assert foreign.read_text() == "not a ledger at all"
    assert grok_emulator.requests == ()


# --- what goes wrong on the way ------------------------------------------------------------------


def broken_batch(folder: Path) -> Path:
    """Forty items, one in ten broken in its own way."""
    (folder / "photo.jpg").write_bytes(PHOTO.read_bytes())
    (folder / "text.jpg").write_text("not a picture")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8")
    rows = items(40, image="photo.jpg")
    rows[4]["image"] = "cut.jpg"
    rows[14]["image"] = "text.jpg"
    rows[24]["prompt"] = "drift [moderated]"
    rows[34]["prompt"] = "drift [expired]"
    return write(folder / "m.csv", rows)


BROKEN = {
    "k004": ("failed", "InvalidRequest", "must be a JPEG, PNG or WebP by its bytes"),
    "k014": ("failed", "InvalidRequest", "must be a JPEG, PNG or WebP by its bytes"),
    "k024": ("failed", "ModerationRefused", "refused by content moderation"),
    "k034": ("expired", "JobExpired", "has expired at the provider"),
}


def test_one_item_in_ten_broken_leaves_the_other_nine(
    tmp_path: Path, beside: dict[str, str]
) -> None:
    manifest, out = broken_batch(tmp_path), tmp_path / "out"
    done = run("batch", str(manifest), "-o", str(out), *QUICK, "--json", env=beside)
    outcomes, last = lines(done.stdout)
    assert done.returncode == last["exit_code"] == 1
    assert len(outcomes) == 40
    for key, (state, error, reason) in BROKEN.items():
        assert (outcomes[key]["state"], outcomes[key]["error"]) == (state, error)
        assert reason in outcomes[key]["reason"]
    saved = {key for key, outcome in outcomes.items() if outcome["state"] == "saved"}
    assert saved == set(outcomes) - set(BROKEN)
    assert all(Path(outcomes[key]["path"]).stat().st_size == outcomes[key]["size"] for key in saved)
    with sqlite3.connect(out / "grok-video.sqlite") as file:
        rows = file.execute("SELECT key, state, error_type, error FROM item WHERE state != 'saved'")
        noted = {key: (state, kind, reason) for key, state, kind, reason in rows}
    file.close()
    assert set(noted) == set(BROKEN)
    for key, (state, error, reason) in BROKEN.items():
        assert noted[key][:2] == (state, error)
        assert reason in noted[key][2]
    page = out / "report.html"
    assert (
        run("report", str(out / "grok-video.sqlite"), "-o", str(page), env=beside).returncode == 0
    )
    text = page.read_text()
    assert all(reason in text for _, _, reason in BROKEN.values())

    # Mended, and said so: only what failed is tried again.
    (tmp_path / "cut.jpg").write_bytes(PHOTO.read_bytes())
    again = run("batch", str(manifest), "-o", str(out), *QUICK, env=beside)
    assert again.returncode == 1
    [retry] = [line for line in again.stderr.splitlines() if "To try them again: " in line]
    done = run_line(retry.partition("To try them again: ")[2], env=beside)
    assert done.stdout == f"{out / 'k004.mp4'}\n"
    assert states(out / "grok-video.sqlite") == {"saved": 37, "failed": 2, "expired": 1}


def test_links_that_died_are_told_and_fetched_by_the_same_command(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    grok_emulator.script("download", [faults.LinkDied()] * 5)
    manifest = write(tmp_path / "m.csv", items(1))
    words = ("batch", str(manifest), "-o", str(tmp_path / "out"), *QUICK)
    done = run(*words, env=environment(grok_emulator))
    assert done.returncode == 1
    assert "k000: unfetched: " in done.stderr
    assert "the link is dead (HTTP 403), and so were the fresh ones" in done.stderr
    ledger, page = tmp_path / "out" / "grok-video.sqlite", tmp_path / "report.html"
    assert main(["report", str(ledger), "-o", str(page)]) == 0
    assert "the link is dead (HTTP 403)" in page.read_text()
    [way] = [line for line in done.stderr.splitlines() if "To fetch: " in line]
    assert run_line(way.partition("To fetch: ")[2], environment(grok_emulator)).returncode == 0
    assert (tmp_path / "out" / "k000.mp4").exists()
    assert grok_emulator.accepted == 1


def test_what_is_in_doubt_is_named_with_the_commands_that_act_on_it(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.Pass(), faults.CutRequest(accepted=True)])
    manifest, out = write(tmp_path / "m.csv", items(3)), tmp_path / "out"
    env = environment(grok_emulator)
    words = ("batch", str(manifest), "-o", str(out), *QUICK, "--max-in-flight", "1")
    done = run(*words, env=env)
    assert done.returncode == 3, done.stderr
    [told] = [line for line in done.stderr.splitlines() if "in doubt, perhaps" in line]
    assert "billed: k001. Look" in told
    assert re.search(r"k001: in doubt: .* Sent at 20\S+Z, fingerprint [0-9a-f]{64}", done.stderr)
    before = grok_emulator.accepted
    assert run(*words, env=env).returncode == 3
    assert grok_emulator.accepted == before == 3, "nothing is sent again by itself"

    # The account's usage names the job: it is fetched, and nothing is paid for.
    found = grok_emulator.creates[1].request_id
    way = told.partition("With an id from there: ")[2].partition(". To send them again")[0]
    mended = run_line(way.replace("KEY=REQUEST_ID", f"k001={found}"), env)
    assert (mended.returncode, mended.stdout) == (0, f"{out / 'k001.mp4'}\n")
    assert grok_emulator.accepted == 3


def test_in_doubt_items_are_sent_again_only_when_a_person_says_so(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.CutRequest()])
    manifest, out = write(tmp_path / "m.csv", items(1)), tmp_path / "out"
    env = environment(grok_emulator)
    done = run("batch", str(manifest), "-o", str(out), *QUICK, env=env)
    assert done.returncode == 3
    assert grok_emulator.accepted == 0
    way = done.stderr.partition("perhaps pay twice: ")[2].splitlines()[0]
    assert shlex.split(way)[-1] == "--resubmit-in-doubt"
    assert run_line(way, env).returncode == 0
    assert grok_emulator.accepted == 1


def test_the_ceiling_holds_and_what_is_left_is_said(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    # One second of 480p costs 0.08 USD by the list, without a picture.
    manifest, out = write(tmp_path / "m.csv", items(30)), tmp_path / "out"
    env = environment(grok_emulator)
    words = ("batch", str(manifest), "-o", str(out), *QUICK)
    done = run(*words, "--max-cost", "0.81", "--json", env=env)
    outcomes, last = lines(done.stdout)
    assert done.returncode == 1
    assert grok_emulator.accepted == 10
    assert float(grok_emulator.bill) <= 0.81
    left = {key for key, outcome in outcomes.items() if outcome["state"] == "left"}
    assert len(left) == 20
    assert set(last["summary"]["left"]) == left
    assert set((out / "grok-video.sqlite.left.txt").read_text().split()) == left
    assert "--max-cost (0.81 USD)" in last["summary"]["stopped"]
    assert "--max-cost MORE" in last["resume"]
    assert "0.81" not in last["resume"]
    told = run(*words, "--max-cost", "0.81", env=env).stderr
    assert all(key in told for key in left)
    assert run(*words, env=env).returncode == 0
    assert not (out / "grok-video.sqlite.left.txt").exists()
    assert grok_emulator.accepted == 30


# --- Ctrl-C --------------------------------------------------------------------------------------


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


# --- what is shown -------------------------------------------------------------------------------


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

"""How `grok-video batch` checks what it is given before anything is sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grok_video._cli import main
from grok_video._cli._rows import open_rows
from grok_video.emulator import Emulator, faults
from tests.processes.command import (
    PHOTO,
    environment,
    run,
    run_line,
)

from .conftest import QUICK, items, write


def test_every_bad_line_is_listed_and_nothing_is_sent(
    tmp_path: Path, grok_emulator: Emulator, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    rows = items(40, duration="1", resolution="480p", image="https://example.com/a.jpg")
    bad = {
        3: ("duration", {"duration": "16"}),
        5: ("resolution", {"resolution": "4k"}),
        8: ("prompt", {"prompt": "  "}),
        13: ("key", {"key": "k000"}),
        21: ("image", {"image": "ftp://host/a.jpg"}),
        30: ("image", {"image": ""}),  # forgotten, it would be paid for without
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
    assert err.splitlines()[-1].endswith("7 lines cannot be used. Nothing was sent.")
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


def test_a_picture_that_is_null_is_refused_as_a_blank_one_is_and_other_nulls_are_not_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """pandas writes null for a cell without a path: the video would be paid for without it."""
    nulls = dict.fromkeys(("key", "duration", "resolution", "aspect_ratio", "model", "user"))
    rows = [
        {"prompt": "a", "image": str(PHOTO), **nulls},
        {"prompt": "b", "image": None},
        {"prompt": "c", "image": ""},
        {"prompt": "d"},
    ]
    manifest = write(tmp_path / "m.jsonl", rows)
    words = ["batch", str(manifest), "-o", str(tmp_path / "out"), "--dry-run", "--json"]
    assert main(words) == 2
    told = json.loads(capsys.readouterr().out)
    assert [(one["line"], one["field"]) for one in told["lines"]] == [(2, "image"), (3, "image")]
    write(manifest, [rows[0], rows[3]])
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["would_send"] == 2


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
    running = faults.Answer(200, {"status": "pending"})
    grok_emulator.script("poll", [running] * 25)  # more than a second of them
    manifest, out = write(tmp_path / "m.csv", items(1, image="photo.jpg")), tmp_path / "out"
    env = environment(grok_emulator)
    words = ("batch", str(manifest), "-o", str(out), *QUICK)
    assert run(*words, "--timeout", "1", env=env).returncode == 4
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
        (
            '{"prompt": "a", "duration": 1, "duration": 15}\n',
            "m.csv:1: line must name each value once",
        ),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused_with_its_reason(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / ("m.csv.txt" if text.startswith("{") else "m.csv")
    manifest.write_text(text)
    assert main(["batch", str(manifest), "-o", str(tmp_path / "out")]) == 2
    assert said.replace("m.csv:", f"{manifest.name}:") in capsys.readouterr().err


@pytest.mark.parametrize("name", ["m.csv/x", "n" * 300 + ".csv", "loop.csv", "none.csv"])
def test_a_manifest_that_cannot_be_opened_is_refused_with_its_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "m.csv", items(1))
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    assert main(["batch", str(tmp_path / name), "-o", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert str(tmp_path / name) in err
    assert err.endswith(". Nothing was sent.\n")


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
        (("--max-cost", "1_0"), "--max-cost must be US dollars"),
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


def test_a_manifest_that_begins_with_a_dash_is_no_option_in_the_command_that_goes_on(
    tmp_path: Path, grok_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "-m.csv", items(2))
    env = environment(grok_emulator)
    done = run("batch", *QUICK, "-o", "out", "--max-cost", "0.1", "--", "-m.csv", env=env)
    [way] = [line for line in done.stderr.splitlines() if "To send them: " in line]
    again = run_line(way.partition("To send them: ")[2].replace("MORE", "1"), env)
    assert (again.returncode, grok_emulator.accepted) == (0, 2), again.stderr


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

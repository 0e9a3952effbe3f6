"""Bad input ends with 2 and one line that names it, before a byte is sent.

In this process, because a table of children would take a minute; a few rows run for real as well.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import sys
from pathlib import Path

import pytest

from grok_video._cli import main
from grok_video.emulator import Emulator, faults
from tests.processes.command import ERROR_KEYS, PHOTO, environment, run
from tests.pure.test_report import Item as LedgerItem
from tests.pure.test_report import ledger_of

BROKEN = f"data:image/png;base64,{base64.b64encode(PHOTO.read_bytes())[:100].decode()}!!!"
TEXT = f"data:text/plain;base64,{base64.b64encode(b'hello').decode()}"

#: What is typed after `generate` (FOLDER is a real one), and what the line must name.
BAD_WORDS: dict[str, tuple[list[str], list[str]]] = {
    "blank prompt": ([" \t"], ["prompt", "blank"]),
    "duration 0": (["x", "--duration", "0"], ["--duration must", "got 0", "1 to 15"]),
    "duration 16": (["x", "--duration", "16"], ["duration", "got 16", "1 to 15"]),
    "duration 2.5": (["x", "--duration", "2.5"], ["duration", "2.5", "1 to 15"]),
    "duration 8x": (["x", "--duration", "8x"], ["duration", "8x", "1 to 15"]),
    "duration -1": (["x", "--duration", "-1"], ["duration", "-1", "1 to 15"]),
    "duration huge": (["x", "--duration", "9" * 5000], ["duration", "1 to 15"]),
    "ratio": (["x", "--aspect-ratio", "21:9"], ["--aspect-ratio must", "21:9", "16:9"]),
    "resolution": (["x", "--resolution", "4k"], ["resolution", "4k", "1080p"]),
    "size": (["x", "--size", "1280x720"], ["--size", "--aspect-ratio", "resolution", "1280x720"]),
    "missing file": (["x", "-i", "FOLDER/gone.png"], ["--image must", "gone.png", "exists"]),
    "folder": (["x", "-i", "FOLDER"], ["image", "FOLDER", "folder"]),
    "empty file": (["x", "-i", "FOLDER/empty.png"], ["image", "empty.png", "empty"]),
    "GIF": (["x", "-i", "FOLDER/a.png"], ["image", "a.png", "GIF", "PNG"]),
    "text": (["x", "-i", "FOLDER/text.png"], ["image", "text.png", "JPEG"]),
    "empty stdin": (["x", "-i", "-"], ["image", "empty"]),
    "broken base64": (["x", "-i", BROKEN], ["image", "base64"]),
    "wrong type": (["x", "-i", TEXT], ["image", "text/plain", "image/png"]),
    "other scheme": (["x", "-i", "ftp://foo/x.jpg"], ["'ftp://foo/x.jpg'", "http(s) URL"]),
    "no host": (["x", "-i", "https://"], ["image", "host"]),
    "exists": (["x", "-o", "FOLDER/empty.png"], ["empty.png", "exists", "--overwrite"]),
    "no folder": (["x", "-o", "FOLDER/no/o.mp4"], ["o.mp4", "does not exist"]),
    "out is a folder": (["x", "-o", "FOLDER"], ["FOLDER", "is a folder"]),
    "two places": (["x", "-o", "o.mp4", "--upload-url", "https://h/"], ["--upload-url", "-o"]),
    "upload URL": (["x", "--upload-url", "ftp://h/"], ["--upload-url must", "http"]),
    "timeout 0": (["x", "--timeout", "0"], ["--timeout must", "0", "above 0"]),
    "timeout text": (["x", "--timeout", "soon"], ["--timeout", "number"]),
    "interval 0": (["x", "--poll-interval", "0"], ["--poll-interval", "0", "above 0"]),
    "interval 1e-4": (["x", "--poll-interval", "1e-4"], ["--poll-interval", "0.001 at least"]),
    "interval nan": (["x", "--poll-interval", "nan"], ["--poll-interval", "nan", "above 0"]),
    "base URL": (
        ["x", "--base-url", "api.host/v1"],
        ["--base-url must", "api.host/v1", "https://"],
    ),
    "URL of a create": (
        ["x", "--base-url", "https://api.host/v1/videos/generations"],
        ["--base-url must", "/videos/generations", "give 'https://api.host/v1'"],
    ),
    "no key file": (["x", "--api-key-file", "FOLDER/gone"], ["--api-key-file", "gone"]),
    "binary key file": (["x", "--api-key-file", str(PHOTO)], ["--api-key-file", "text"]),
    "empty key file": (
        ["x", "--api-key-file", "FOLDER/empty.png"],
        ["--api-key-file FOLDER/empty.png must", "blank"],
    ),
    "two APIs": (
        ["x", "--emulator", "-o", "o", "--base-url", "http://h"],
        ["--base-url", "--emulator"],
    ),
    "two keys": (
        ["x", "--emulator", "-o", "o", "--api-key-file", "k"],
        ["--api-key-file", "--emulator"],
    ),
    "a link that ends": (["x", "--emulator"], ["--emulator", "-o FILE"]),
    "no prompt": ([], ["prompt", "generate --help"]),
    "two prompts": (["x", "y"], ["y", "--help"]),
    "unknown option": (["x", "--loop"], ["--loop", "--help"]),
    "misspelt option": (["x", "--imgae", "y"], ["(Possible options: --image, --timeout)"]),
    "no value": (["x", "--duration"], ["--duration", "--help"]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "empty.png").touch()
    (tmp_path / "a.png").write_bytes(b"GIF89a" + bytes(50))
    (tmp_path / "text.png").write_text("this is no picture\n")
    return tmp_path


@pytest.fixture
def reachable(grok_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """An emulator that the environment names: whatever is sent, it sees."""
    monkeypatch.setenv("COMETAPI_KEY", grok_emulator.api_key)
    monkeypatch.setenv("GROK_VIDEO_BASE_URL", grok_emulator.base_url)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    return grok_emulator


@pytest.mark.parametrize("name", BAD_WORDS)
def test_bad_words_are_refused_in_one_line(
    name: str, folder: Path, reachable: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    words, needles = BAD_WORDS[name]
    arguments = [word.replace("FOLDER", str(folder)) for word in words]
    assert main(["generate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("grok-video: ")
    assert err.count("\n") == 1
    assert len(err) < 600
    for needle in needles:
        assert needle.replace("FOLDER", str(folder)) in err
    assert "None" not in err
    assert reachable.requests == ()

    assert main(["generate", "--json", *arguments]) == 2
    out, err = capsys.readouterr()
    assert err == ""
    [line] = out.splitlines()
    error = json.loads(line)
    assert set(error) == ERROR_KEYS
    assert (error["request_id"], error["resume"], error["exit_code"]) == (None, None, 2)
    assert reachable.requests == ()


def test_a_refusal_is_told_with_the_servers_own_words(
    reachable: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = {"error": {"message": "out (request id: R-1)", "code": "insufficient_user_quota"}}
    reachable.script("create", [faults.Answer(403, refusal)])
    assert main(["generate", "drift", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)
    assert error["error"] == "InsufficientBalance"
    assert (error["http_status"], error["code"]) == (403, "insufficient_user_quota")
    assert error["gateway_request_id"] == "R-1"


@pytest.mark.parametrize(
    ("key", "needle"), [(None, "COMETAPI_KEY"), ("  ", "blank"), ("k1\nk2", "line break")]
)
def test_a_bad_key_is_refused_without_being_shown(
    key: str | None,
    needle: str,
    reachable: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if key is None:
        monkeypatch.delenv("COMETAPI_KEY")
    else:
        monkeypatch.setenv("COMETAPI_KEY", key)
    for words in (["generate", "x"], ["submit", "x"], ["status", "i"], ["wait", "i"]):
        assert main(words) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert needle in err
        assert "api_key=" not in err, "a shell has no arguments of that name"
        assert "k1" not in err
    assert reachable.requests == ()


#: What somebody may paste in place of a file's name: it names none.
PASTED = [
    "sk-5f0e8d7c6b5a49382716",
    "cm-5f0e8d7c6b5a49382716",
    "5f0e8d7c6b5a49382716",
    "5f0e8d7c6b5a49/382716abcdef+0123==",
    "5f0e8d7c6b5a49382716.5f0e8d7c6b5a49382716.5f0e8d7c6b5a49382716",
    "5f0e8d7c6b5a49382716" * 40,
]


@pytest.mark.parametrize("key", PASTED)
@pytest.mark.parametrize(
    "words",
    [["generate", "x"], ["wait", "i"], ["wait", "i", "--json"], ["doctor"], ["doctor", "--json"]],
)
def test_a_key_in_the_place_of_its_file_is_not_shown(
    words: list[str], key: str, reachable: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--api-key-file", key]) == (1 if words[0] == "doctor" else 2)
    told = "".join(capsys.readouterr())
    assert "5f0e" not in told
    assert "8d7c6b" not in told
    assert "382716" not in told
    assert "--api-key-file names no file" in told
    assert "FILE that holds the key" in told


def test_a_file_that_cannot_be_taken_for_a_key_is_named(
    folder: Path, reachable: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("gone.txt", f"{folder}/gone", "./gone", "../gone"):
        for words in (["status", "i"], ["doctor"], ["doctor", "--json"]):
            main([*words, "--api-key-file", name])
            assert f"--api-key-file {name}: No such file" in "".join(capsys.readouterr())


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_key_in_the_place_of_a_command_or_an_argument_is_not_shown(
    more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sk, cm, *_ = PASTED
    for words in (["doctor", sk], ["doctor", cm, sk], [sk], ["wait", "i", sk]):
        assert main([*words, *more]) == 2
        assert "5f0e" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("command", ["submit", "status", "wait", "download"])
def test_an_emulator_that_would_end_too_soon_is_refused(
    command: str, reachable: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "x", "--emulator", *(["-o", "o"] if command == "download" else [])]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"--emulator cannot work with {command}" in err
    assert "grok-video emulator" in err
    assert reachable.requests == ()


@pytest.mark.parametrize("command", ["wait", "download"])
def test_a_destination_is_checked_before_anything_is_asked(
    command: str, folder: Path, reachable: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(folder / "empty.png")
    assert main([command, "some-id", "-o", place]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert reachable.requests == ()


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        ([], "Missing command"),
        (["gnerate"], "gnerate"),
        (["wait", ""], "request_id"),
        (["download", "x"], "--out"),
        (["emulator", "--form", "round"], "round"),
        (["emulator", "--time-scale", "-1"], "--time-scale must"),
        (["emulator", "--port", "70000"], "port"),
        (["emulator", "--link-life", "-1"], "--link-life must"),
        (["emulator", "--clip", "nowhere.mp4"], "nowhere.mp4 is no file"),
        (["emulator", "--state", "/no/such/folder/state"], "/no/such/folder/state"),
    ],
)
def test_other_commands_refuse_in_one_line_too(
    words: list[str], needle: str, reachable: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert needle in err


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "x", "-o", "-"],
        ["wait", "i", "-o", "-"],
        ["download", "i", "-o", "-"],
        ["batch", "m.csv", "-o", "-"],
        ["batch", "m.csv", "-o", "out", "--ledger", "-"],
        ["batch", "-", "-o", "out"],
        ["report", "l.sqlite", "-o", "-"],
        ["report", "-", "-o", "page.html"],
    ],
)
def test_a_dash_is_no_file(
    words: list[str], folder: Path, reachable: Emulator, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    before = set(folder.iterdir())
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "name a file (or ./-)" in err
    assert set(folder.iterdir()) == before
    assert reachable.requests == ()


def test_a_report_replaces_what_is_no_report_only_when_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, page = folder / "l.sqlite", folder / "text.png"
    ledger_of(ledger, [LedgerItem("a")])
    before = ledger.read_bytes()
    for words in ([str(page)], [str(ledger)], [str(ledger), "--overwrite"]):
        assert main(["report", str(ledger), "-o", *words]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith(f"grok-video: the report {words[0]} cannot be written: it ")
    assert "overwrite=True" not in err
    assert ledger.read_bytes() == before
    assert page.read_text() == "this is no picture\n"
    assert main(["report", str(ledger), "-o", str(page), "--overwrite"]) == 0
    assert main(["report", str(ledger), "-o", str(page)]) == 0, "an earlier report"


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["emulator", "--port", str(port)]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"port {port}" in err


@pytest.mark.parametrize("name", ["duration 8x", "GIF", "unknown option"])
def test_a_real_process_does_the_same(name: str, folder: Path, grok_emulator: Emulator) -> None:
    words, needles = BAD_WORDS[name]
    arguments = [word.replace("FOLDER", str(folder)) for word in words]
    done = run("generate", *arguments, env=environment(grok_emulator))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert all(needle in done.stderr for needle in needles)
    assert grok_emulator.requests == ()


def test_help_and_version_are_results(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["-h"], ["generate", "--help"], ["wait", "-h"], ["doctor", "-h"]):
        assert main(words) == 0
        out, err = capsys.readouterr()
        assert out.startswith("Usage: grok-video")
        assert err == ""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("grok-video ")


def test_a_name_that_stdout_cannot_spell_is_told_with_escapes(
    grok_emulator: Emulator, tmp_path: Path
) -> None:
    env = environment(grok_emulator, PYTHONIOENCODING="ascii")
    done = run("generate", "drift", "--duration", "1", "-o", str(tmp_path / "\u732b.mp4"), env=env)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/\\u732b.mp4\n")
    assert (tmp_path / "\u732b.mp4").exists()

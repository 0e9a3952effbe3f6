"""The command line does what it says: real child processes, emulators beside and inside them."""

from __future__ import annotations

import base64
import io
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import PIL.Image
import pytest

from grok_video import VideoRequest
from grok_video.emulator import Emulator, faults
from tests.pipes import rest
from tests.processes.command import ERROR_KEYS, PHOTO, environment, run, start

RESULT_KEYS = {
    "request_id",
    "status",
    "progress",
    "path",
    "url",
    "duration",
    "model",
    "cost_usd",
    "size",
    "sha256",
    "failure",
    "seconds",
}
SMALL = ("--duration", "1", "--resolution", "480p", "--aspect-ratio", "1:1")


def encoded(kind: str, width: int = 200) -> bytes:
    """The photograph, small enough to be an argument, in another format."""
    buffer = io.BytesIO()
    with PIL.Image.open(PHOTO) as photo:
        photo.resize((width, width * photo.height // photo.width)).save(buffer, kind)
    return buffer.getvalue()


def probe(path: Path) -> tuple[str, int, int, float]:
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert stream.average_rate is not None
        frames = sum(1 for _ in file.decode(stream))
        context = stream.codec_context
        return context.name, context.width, context.height, float(frames / stream.average_rate)


@pytest.fixture
def picture_server() -> Iterator[str]:
    """The base URL of a server on loopback: /JPEG, /PNG and /WEBP."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = encoded(self.path.strip("/"))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


# --- generate ------------------------------------------------------------------------------------


def test_generate_makes_the_video_that_was_asked_for(tmp_path: Path, picture_server: str) -> None:
    webp = f"data:image/webp;base64,{base64.b64encode(encoded('WEBP')).decode()}"
    cases = [
        (str(PHOTO), "480p", "1:1", (480, 480)),
        (f"{picture_server}/PNG", "720p", "16:9", (1280, 720)),
        (webp, "720p", "9:16", (720, 1280)),
    ]
    # A proxy of the machine must not stand between the command and its own emulator.
    env = environment(HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9")
    children = []
    for number, (image, resolution, ratio, _) in enumerate(cases):
        out = str(tmp_path / f"{number}.mp4")
        words = ("--resolution", resolution, "--aspect-ratio", ratio, "--duration", "3", "-o", out)
        children.append(
            start("generate", "slow push-in", "--image", image, "--emulator", *words, env=env)
        )
    for number, child in enumerate(children):
        out, err = child.communicate(timeout=60)
        path = tmp_path / f"{number}.mp4"
        assert (child.returncode, out) == (0, f"{path}\n"), err
        codec, width, height, seconds = probe(path)
        assert (codec, (width, height)) == ("h264", cases[number][3])
        assert seconds == pytest.approx(3, abs=0.1)
        assert "\x1b" not in err


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("given_as", ["path", "url", "data", "stdin", "data on stdin"])
def test_every_picture_arrives_however_it_is_given(
    kind: str, given_as: str, tmp_path: Path, picture_server: str, grok_emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from grok_video._cli import main

    monkeypatch.setenv("COMETAPI_KEY", grok_emulator.api_key)
    monkeypatch.setenv("GROK_VIDEO_BASE_URL", grok_emulator.base_url)
    content = encoded(kind)
    uri = f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}"
    file = tmp_path / "picture"
    file.write_bytes(uri.encode() if given_as == "data on stdin" else content)
    image = {"path": str(file), "url": f"{picture_server}/{kind}", "data": uri}.get(given_as, "-")
    with file.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        out = tmp_path / "out.mp4"
        words = [*SMALL, "--poll-interval", "0.05", "-o", str(out)]
        assert main(["generate", "drift", "--image", image, *words]) == 0
    assert probe(out)[:3] == ("h264", 480, 480)
    assert grok_emulator.accepted == 1


def test_json_gives_one_object_with_everything(tmp_path: Path, grok_emulator: Emulator) -> None:
    out = tmp_path / "o.mp4"
    done = run(
        "generate", "drift", *SMALL, "--json", "--poll-interval", "0.05", "-o", str(out),
        env=environment(grok_emulator),
    )  # fmt: skip
    facts = json.loads(done.stdout)
    assert done.returncode == 0
    assert set(facts) == RESULT_KEYS
    assert (facts["status"], facts["path"], facts["duration"]) == ("done", str(out), 1)
    assert facts["size"] == out.stat().st_size
    assert len(facts["sha256"]) == 64
    assert Decimal(str(facts["cost_usd"])) == grok_emulator.bill
    assert facts["failure"] is None
    assert all(facts["seconds"][step] >= 0 for step in ("submit", "wait", "download"))


def test_submit_status_wait_and_download_work_on_one_job(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    env = environment(grok_emulator)
    submitted = run("submit", "drift", *SMALL, env=env)
    request_id = submitted.stdout.strip()
    assert (submitted.returncode, submitted.stderr) == (0, "")
    assert request_id == grok_emulator.creates[0].request_id
    grok_emulator.finish(request_id)

    asked = run("status", request_id, env=env)
    assert (asked.returncode, asked.stdout) == (0, f"{request_id} done\n")
    facts = json.loads(run("wait", request_id, "--json", env=env).stdout)
    assert set(facts) == RESULT_KEYS
    assert facts["url"].startswith("http://127.0.0.1:")
    out = tmp_path / "o.mp4"
    saved = run("download", request_id, "-o", str(out), env=env)
    assert (saved.returncode, saved.stdout) == (0, f"{out}\n")
    assert probe(out)[:3] == ("h264", 480, 480)
    assert grok_emulator.accepted == 1


# --- ends that are no success --------------------------------------------------------------------


def test_a_failed_job_exits_1_and_offers_nothing_to_resume(grok_emulator: Emulator) -> None:
    env = environment(grok_emulator)
    request_id = run("submit", "drift", env=env).stdout.strip()
    grok_emulator.fail(request_id, "internal_error", "It broke.\nTwice.\x1b[31m")
    done = run("wait", request_id, env=env)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "\x1b" not in done.stderr
    assert request_id in done.stderr
    assert "Resume" not in done.stderr
    error = json.loads(run("wait", request_id, "--json", env=env).stdout)
    assert set(error) == ERROR_KEYS
    assert (error["error"], error["resume"]) == ("JobFailed", None)
    assert (error["http_status"], error["code"]) == (None, "internal_error")
    told = json.loads(run("status", request_id, "--json", env=env).stdout)
    assert told["status"] == "failed"
    assert told["failure"]["code"] == "internal_error"


def test_a_timeout_exits_4_and_says_how_to_resume(tmp_path: Path) -> None:
    with Emulator(time_scale=1.0) as emulator:
        env = environment(emulator)
        words = ("--timeout", "0.4", "--poll-interval", "0.1", "-o", str(tmp_path / "o.mp4"))
        done = run("generate", "drift", *SMALL, *words, "--json", env=env)
        error = json.loads(done.stdout)
        assert (done.returncode, error["exit_code"], error["error"]) == (4, 4, "JobTimeout")
        request_id = emulator.creates[0].request_id
        assert error["request_id"] == request_id
        assert error["resume"] == f"grok-video wait {request_id} -o {tmp_path / 'o.mp4'}"
        assert "client.job" not in error["message"]


def test_an_unknown_outcome_exits_3_and_nothing_is_sent_again(grok_emulator: Emulator) -> None:
    grok_emulator.script("create", [faults.CutAnswer(after=0)])
    done = run("submit", "drift", env=environment(grok_emulator))
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "may have been accepted and billed" in done.stderr
    assert f"fingerprint {VideoRequest('drift').fingerprint()}" in done.stderr
    assert "Resume" not in done.stderr
    grok_emulator.assert_faults_consumed()
    assert sum(request.method == "POST" for request in grok_emulator.requests) == 1


def test_an_id_that_the_api_does_not_know_is_not_worth_another_try(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    env = environment(grok_emulator)
    error = json.loads(run("status", "nope", "--json", env=env).stdout)
    assert (error["error"], error["request_id"], error["resume"]) == ("NotFound", "nope", None)
    (tmp_path / "o.mp4").touch()
    done = run("wait", "nope", "-o", str(tmp_path / "o.mp4"), env=env)
    assert done.returncode == 2
    assert "pass --overwrite" in done.stderr
    assert "Resume" not in done.stderr


def test_a_closed_stdout_still_names_the_job(grok_emulator: Emulator) -> None:
    child = start("generate", "drift", *SMALL, env=environment(grok_emulator))
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    err = child.stderr.read()
    child.stderr.close()
    assert child.wait() == 1
    assert "result was written. Resume with: " in err.splitlines()[-1]
    assert f"grok-video wait {grok_emulator.creates[0].request_id}" in err


def run_with_closed(
    streams: str, *words: str, env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell does that closes these streams."""
    line = shlex.join([sys.executable, "-m", "grok_video", *words])
    return subprocess.run(
        ["sh", "-c", f"{line} {streams}"], env=env, capture_output=True, text=True, check=False
    )


def test_without_stdout_nothing_is_sent(grok_emulator: Emulator) -> None:
    env = environment(grok_emulator)
    done = run_with_closed(">&-", "submit", "drift", *SMALL, env=env)
    assert done.returncode == 2
    assert done.stderr == (
        "grok-video: stdout is closed, and the result would be lost; send it to a file or to "
        "/dev/null. Nothing was sent.\n"
    )
    assert not grok_emulator.requests
    assert run_with_closed(">/dev/null", "submit", "drift", *SMALL, env=env).returncode == 0
    assert grok_emulator.accepted == 1


def test_without_stderr_and_stdin_all_goes_as_usual(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    env = environment(grok_emulator)
    place = tmp_path / "a.mp4"
    words = ("generate", "drift", *SMALL, "--poll-interval", "0.05", "-o", str(place))
    done = run_with_closed("2>&- <&-", *words, env=env)
    assert (done.returncode, done.stdout) == (0, f"{place}\n")
    assert place.read_bytes()[4:8] == b"ftyp", "no word of the command landed in the file"
    done = run_with_closed("2>&-", "status", "no-such-id", "--json", env=env)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"] == "NotFound"


# --- a terminal and a pipe -----------------------------------------------------------------------


def on_a_terminal(*arguments: str, env: dict[str, str]) -> str:
    """Return what the command shows on a terminal."""
    ours, theirs = pty.openpty()
    child = start(*arguments, env=env, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    out, _ = child.communicate(timeout=30)
    assert child.returncode == 0, shown
    assert out.count("\n") == 1
    return shown.decode()


def test_a_terminal_gets_a_bar_and_a_pipe_gets_none(tmp_path: Path) -> None:
    with Emulator(time_scale=0.01) as emulator:
        words = ("generate", "drift", *SMALL, "--poll-interval", "0.05")
        shown = on_a_terminal(*words, env=environment(emulator))
        assert "processing" in shown
        assert "━" in shown
        assert "\x1b[?25h" in shown, "the cursor comes back"
        plain = on_a_terminal(*words, env=environment(emulator, NO_COLOR="1"))
        assert "processing" in plain
        assert "\x1b[3" not in plain, "no colours"
        dumb = on_a_terminal(*words, env=environment(emulator, TERM="dumb"))
        assert "\x1b" not in dumb
        piped = run(*words, env=environment(emulator))
        assert "\x1b" not in piped.stderr + piped.stdout
        assert len(piped.stderr.splitlines()) == 2


# --- emulator and doctor -------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_the_emulator_prints_one_line_and_ends_cleanly(number: signal.Signals, code: int) -> None:
    child = start("emulator", "--form", "envelope", "--time-scale", "0.001", env=environment())
    assert child.stdout is not None
    place = json.loads(child.stdout.readline())
    env = environment(COMETAPI_KEY=place["api_key"], GROK_VIDEO_BASE_URL=place["base_url"])
    examined = run("doctor", "--json", env=env)
    assert examined.returncode == 0, examined.stdout
    assert set(place) == {"base_url", "api_key"}
    child.send_signal(number)
    out, err = rest(child, 30)
    assert out == ""
    [hint] = err.splitlines()
    assert "--poll-interval 0.2" in hint, "the default polling waits for jobs of a minute"
    assert child.returncode == code


def test_the_emulator_serves_a_clip_of_ones_own(tmp_path: Path) -> None:
    clip = tmp_path / "mine.mp4"
    clip.write_bytes(bytes.fromhex("0000001c6674797069736f6d00000200") + bytes(5000))
    words = ("--clip", str(clip), "--seed", "7", "--link-life", "60", "--time-scale", "0.001")
    child = start("emulator", *words, env=environment())
    assert child.stdout is not None
    place = json.loads(child.stdout.readline())
    env = environment(COMETAPI_KEY=place["api_key"], GROK_VIDEO_BASE_URL=place["base_url"])
    saved = tmp_path / "saved.mp4"
    made = run("generate", "drift", "-o", str(saved), "--poll-interval", "0.1", env=env)
    assert made.returncode == 0, made.stderr
    assert saved.read_bytes() == clip.read_bytes()
    child.send_signal(signal.SIGTERM)
    rest(child, 30)


CANARY = "sk-canary-5f0e8d7c6b5a49382716"


def pieces(key: str) -> set[str]:
    """Every part of a key that could be recognised."""
    return {key[i : i + 6] for i in range(len(key) - 5)}


def test_doctor_never_shows_the_key(grok_emulator: Emulator, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{CANARY}\n")
    # The second key cannot even be sent: the complaint about it must not quote it.
    for key in (CANARY, f"{CANARY}\n{CANARY}"):
        env = environment(grok_emulator, COMETAPI_KEY=key)
        for words in (["doctor"], ["doctor", "--json"]):
            done = run(*words, env=env)
            assert done.returncode == 1, "the emulator has another key"
            assert not [piece for piece in pieces(CANARY) if piece in done.stdout + done.stderr]
    done = run("doctor", "--api-key-file", os.devnull, env=environment(grok_emulator))
    assert f"--api-key-file {os.devnull} must hold a key, and it is blank" in done.stdout
    done = run("doctor", "--api-key-file", str(file), env=environment(grok_emulator))
    assert "key is refused" in done.stdout
    assert f"{len(CANARY)} characters" in done.stdout
    assert not [piece for piece in pieces(CANARY) if piece in done.stdout + done.stderr]


def examine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict:
    from grok_video._cli import main

    main(["doctor", "--json"])
    return json.loads(capsys.readouterr().out)


def test_doctor_classifies_the_answer(
    grok_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GROK_VIDEO_BASE_URL", grok_emulator.base_url)
    found = examine(monkeypatch, capsys)
    assert (found["key"]["set"], found["api"]["verdict"]) == (False, "key_refused")
    monkeypatch.setenv("COMETAPI_KEY", grok_emulator.api_key)
    found = examine(monkeypatch, capsys)
    assert found["ok"]
    assert found["api"]["verdict"] == "ready"
    assert found["base_url"]["source"] == "GROK_VIDEO_BASE_URL"
    # The provider's own way to say that there is no such job (contract.md, section 4).
    grok_emulator.script(
        "poll",
        [faults.Answer(404, {"code": "not-found", "error": "Some requested entity was not found"}),
         faults.Answer(429, {"error": {"message": "slow down", "type": "comet_api_error"}})],
    )  # fmt: skip
    assert examine(monkeypatch, capsys)["api"]["verdict"] == "ready"
    assert examine(monkeypatch, capsys)["api"]["verdict"] == "rate_limited"
    monkeypatch.setenv("GROK_VIDEO_BASE_URL", f"{grok_emulator.origin}/v1")
    assert examine(monkeypatch, capsys)["api"]["verdict"] == "wrong_path"
    monkeypatch.setenv("GROK_VIDEO_BASE_URL", "http://127.0.0.1:1/v1")
    assert examine(monkeypatch, capsys)["api"]["verdict"] == "unreachable"
    assert grok_emulator.accepted == 0


def test_doctor_reads_proxy_and_certificates_as_python_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("GROK_VIDEO_BASE_URL", "https://video.invalid/v1")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hunter2@127.0.0.1:1")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
    found = examine(monkeypatch, capsys)
    assert found["proxy"]["url"] == "http://127.0.0.1:1"
    assert "hunter2" not in json.dumps(found)
    assert not found["ca"]["ok"]
    assert "gone.pem" in found["ca"]["detail"]
    monkeypatch.setenv("NO_PROXY", ".invalid")
    monkeypatch.delenv("SSL_CERT_FILE")
    found = examine(monkeypatch, capsys)
    assert found["proxy"]["bypassed"]
    assert found["ca"]["ok"]
    assert set(found["versions"]["extras"]) == {"cli", "emulator", "trio", "otel", "speed"}


@pytest.mark.parametrize(
    ("name", "value", "url", "words"),
    [
        ("ALL_PROXY", "http://127.0.0.1:1", "http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("HTTPS_PROXY", "user:hunter2@127.0.0.1:1", "http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("HTTPS_PROXY", "socks5://127.0.0.1:1", "socks5://127.0.0.1:1", "is not used"),
        ("HTTPS_PROXY", "http://user:hunter2/@127.0.0.1:1", None, "HTTPS_PROXY is not an http(s)"),
    ],
)
def test_doctor_tells_the_proxy_that_the_client_would_take(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    url: str | None,
    words: str,
) -> None:
    monkeypatch.setenv("GROK_VIDEO_BASE_URL", "https://video.invalid/v1")
    monkeypatch.setenv(name, value)
    findings = examine(monkeypatch, capsys)
    assert findings["api"]["verdict"] == "unreachable"
    found = findings["proxy"]
    assert (found["url"], found["ok"]) == (url, (url or "").startswith("http:"))
    assert words in found["detail"]
    assert "hunter2" not in found["detail"]


# --- what it costs to start ----------------------------------------------------------------------


def test_help_imports_none_of_the_heavy_parts() -> None:
    script = (
        "import sys; from grok_video._cli import main; code = main(['generate', '--help']);"
        "sys.exit(code or ' '.join(m for m in sys.modules if m.split('.')[0] in"
        " ('aiohttp', 'anyio', 'asyncio', 'attrs', 'cattrs', 'pydantic', 'rich', 'PIL', 'ssl')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stderr) == (1, "\n")
    assert "--aspect-ratio" in done.stdout


@pytest.mark.parametrize("words", [["--help"], ["generate", "--help"], ["--version"]])
def test_help_loads_typer_and_its_own_words_and_nothing_else(words: list[str]) -> None:
    # What it costs in milliseconds is asked by benchmarks/imports.py; here is what decides it.
    script = f"""
import sys, typer
before = set(sys.modules)
from grok_video._cli import main
code = main({words!r})
loaded = set(sys.modules) - before
print("exit", code, file=sys.stderr)
print(*sorted(name for name in loaded if name.startswith("grok_video")), file=sys.stderr)
print(*sorted({{name.partition(".")[0] for name in loaded}} - {{"grok_video"}}
              - set(sys.stdlib_module_names)), file=sys.stderr)
print(*sorted(loaded & {{"asyncio", "ssl", "sqlite3", "socket"}}), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    ended, ours, theirs, heavy = done.stderr.split("\n")[:4]
    assert ended == "exit 0"
    words_alone = ["grok_video._cli._app", "grok_video._cli._options"]
    assert ours.split() == ["grok_video", "grok_video._cli", *words_alone]
    assert theirs in ("", "typer")
    assert heavy == ""


@pytest.mark.parametrize("missing", [["av"], ["av", "PIL"]])
@pytest.mark.parametrize("door", ["grok_video._cli", "grok_video.emulator.__main__"])
def test_an_emulator_without_its_extra_is_one_line(door: str, missing: list[str]) -> None:
    words = ["emulator"] if door == "grok_video._cli" else []
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({missing!r})); from {door} import main; "
        f"sys.exit(main({words!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert f"needs {' and '.join(missing)}, which " in line
    assert ("which is not" if len(missing) == 1 else "which are not") in line
    assert line.endswith('pip install "grok-video[emulator]"')


def test_a_missing_extra_is_one_line() -> None:
    script = (
        "import sys; sys.modules['typer'] = None; from grok_video._cli import main; "
        "sys.exit(main(['--help']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert 'pip install "grok-video[cli]"' in done.stderr

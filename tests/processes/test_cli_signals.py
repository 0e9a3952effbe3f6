"""Ctrl-C and SIGTERM in every step: the id survives, the printed command resumes, nothing hangs.

The children are real, and so are the signals. Where the moment matters (a create on its way) the
server is a bare socket that answers exactly when the test says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from grok_video import VideoRequest
from grok_video.emulator import Emulator, faults
from tests.pipes import rest
from tests.processes.command import PATIENCE, environment, interrupt, run_line, start, until

SMALL = ("--duration", "1", "--resolution", "480p", "--aspect-ratio", "1:1")


@pytest.fixture
def slow_emulator() -> Iterator[Emulator]:
    """An emulator whose jobs take as long as in life, unless a test finishes them."""
    with Emulator(time_scale=1.0) as emulator:
        yield emulator


def until_submitted(child: subprocess.Popen[str]) -> str:
    """Return the id from the line that stands on stderr as soon as it is known."""
    assert child.stderr is not None
    line = child.stderr.readline()
    assert " submitted; to resume: grok-video wait " in line
    return line.split()[2]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_wait_names_the_command_that_resumes_it(
    number: signal.Signals, code: int, slow_emulator: Emulator, tmp_path: Path
) -> None:
    out_file = tmp_path / "a name.mp4"
    env = environment(slow_emulator)
    words = ("--poll-interval", "0.05", "-o", str(out_file))
    child = start("generate", "drift", *SMALL, *words, env=env)
    request_id = until_submitted(child)
    until(lambda: slow_emulator.polls > 1)
    out, err, seconds = interrupt(child, number)
    assert (child.returncode, out) == (code, "")
    assert seconds < 1
    [line] = err.splitlines()
    assert f"job {request_id} goes on and may be billed" in line
    resume = line.partition("Resume with: ")[2]
    assert resume == f"grok-video wait {request_id} -o '{out_file}'"

    slow_emulator.finish(request_id)
    done = run_line(resume, env)
    assert (done.returncode, done.stdout) == (0, f"{out_file}\n")
    assert out_file.stat().st_size > 1000
    assert slow_emulator.accepted == 1


def test_an_interrupted_download_keeps_its_bytes_and_resumes(
    grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("download", [faults.Stall(seconds=60, after=30_000)])
    out_file = tmp_path / "o.mp4"
    env = environment(grok_emulator)
    child = start(
        "generate", "drift", *SMALL, "--poll-interval", "0.05", "-o", str(out_file), "--json",
        env=env,
    )  # fmt: skip
    until(lambda: bool(grok_emulator.faults_consumed))
    out, _, seconds = interrupt(child)
    assert child.returncode == 130
    assert seconds < 1
    error = json.loads(out)
    assert (error["error"], error["exit_code"]) == ("Interrupted", 130)
    assert error["request_id"] == grok_emulator.creates[0].request_id
    assert not out_file.exists()
    assert run_line(error["resume"], env).returncode == 0
    assert out_file.exists()
    assert grok_emulator.accepted == 1


class HeldCreate:
    """A server that takes one create and answers it when it is told to."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self._connection: socket.socket | None = None
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def until_sent(self) -> None:
        """Return when the whole request is here."""
        self._connection, _ = self._listener.accept()
        self._connection.settimeout(PATIENCE)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._connection.recv(65536)
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"POST ")
        [length] = [
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        ]
        while len(body) < length:
            body += self._connection.recv(65536)

    def accept(self, request_id: str) -> None:
        assert self._connection is not None
        body = json.dumps({"request_id": request_id}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n"
        self._connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._listener.close()


@pytest.fixture
def held() -> Iterator[HeldCreate]:
    with contextlib.closing(HeldCreate()) as server:
        yield server


def until_waiting_for_the_create(child: subprocess.Popen[str]) -> None:
    assert child.stderr is not None
    assert "waiting for the answer of the create" in child.stderr.readline()


@pytest.mark.parametrize("command", ["generate", "submit"])
def test_ctrl_c_in_a_create_waits_for_the_id(command: str, held: HeldCreate) -> None:
    env = environment(COMETAPI_KEY="k", GROK_VIDEO_BASE_URL=held.base_url)
    child = start(command, "drift", *SMALL, env=env)
    held.until_sent()
    child.send_signal(signal.SIGINT)
    until_waiting_for_the_create(child)
    began = time.monotonic()
    held.accept("job-1")
    out, err = rest(child, PATIENCE)
    assert time.monotonic() - began < 1
    assert (child.returncode, out) == (130, "")
    assert "job job-1 goes on and may be billed" in err.splitlines()[-1]
    assert err.splitlines()[-1].endswith("Resume with: grok-video wait job-1")


def test_a_second_ctrl_c_leaves_at_once_and_says_what_may_be_lost(held: HeldCreate) -> None:
    env = environment(COMETAPI_KEY="k", GROK_VIDEO_BASE_URL=held.base_url)
    child = start("generate", "drift", env=env)
    held.until_sent()
    child.send_signal(signal.SIGINT)
    until_waiting_for_the_create(child)
    out, err, seconds = interrupt(child)
    assert (child.returncode, out) == (130, "")
    assert seconds < 1
    assert len(err.splitlines()) == 1
    assert "may have been accepted and billed" in err
    assert "Traceback" not in err


def test_a_second_ctrl_c_says_on_stderr_what_stdout_does_not_take(held: HeldCreate) -> None:
    with Path("/dev/full").open("w") as full:
        child = subprocess.Popen(
            [sys.executable, "-m", "grok_video", "generate", "drift", "--json"],
            env=environment(COMETAPI_KEY="k", GROK_VIDEO_BASE_URL=held.base_url),
            cwd="/proc",  # where no file can be left
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    held.until_sent()
    child.send_signal(signal.SIGINT)
    until_waiting_for_the_create(child)
    _, err, seconds = interrupt(child)
    assert child.returncode == 130
    assert seconds < 1
    [line] = err.splitlines()
    assert "may have been accepted and billed" in line
    assert f"fingerprint {VideoRequest('drift').fingerprint()}" in line


#: Holds the interpreter up when all is said and its handlers of signals are gone.
GATE = """
import os

class Gate:
    def __del__(self, write=os.write, read=os.read):
        write(2, b"ending\\n")
        read(0, 1)

gate = Gate()
"""


def test_a_ctrl_c_behind_the_last_words_changes_nothing(
    slow_emulator: Emulator, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(GATE)
    child = subprocess.Popen(
        [sys.executable, "-m", "grok_video", "generate", "drift", *SMALL],
        env=environment(slow_emulator, PYTHONPATH=str(tmp_path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    request_id = until_submitted(child)
    child.send_signal(signal.SIGINT)
    assert child.stderr is not None
    assert f"job {request_id} goes on and may be billed" in child.stderr.readline()
    assert child.stderr.readline() == "ending\n"
    child.send_signal(signal.SIGINT)
    assert child.stdin is not None
    child.stdin.write(".")
    child.stdin.close()
    child.stdin = None
    assert rest(child, PATIENCE) == ("", "")
    assert child.returncode == 130


def test_ctrl_c_ends_the_emulator_inside_the_command(tmp_path: Path) -> None:
    out_file = str(tmp_path / "o.mp4")
    child = start("generate", "drift", "--emulator", "--duration", "15", "-o", out_file,
                  env=environment())  # fmt: skip
    assert child.stderr is not None
    assert " submitted" in child.stderr.readline()
    out, err, seconds = interrupt(child)
    assert (child.returncode, out) == (130, "")
    assert seconds < 1
    [line] = err.splitlines()
    assert "the emulator's job" in line
    assert "Resume" not in line, "there is nothing left to resume"


def test_a_command_started_with_ctrl_c_ignored_goes_on_ignoring_it(grok_emulator: Emulator) -> None:
    grok_emulator.script("create", [faults.Stall(seconds=0.3, resume=True)])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "grok_video", "submit", "drift"],
            env=environment(grok_emulator),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    until(lambda: bool(grok_emulator.faults_consumed))
    out, err, _ = interrupt(child)
    assert (child.returncode, err) == (0, "")
    assert out.strip() == grok_emulator.creates[0].request_id


def test_a_signal_wakes_the_command_also_where_it_interrupts_no_system_call() -> None:
    """As one does that comes just before the loop begins to wait: then only a byte can wake it."""
    script = """
import signal, sys, threading, time
import anyio
from grok_video._cli._console import Console
from grok_video._cli._endings import Errand, Interrupted
from grok_video._cli._interrupts import run

main = threading.get_ident()

def send():
    while sys._current_frames()[main].f_code.co_name != "select":
        pass
    # To this thread, so that the main thread's system call goes on.
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

async def work():
    threading.Thread(target=send).start()
    await anyio.sleep(10)

began = time.monotonic()
try:
    run(Errand(Console(json_lines=False)), work)
except Interrupted as error:
    print(error, time.monotonic() - began < 5, signal.set_wakeup_fd(-1))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("SIGINT True -1\n", "")


@pytest.mark.parametrize("words", [("generate", "drift", "-o", "a name.mp4"), ("submit", "drift")])
def test_a_terminal_that_closes_during_a_create_does_not_cost_its_id(
    words: tuple[str, ...], held: HeldCreate, tmp_path: Path
) -> None:
    """With the terminal go the streams that would tell it: a file has the last words."""
    ours, theirs = os.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "grok_video", *words],
        env=environment(COMETAPI_KEY="k", GROK_VIDEO_BASE_URL=held.base_url),
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        # The child of a session of its own, whose terminal this is: it is told when that closes.
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    try:
        os.close(theirs)
        held.until_sent()
        os.close(ours)
        held.accept("job-1")
        assert child.wait(PATIENCE) == 128 + signal.SIGHUP
    finally:
        child.kill()
    facts = json.loads((tmp_path / "grok-video-unheard.jsonl").read_text())
    assert facts["request_id"] == "job-1"
    assert facts["resume"].startswith("grok-video wait job-1")


@pytest.mark.parametrize("command", ["generate", "submit"])
def test_a_command_that_is_interrupted_before_it_has_a_connection_says_that_nothing_was_sent(
    command: str, nowhere: str
) -> None:
    child = start(command, "drift", env=environment(COMETAPI_KEY="k", GROK_VIDEO_BASE_URL=nowhere))
    until(lambda: is_connecting(child.pid))
    _, err, seconds = interrupt(child)
    assert child.returncode == 130
    assert seconds < 3
    assert err.splitlines()[-1] == "grok-video: interrupted; nothing was sent"


def is_connecting(pid: int) -> bool:
    """Whether a process has a connection that its peer has not answered yet (Linux)."""
    here: set[str] = set()
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            here.add(os.readlink(one).removeprefix("socket:[").removesuffix("]"))
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return any(line[3] == "02" and line[9] in here for line in lines)  # SYN_SENT, inode

"""The command line as a real child process: started, interrupted, read to its end."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from grok_video.emulator import Emulator
from tests.pipes import rest

PHOTO = Path(__file__).parent.parent / "photographs" / "rocket.jpg"
#: Of every error object of --json.
ERROR_KEYS = {
    "error", "message", "http_status", "code", "gateway_request_id", "request_id", "resume",
    "exit_code",
}  # fmt: skip
#: Seconds after which a child that hangs is a failed test; none needs a tenth of it.
PATIENCE = 30.0


def environment(emulator: Emulator | None = None, **extra: str) -> dict[str, str]:
    """The test's own environment (which has no key), with the way to an emulator."""
    found = dict(os.environ) | {"PYTHONWARNINGS": "error", "TERM": "xterm", "COLUMNS": "100"}
    found.pop("NO_COLOR", None)
    if emulator is not None:
        found |= {"COMETAPI_KEY": emulator.api_key, "GROK_VIDEO_BASE_URL": emulator.base_url}
    return found | extra


def start(
    *arguments: str, env: Mapping[str, str], stderr: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "grok_video", *arguments],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def run(
    *arguments: str, env: Mapping[str, str], stdin: bytes = b""
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "grok_video", *arguments],
        env=env,
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def run_line(line: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command as it was printed."""
    words = shlex.split(line)
    assert words[0] == "grok-video"
    return run(*words[1:], env=env)


def interrupt(
    child: subprocess.Popen[str], number: signal.Signals = signal.SIGINT
) -> tuple[str, str, float]:
    """Send a signal and return stdout, stderr and the seconds that the child lived on."""
    began = time.monotonic()
    child.send_signal(number)
    out, err = rest(child, PATIENCE)
    return out, err, time.monotonic() - began


def until(condition: Callable[[], bool]) -> None:
    """Return as soon as something in another process is so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.005)

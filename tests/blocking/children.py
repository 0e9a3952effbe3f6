"""Scripts as real child processes that use the blocking client against an emulator of the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from grok_video import Client
from grok_video.emulator import Emulator
from tests.pipes import rest

#: Seconds after which a child that hangs is a failed test; none needs a tenth of it.
PATIENCE = 30.0
#: What must never be seen when a script ends, however it ends.
NOISE = (
    "unclosed",
    "never retrieved",
    "never awaited",
    "was destroyed",
    "Exception ignored",
    "Warning",
    "Fatal Python error",
)
#: Served in place of rendered videos: these tests are about who waits for them, not about them.
CLIP = b"\0\0\0\x18ftypmp42" + bytes(50_000)
#: What every script begins with.
PREFACE = """
import sys
from grok_video import *
QUICK = {"polling": Polling.fixed(0.05), "limits": Limits(polls_per_second=None)}
def say(*words): print(*words, flush=True)
"""


class Child:
    """A script that runs; its lines are read as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def hears(self, word: str) -> str:
        """Return the next line of its stdout, which begins with this word."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(word), (line, self._rest())
        return line.strip()

    def types_enter(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def ends(self) -> tuple[str, str, float]:
        """Return the rest of its stdout, its stderr, and the seconds it lived on."""
        began = time.monotonic()
        out, err = rest(self.process, PATIENCE)
        lived_on = time.monotonic() - began
        for word in NOISE:
            assert word not in err, err
        return out, err, lived_on

    def ends_well(self) -> str:
        out, err, _ = self.ends()
        assert (self.process.returncode, err) == (0, "")
        return out

    def _rest(self) -> str:
        self.process.kill()
        return "".join(rest(self.process, PATIENCE))


@contextmanager
def running(script: str, emulator: Emulator, *, options: tuple[str, ...] = ()) -> Iterator[Child]:
    """A child that runs a script, killed if the test leaves it behind."""
    process = subprocess.Popen(
        [sys.executable, *options, "-c", PREFACE + script],
        env=environment(emulator),
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Child(process)
        finally:
            process.kill()


def environment(emulator: Emulator) -> dict[str, str]:
    """The test's own environment with the way to an emulator; warnings are errors."""
    # Python 3.12 warns of every fork of a process that has threads; forking is what is tested.
    warnings = "error,ignore:This process:DeprecationWarning"
    given = {"COMETAPI_KEY": emulator.api_key, "GROK_VIDEO_BASE_URL": emulator.base_url}
    return dict(os.environ) | given | {"PYTHONWARNINGS": warnings}


def until(condition: Callable[[], bool]) -> None:
    """Return as soon as something in another process or thread is so."""
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0)  # lets others run


def crossings(client: Client) -> int:
    """Return how many calls of a client are under way in its loop."""
    line = client._core.line
    return 0 if line is None else len(line.crossings)

"""An emulator ends when it is told to, whatever it was doing; or it says why it could not."""

import asyncio
import contextlib
import http.client
import sqlite3
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import anyio
import pytest
from wire_caller import Caller

from grok_video.emulator import Emulator


def soon(true, seconds=5.0):
    """Waits until this is so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@contextlib.contextmanager
def downloading(caller, url):
    """Somebody asks for this file, and does not mind what comes of it."""

    def ask():
        with contextlib.suppress(OSError, http.client.HTTPException):
            caller.call("GET", urlsplit(url).path)

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    thread.join()


def test_an_emulator_stops_at_once_while_a_long_clip_is_rendered():
    emulator = Emulator()
    emulator.start()
    caller = Caller(emulator)
    url = caller.url(caller.submit(duration=15, resolution="1080p", aspect_ratio="16:9"))
    with downloading(caller, url):
        clips = emulator._service._clips
        soon(lambda: list(clips.folder.glob("*.mp4")))
        started = time.monotonic()
        emulator.stop()
        took = time.monotonic() - started
    assert took < 1.5
    assert not clips.folder.exists()


def test_an_emulator_that_cannot_stop_says_so(monkeypatch):
    monkeypatch.setattr("grok_video.emulator._emulator._STOPPING", 0.1)
    held, asked = threading.Event(), threading.Event()

    def clip(job):
        asked.set()
        held.wait(10)
        return b"x"

    emulator = Emulator(clip=clip)
    emulator.start()
    thread, caller = emulator._thread, Caller(emulator)
    with downloading(caller, caller.url(caller.submit())):
        assert asked.wait(5)
        try:
            with pytest.warns(RuntimeWarning, match="`clip` or `chaos` that has not returned"):
                emulator.stop()
        finally:
            held.set()
            thread.join(5)
    assert not thread.is_alive()


@pytest.fixture
def left():
    """The threads of emulators that this test has begun and that still run."""
    before = set(threading.enumerate())

    def left():
        ours = [one for one in threading.enumerate() if one.name.startswith("grok-video-")]
        return set(ours) - before

    return left


@pytest.mark.parametrize("seconds", [0, 0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.01])
@pytest.mark.parametrize("how", ["timeout", "cancel", "scope"])
def test_an_emulator_that_is_cancelled_while_it_starts_leaves_nothing(left, how, seconds):
    """`task.cancel()` ends the waiting for the thread that starts it, and not that thread."""

    async def enter():
        async with Emulator():
            await asyncio.sleep(5)

    async def cancelled():
        if how == "scope":
            with anyio.move_on_after(seconds):
                await enter()
        elif how == "timeout":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await enter()
        else:
            task = asyncio.create_task(enter())
            await asyncio.sleep(seconds)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        # The starting is over when the caller hears of the cancelling, and undone.
        assert not left()

    asyncio.run(cancelled())
    soon(lambda: not left())


def test_an_emulator_that_does_not_start_in_time_says_so(left, monkeypatch, tmp_path):
    monkeypatch.setattr("grok_video.emulator._emulator._PATIENCE", 0.05)
    words = {"isolation_level": None, "check_same_thread": False}
    with contextlib.closing(sqlite3.connect(tmp_path / "state", **words)) as other:
        other.execute("BEGIN EXCLUSIVE")
        timer = threading.Timer(0.2, other.rollback)
        timer.start()
        with pytest.raises(RuntimeError, match=r"has not started within 0\.05 s"):
            Emulator(state=tmp_path / "state").start()
        timer.join()
    assert not left()


def test_an_emulator_that_is_interrupted_while_it_starts_leaves_nothing(tmp_path):
    """Its `with` was not entered, so that nothing left it: it went on serving."""
    script = """
import signal, sqlite3, sys, threading, time
from grok_video.emulator import Emulator
# It cannot start before this is over.
other = sqlite3.connect(sys.argv[1], isolation_level=None, check_same_thread=False)
other.execute("BEGIN EXCLUSIVE")
emulator = Emulator(state=sys.argv[1])

def interrupt():
    while emulator._thread is None:
        pass
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    other.rollback()

threading.Thread(target=interrupt).start()
try:
    with emulator:
        print("entered")
except KeyboardInterrupt:
    print("interrupted")
deadline = time.monotonic() + 2

def running():
    return [one.name for one in threading.enumerate() if one.is_alive() and "grok" in one.name]

while running() and time.monotonic() < deadline:
    pass
print(running())
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "state")],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert (ended.stdout.splitlines(), ended.stderr) == (["interrupted", "[]"], "")


@pytest.mark.parametrize("name", ["start", "__enter__"])
def test_a_second_start_is_refused_and_stops_nothing(name):
    with Emulator() as emulator:
        with pytest.raises(RuntimeError, match="an emulator runs once"):
            getattr(emulator, name)()
        assert Caller(emulator).create().status == 200


def test_a_forked_child_that_ends_leaves_the_folder_of_its_parent_alone():
    """Its exit removed it, and with it every picture and clip of the running emulator."""
    script = """
import os, sys
from grok_video.emulator import Emulator
with Emulator() as emulator:
    folder = emulator._service._clips.folder
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
    print(folder.is_dir(), flush=True)
print(folder.exists())
"""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert ended.stdout.split() == ["True", "False"]

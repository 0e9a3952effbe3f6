"""The door itself: what crosses, what comes back, and what ends it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from types import FrameType
from typing import Self

import anyio
import pytest

from grok_video import Client, ConfigurationError, GrokVideoError, JobTimeout
from grok_video._fresh import fresh
from grok_video._portal import BlockingIterator, Portal
from grok_video.emulator import Emulator
from tests.blocking.children import until


@pytest.fixture
def portal() -> Iterator[Portal]:
    made = Portal()
    yield made
    made.close()


def ignore(_: BaseException) -> None:
    """Take no notice."""


async def test_everything_crosses_to_one_thread_that_is_a_daemon() -> None:
    portal = Portal()

    async def where() -> threading.Thread:
        return threading.current_thread()

    threads = {portal.call(where) for _ in range(10)}
    assert [thread.daemon for thread in threads] == [True]
    portal.close()
    assert not threads.pop().is_alive()


def test_one_task_owns_an_iterator_from_its_beginning_to_its_end(portal: Portal) -> None:
    tasks: list[object] = []

    async def numbers() -> AsyncIterator[int]:
        # A cancel scope may only be left in the task that entered it.
        with anyio.CancelScope():
            try:
                for number in range(3):
                    tasks.append(asyncio.current_task())
                    yield number
            finally:
                tasks.append(asyncio.current_task())

    assert list(BlockingIterator(portal, numbers(), int, ignore)) == [0, 1, 2]
    half = BlockingIterator(portal, numbers(), int, ignore)
    next(half)
    half.close()
    assert len(tasks) == 6
    assert len(set(tasks[:4])) == len(set(tasks[4:])) == 1


def test_an_exception_that_cannot_be_copied_is_raised_fresh_all_the_same() -> None:
    class Stubborn(Exception):
        def __init__(self, first: str, *, second: str) -> None:
            super().__init__(f"{first} {second}")
            self.second = second

        def __copy__(self) -> Stubborn:
            raise TypeError

    error = Stubborn("a", second="b")
    error.add_note("a note")
    twin = fresh(error)
    assert twin is not error
    assert type(twin) is Stubborn
    assert (twin.args, twin.second, twin.__notes__) == (("a b",), "b", ["a note"])
    twin.add_note("another")
    assert error.__notes__ == ["a note"]


def test_a_strangers_exception_is_raised_fresh_with_its_words_and_is_not_made_again() -> None:
    made: list[int] = []

    class BadRow(Exception):
        def __init__(self, row: int) -> None:
            super().__init__(f"row {row} is bad")
            self.row = row
            made.append(row)

    error = BadRow(7)
    twin = fresh(error)
    assert twin is not error
    assert (str(twin), twin.row, made) == ("row 7 is bad", 7, [7])


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "there is none", "a.csv"),
        OSError("plain"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        ImportError("no module", name="rows", path="rows.py"),
        SyntaxError("bad", ("rows.py", 1, 2, "x", 1, 3)),
        SystemExit(3),
        KeyError("key"),
        ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
        ConfigurationError("closed", request_id="an-id"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_python_itself_raises_keeps_its_facts(error: BaseException) -> None:
    facts = ("errno", "filename", "start", "name", "path", "lineno", "code", "exceptions")
    twin = fresh(error)
    assert twin is not error
    assert (type(twin), str(twin), twin.args) == (type(error), str(error), error.args)
    for fact in (*facts, "reason", "request_id"):
        assert getattr(twin, fact, None) == getattr(error, fact, None)


def test_an_exception_that_can_be_made_in_no_way_is_raised_itself() -> None:
    class Keywords(Exception):
        def __new__(cls, *, code: int) -> Self:
            return super().__new__(cls)

        def __init__(self, *, code: int) -> None:
            self.code = code

    error = Keywords(code=1)
    assert fresh(error) is error


def test_a_strangers_exception_keeps_the_way_to_where_it_came_from(portal: Portal) -> None:
    async def the_culprit() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        portal.call(the_culprit)
    assert "the_culprit" in [entry.name for entry in caught.traceback]


def test_our_own_exceptions_come_without_the_frames_of_the_loop(portal: Portal) -> None:
    async def inside() -> None:
        raise JobTimeout("late", request_id="an-id")

    with pytest.raises(JobTimeout) as caught:
        portal.call(inside)
    assert "inside" not in [entry.name for entry in caught.traceback]


def test_closing_waits_for_what_is_shielded(portal: Portal) -> None:
    ended: list[str] = []
    begun = threading.Event()

    async def create() -> str:
        with anyio.CancelScope(shield=True):
            begun.set()
            await anyio.sleep(0.1)
        return "answered"

    thread = threading.Thread(target=lambda: ended.append(portal.call(create)))
    thread.start()
    begun.wait()
    portal.close()
    thread.join()
    assert ended == ["answered"]


def test_a_call_cancelled_by_closing_ends_even_if_it_has_not_begun() -> None:
    """Calls and `close` race; every call ends, with its value or with the clear error."""

    async def nothing() -> str:
        return "value"

    for _ in range(50):
        portal = Portal()
        portal.call(nothing)
        ended: list[str] = []

        def work(portal: Portal = portal, ended: list[str] = ended) -> None:
            try:
                while True:
                    portal.call(nothing)
                    if portal.generation == -1:
                        break
            except ConfigurationError:
                pass
            ended.append("ended")

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        portal.generation = -1
        portal.close()
        for thread in threads:
            thread.join(10)
        assert ended == ["ended"] * 4
        portal.close()


def test_one_crossing_is_cheap(portal: Portal) -> None:
    """The budget is 120 µs; this only sees that nothing waits for a timer."""

    async def nothing() -> None: ...

    portal.call(nothing)
    seconds = []
    for _ in range(500):
        began = time.perf_counter()
        portal.call(nothing)
        seconds.append(time.perf_counter() - began)
    assert sorted(seconds)[250] < 0.005


# --- the end of a program ------------------------------------------------------------------------


def program(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("closing", ["client.close()", "", "del client"])
def test_a_program_that_ends_is_quiet_and_quick(grok_emulator, closing: str) -> None:
    text = f"""
import time
from grok_video import *
client = Client({grok_emulator.api_key!r}, base_url={grok_emulator.base_url!r})
client.generate("drift", duration=1)
import threading
assert all(thread.daemon for thread in threading.enumerate()[1:])
{closing}
"""
    done = program(text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_nobody_closed_is_ended_and_not_cut_off() -> None:
    done = program("""
import asyncio, threading
from grok_video._portal import Portal
portal = Portal()
begun = threading.Event()
async def work():
    try:
        begun.set()
        await asyncio.sleep(60)
    finally:
        print("closed what it held")
future = portal.promise(work)
begun.wait()
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed what it held\n", "")


def test_a_program_does_not_wait_for_threads_that_wait_for_jobs(grok_emulator_factory) -> None:
    emulator = grok_emulator_factory(time_scale=100.0)
    text = f"""
import threading
from grok_video import *
client = Client({emulator.api_key!r}, base_url={emulator.base_url!r})
job = client.submit("drift", duration=1)
future = job.future()
iterator = job.updates()
next(iterator)
begun = threading.Event()
def wait():
    begun.set()
    job.result()
threading.Thread(target=wait, daemon=True).start()
begun.wait()
job.refresh()
"""
    began = time.monotonic()
    done = program(text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - began < 10


def test_a_name_look_up_that_hangs_does_not_hold_up_the_end(portal: Portal) -> None:
    text = """
import asyncio, threading, time
from grok_video._portal import Portal
portal = Portal()
begun = threading.Event()
def look_up():
    begun.set()
    time.sleep(60)
async def resolve():
    await asyncio.get_running_loop().run_in_executor(None, look_up)
portal.promise(resolve)
begun.wait()
"""
    began = time.monotonic()
    done = program(text)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 10


# --- in the middle of its own thread -------------------------------------------------------------


def test_a_call_in_the_middle_of_the_first_one_is_refused_and_waits_for_nobody(
    blocking: Client,
) -> None:
    """A signal handler, or a `__del__` that the collector runs, may come at any line."""
    refused = list[Exception]()

    def come_between(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_qualname == "Line.__init__":
            sys.setprofile(None)
            try:
                blocking.job("an-id").refresh()
            except GrokVideoError as error:
                refused.append(error)

    sys.setprofile(come_between)
    try:
        job = blocking.submit("drift", duration=1)
    finally:
        sys.setprofile(None)
    assert job.result().url is not None
    assert [type(error) for error in refused] == [ConfigurationError]
    assert "in the middle of another one of its own thread" in str(refused[0])


def test_a_signal_handler_that_draws_from_the_iterator_it_interrupts_is_refused(
    slow_emulator: Emulator, waiting: Client
) -> None:
    job = waiting.submit("drift", duration=1)
    updates = job.updates()
    next(updates)

    def handler(*_: object) -> None:
        next(updates)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        polls = slow_emulator.polls
        sender = threading.Thread(
            target=lambda: (
                until(lambda: slow_emulator.polls > polls),
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1),
            )
        )
        sender.start()
        with pytest.raises(ConfigurationError, match="in the middle of another one"):
            next(updates)
        sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)

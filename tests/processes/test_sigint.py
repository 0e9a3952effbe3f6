"""Ctrl-C in scripts that use the blocking client: real signals, real processes.

A script that does not catch KeyboardInterrupt is ended by Python itself: the process kills itself
with SIGINT, which `subprocess` shows as -2 and every shell as 130.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from grok_video.emulator import Emulator, faults
from grok_video.emulator.pytest_plugin import EmulatorFactory
from tests.blocking.children import CLIP, PREFACE, Child, environment, running, until
from tests.pipes import rest

ENDED_BY_SIGINT = -signal.SIGINT


@pytest.fixture
def slow(grok_emulator_factory: EmulatorFactory) -> Emulator:
    """An emulator whose jobs take longer than any test."""
    return grok_emulator_factory(time_scale=100.0, clip=CLIP)


def ids(emulator: Emulator) -> list[str]:
    return [create.request_id for create in emulator.creates]


def a_second() -> float:
    """Return one second, or more where more work waits than the machine has processors."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def ended_by_ctrl_c(child: Child) -> str:
    """Interrupt a script that waits and return its stderr."""
    child.interrupt()
    _, err, lived_on = child.ends()
    assert child.process.returncode == ENDED_BY_SIGINT, err
    assert lived_on < a_second()
    assert "KeyboardInterrupt" in err
    return err


# --- ending --------------------------------------------------------------------------------------

WAITS = {
    "as_completed": "for job in client.as_completed(jobs): pass",
    "result": "jobs[0].result()",
    "result-of-an-id": "client.job(jobs[0].request_id).result()",
    "updates": "for snapshot in jobs[0].updates(): pass",
    "batch": "client.run_batch([VideoRequest('x', duration=1)])",
}
#: A client that is closed on the way out, and one that nobody closes.
CLOSINGS = ("with Client(**QUICK) as client:", "if client := Client(**QUICK):")


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize(
    "closing", ["with Client(**QUICK) as client:", "if client := Client(**QUICK):"]
)
def test_a_hundred_jobs_are_named_when_their_script_is_interrupted(
    slow: Emulator, wait: str, closing: str
) -> None:
    script = f"""
{closing}
    jobs = [client.submit(f"drift {{n}}", duration=1) for n in range(100)]
    say("waiting")
    {wait}
"""
    with running(script, slow) as child:
        child.hears("waiting")
        until(lambda: slow.polls > 0)
        err = ended_by_ctrl_c(child)
    for request_id in ids(slow)[:100]:
        assert err.count(f"grok-video wait {request_id}") == 1
    assert "100 jobs go on at the provider and may be billed" in err


def test_jobs_are_named_though_the_interrupt_came_outside_of_a_call(slow: Emulator) -> None:
    script = """
import threading
with Client(**QUICK) as client:
    job = client.submit("drift", duration=1)
    say("waiting")
    threading.Event().wait()
"""
    with running(script, slow) as child:
        child.hears("waiting")
        err = ended_by_ctrl_c(child)
    assert f"grok-video wait {ids(slow)[0]}" in err


#: Ways to run three items: in a call, in a loop, and where the loop's own work is interrupted.
BATCHES = {
    "run_batch": "client.run_batch(items, **words)",
    "loop": "for outcome in client.batch(items, **words): pass",
    "context": """with client.batch(items, **words) as batch:
        for outcome in batch: pass""",
    "outside of a call": """with client.batch(items, **words) as batch:
        while batch.summary.in_flight < 3: pass
        threading.Event().wait()""",
}


@pytest.mark.parametrize("ledger", [True, False], ids=["ledger", "no ledger"])
@pytest.mark.parametrize("way", BATCHES.values(), ids=BATCHES)
def test_an_interrupted_batch_says_what_goes_on_and_who_knows_of_it(
    slow: Emulator, tmp_path: Path, way: str, ledger: bool
) -> None:
    place = tmp_path / "run.sqlite"
    script = f"""
import threading
items = [VideoRequest(f"drift {{n}}", duration=1) for n in range(3)]
words = {{"ledger": {str(place) if ledger else None!r}}}
with Client(**QUICK) as client:
    say("waiting")
    {way}
"""
    with running(script, slow) as child:
        child.hears("waiting")
        until(lambda: slow.polls >= 3)
        err = ended_by_ctrl_c(child)
    if ledger:
        told = "3 jobs were accepted and go on at the provider, perhaps billed."
        assert err.count(f"{told} The ledger {place} has them: the same call with it goes on.") == 1
    else:
        assert err.count("3 jobs go on at the provider and may be billed") == 1
        assert all(f"grok-video wait {request_id}" in err for request_id in ids(slow))


def test_jobs_whose_futures_are_waited_for_are_named(slow: Emulator) -> None:
    script = """
from concurrent.futures import wait
with Client(**QUICK) as client:
    futures = [client.submit("drift", duration=1).future() for n in range(3)]
    say("waiting")
    wait(futures)
"""
    with running(script, slow) as child:
        child.hears("waiting")
        until(lambda: slow.polls >= 3)
        err = ended_by_ctrl_c(child)
    assert [err.count(f"grok-video wait {request_id}") for request_id in ids(slow)] == [1, 1, 1]


def test_a_batch_whose_manifest_waits_for_more_ends_like_any_other(slow: Emulator) -> None:
    script = """
import queue
lines = queue.Queue()
lines.put(("first", VideoRequest("drift", duration=1)))
with Client(**QUICK) as client:
    say("waiting")
    for outcome in client.batch(iter(lines.get, None)): pass
"""
    with running(script, slow) as child:
        child.hears("waiting")
        until(lambda: slow.polls > 0)
        ended_by_ctrl_c(child)


def test_a_shell_sees_130(slow: Emulator, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        PREFACE + "import os; say(os.getpid())\n"
        "client = Client(**QUICK); client.submit('drift', duration=1).result()"
    )
    shell = subprocess.Popen(
        ["sh", "-c", f"{sys.executable} {script}; echo $?"],
        env=environment(slow),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with shell:
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
        until(lambda: slow.polls > 0)
        os.kill(pid, signal.SIGINT)
        out, err = rest(shell, 30)
    assert out.strip() == "130", err


def test_the_answer_of_a_create_is_waited_for(slow: Emulator) -> None:
    slow.script("create", [faults.Stall(0.4, resume=True)])
    script = """
client = Client(**QUICK)
say("creating")
client.submit("drift", duration=1)
"""
    with running(script, slow) as child:
        child.hears("creating")
        until(lambda: bool(slow.faults_consumed))
        err = ended_by_ctrl_c(child)
    slow.assert_faults_consumed()
    assert f"grok-video wait {ids(slow)[0]}" in err


def test_the_hook_hears_of_a_job_whose_create_was_interrupted(slow: Emulator) -> None:
    slow.script("create", [faults.Stall(0.4, resume=True)])
    script = """
client = Client(**QUICK)
say("creating")
client.submit("drift", duration=1, on_submitted=lambda job: say("accepted", job.request_id))
"""
    with running(script, slow) as child:
        child.hears("creating")
        until(lambda: bool(slow.faults_consumed))
        child.interrupt()
        heard = child.hears("accepted")
        child.ends()
    assert heard == f"accepted {ids(slow)[0]}"


def test_an_interrupted_download_ends_and_keeps_its_part(
    grok_emulator_factory: EmulatorFactory, tmp_path: Path
) -> None:
    clip = b"\0\0\0\x18ftypmp42" + bytes(2**22)
    emulator = grok_emulator_factory(time_scale=100.0, clip=clip)
    emulator.script("download", [faults.Stall(30.0, after=2**21, resume=True)])
    script = f"""
with Client(**QUICK) as client:
    job = client.submit("drift", duration=1)
    say(job.request_id)
    job.download({str(tmp_path / "drift.mp4")!r})
"""
    part = tmp_path / "drift.mp4.part"
    with running(script, emulator) as child:
        emulator.finish(child.hears(""))
        until(lambda: part.exists() and part.stat().st_size > 0)
        err = ended_by_ctrl_c(child)
    assert part.stat().st_size >= 2**20
    assert "grok-video wait" not in err  # the job is done; its file is downloaded again, not it


@pytest.mark.parametrize("closing", CLOSINGS)
def test_the_second_interrupt_leaves_at_once(slow: Emulator, closing: str) -> None:
    slow.script("create", [faults.Pass(), faults.Stall(60.0)])
    script = f"""
{closing}
    job = client.submit("known", duration=1)
    say("creating")
    client.submit("drift", duration=1)
"""
    with running(script, slow) as child:
        child.hears("creating")
        until(lambda: len(slow.faults_consumed) == 2)
        child.interrupt()
        assert child.process.stderr is not None
        assert "Interrupt again to leave at once" in child.process.stderr.readline()
        err = ended_by_ctrl_c(child)
    assert f"grok-video wait {ids(slow)[0]}" in err
    assert "it may have been accepted and billed" in err


#: Says "closing" once so much of it is true that the closing thread waits.
WATCH = """
import threading, time
def watch():
    while not {closing}:
        time.sleep(0.001)
    say("closing")
threading.Thread(target=watch, daemon=True).start()
"""
#: Ways to close a client in which no exception is on its way.
CLOSES = {"close": "client.close()", "with": "with client: pass"}
OTHERS_CREATE = f"""
import threading
client = Client(**QUICK)
threading.Thread(target=lambda: client.submit("drift", duration=1), daemon=True).start()
sys.stdin.readline()
{WATCH.format(closing="client._core.line.stopping")}
"""


@pytest.mark.parametrize("close", CLOSES.values(), ids=CLOSES)
def test_an_interrupt_of_closing_lets_the_create_of_another_thread_be_answered(
    slow: Emulator, close: str
) -> None:
    slow.script("create", [faults.Stall(0.4, resume=True)])
    with running(OTHERS_CREATE + close, slow) as child:
        until(lambda: bool(slow.faults_consumed))
        child.types_enter()
        child.hears("closing")
        child.interrupt()
        _, err, _ = child.ends()
    assert child.process.returncode == ENDED_BY_SIGINT, err
    assert f"Resume with client.job(ID), or:\n  grok-video wait {ids(slow)[0]}" in err


@pytest.mark.parametrize("close", CLOSES.values(), ids=CLOSES)
def test_the_second_interrupt_of_closing_leaves_at_once(slow: Emulator, close: str) -> None:
    slow.script("create", [faults.Stall(60.0)])
    with running(OTHERS_CREATE + close, slow) as child:
        until(lambda: bool(slow.faults_consumed))
        child.types_enter()
        child.hears("closing")
        child.interrupt()
        assert child.process.stderr is not None
        assert "Interrupt again to leave at once" in child.process.stderr.readline()
        err = ended_by_ctrl_c(child)
    assert "it may have been accepted and billed" in err


def test_an_interrupt_of_leaving_a_batch_lets_its_creates_be_answered(slow: Emulator) -> None:
    slow.script("create", [faults.Pass(), faults.Stall(0.4, resume=True)])
    script = f"""
client = Client(**QUICK)
batch = client.batch([VideoRequest(f"drift {{n}}", duration=1) for n in range(2)])
try:
    with batch:
        sys.stdin.readline()
        {WATCH.format(closing="batch.summary.stopped").replace(chr(10), chr(10) + 8 * " ")}
except KeyboardInterrupt as error:
    say("left", *(note.replace(chr(10), " ") for note in error.__notes__))
"""
    with running(script, slow) as child:
        until(lambda: len(slow.faults_consumed) == 2)
        child.types_enter()
        child.hears("closing")
        child.interrupt()
        note = child.hears("left")
        child.ends()
    assert [note.count(f"grok-video wait {request_id}") for request_id in ids(slow)] == [1, 1]


# --- going on ------------------------------------------------------------------------------------


def test_a_script_that_catches_the_interrupt_goes_on_and_nothing_else_does(slow: Emulator) -> None:
    script = """
import asyncio
client = Client(**QUICK)
jobs = [client.submit(f"drift {n}", duration=1) for n in range(100)]
def nothing_goes_on():
    line = client._core.line
    return not line.crossings and len(asyncio.all_tasks(line.loop)) == 1
waits = [
    jobs[0].result,
    lambda: list(client.as_completed(jobs)),
    lambda: list(jobs[1].updates()),
]
for wait in waits:
    say("waiting")
    try:
        wait()
    except KeyboardInterrupt as interrupt:
        say("caught", len(interrupt.__notes__), "nothing goes on:", nothing_goes_on())
another = client.submit("another", duration=1)
say(another.request_id)
say(another.result().request_id)
client.close()
"""
    with running(script, slow) as child:
        for _ in range(3):
            child.hears("waiting")
            polls = slow.polls
            until(lambda polls=polls: slow.polls > polls)
            child.interrupt()
            assert child.hears("caught") == "caught 1 nothing goes on: True"
        another = child.hears("")
        slow.finish(another)
        child.hears(another)
        child.ends_well()


def test_an_interrupted_create_leaves_a_job_that_can_be_waited_for(slow: Emulator) -> None:
    slow.script("create", [faults.Stall(0.3, resume=True)])
    script = """
with Client(**QUICK) as client:
    accepted = []
    say("creating")
    try:
        client.submit("drift", duration=1, on_submitted=accepted.append)
    except KeyboardInterrupt as interrupt:
        say("caught", interrupt.__notes__[0].split()[-1])
    (job,) = accepted
    say(job.result().request_id)
"""
    with running(script, slow) as child:
        child.hears("creating")
        until(lambda: bool(slow.faults_consumed))
        child.interrupt()
        request_id = child.hears("caught").split()[1]
        assert request_id == ids(slow)[0]
        slow.finish(request_id)
        child.hears(request_id)
        child.ends()
    assert child.process.returncode == 0


def test_whatever_a_signal_handler_raises_cancels_the_call(slow: Emulator) -> None:
    script = """
import signal
class Enough(Exception): pass
def handler(number, frame): raise Enough
signal.signal(signal.SIGALRM, handler)
with Client(**QUICK) as client:
    job = client.submit("drift", duration=1)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        job.result()
    except Enough:
        say("enough", len(client._core.line.crossings))
"""
    with running(script, slow) as child:
        child.hears("enough 0")
        child.ends_well()


def test_an_interrupt_in_the_hook_is_the_interrupt_of_the_call(slow: Emulator) -> None:
    script = """
import threading
def hook(job):
    say("hook")
    threading.Event().wait()
with Client(**QUICK) as client:
    client.submit("drift", duration=1, on_submitted=hook)
"""
    with running(script, slow) as child:
        child.hears("hook")
        err = ended_by_ctrl_c(child)
    assert f"grok-video wait {ids(slow)[0]}" in err

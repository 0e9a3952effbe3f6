"""Every way out of a blocking call but Ctrl-C: an id that was paid for is told there as well.

A signal handler may raise anything (`sys.exit` on SIGTERM, a soft time limit of a worker), another
thread may close the client, and the program may end while a daemon thread waits. The log of these
scripts is Python's own last resort, which writes warnings to stderr.
"""

from __future__ import annotations

import signal

import pytest

from grok_video.emulator import Emulator, faults
from grok_video.emulator.pytest_plugin import EmulatorFactory
from tests.blocking.children import CLIP, Child, running, until

#: What the handler of SIGTERM raises.
RAISED = {"sys.exit": "SystemExit(3)", "an-exception": "SoftTimeLimit()"}
#: The calls that pay: one waits for the answer of its create, the other for its job.
CALLS = ("submit", "generate")
HANDLER = """
import signal
class SoftTimeLimit(Exception): pass
def handler(number, frame): raise {raised}
signal.signal(signal.SIGTERM, handler)
"""


@pytest.fixture
def slow(grok_emulator_factory: EmulatorFactory) -> Emulator:
    """An emulator whose jobs take longer than any test."""
    return grok_emulator_factory(time_scale=100.0, clip=CLIP)


def stalls_its_create(emulator: Emulator, call: str, seconds: float = 0.4) -> None:
    if call == "submit":
        emulator.script("create", [faults.Stall(seconds, resume=True)])


def is_in_the_call(emulator: Emulator, call: str) -> None:
    """Return once the create of the child waits for its answer, or its job is polled."""
    until(lambda: bool(emulator.faults_consumed) if call == "submit" else emulator.polls > 0)


def id_of(emulator: Emulator) -> str:
    (create,) = emulator.creates
    return create.request_id


def logged(child: Child) -> list[str]:
    """Return the log of a script that is to end well, without the word that it is waited."""
    _, err, _ = child.ends()
    assert child.process.returncode == 0, err
    return [line for line in err.splitlines() if not line.startswith("interrupted; waiting")]


# --- a signal ------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("raised", RAISED.values(), ids=RAISED)
def test_whatever_a_signal_handler_raises_names_the_job_of_its_call(
    slow: Emulator, raised: str, call: str
) -> None:
    stalls_its_create(slow, call)
    script = f"""
{HANDLER.format(raised=raised)}
client = Client(**QUICK)
say("calling")
try:
    client.{call}("drift", duration=1)
except BaseException as error:
    say("left", *error.__notes__)
"""
    with running(script, slow) as child:
        child.hears("calling")
        is_in_the_call(slow, call)
        child.process.send_signal(signal.SIGTERM)
        note = child.hears("left")
        (line,) = logged(child)
    request_id = id_of(slow)
    assert note.count(f"grok-video wait {request_id}") == 1
    assert line.startswith("the call was broken off")
    assert f"grok-video wait {request_id}" in line


@pytest.mark.parametrize("call", CALLS)
def test_a_script_that_exits_on_a_signal_logs_the_id(slow: Emulator, call: str) -> None:
    stalls_its_create(slow, call)
    script = f"""
{HANDLER.format(raised="SystemExit(3)")}
with Client(**QUICK) as client:
    say("calling")
    client.{call}("drift", duration=1)
"""
    with running(script, slow) as child:
        child.hears("calling")
        is_in_the_call(slow, call)
        child.process.send_signal(signal.SIGTERM)
        _, err, _ = child.ends()
    assert child.process.returncode == 3
    assert f"grok-video wait {id_of(slow)}" in err


def test_an_id_that_the_hook_has_heard_is_not_logged(slow: Emulator) -> None:
    script = f"""
{HANDLER.format(raised="SoftTimeLimit()")}
client = Client(**QUICK)
try:
    client.generate("drift", duration=1, on_submitted=lambda job: say("heard", job.request_id))
except SoftTimeLimit as error:
    say("left", *error.__notes__)
"""
    with running(script, slow) as child:
        request_id = child.hears("heard").split()[1]
        is_in_the_call(slow, "generate")
        child.process.send_signal(signal.SIGTERM)
        assert f"grok-video wait {request_id}" in child.hears("left")
        assert logged(child) == []


def test_an_exception_of_a_handler_names_the_jobs_that_were_waited_for_and_no_others(
    slow: Emulator,
) -> None:
    script = f"""
{HANDLER.format(raised="SoftTimeLimit()")}
client = Client(**QUICK)
stranger = client.submit("another", duration=1)
say(stranger.request_id)
waits = [
    lambda: client.submit("drift", duration=1).result(),
    lambda: list(client.submit("drift", duration=1).updates()),
    lambda: list(client.as_completed(client.submit("drift", duration=1) for n in range(3))),
]
for wait in waits:
    say("waiting")
    try:
        wait()
    except SoftTimeLimit as error:
        say("left", *(note.replace(chr(10), " ") for note in error.__notes__))
"""
    with running(script, slow) as child:
        stranger = child.hears("")
        made = 1
        for count in (1, 1, 3):
            child.hears("waiting")
            # Counted here, not by the emulator: the child may be ahead of this loop.
            made += count
            until(lambda made=made: len(slow.creates) == made)
            # A poll of the newest: another one may be of the wait before.
            newest = slow.creates[-1].request_id
            until(lambda name=newest: any(name in one.path for one in slow.requests))
            child.process.send_signal(signal.SIGTERM)
            note = child.hears("left")
            for create in slow.creates[-count:]:
                assert note.count(f"grok-video wait {create.request_id}") == 1
            assert stranger not in note
        child.ends_well()


def test_an_id_that_comes_after_its_caller_left_at_once_is_logged(slow: Emulator) -> None:
    stalls_its_create(slow, "submit", 3.0)
    script = """
import time
client = Client(**QUICK)
say("calling")
try:
    client.submit("drift", duration=1)
except KeyboardInterrupt:
    say("left")
while client._core.line.crossings:
    time.sleep(0.01)
"""
    with running(script, slow) as child:
        assert child.process.stderr is not None
        child.hears("calling")
        is_in_the_call(slow, "submit")
        child.interrupt()
        assert "Interrupt again to leave at once" in child.process.stderr.readline()
        child.interrupt()
        child.hears("left")
        (line,) = logged(child)
    assert f"grok-video wait {id_of(slow)}" in line


def test_an_exit_in_the_hook_names_the_job_and_logs_it(slow: Emulator) -> None:
    script = """
def hook(job): sys.exit(3)
client = Client(**QUICK)
try:
    client.submit("drift", duration=1, on_submitted=hook)
except SystemExit as error:
    say("left", *error.__notes__)
"""
    with running(script, slow) as child:
        note = child.hears("left")
        (line,) = logged(child)
    assert f"grok-video wait {id_of(slow)}" in note
    assert f"grok-video wait {id_of(slow)}" in line


def test_an_outcome_that_comes_while_a_signal_is_handled_is_not_lost(slow: Emulator) -> None:
    """Nobody takes it any more, and without a ledger nobody else knows of the job."""
    script = """
import signal
def handler(number, frame):
    say("handling")
    sys.stdin.readline()
    sys.exit(3)
signal.signal(signal.SIGTERM, handler)
client = Client(**QUICK)
for outcome in client.batch([VideoRequest("drift", duration=1)]):
    say("told")
"""
    with running(script, slow) as child:
        until(lambda: slow.polls > 0)
        child.process.send_signal(signal.SIGTERM)
        child.hears("handling")
        slow.finish(id_of(slow))
        polls = slow.polls
        until(lambda: slow.polls > polls)
        child.types_enter()
        out, err, _ = child.ends()
    assert (child.process.returncode, out) == (3, "")
    assert f"grok-video wait {id_of(slow)}" in err


# --- the end of the program ----------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
def test_a_program_that_ends_under_a_daemon_thread_logs_the_id(slow: Emulator, call: str) -> None:
    # Longer than the end of a program waits for anything but the answer of a create.
    stalls_its_create(slow, call, 2.0)
    script = f"""
import threading
client = Client(**QUICK)
threading.Thread(target=lambda: client.{call}("drift", duration=1), daemon=True).start()
sys.stdin.readline()
"""
    with running(script, slow) as child:
        is_in_the_call(slow, call)
        child.types_enter()
        (line,) = logged(child)
    assert f"grok-video wait {id_of(slow)}" in line


def test_a_program_that_ends_under_a_daemon_thread_lets_its_hook_hear(slow: Emulator) -> None:
    stalls_its_create(slow, "submit")
    script = """
import threading
client = Client(**QUICK)
def work():
    client.submit("drift", duration=1, on_submitted=lambda job: say("heard", job.request_id))
threading.Thread(target=work, daemon=True).start()
sys.stdin.readline()
"""
    with running(script, slow) as child:
        is_in_the_call(slow, "submit")
        child.types_enter()
        assert child.hears("heard") == f"heard {id_of(slow)}"
        child.ends_well()


@pytest.mark.parametrize("use", ["client.submit('drift', duration=1)", "client"])
def test_a_call_from_what_the_dying_interpreter_frees_is_refused(slow: Emulator, use: str) -> None:
    script = f"""
import builtins, os
class Late:
    def __init__(self, client):
        self.client = client
    def __del__(self, write=os.write, refusal=GrokVideoError):
        try:
            self.client.job("an-id").refresh()
        except refusal as error:
            write(1, str(error).encode())
client = Client(**QUICK)
{use}
builtins.late = Late(client)
"""
    with running(script, slow) as child:
        out = child.ends_well()
    assert "the interpreter is ending" in out


def test_one_interrupt_while_a_program_ends_does_not_lose_the_id(slow: Emulator) -> None:
    stalls_its_create(slow, "submit", 1.5)
    script = """
import threading, time
client = Client(**QUICK)
threading.Thread(target=lambda: client.submit("drift", duration=1), daemon=True).start()
sys.stdin.readline()
def watch():
    while not client._core.line.leaving:
        time.sleep(0.001)
    say("ending")
threading.Thread(target=watch, daemon=True).start()
"""
    with running(script, slow) as child:
        is_in_the_call(slow, "submit")
        child.types_enter()
        child.hears("ending")
        child.interrupt()
        (line,) = logged(child)
    assert f"grok-video wait {id_of(slow)}" in line

"""Forked children: they have a thread and connections of their own, and leave the parent's alone.

The children are real (`os.fork`, a multiprocessing pool, gunicorn), made by scripts in processes of
their own, so that no thread of the test suite is forked.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from grok_video.emulator import Emulator, faults
from grok_video.emulator.pytest_plugin import EmulatorFactory
from tests.blocking.children import CLIP, PATIENCE, PREFACE, environment, running, until

#: In a child: says what it has to say and leaves as forked children do.
FORK = """
import gc, os, traceback
def in_child(function):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    say("child ended", os.waitpid(pid, 0)[1])
"""


@pytest.fixture
def grok_emulator(grok_emulator_factory: EmulatorFactory) -> Emulator:
    """An emulator whose jobs take milliseconds, and that renders nothing."""
    return grok_emulator_factory(clip=CLIP)


def run(script: str, emulator: Emulator, *, allow_noise: bool = False) -> list[str]:
    with running(FORK + script, emulator) as child:
        if allow_noise:
            return child.ends()[0].splitlines()
        return child.ends_well().splitlines()


def test_a_client_used_in_the_parent_works_in_a_forked_child(grok_emulator: Emulator) -> None:
    lines = run(
        """
client = Client(**QUICK)
parents = client.submit("parent", duration=1)
say(parents.result().request_id == parents.request_id)
unfinished = client.submit("unfinished", duration=1)
def child():
    say(client.generate("child", duration=1).duration)
    say(parents.result().url is not None, unfinished.result().duration, unfinished)
in_child(child)
say(client.generate("parent again", duration=1).duration)
say(unfinished.result().duration)
client.close()
""",
        grok_emulator,
    )
    told = f"<Job {grok_emulator.creates[1].request_id} done 100 %>"
    assert lines == ["True", "1", f"True 1 {told}", "child ended 0", "1", "1"]


def test_a_child_forked_while_other_threads_wait_works(
    grok_emulator_factory: EmulatorFactory,
) -> None:
    emulator = grok_emulator_factory(time_scale=100.0, clip=CLIP)
    script = """
import threading
client = Client(**QUICK)
job = client.submit("parent", duration=1)
waiter = threading.Thread(target=lambda: say("parent", job.result().duration))
waiter.start()
say(job.request_id)
sys.stdin.readline()
def child():
    mine = client.submit("child", duration=1)
    say(mine.request_id)
    say("child", mine.result().duration, "and the parent's", job.result().duration)
in_child(child)
waiter.join()
client.close()
"""
    with running(FORK + script, emulator) as child:
        first = child.hears("")
        until(lambda: emulator.polls > 2)
        child.types_enter()
        second = child.hears("")
        emulator.finish(second)
        emulator.finish(first)
        lines = sorted(child.ends_well().splitlines())
    assert lines == ["child 1 and the parent's 1", "child ended 0", "parent 1"]


def test_an_asynchronous_job_that_the_parent_is_polling_is_polled_in_the_child_too(
    grok_emulator: Emulator,
) -> None:
    grok_emulator.script("poll", [faults.Stall(PATIENCE)])
    script = """
import asyncio, contextlib, threading
client = AsyncClient(**QUICK)
jobs, stops = [], []
async def wait():
    job = await client.submit("parent", duration=1)
    jobs.append(job)
    stops.append(asyncio.get_running_loop().call_soon_threadsafe)
    stops.append(asyncio.current_task().cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await job
waiter = threading.Thread(target=lambda: asyncio.run(wait()))
waiter.start()
sys.stdin.readline()
in_child(lambda: say("child", asyncio.run(jobs[0].result(timeout=5)).duration))
stops[0](stops[1])
waiter.join()
"""
    with running(FORK + script, grok_emulator) as child:
        until(lambda: grok_emulator.polls > 0)
        child.types_enter()
        lines = child.ends_well().splitlines()
    assert lines == ["child 1", "child ended 0"]


def test_the_child_shares_no_connection_with_its_parent(grok_emulator: Emulator) -> None:
    lines = run(
        """
def sockets():
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass
    return {link for link in links if link.startswith(("socket:", "anon_inode:[eventpoll]"))}
before = sockets()
client = Client(**QUICK)
client.generate("parent", duration=1)
parents = sockets() - before
say("parent has some:", bool(parents))
def child():
    say("shared:", sockets() & parents)
    client.generate("child", duration=1)
    client.close()
    say("shared:", {link for link in sockets() & parents if link.startswith("socket:")})
in_child(child)
client.generate("parent", duration=1)
client.close()
""",
        grok_emulator,
    )
    assert lines == ["parent has some: True", "shared: set()", "shared: set()", "child ended 0"]


def test_a_client_dropped_in_the_child_does_not_hang_and_harms_nobody(
    grok_emulator_factory: EmulatorFactory,
) -> None:
    large = grok_emulator_factory(clip=CLIP + bytes(2**23))  # more than one chunk of a stream
    lines = run(
        """
client = Client(**QUICK)
job = client.submit("parent", duration=1)
job.result()
stream = job.stream()
next(stream)
def child():
    global client, job, stream
    del client, job, stream
    gc.collect()
    with Client(**QUICK) as another:
        say(another.generate("child", duration=1).duration)
in_child(child)
say(len(b"".join(stream)) > 0, client.generate("parent", duration=1).duration)
client.close()
""",
        large,
    )
    assert lines == ["1", "child ended 0", "True 1"]


def test_a_child_that_ends_like_any_program_is_quiet(grok_emulator: Emulator) -> None:
    lines = run(
        """
client = Client(**QUICK)
job = client.submit("parent", duration=1)
stream = job.stream()
next(stream)
if os.fork() == 0:
    sys.exit(0)
say("child ended", os.wait()[1])
if os.fork() == 0:
    say(client.generate("child", duration=1).duration)
    sys.exit(0)
say("child ended", os.wait()[1])
client.close()
""",
        grok_emulator,
    )
    assert lines == ["child ended 0", "1", "child ended 0"]


def test_nothing_that_goes_on_in_the_parent_is_run_or_ended_in_the_child(
    grok_emulator: Emulator,
) -> None:
    lines = run(
        """
import asyncio, threading
parent = os.getpid()
begun = threading.Event()
async def work():
    try:
        begun.set()
        await asyncio.sleep(60)
    finally:
        say("ended in the parent:", os.getpid() == parent)
client = Client(**QUICK)
future = client._core.promise(work)
begun.wait()
def child():
    global client, future
    del client, future
    gc.collect()
in_child(child)
if os.fork() == 0:
    sys.exit(0)
say("child ended", os.wait()[1])
client.close()
""",
        grok_emulator,
    )
    assert lines == ["child ended 0", "child ended 0", "ended in the parent: True"]


def test_an_iterator_of_the_parent_says_so_in_the_child(grok_emulator: Emulator) -> None:
    lines = run(
        """
client = Client(**QUICK)
updates = client.submit("parent", duration=1).updates()
next(updates)
def child():
    try:
        next(updates)
    except ConfigurationError as error:
        say(error)
in_child(child)
client.close()
""",
        grok_emulator,
    )
    assert lines == [
        "this iterator was made before the fork and goes on in the parent process only; make a "
        "new one here",
        "child ended 0",
    ]


def test_a_file_that_took_the_number_of_a_closed_connection_stays_the_childs(
    grok_emulator: Emulator,
) -> None:
    lines = run(
        """
import http.server, tempfile, threading
class Closing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status":"pending"}')
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Closing)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = Client("key", base_url=f"http://127.0.0.1:{server.server_port}")
for _ in range(3):
    client.job("job-1").refresh()
files = [tempfile.TemporaryFile(buffering=0) for _ in range(9)]
def child():
    for file in files:
        file.write(b"kept")
in_child(child)
say({os.pread(file.fileno(), 9, 0) for file in files})
client.close()
""",
        grok_emulator,
    )
    assert lines == ["child ended 0", "{b'kept'}"]


def test_a_job_has_not_stalled_because_its_process_was_forked(
    grok_emulator_factory: EmulatorFactory,
) -> None:
    emulator = grok_emulator_factory(time_scale=1000.0, clip=CLIP)
    lines = run(
        """
client = Client(polling=Polling(interval=0.05, adaptive=False, stalled_after=30))
job = client.submit("drift")
job.refresh()
def child():
    try:
        job.result(timeout=0.3)
    except JobTimeout as error:
        say(error.stalled_for)
in_child(child)
client.close()
""",
        emulator,
    )
    assert lines == ["None", "child ended 0"]


def test_connections_that_were_given_are_refused_in_the_child(grok_emulator: Emulator) -> None:
    lines = run(
        """
import httpx
given = httpx.AsyncClient()
client = Client(**QUICK, http_client=given)
client.generate("parent", duration=1)
def child():
    try:
        client.generate("child", duration=1)
    except ConfigurationError as error:
        say("shares its connections with the parent process" in str(error))
in_child(child)
client._core.call(given.aclose)  # the caller's to close, in the loop that used it
client.close()
""",
        grok_emulator,
    )
    assert lines == ["True", "child ended 0"]
    assert grok_emulator.accepted == 1


def test_a_client_made_but_not_used_before_the_fork_works_on_both_sides(
    grok_emulator: Emulator,
) -> None:
    lines = run(
        """
client = Client(**QUICK)
in_child(lambda: say(client.generate("child", duration=1).duration))
say(client.generate("parent", duration=1).duration)
client.close()
in_child(lambda: say(repr(client)[:8]))
""",
        grok_emulator,
    )
    assert lines == ["1", "child ended 0", "1", "<Client ", "child ended 0"]


def test_a_lock_that_a_thread_of_the_parent_held_is_free_in_the_child(
    grok_emulator: Emulator,
) -> None:
    lines = run(
        """
client = Client(**QUICK)
with client._core._lock:  # as another thread holds it while it starts the loop
    in_child(lambda: say(client.generate("child", duration=1).duration))
updates = client.submit("parent", duration=1).updates()
with updates._turn:
    try:
        in_child(lambda: next(updates))
    finally:
        say("goes on")
client.close()
""",
        grok_emulator,
        allow_noise=True,
    )
    assert lines == ["1", "child ended 0", "child ended 256", "goes on"]


def test_threads_that_begin_together_in_a_child_share_one_client(grok_emulator: Emulator) -> None:
    script = """
import threading
sys.setswitchinterval(1e-6)
client = Client(**QUICK)
client.submit("parent", duration=1)
def child():
    jobs, together = [], threading.Barrier(8)
    def begin():
        together.wait()
        jobs.append(client.job("an-id"))
    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    client.close()
    for job in jobs:
        try:
            job.refresh()
        except NotFound:
            say("a client is open that nobody can close")
        except ConfigurationError:
            pass
for _ in range(5):
    in_child(child)
client.close()
"""
    assert run(script, grok_emulator) == ["child ended 0"] * 5


#: Begin a wait, fork in the middle of it, and say in the child what comes of it there.
WAITS_BEGUN_BEFORE = {
    "a future": """
job = client.submit("drift", duration=1)
future = job.future()
future.add_done_callback(lambda _: os.getpid() == parent or say("called in the child"))
fork()
future.result()
""",
    "a call with a hook that forks": """
client.submit("drift", duration=1, on_submitted=lambda _: fork()).result()
""",
    "a call with a handler that forks": """
job = client.submit("drift", duration=1)
signal.signal(signal.SIGUSR1, lambda *_: fork())
say("waiting")
job.result()
""",
    "a future with a handler that forks": """
future = client.submit("drift", duration=1).future()
signal.signal(signal.SIGUSR1, lambda *_: fork())
say("waiting")
future.result()
""",
}


@pytest.mark.parametrize("wait", WAITS_BEGUN_BEFORE.values(), ids=WAITS_BEGUN_BEFORE)
def test_what_was_begun_before_the_fork_ends_in_the_child(
    grok_emulator_factory: EmulatorFactory, wait: str
) -> None:
    slow = grok_emulator_factory(time_scale=100.0, clip=CLIP)
    script = f"""
import os, signal
parent = os.getpid()
children = []
signal.alarm(20)  # where it or its child hangs, the test fails instead
def fork():
    children.append(os.fork())
    if children[0] == 0:
        signal.alarm(10)
def use():
    client = Client(**QUICK)
    {wait.replace(chr(10), chr(10) + "    ")}
try:
    use()
except ConfigurationError as error:
    say(f"told {{error}} {{error.request_id}}")
if children == [0]:
    sys.stdout.flush()
    os._exit(0)
say("child ended", os.waitpid(children[0], 0)[1])
"""
    with running(script, slow) as child:
        if "waiting" in wait:
            child.hears("waiting")
            until(lambda: slow.polls > 0)
            child.process.send_signal(signal.SIGUSR1)
        told = child.hears("told this call was begun before the process was forked")
        (create,) = slow.creates
        slow.finish(create.request_id)
        lines = child.ends_well().splitlines()
    assert (create.request_id in told) == ("future" not in wait)
    assert lines[-1] == "child ended 0"


#: Runs `in_the_import` where the module of downloads is about to be imported, in its thread.
FINDER = """
import signal, threading
class Finder:
    def find_spec(self, name, *_):
        if name == "grok_video._download":
            in_the_import()
sys.meta_path.insert(0, Finder())
client = Client(**QUICK)
job = client.submit("drift", duration=1)
job.result()
"""


def test_a_child_forked_while_something_is_imported_can_import_it_too(
    grok_emulator: Emulator, tmp_path: Path
) -> None:
    script = f"""
begun, forking = threading.Event(), threading.Event()
os.register_at_fork(before=forking.set)  # what is registered last is run first
def in_the_import():
    begun.set()
    forking.wait()
download = threading.Thread(target=lambda: job.download({str(tmp_path / "parent.mp4")!r}))
download.start()
begun.wait()
def child():
    signal.alarm(20)  # where it hangs, the test fails instead
    say(job.download({str(tmp_path / "child.mp4")!r}).size)
in_child(child)
download.join()
client.close()
"""
    lines = run(FINDER + script, grok_emulator)
    assert lines == [str(len(CLIP)), "child ended 0"]
    assert (tmp_path / "parent.mp4").stat().st_size == len(CLIP)


def test_what_is_imported_may_fork_itself(grok_emulator: Emulator, tmp_path: Path) -> None:
    script = f"""
def in_the_import():
    in_child(lambda: say("forked"))
say(job.download({str(tmp_path / "parent.mp4")!r}).size)
client.close()
"""
    lines = run(FINDER + script, grok_emulator)
    assert lines == ["forked", "child ended 0", str(len(CLIP))]


def test_a_multiprocessing_fork_pool_works(grok_emulator: Emulator) -> None:
    lines = run(
        """
import multiprocessing
client = Client(**QUICK)
client.generate("parent", duration=1)
def work(number):
    video = client.generate(f"drift {number}", duration=1)
    return os.getpid(), video.duration
with multiprocessing.get_context("fork").Pool(4) as pool:
    found = pool.map(work, range(40), chunksize=1)
    pool.close()
    pool.join()
say(sum(duration for _, duration in found), 1 < len({pid for pid, _ in found}) <= 4)
say(client.generate("parent", duration=1).duration)
client.close()
""",
        grok_emulator,
    )
    assert lines == ["40 True", "1"]
    assert grok_emulator.accepted == 42


# --- gunicorn ------------------------------------------------------------------------------------

APP = """
import os
client = Client(**QUICK)
client.generate("preloaded", duration=1)  # used in the parent, before the workers are forked
def app(environ, start_response):
    video = client.generate("request", duration=1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {video.duration}".encode()]
"""


@contextmanager
def gunicorn(tmp_path: Path, emulator: Emulator) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    (tmp_path / "preloaded.py").write_text(PREFACE + APP)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.set_inheritable(True)
        host, port = listening.getsockname()
        bind = f"--bind=fd://{listening.fileno()}"
        options = ["--preload", "--workers=2", bind]
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *options, "preloaded:app"],
            cwd=tmp_path,
            # As it comes: gunicorn itself leaves sockets to the end of the process.
            env=environment(emulator) | {"PYTHONWARNINGS": "", "HOME": str(tmp_path)},
            stderr=subprocess.PIPE,
            pass_fds=[listening.fileno()],
        )
    with server:
        try:
            yield f"http://{host}:{port}", server
        finally:
            server.kill()


def test_gunicorn_with_a_preloaded_client_serves_from_two_workers(
    grok_emulator: Emulator, tmp_path: Path
) -> None:
    pids = set()
    with gunicorn(tmp_path, grok_emulator) as (url, server):

        def ask() -> bool:
            with urllib.request.urlopen(url, timeout=30) as answer:
                pid, duration = answer.read().split()
                assert duration == b"1"
                pids.add(int(pid))
            return len(pids) == 2

        until(ask)
        server.send_signal(signal.SIGTERM)
        _, err = server.communicate(timeout=30)
    assert server.returncode == 0, err
    assert b"Traceback" not in err
    for word in (b"nclosed", b"never retrieved", b"was destroyed", b"Exception ignored"):
        assert word not in err, err.decode()
    assert os.getpid() not in pids

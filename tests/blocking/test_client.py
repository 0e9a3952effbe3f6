"""The blocking client and its jobs, as plain code uses them."""

from __future__ import annotations

import concurrent.futures as cf
import copy
import gc
import pickle
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

import pytest

from grok_video import (
    APIConnectionError,
    Client,
    ConfigurationError,
    GrokVideoError,
    InvalidRequest,
    Job,
    JobFailed,
    JobStatus,
    JobTimeout,
    OutcomeState,
    VideoRequest,
)
from grok_video.emulator import Emulator, faults
from tests.blocking.children import crossings, until
from tests.blocking.test_manifests import Instant
from tests.conftest import PHOTO

# --- the words -----------------------------------------------------------------------------------


def test_a_video_is_generated_and_saved(
    grok_emulator: Emulator, blocking: Client, tmp_path: Path
) -> None:
    video = blocking.generate("push-in", image=PHOTO, duration=1, save_to=tmp_path / "a.mp4")
    assert video.path == tmp_path / "a.mp4"
    assert video.path.stat().st_size == video.size
    assert grok_emulator.accepted == 1


def test_a_job_is_followed_from_its_create_to_its_bytes(blocking: Client) -> None:
    job = blocking.submit("drift", duration=1)
    assert job.status is JobStatus.QUEUED
    seen = [snapshot.status for snapshot in job.updates()]
    assert seen[-1] is JobStatus.DONE
    assert job.result().request_id == job.request_id
    assert job.is_finished
    assert b"".join(job.stream())[4:8] == b"ftyp"
    assert repr(job) == f"<Job {job.request_id} done 100 %>"
    assert repr(blocking).startswith("<Client http://127.0.0.1:")


def test_jobs_come_as_they_are_completed_each_as_the_object_it_was(
    slow_emulator: Emulator, waiting: Client
) -> None:
    jobs = [waiting.submit(f"drift {number}", duration=1) for number in range(3)]
    completed = waiting.as_completed(jobs)
    for job in reversed(jobs):
        slow_emulator.finish(job.request_id)
        assert next(completed) is job
    assert list(completed) == []


def test_jobs_may_come_from_a_generator_that_uses_the_client(blocking: Client) -> None:
    prompts = ["a", "b", "c"]
    done = list(blocking.as_completed(blocking.submit(p, duration=1) for p in prompts))
    assert len(done) == 3


def test_jobs_of_another_client_are_refused(
    blocking: Client, grok_emulator: Emulator, new_blocking: Callable[..., Client]
) -> None:
    foreign = new_blocking(grok_emulator).job("somewhere")
    with pytest.raises(InvalidRequest, match="must hold jobs of this very client"):
        blocking.as_completed([foreign])
    with pytest.raises(InvalidRequest, match="must hold jobs of this very client"):
        blocking.as_completed(["an id"])  # type: ignore[list-item]


def test_one_handle_is_one_object_and_equal_only_to_itself(blocking: Client) -> None:
    heard: list[Job] = []
    job = blocking.submit("drift", duration=1, on_submitted=heard.append)
    assert heard == [job]
    assert heard[0] is job
    other = blocking.job(job.request_id)
    assert other != job
    assert len({job, other, heard[0]}) == 2


def test_what_lives_in_this_process_says_so_when_it_is_pickled_or_copied(blocking: Client) -> None:
    job = blocking.submit("drift")
    for make in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a Client is neither pickled nor copied"):
            make(blocking)
        with pytest.raises(TypeError, match=f"client.job.'{job.request_id}'"):
            make(job)


def test_a_batch_is_run_by_plain_code(blocking: Client, tmp_path: Path) -> None:
    requests = [VideoRequest(f"drift {number}", duration=1) for number in range(20)]
    with blocking.batch(requests, out=tmp_path, max_in_flight=5) as batch:
        outcomes = list(batch)
    assert {outcome.state for outcome in outcomes} == {OutcomeState.DONE} or all(
        outcome.video is not None for outcome in outcomes
    )
    assert len(list(tmp_path.glob("*.mp4"))) == 20
    assert batch.summary.in_flight == 0


def test_a_batch_needs_no_context_where_it_is_only_iterated(
    blocking: Client, tmp_path: Path, grok_emulator: Emulator
) -> None:
    requests = [VideoRequest(f"drift {number}", duration=1) for number in range(20)]
    ledger = tmp_path / "run.sqlite"
    for number, outcome in enumerate(blocking.batch(requests, ledger=ledger, max_in_flight=3)):
        assert outcome.video is not None
        if number == 4:
            break
    assert crossings(blocking) == 0
    batch = blocking.batch(requests, ledger=ledger)  # the ledger is free again
    assert len(list(batch)) == 20
    assert grok_emulator.accepted == 20
    assert list(batch) == []  # a batch is run once


def test_an_error_in_the_loop_leaves_a_batch_that_is_only_iterated(
    blocking: Client, tmp_path: Path
) -> None:
    requests = [VideoRequest(f"drift {number}", duration=1) for number in range(20)]
    batch = blocking.batch(requests, ledger=tmp_path / "run.sqlite", max_in_flight=3)
    with pytest.raises(ZeroDivisionError):
        for _ in batch:
            1 / 0  # noqa: B018
    gc.collect()
    assert crossings(blocking) == 0


def test_a_batch_that_is_left_early_leaves_nothing_running(
    waiting: Client, slow_emulator: Emulator
) -> None:
    requests = [VideoRequest(f"drift {number}", duration=1) for number in range(20)]
    with waiting.batch(requests, max_in_flight=5) as batch:
        until(lambda: slow_emulator.polls > 5)
        batch.stop()
    assert crossings(waiting) == 0
    with pytest.raises(ConfigurationError, match="used inside its context"):
        next(waiting.batch(requests))


# --- hooks ---------------------------------------------------------------------------------------


def test_the_hook_is_called_in_the_thread_that_submits(blocking: Client) -> None:
    heard: list[tuple[str, int]] = []
    job = blocking.submit(
        "drift",
        duration=1,
        on_submitted=lambda job: heard.append((job.request_id, threading.get_ident())),
    )
    assert heard == [(job.request_id, threading.get_ident())]


def test_the_hook_may_use_the_client(blocking: Client) -> None:
    heard: list[object] = []

    def hook(job: Job) -> None:
        heard.append(job.refresh().request_id)
        heard.append(blocking.generate("another", duration=1).duration)

    job = blocking.submit("drift", duration=1, on_submitted=hook)
    assert heard == [job.request_id, 1]


def test_what_the_hook_raises_comes_out_with_the_id(
    blocking: Client, grok_emulator: Emulator
) -> None:
    def hook(job: Job) -> None:
        raise LookupError("the disk is full")

    with pytest.raises(LookupError, match="the disk is full") as caught:
        blocking.submit("drift", duration=1, on_submitted=hook)
    (create,) = grok_emulator.creates
    assert create.request_id in caught.value.__notes__[0]
    frames = [entry.name for entry in caught.traceback]
    assert "hook" in frames  # its author must find the line


def test_a_hook_that_stops_an_iteration_cannot_stop_the_loop(blocking: Client) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        blocking.submit("drift", duration=1, on_submitted=lambda job: next(iter(())))


def test_an_async_hook_is_refused_before_anything_is_paid(
    blocking: Client, grok_emulator: Emulator
) -> None:
    async def hook(job: Job) -> None: ...

    class Hook:
        async def __call__(self, job: Job) -> None: ...

    for given in (hook, Hook()):
        with pytest.raises(InvalidRequest, match="must be a plain function"):
            blocking.submit("drift", on_submitted=given)  # type: ignore[arg-type] # it is refused
    assert grok_emulator.accepted == 0


@pytest.mark.parametrize("jobs", [None, "abc", 5])
def test_what_is_no_iterable_of_jobs_is_refused_as_the_asynchronous_client_does(
    blocking: Client, jobs: Any
) -> None:
    with pytest.raises(InvalidRequest, match="must be an iterable of jobs"):
        blocking.as_completed(jobs)


def test_what_a_hook_raises_comes_out_with_the_id_however_odd_its_class_is(
    blocking: Client, grok_emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    class Keywords(Exception):
        def __new__(cls, *, code: int) -> Self:
            return super().__new__(cls)

        def __init__(self, *, code: int) -> None:
            self.code = code

    @dataclass(frozen=True)
    class Frozen(Exception):
        code: int

    for error in (Keywords(code=1), Frozen(2)):

        def hook(job: Job, error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)) as caught:
            blocking.submit("drift", duration=1, on_submitted=hook)
        told = "".join(traceback.format_exception(caught.value)) + caplog.text
        assert grok_emulator.creates[-1].request_id in told


# --- failures ------------------------------------------------------------------------------------


def test_a_failure_is_raised_fresh_each_time_and_its_traceback_does_not_grow(
    slow_emulator: Emulator, waiting: Client
) -> None:
    job = waiting.submit("drift", duration=1)
    slow_emulator.fail(job.request_id)
    future = job.future()
    raised: list[BaseException] = []
    depths = []
    for ask in [job.result, job.result, future.result, future.result, future.result]:
        with pytest.raises(JobFailed, match="failed") as caught:
            ask()
        raised.append(caught.value)
        depths.append(len(caught.traceback))
    assert len({id(error) for error in raised}) == 5
    assert depths[0] == depths[1]
    assert depths[2] == depths[3] == depths[4]
    assert future.exception() is not future.exception()


def test_no_exception_object_is_raised_in_two_threads(
    slow_emulator: Emulator, waiting: Client
) -> None:
    job = waiting.submit("drift", duration=1)
    slow_emulator.fail(job.request_id)
    future = job.future()

    with cf.ThreadPoolExecutor(8) as pool:
        raised = [pool.submit(_caught, future) for _ in range(40)]
        errors = [each.result() for each in raised]
    assert len({id(error) for error in errors}) == 40
    assert {error.request_id for error in errors} == {job.request_id}


def _caught(future: cf.Future[object]) -> JobFailed:
    try:
        future.result()
    except JobFailed as error:
        return error
    raise AssertionError


def test_a_failure_keeps_its_facts_its_notes_and_its_cause(
    slow_emulator: Emulator, waiting: Client
) -> None:
    job = waiting.submit("drift", duration=1)
    slow_emulator.script("poll", [faults.CutAnswer(0)] * 200)
    with pytest.raises(JobTimeout, match="The last poll failed") as caught:
        job.result(timeout=0.2)
    assert caught.value.request_id == job.request_id
    assert isinstance(caught.value.__cause__, APIConnectionError)
    frames = {entry.path.name for entry in caught.traceback}  # type: ignore[union-attr]
    assert "_poller.py" not in frames


def test_an_error_is_an_error_of_the_family(blocking: Client) -> None:
    with pytest.raises(GrokVideoError):
        blocking.job("nobody-knows-it").refresh()
    with pytest.raises(InvalidRequest):
        blocking.submit("")
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        blocking.submit("drift", nonsense=1)  # type: ignore[call-overload]


# --- closing -------------------------------------------------------------------------------------


def test_a_closed_client_says_so_and_what_is_known_stays_known(
    blocking: Client, grok_emulator: Emulator
) -> None:
    job = blocking.submit("drift", duration=1)
    job.result()
    blocking.close()
    with pytest.raises(ConfigurationError, match="this client is closed"):
        blocking.submit("drift")
    with pytest.raises(ConfigurationError, match="this client is closed"):
        job.refresh()
    assert job.result().duration == 1
    assert list(blocking.as_completed([job])) == [job]
    assert grok_emulator.accepted == 1
    blocking.close()


def test_a_client_that_was_closed_before_it_was_used_is_closed(blocking: Client) -> None:
    blocking.close()
    assert blocking._core.line is None
    with pytest.raises(ConfigurationError, match="this client is closed"):
        blocking.submit("drift")


def test_a_call_after_closing_is_refused_however_late_the_thread_of_its_loop_starts(
    blocking: Client,
) -> None:
    def starts_late(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_qualname == "Line._run":
            sys.setprofile(None)
            line = frame.f_locals["self"]
            until(lambda: bool(line.loop._ready))  # the call is first in line

    job = blocking.job("an-id")
    blocking.close()
    threading.setprofile(starts_late)
    try:
        with pytest.raises(ConfigurationError, match="this client is closed"):
            job.refresh()
    finally:
        threading.setprofile(None)


@pytest.mark.parametrize("raised", [OSError, SystemExit])
def test_what_closing_a_transport_raises_is_raised_once_and_tells_what_goes_on(
    raised: type[BaseException],
) -> None:
    class Stuck(Instant):
        async def aclose(self) -> None:
            raise raised("cannot close")

    client = Client("key", transport=Stuck())
    job = client.submit("drift", duration=1)
    with pytest.raises(raised, match="cannot close") as caught:
        client.close()
    assert job.request_id in "".join(caught.value.__notes__)
    client.close()


def test_closing_ends_the_waiting_of_other_threads_and_not_the_jobs(
    slow_emulator: Emulator, waiting: Client
) -> None:
    jobs = [waiting.submit(f"drift {number}", duration=1) for number in range(8)]
    with cf.ThreadPoolExecutor(8) as pool:
        waits = [pool.submit(job.result) for job in jobs]
        until(lambda: slow_emulator.polls >= 8)
        began = time.monotonic()
        waiting.close()
        for wait in waits:
            with pytest.raises(ConfigurationError, match="closed while the call"):
                wait.result(timeout=10)
    assert time.monotonic() - began < 1.0
    assert slow_emulator.accepted == 8


@pytest.mark.parametrize("call", ["submit", "generate"])
def test_a_call_that_closing_breaks_off_names_its_job(
    slow_emulator: Emulator, waiting: Client, call: str
) -> None:
    if call == "submit":
        slow_emulator.script("create", [faults.Stall(0.4, resume=True)])
    with cf.ThreadPoolExecutor(1) as pool:
        ending = pool.submit(getattr(waiting, call), "drift", duration=1)
        if call == "submit":
            until(lambda: bool(slow_emulator.faults_consumed))
        else:
            until(lambda: slow_emulator.polls > 0)
        waiting.close()
        with pytest.raises(ConfigurationError, match="closed while the call") as caught:
            ending.result(timeout=30)
    (create,) = slow_emulator.creates
    assert caught.value.request_id == create.request_id
    assert f"grok-video wait {create.request_id}" in str(caught.value)


def test_a_wait_for_a_job_that_closing_breaks_off_names_the_job(
    slow_emulator: Emulator, waiting: Client
) -> None:
    job = waiting.submit("drift", duration=1)
    with cf.ThreadPoolExecutor(1) as pool:
        ending = pool.submit(job.result)
        until(lambda: slow_emulator.polls > 0)
        waiting.close()
        with pytest.raises(ConfigurationError, match="closed while the call") as caught:
            ending.result(timeout=30)
    assert caught.value.request_id == job.request_id


def test_an_error_that_ends_the_context_of_a_client_names_the_jobs_that_go_on(
    slow_emulator: Emulator, waiting: Client
) -> None:
    with pytest.raises(InvalidRequest) as caught, waiting as client:
        [client.submit(prompt, duration=1) for prompt in ("a", "b", "")]
    (note,) = caught.value.__notes__
    for create in slow_emulator.creates:
        assert f"grok-video wait {create.request_id}" in note
    assert len(slow_emulator.creates) == 2


def test_the_thread_ends_with_the_last_reference_to_the_client(
    grok_emulator: Emulator,
) -> None:
    client = Client(base_url=grok_emulator.base_url, api_key=grok_emulator.api_key)
    job = client.submit("drift", duration=1)
    gone = weakref.ref(client)
    thread = client._core.line.thread
    del client
    assert gone() is None
    assert job.result().duration == 1  # the job keeps what it needs
    del job
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_no_thread_starts_before_the_first_call(blocking: Client) -> None:
    blocking.job("somewhere")
    assert blocking._core.line is None


def test_a_key_is_never_shown(blocking: Client, grok_emulator: Emulator) -> None:
    job = blocking.submit("drift", duration=1)
    for shown in (repr(blocking), repr(job), repr(vars(blocking)), repr(vars(blocking._core))):
        assert grok_emulator.api_key not in shown


# --- threads and loops ---------------------------------------------------------------------------


def test_eight_threads_share_one_client_for_400_jobs(
    blocking: Client, grok_emulator: Emulator
) -> None:
    def work(number: int) -> set[str]:
        jobs = [blocking.submit(f"drift {number} {n}", duration=1) for n in range(50)]
        return {job.result().request_id for job in blocking.as_completed(jobs, timeout=60)}

    with cf.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))
    assert len(set().union(*found)) == 400
    assert [len(each) for each in found] == [50] * 8
    assert grok_emulator.accepted == 400


def test_finished_jobs_and_dropped_handles_are_not_remembered_for_ever(blocking: Client) -> None:
    for number in range(200):
        blocking.submit(f"drift {number}", duration=1).refresh()
    core = blocking._core
    assert len(core._twins) < 100
    for job in core._accepted.values():
        core.call(job.result)
    blocking.submit("one more", duration=1)
    for number in range(300):
        core.accept(blocking.submit(f"drift {number}", duration=1)._handle)
        core.call(next(reversed(core._accepted.values())).result)
    assert len(core._accepted) < 200


async def test_it_works_inside_a_running_loop(blocking: Client, anyio_backend: str) -> None:
    jobs = [blocking.submit(f"drift {number}", duration=1) for number in range(3)]
    assert [job.result().duration for job in blocking.as_completed(jobs)] == [1, 1, 1]
    assert blocking.job(jobs[0].request_id).result().duration == 1


def test_context_variables_cross_with_the_call(blocking: Client) -> None:
    import contextvars

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("trace", default="none")
    variable.set("the caller's")

    async def read() -> str:
        return variable.get()

    assert blocking._core.call(read) == "the caller's"

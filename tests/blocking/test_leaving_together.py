"""A client or a batch that is left by one thread, or in the middle of a call, while it is busy."""

from __future__ import annotations

import concurrent.futures as cf
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from grok_video import Client, ConfigurationError, VideoRequest
from grok_video._crossing import Pump
from grok_video.emulator import Emulator, faults
from grok_video.emulator.pytest_plugin import EmulatorFactory
from tests.blocking.children import until

MIB = 2**20


def test_an_error_on_its_way_out_of_a_client_names_the_creates_of_other_threads(
    slow_emulator: Emulator, waiting: Client
) -> None:
    slow_emulator.script("create", [faults.Stall(0.5, resume=True)] * 3)
    with cf.ThreadPoolExecutor(3) as pool, pytest.raises(KeyboardInterrupt) as caught, waiting:
        for number in range(3):
            pool.submit(waiting.submit, f"drift {number}", duration=1)
        until(lambda: len(slow_emulator.faults_consumed) == 3)
        raise KeyboardInterrupt
    told = "".join(caught.value.__notes__)
    assert len(slow_emulator.creates) == 3
    assert all(create.request_id in told for create in slow_emulator.creates)


def test_a_batch_that_is_left_while_another_thread_draws_from_it_sends_no_more(
    slow_emulator: Emulator, waiting: Client
) -> None:
    requests = [(str(n), VideoRequest(f"drift {n}", duration=1)) for n in range(50)]
    raised = list[Exception]()

    def draw() -> None:
        try:
            next(iter(batch))
        except Exception as error:  # noqa: BLE001 - looked at below
            raised.append(error)

    thread = threading.Thread(target=draw)
    with waiting.batch(requests, max_in_flight=5) as batch:
        thread.start()
        until(lambda: len(slow_emulator.creates) == 5)
        # The creates do not wait for it: a thread that came later would find the batch ended.
        line = waiting._core.line
        assert line is not None
        (pump,) = [crossing for crossing in list(line.crossings) if isinstance(crossing, Pump)]
        until(lambda: not pump._is_resting)
    accepted = slow_emulator.accepted
    thread.join(10)
    assert not thread.is_alive()
    assert [type(error) for error in raised] == [ConfigurationError]
    assert slow_emulator.accepted == accepted == 5


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]


def test_the_hook_may_close_the_client(
    slow_emulator: Emulator, waiting: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigurationError, match="closed while the call") as caught:
        waiting.submit("drift", duration=1, on_submitted=lambda job: waiting.close())
    assert caught.value.request_id == slow_emulator.creates[0].request_id
    line = waiting._core.line
    assert line is not None
    until(lambda: line.ended)
    assert errors(caplog) == []


def test_a_signal_handler_may_close_the_client_in_the_middle_of_a_create_with_a_hook(
    slow_emulator: Emulator, waiting: Client, caplog: pytest.LogCaptureFixture
) -> None:
    slow_emulator.script("create", [faults.Stall(0.3, resume=True)])
    told: list[str] = []

    def handler(*_: object) -> None:
        waiting.close()
        told.append("closed")

    sender = threading.Thread(
        target=lambda: (
            until(lambda: len(slow_emulator.faults_consumed) == 1),
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1),
        )
    )
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        sender.start()
        with pytest.raises(ConfigurationError, match="closed while the call"):
            waiting.submit("drift", duration=1, on_submitted=lambda job: told.append("heard"))
        sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert told == ["heard", "closed"]
    assert errors(caplog) == []


def test_a_download_that_closing_breaks_off_says_what_is_kept_of_it(
    grok_emulator_factory: EmulatorFactory,
    new_blocking: Callable[..., Client],
    tmp_path: Path,
) -> None:
    clip = b"\0\0\0\x18ftypmp42" + bytes(3 * MIB)
    emulator = grok_emulator_factory(clip=clip)
    emulator.script("download", [faults.Stall(60, after=2 * MIB)])
    place, part = tmp_path / "cat.mp4", tmp_path / "cat.mp4.part"
    client = new_blocking(emulator)
    job = client.submit("drift", duration=1)
    with cf.ThreadPoolExecutor(1) as pool:
        ending = pool.submit(job.download, place)
        until(lambda: part.exists() and part.stat().st_size > 0)
        client.close()
        with pytest.raises(ConfigurationError, match="closed while the call") as caught:
            ending.result(timeout=30)
    kept = part.stat().st_size
    words = f"{kept} bytes are kept in {part}; downloading again continues there."
    assert words in caught.value.__notes__
    assert any(f"client.job({job.request_id!r})" in note for note in caught.value.__notes__)
    assert new_blocking(emulator).job(job.request_id).download(place).size == len(clip)
    assert emulator.requests[-1].headers["range"] == f"bytes={kept}-"


class SoftTimeLimit(Exception):
    """What a worker's signal handler raises."""


@contextmanager
def a_signal_in(function: str, raised: type[BaseException]) -> Iterator[None]:
    """A real signal where this thread next calls that function; its handler raises."""

    def handler(*_: object) -> None:
        raise raised

    def come_between(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_qualname == function:
            sys.setprofile(None)
            signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    sys.setprofile(come_between)
    try:
        yield
    finally:
        sys.setprofile(None)
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SoftTimeLimit])
@pytest.mark.parametrize("function", ["Core.twin", "JobTwin.__init__", "Core.remember"])
def test_a_signal_between_the_answer_and_the_return_of_submit_names_the_job(
    slow_emulator: Emulator, waiting: Client, function: str, raised: type[BaseException]
) -> None:
    with pytest.raises(raised) as caught, a_signal_in(function, raised):
        waiting.submit("drift", duration=1)
    assert slow_emulator.creates[0].request_id in "".join(caught.value.__notes__)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SoftTimeLimit])
def test_an_outcome_that_was_taken_and_not_returned_is_logged(
    grok_emulator: Emulator,
    blocking: Client,
    raised: type[BaseException],
    caplog: pytest.LogCaptureFixture,
) -> None:
    items = [VideoRequest("drift", duration=1)]
    with blocking.batch(items) as batch, pytest.raises(raised), a_signal_in("_told", raised):
        next(batch)
    request_id = grok_emulator.creates[0].request_id
    warned = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert any(request_id in message for message in warned)

"""A client or a batch that one thread leaves while others are under way in it."""

from __future__ import annotations

import concurrent.futures as cf
import threading

import pytest

from grok_video import Client, ConfigurationError, VideoRequest
from grok_video.emulator import Emulator, faults
from tests.blocking.children import until


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
    accepted = slow_emulator.accepted
    thread.join(10)
    assert not thread.is_alive()
    assert [type(error) for error in raised] == [ConfigurationError]
    assert slow_emulator.accepted == accepted == 5

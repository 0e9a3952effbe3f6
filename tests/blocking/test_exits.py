"""What the program's own code raises in the client's thread to end the program.

asyncio lets SystemExit and KeyboardInterrupt end the whole loop: all other calls would end with it.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest

from grok_video import Client, Video, VideoRequest
from grok_video.emulator import Emulator
from tests.blocking.children import PATIENCE
from tests.conftest import PHOTO

LEAVES = [SystemExit, KeyboardInterrupt]


class Leaving(logging.Handler):
    """Ends the program at the first record."""

    def __init__(self, leaves: type[BaseException]) -> None:
        super().__init__()
        self._leaves = leaves

    def emit(self, record: logging.LogRecord) -> None:
        raise self._leaves


class Picture(io.BytesIO):
    """Ends the program when it has been read so often."""

    def __init__(self, leaves: type[BaseException], reads: int) -> None:
        super().__init__(PHOTO.read_bytes())
        self._leaves = leaves
        self._reads = reads

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads -= 1
        if self._reads < 0:
            raise self._leaves
        return super().read(size)


@pytest.fixture
def another_call(slow_emulator: Emulator, waiting: Client) -> Iterator[Future[Video]]:
    """A wait that goes on whatever happens to others, and ends as it should."""
    job = waiting.submit("another", duration=1)
    future = job.future()
    yield future
    assert not future.done()
    slow_emulator.finish(job.request_id)
    assert future.result(PATIENCE).request_id == job.request_id


@contextmanager
def logging_to(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger("grok_video.jobs")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("leaves", LEAVES)
@pytest.mark.parametrize("reads", [0, 1], ids=["looked at", "sent"])
@pytest.mark.usefixtures("another_call")
def test_a_picture_whose_reading_ends_the_program_ends_its_create_alone(
    waiting: Client, slow_emulator: Emulator, leaves: type[BaseException], reads: int
) -> None:
    with pytest.raises(leaves):
        waiting.submit("drift", Picture(leaves, reads), duration=1)
    assert slow_emulator.accepted == 1


@pytest.mark.parametrize("leaves", LEAVES)
@pytest.mark.usefixtures("another_call")
def test_a_log_handler_that_ends_the_program_ends_the_call_that_logs_and_is_told_the_id(
    waiting: Client, slow_emulator: Emulator, leaves: type[BaseException]
) -> None:
    with logging_to(Leaving(leaves)), pytest.raises(leaves) as caught:
        waiting.submit("drift", duration=1)
    assert slow_emulator.creates[1].request_id in "".join(caught.value.__notes__)


@pytest.mark.parametrize("leaves", LEAVES)
@pytest.mark.usefixtures("another_call")
def test_a_batch_ends_with_what_its_own_work_raised_and_no_group_of_it(
    waiting: Client, slow_emulator: Emulator, leaves: type[BaseException]
) -> None:
    items = [VideoRequest("drift", duration=1)]
    with logging_to(Leaving(leaves)), pytest.raises(leaves) as caught:
        waiting.run_batch(items)
    assert slow_emulator.creates[1].request_id in "".join(caught.value.__notes__)

"""Where the requests of a blocking batch are read: in one thread, which may wait."""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from grok_video import Client, VideoRequest
from grok_video._transports._base import Answer, Body, Transport
from grok_video.emulator import Emulator
from tests.blocking.children import PATIENCE, until
from tests.conftest import NO_LIMITS

Line = tuple[str, VideoRequest]
tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


def line(number: int) -> Line:
    return f"key-{number}", VideoRequest(f"drift {number}", duration=1)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "grok-video-manifest"]


def test_what_has_come_is_done_while_the_manifest_waits_for_more(blocking: Client) -> None:
    lines: queue.Queue[Line | None] = queue.Queue()
    lines.put(line(0))
    another = blocking.submit("another", duration=1)
    with blocking.batch(iter(lambda: lines.get(timeout=PATIENCE), None)) as batch:
        for number in range(3):
            assert next(batch).key == f"key-{number}"
            another.refresh()  # nothing else waits for the manifest either
            lines.put(line(number + 1) if number < 2 else None)
        assert list(batch) == []


def test_a_batch_that_is_stopped_does_not_wait_for_a_queue(blocking: Client) -> None:
    lines: queue.Queue[Line | None] = queue.Queue()
    lines.put(line(0))
    with blocking.batch(iter(lines.get, None)) as batch:
        assert next(batch).state == "done"
        batch.stop()
        assert list(batch) == []
    lines.put(None)  # for the thread that waits for it


class Instant(Transport):
    """Every job is done when it is first asked for."""

    async def post(self, url: str, body: Body) -> Answer:
        return Answer(200, {}, b'{"request_id":"job"}')

    async def get(self, url: str) -> Answer:
        return Answer(200, {}, b'{"status":"done","video":{"url":"https://files.test/a.mp4"}}')

    def stream(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("no file is fetched here")

    async def aclose(self) -> None:
        pass


def test_a_batch_that_is_left_reads_no_more() -> None:
    """What is read and not sent is lost to a queue."""
    with Client("key", transport=Instant(), limits=NO_LIMITS) as client:
        for _ in range(20):
            read: list[Line] = []

            def endless(read: list[Line] = read) -> Iterator[Line]:
                while True:
                    read.append(line(len(read)))
                    yield read[-1]

            told = 0
            with client.batch(endless(), max_in_flight=50) as batch:
                for _ in batch:
                    told += 1
                    if told == 5:
                        break
            assert len(read) <= told + 50


def test_a_manifest_belongs_to_one_thread_from_its_first_step_to_its_last(
    blocking: Client,
) -> None:
    threads: list[int] = []
    tenants: list[str] = []

    def rows() -> Iterator[Line]:
        database = sqlite3.connect(":memory:")  # which no other thread may touch
        try:
            for number in range(100):
                (value,) = database.execute("SELECT ?", (number,)).fetchone()
                threads.append(threading.get_ident())
                tenants.append(tenant.get())
                yield line(value)
        finally:
            database.close()
            threads.append(threading.get_ident())

    token = tenant.set("somebody")
    try:
        with blocking.batch(rows(), max_in_flight=3) as batch:
            next(batch)
    finally:
        tenant.reset(token)
    until(lambda: not readers())
    assert len(threads) < 101  # it was left early, and ended all the same
    assert len(threads) == len(tenants) + 1
    assert len(set(threads)) == 1
    assert set(tenants) == {"somebody"}


def test_items_are_read_only_as_places_come_free(waiting: Client, slow_emulator: Emulator) -> None:
    taken: list[int] = []

    def endless() -> Iterator[Line]:
        while True:
            taken.append(len(taken))
            yield line(len(taken))

    with waiting.batch(endless(), max_in_flight=5) as batch:
        until(lambda: slow_emulator.accepted >= 5)
        assert len(taken) == 5
        slow_emulator.finish(slow_emulator.creates[0].request_id)
        next(batch)
        until(lambda: slow_emulator.accepted >= 6)
        assert len(taken) == 6


def test_a_manifest_that_breaks_ends_the_batch_after_what_it_gave(blocking: Client) -> None:
    def breaking() -> Iterator[Line]:
        yield from map(line, range(3))
        raise OSError("the manifest is gone")

    seen = []
    with blocking.batch(breaking()) as batch, pytest.raises(OSError, match="manifest is gone"):
        for outcome in batch:
            seen.append(outcome.state)
    assert seen == ["done"] * 3


def test_a_manifest_that_cannot_be_begun_is_told_where_its_items_are_awaited(
    blocking: Client,
) -> None:
    class Broken:
        def __iter__(self) -> Iterator[Line]:
            raise OSError("there is no manifest")

    with blocking.batch(Broken()) as batch, pytest.raises(OSError, match="there is no manifest"):
        next(batch)


@pytest.mark.parametrize("leaves", [SystemExit, KeyboardInterrupt])
def test_a_manifest_that_ends_the_program_ends_its_batch_and_no_other_call(
    waiting: Client, slow_emulator: Emulator, leaves: type[BaseException]
) -> None:
    another = waiting.submit("another", duration=1)
    future = another.future()

    def exiting() -> Iterator[Line]:
        yield line(1)
        until(lambda: slow_emulator.accepted == 2)
        raise leaves

    with pytest.raises(leaves) as caught:
        list(waiting.batch(exiting()))
    told = "".join(caught.value.__notes__)
    assert all(create.request_id in told for create in slow_emulator.creates)
    slow_emulator.finish(another.request_id)
    assert future.result(PATIENCE).request_id == another.request_id


def test_a_manifest_may_use_the_client(blocking: Client) -> None:
    def asking() -> Iterator[Line]:
        job = blocking.submit("first", duration=1)
        yield line(0)
        assert job.result().request_id
        yield line(1)

    assert len(list(blocking.batch(asking()))) == 2


def test_thousands_of_quick_items_are_read_once_each_and_in_order(blocking: Client) -> None:
    numbers = range(3000)
    keys = [f"key-{number}" for number in numbers]
    # Nothing is sent for what is no request: only the reading counts.
    with blocking.batch((key, None) for key in keys) as batch:  # type: ignore[misc]  # no requests
        assert [outcome.key for outcome in batch] == keys

"""Iterators and futures of the blocking client: what they give, and what ends them."""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import gc
import sqlite3
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from grok_video import Client, ConfigurationError, JobTimeout, VideoRequest
from grok_video.emulator import Emulator
from tests.blocking.children import crossings, until

# --- iterators -----------------------------------------------------------------------------------


def test_an_iterator_that_is_dropped_half_way_leaves_nothing_running(
    waiting: Client, slow_emulator: Emulator
) -> None:
    job = waiting.submit("drift", duration=1)
    updates = job.updates()
    next(updates)
    assert crossings(waiting) == 1
    del updates
    gc.collect()
    until(lambda: crossings(waiting) == 0)
    polls = slow_emulator.polls
    job.refresh()
    assert slow_emulator.polls == polls + 1


def test_a_stream_that_is_closed_half_way_lets_go_of_its_connection(
    new_blocking: Callable[..., Client], grok_emulator_factory: Callable[..., Emulator]
) -> None:
    emulator = grok_emulator_factory(clip=b"\0\0\0\x18ftypmp42" + bytes(2**23))
    client = new_blocking(emulator)
    stream = client.submit("drift", duration=1).stream()
    assert next(stream)[4:8] == b"ftyp"
    stream.close()
    assert crossings(client) == 0
    with pytest.raises(StopIteration):
        next(stream)


def test_a_stream_is_a_generator_that_an_error_ends(blocking: Client) -> None:
    stream = blocking.submit("drift", duration=1).stream()
    assert isinstance(stream, Generator)
    with pytest.raises(TypeError, match="just-started"):
        stream.send(b"mine")  # type: ignore[arg-type]  # what a generator refuses
    assert stream.send(None)
    with pytest.raises(KeyError, match="mine"):
        stream.throw(KeyError("mine"))
    with pytest.raises(ValueError, match="mine"):
        stream.throw(ValueError, "mine")
    assert list(stream) == []


def test_an_iterator_that_was_never_begun_costs_nothing(waiting: Client) -> None:
    job = waiting.job("somewhere")
    del job
    iterator = waiting.job("somewhere").updates()
    assert waiting._core.line is None
    iterator.close()  # type: ignore[attr-defined]
    assert list(iterator) == []


def test_a_batch_notes_the_last_link_as_told_where_its_context_is_left_without_an_error(
    blocking: Client, tmp_path: Path
) -> None:
    """Plain iteration ends in the same way for a `break` and an error: it is told once more."""
    requests = [VideoRequest(f"drift {number}", duration=1) for number in range(4)]
    ledger = tmp_path / "run.sqlite"
    seen: list[str] = []

    def links() -> list[str]:
        """Return the keys whose links the ledger has as told."""
        with contextlib.closing(sqlite3.connect(ledger)) as file:
            told = "SELECT key FROM request JOIN event ON item = request.id WHERE event = 'told'"
            return [key for (key,) in file.execute(told)]

    with pytest.raises(ZeroDivisionError), blocking.batch(requests, ledger=ledger) as batch:
        seen.append(next(batch).key)
        seen.append(next(batch).key)
        _ = 1 / 0
    assert links() == seen[:1]
    for outcome in blocking.batch(requests, ledger=ledger):
        if outcome.state == "done":
            seen[1:] = [outcome.key]
            break
    assert links() == seen[:1]
    with blocking.batch(requests, ledger=ledger) as batch:
        for outcome in batch:
            if outcome.state == "done":
                seen[1:] = [outcome.key]
                break
    assert links() == seen
    last = {outcome.key: outcome.state for outcome in blocking.batch(requests, ledger=ledger)}
    assert {key for key, state in last.items() if state == "skipped"} == set(seen)
    assert len(links()) == 4


def test_an_iterator_raises_once_and_is_over_then(waiting: Client) -> None:
    job = waiting.submit("drift", duration=1)
    updates = job.updates(timeout=0.15)
    with pytest.raises(JobTimeout):
        list(updates)
    assert list(updates) == []


def test_many_threads_may_draw_from_one_iterator(blocking: Client) -> None:
    jobs = [blocking.submit(f"drift {number}", duration=1) for number in range(40)]
    completed = blocking.as_completed(jobs)
    with cf.ThreadPoolExecutor(8) as pool:
        drawn = [job for part in pool.map(lambda _: list(completed), range(8)) for job in part]
    assert sorted(drawn, key=id) == sorted(jobs, key=id)


# --- futures -------------------------------------------------------------------------------------


def test_futures_work_with_the_standard_library(slow_emulator: Emulator, waiting: Client) -> None:
    jobs = [waiting.submit(f"drift {number}", duration=1) for number in range(4)]
    futures = {job.future(): job for job in jobs}
    slow_emulator.finish(jobs[2].request_id)
    done, _ = cf.wait(futures, return_when=cf.FIRST_COMPLETED, timeout=10)
    assert [futures[future] for future in done] == [jobs[2]]
    for job in jobs:
        slow_emulator.finish(job.request_id)
    ids = {future.result().request_id for future in cf.as_completed(futures, timeout=10)}
    assert ids == {job.request_id for job in jobs}


def test_a_future_that_is_cancelled_ends_the_waiting(
    slow_emulator: Emulator, waiting: Client
) -> None:
    job = waiting.submit("drift", duration=1)
    future = job.future()
    until(lambda: slow_emulator.polls > 0)
    assert future.cancel()
    until(lambda: crossings(waiting) == 0)
    assert cf.wait([future], timeout=10).done == {future}
    with pytest.raises(cf.CancelledError):
        future.result()


def test_a_future_ends_with_its_client(waiting: Client) -> None:
    future = waiting.submit("drift", duration=1).future()
    waiting.close()
    with pytest.raises(ConfigurationError, match="closed while the call was on its way"):
        future.result(timeout=10)


def test_a_callback_that_calls_the_client_is_an_immediate_clear_error(
    slow_emulator: Emulator, waiting: Client
) -> None:
    job = waiting.submit("drift", duration=1)
    heard: list[BaseException] = []

    def callback(_: object) -> None:
        for call in (job.refresh, waiting.close, lambda: next(job.updates())):
            try:
                call()
            except ConfigurationError as error:
                heard.append(error)

    future = job.future()
    future.add_done_callback(callback)
    slow_emulator.finish(job.request_id)
    future.result(timeout=10)
    until(lambda: len(heard) == 3)
    assert all("AsyncClient" in str(error) for error in heard)


@pytest.mark.parametrize("how", ["done", "failed", "cancelled"])
def test_the_thread_ends_with_the_client_though_a_future_of_its_jobs_is_over(
    grok_emulator: Emulator, slow_emulator: Emulator, how: str
) -> None:
    """The timer of the connection pool runs in the context of the call that began it."""
    emulator = slow_emulator if how == "cancelled" else grok_emulator
    client = Client(base_url=emulator.base_url, api_key=emulator.api_key)
    future = client.submit("[failed]" if how == "failed" else "drift", duration=1).future()
    thread = client._core.line.thread
    if how == "cancelled":
        future.cancel()
    assert cf.wait([future], timeout=10).done
    del client
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()
    assert future.done()

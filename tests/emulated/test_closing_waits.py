"""A client that is closed is heard of at once, wherever somebody waits; nobody sleeps it out."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing

from grok_video import (
    AsyncClient,
    AsyncJob,
    BatchSummary,
    ConfigurationError,
    DownloadError,
    JobStatus,
    Limits,
    Outcome,
    OutcomeState,
    Polling,
    RateLimited,
    Retry,
    Snapshot,
    VideoRequest,
)
from grok_video._transports._loops import Bell, current_time
from grok_video.emulator import Emulator, faults

from ..conftest import NO_LIMITS
from ..transports.rawserver import PATIENCE, Visit, raw_server

#: Seconds between polls, longer than any test may take.
RARE = Polling.fixed(600.0)


class Told:
    """What each of those who waited was told."""

    def __init__(self) -> None:
        self.errors: list[ConfigurationError] = []

    async def by(self, waiting: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(ConfigurationError, match="this client is closed") as caught:
            await waiting()
        self.errors.append(caught.value)


@asynccontextmanager
async def all_asleep(*waiting: Callable[[], Awaitable[object]]) -> AsyncIterator[Told]:
    """Let them wait, and begin when each of them sleeps; at the end all have been told."""
    told = Told()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for one in waiting:
                tasks.start_soon(told.by, one)
            await anyio.wait_all_tasks_blocked()
            assert not told.errors
            yield told
    assert len(told.errors) == len(waiting)


async def test_who_waits_for_the_next_poll_is_told_with_the_way_on(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    client = new_client(grok_emulator, polling=RARE)
    jobs = [await client.submit("drift") for _ in range(3)]
    async with all_asleep(*(job.result for job in jobs)) as told:
        await client.aclose()
    assert {error.request_id for error in told.errors} == {job.request_id for job in jobs}
    for error in told.errors:
        assert f"grok-video wait {error.request_id}" in str(error)
    assert grok_emulator.polls == 0


async def test_each_of_those_who_wait_for_one_job_is_told(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    client = new_client(grok_emulator, polling=RARE)
    job = await client.submit("drift")
    scope = anyio.CancelScope()

    async def leaves() -> None:
        with scope:
            await job.result()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leaves)
        await anyio.wait_all_tasks_blocked()
        async with all_asleep(job.result, job.result):
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            await client.aclose()


async def test_as_completed_gives_the_jobs_that_nobody_can_follow_any_more(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    client = new_client(grok_emulator, polling=RARE)
    jobs = [await client.submit("drift") for _ in range(3)]

    async def follow() -> None:
        given: list[AsyncJob] = [job async for job in client.as_completed(jobs)]
        assert set(given) == set(jobs)
        await given[0].result()

    async with all_asleep(follow):
        await client.aclose()


async def test_as_completed_keeps_no_other_job_back_for_one_of_a_closed_client(
    new_client: Callable[..., AsyncClient], grok_emulator_factory: Callable[..., Emulator]
) -> None:
    slow = grok_emulator_factory(time_scale=1000.0)
    closing, rare = new_client(slow, polling=RARE), new_client(slow, polling=RARE)
    jobs = [await client.submit("drift") for client in (closing, rare)]
    given: list[AsyncJob] = []

    async def follow() -> None:
        async for job in rare.as_completed(jobs):
            given.append(job)
            break
        async for job in rare.as_completed([*jobs, *jobs]):  # closed from the beginning
            given.append(job)
            break

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await anyio.wait_all_tasks_blocked()
            await closing.aclose()
    assert given == [jobs[0]] * 2
    await rare.aclose()


async def test_a_finished_job_of_a_closed_client_delays_nothing(
    new_client: Callable[..., AsyncClient], grok_emulator_factory: Callable[..., Emulator]
) -> None:
    slow, quick = grok_emulator_factory(time_scale=1000.0), grok_emulator_factory()
    closing, rare, often = new_client(quick), new_client(slow, polling=RARE), new_client(quick)
    finished, waits, renders = [
        await client.submit("drift", duration=1) for client in (closing, rare, often)
    ]
    await finished.result()
    await closing.aclose()
    given: list[AsyncJob] = []
    with anyio.fail_after(PATIENCE):
        async for job in often.as_completed([finished, waits, renders]):
            given.append(job)
            if len(given) == 2:
                break
    assert given == [finished, renders]
    await rare.aclose()
    await often.aclose()


async def test_a_create_in_line_for_its_minute_is_told_and_not_sent(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    client = new_client(grok_emulator, limits=Limits(creates_per_minute=0.1))
    await client.submit("first")
    async with all_asleep(
        lambda: client.submit("second"),
        lambda: client.submit("third"),
    ):
        await client.aclose()
    assert grok_emulator.accepted == 1


async def test_a_create_that_waits_to_be_sent_again_is_told_and_not_sent(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.rate_limited(300)])
    client = new_client(grok_emulator, retry=Retry(patience=600), limits=NO_LIMITS)
    await client._session.ready_transport()  # on trio the first call waits for a thread
    async with all_asleep(lambda: client.submit("drift")) as told:
        await client.aclose()
    assert isinstance(told.errors[0].__cause__, RateLimited)
    assert grok_emulator.accepted == 0


async def test_a_poll_in_line_is_told_and_not_sent(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    client = new_client(grok_emulator, limits=Limits(polls_per_second=0.01))
    jobs = [client.job(f"job-{number}") for number in range(20)]
    async with all_asleep(*(lambda job=job: job.result(timeout=None) for job in jobs)):
        while not grok_emulator.polls:  # noqa: ASYNC110 - the first may still be on its way
            await anyio.sleep(0.001)
        await client.aclose()
    assert grok_emulator.polls == 1


@pytest.mark.parametrize("closing_in", ["asyncio", "trio"])
async def test_who_waits_in_another_event_loop_is_told_as_well(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator, closing_in: str
) -> None:
    client = new_client(grok_emulator, polling=RARE)
    job = await client.submit("drift")

    def close() -> None:
        if closing_in == "asyncio":
            asyncio.run(client.aclose())
        else:
            trio.run(client.aclose)

    async with all_asleep(job.result):
        thread = threading.Thread(target=close)
        thread.start()
    await anyio.to_thread.run_sync(thread.join)
    await client.aclose()


@pytest.mark.parametrize("lane", [("asyncio", "aiohttp")], indirect=True)
def test_a_job_that_is_awaited_in_two_event_loops_tells_both(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    client = new_client(grok_emulator, polling=RARE)
    jobs: list[AsyncJob] = []
    told: list[BaseException] = []

    async def submit() -> None:
        jobs.append(await client.submit("drift"))

    async def wait() -> None:
        try:
            with anyio.fail_after(PATIENCE):
                await jobs[0].result()
        except (ConfigurationError, TimeoutError) as error:
            told.append(error)

    async def close() -> None:
        while len(client._session.lifetime._watched) < 2:  # noqa: ASYNC110 - it tells no one
            await anyio.sleep(0.001)
        await client.aclose()

    asyncio.run(submit())
    threads = [threading.Thread(target=lambda: asyncio.run(wait())) for _ in range(2)]
    for thread in threads:
        thread.start()
    asyncio.run(close())
    for thread in threads:
        thread.join()
    assert [type(error) for error in told] == [ConfigurationError] * 2


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_a_bell_can_be_rung_where_no_event_loop_runs(library: str) -> None:
    async def main() -> None:
        bell = Bell()
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(bell.wait_until, math.inf)
                await anyio.wait_all_tasks_blocked()
                await anyio.to_thread.run_sync(bell.ring)
        bell.ring()

    anyio.run(main, backend=library)


def test_a_bell_that_an_earlier_run_of_trio_left_unrung_wakes_the_next_run() -> None:
    bell = Bell()

    async def leave() -> None:
        await bell.wait_until(-math.inf)

    async def wait() -> None:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bell.wait_until, math.inf)
                await trio.testing.wait_all_tasks_blocked()
                bell.ring()

    trio.run(leave)
    trio.run(wait)


def test_a_bell_wakes_two_runs_of_trio_at_once() -> None:
    bell = Bell()
    woken: list[bool] = []

    async def wait() -> None:
        with trio.move_on_after(PATIENCE) as scope:
            await bell.wait_until(math.inf)
        woken.append(not scope.cancelled_caught)

    threads = [threading.Thread(target=trio.run, args=(wait,)) for _ in range(2)]
    for count, thread in enumerate(threads, 1):
        thread.start()
        while len(bell._waiting) < count:
            assert thread.is_alive()
    bell.ring()
    for thread in threads:
        thread.join()
    assert woken == [True, True]


@pytest.mark.parametrize("ends", ["rung", "cancelled"])
def test_a_wait_that_ends_early_leaves_no_timer_behind(ends: str) -> None:
    timers: list[asyncio.TimerHandle] = []

    class Loop(asyncio.SelectorEventLoop):
        def call_at(self, *args: Any, **words: Any) -> asyncio.TimerHandle:
            timers.append(super().call_at(*args, **words))
            return timers[-1]

    async def main() -> None:
        bell = Bell()
        waiting = asyncio.ensure_future(bell.wait_until(current_time() + 3600))
        await asyncio.sleep(0)
        if ends == "rung":
            bell.ring()
        else:
            waiting.cancel()
        await asyncio.wait({waiting})
        assert [timer.cancelled() for timer in timers] == [True]

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())


async def test_a_bell_that_rang_before_is_not_waited_for() -> None:
    """Nor can it ring unheard while the one who is about to wait looks whether it has."""
    bell, rung = Bell(), False

    def rings_now() -> bool:
        bell.ring()  # what another thread would do at this moment
        return False

    with anyio.fail_after(PATIENCE):
        await bell.wait_until(math.inf, unless=rings_now)
        rung = True
        await bell.wait_until(math.inf, unless=lambda: rung)


@pytest.mark.parametrize("lane", [("asyncio", "aiohttp")], indirect=True)
async def test_a_job_is_not_over_for_another_thread_before_its_last_snapshot_is_there(
    monkeypatch: pytest.MonkeyPatch, new_client: Callable[..., AsyncClient]
) -> None:
    """Python may go on with another thread where two snapshots are compared."""
    seen: list[tuple[bool, JobStatus | None]] = []
    compare: Callable[[Snapshot, object], bool] = Snapshot.__eq__

    def looks(one: Snapshot, other: object) -> bool:
        seen.append((job.is_finished, job.status))
        return compare(one, other)

    def answers(visit: Visit) -> None:
        visit.request()
        visit.answer(b'{"status":"pending"}')
        visit.request()
        visit.answer(b'{"status":"done","video":{"url":"https://files.test/a.mp4"}}')
        visit.until_gone()

    with raw_server(answers) as server:
        async with new_client(api_key="k", base_url=server.base) as client:
            job = client.job("one")
            await job.refresh()
            monkeypatch.setattr(Snapshot, "__eq__", looks)
            await job.refresh()
    assert seen == [(False, JobStatus.QUEUED)]
    assert job.is_finished


@pytest.mark.parametrize("lane", [("asyncio", "aiohttp")], indirect=True)
@pytest.mark.parametrize("asks", [AsyncJob.result, AsyncJob.refresh], ids=["result", "refresh"])
def test_a_poll_that_ends_before_another_thread_begins_to_wait_for_it_is_heard_of(
    monkeypatch: pytest.MonkeyPatch,
    new_client: Callable[..., AsyncClient],
    asks: Callable[[AsyncJob], Awaitable[object]],
) -> None:
    """The second thread is held up for the time in which the first one ends."""
    asked, late, first_is_over = threading.Event(), threading.Event(), threading.Event()
    wait_until = Bell.wait_until

    async def held_up(bell: Bell, *args: Any, **words: Any) -> None:
        if threading.current_thread().name == "second" and not first_is_over.is_set():
            late.set()
            assert first_is_over.wait(PATIENCE)
        await wait_until(bell, *args, **words)

    def answers_late(visit: Visit) -> None:
        visit.request()
        asked.set()
        assert late.wait(PATIENCE)
        visit.answer(b'{"status":"done","video":{"url":"https://files.test/a.mp4"}}')
        visit.until_gone()

    def answers(visit: Visit) -> None:
        visit.request()
        visit.answer(b'{"status":"done","video":{"url":"https://files.test/a.mp4"}}')
        visit.until_gone()

    told: list[bool] = []

    async def ask() -> None:
        with anyio.move_on_after(PATIENCE) as scope:
            await asks(job)
        told.append(not scope.cancelled_caught)
        await client.aclose()

    def first() -> None:
        asyncio.run(asked_first())
        first_is_over.set()

    async def asked_first() -> None:
        await asks(job)

    def second() -> None:
        assert asked.wait(PATIENCE)
        asyncio.run(ask())

    monkeypatch.setattr(Bell, "wait_until", held_up)
    parts = [answers_late] if asks is AsyncJob.result else [answers_late, answers]
    with raw_server(*parts) as server:
        client = new_client(api_key="k", base_url=server.base)
        job = client.job("job-1")
        threads = [threading.Thread(target=run, name=run.__name__) for run in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert told == [True]


async def test_who_waited_and_left_is_forgotten(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    async with new_client(grok_emulator) as client:
        for _ in range(3):
            job = await client.submit("drift", duration=1)
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(job.result)
        assert not client._session.lifetime._watched


async def close_once_told_to_wait(
    client: AsyncClient, emulator: Emulator, work: Callable[[], Awaitable[None]]
) -> None:
    """Close the client when the scripted fault was met and the work sleeps; the work must end."""
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            while not emulator.faults_consumed:
                await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            await client.aclose()


async def test_a_batch_that_waits_for_the_service_ends(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.rate_limited(300)])
    client = new_client(grok_emulator, retry=Retry(patience=1))
    outcomes: list[Outcome] = []
    summaries: list[BatchSummary] = []

    async def run() -> None:
        async with client.batch([VideoRequest(text) for text in "abc"]) as batch:
            outcomes.extend([outcome async for outcome in batch])
            summaries.append(batch.summary)

    await close_once_told_to_wait(client, grok_emulator, run)
    assert [outcome.state for outcome in outcomes] == [OutcomeState.LEFT] * 3
    assert "this client is closed" in str(summaries[0].stopped)
    assert grok_emulator.accepted == 0


async def test_a_download_that_waits_to_go_on_is_told(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("download", [faults.rate_limited(100)])
    client = new_client(grok_emulator)
    job = await client.submit("drift", duration=1)

    async def download() -> None:
        with pytest.raises(DownloadError, match="this client is closed") as caught:
            await job.download(tmp_path / "cat.mp4")
        assert caught.value.request_id == job.request_id

    await close_once_told_to_wait(client, grok_emulator, download)

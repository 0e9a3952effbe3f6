"""Jobs as they complete, in virtual time: who hears of which end when, and how a wait ends."""

from __future__ import annotations

import gc
import random

import anyio
import pytest
import trio

from grok_video import AsyncClient, AsyncJob, JobTimeout, Limits, Polling, ServerError
from grok_video._job import poller_of
from grok_video._poller import Poller
from grok_video._transports._base import Answer
from tests.pure.provider import PENDING, Provider, answer, run

SLOW_DOWN = {"error": {"message": "slow down"}}


class Watcher:
    def hear(self, poller: Poller) -> None:
        """Do nothing."""


class PausedForOne(Provider):
    """The server wants the first job left alone for an hour."""

    async def get(self, url: str) -> Answer:
        found = await super().get(url)
        if url.endswith("job-0"):
            return answer(503, SLOW_DOWN, **{"retry-after": "3600"})
        return found


async def submitted(client: AsyncClient, count: int) -> list[AsyncJob]:
    return [await client.submit("drift") for _ in range(count)]


def test_a_pause_that_the_server_wants_for_all_ends_the_wait_at_once_with_its_reason() -> None:
    provider = Provider(seconds=1e9)

    async def main(client: AsyncClient) -> None:
        jobs = await submitted(client, 3)
        provider.failing = [answer(429, SLOW_DOWN, **{"retry-after": "3600"})]
        began = anyio.current_time()
        with pytest.raises(JobTimeout, match=r"asks for no poll in the next 3\d\d\d s") as caught:
            async for _ in client.as_completed(jobs, timeout=60):
                pass
        assert anyio.current_time() - began < 20
        assert caught.value.pending == tuple(job.request_id for job in jobs)

    run(main, provider, polling=Polling.fixed(5))


def test_a_pause_that_the_server_wants_for_one_job_ends_no_wait_for_the_others() -> None:
    provider = PausedForOne(seconds=30)

    async def main(client: AsyncClient) -> None:
        jobs = await submitted(client, 3)
        began, seen = anyio.current_time(), []
        with pytest.raises(
            JobTimeout, match="1 job is still running and the server asks"
        ) as caught:
            async for job in client.as_completed(jobs, timeout=60):
                seen.append(job)
        assert seen == jobs[1:]
        assert caught.value.pending == (jobs[0].request_id,)
        assert anyio.current_time() - began < 60

    run(main, provider, polling=Polling.fixed(5))


@pytest.mark.parametrize("wish", [None, "20"])
def test_a_wait_for_many_ends_at_its_deadline(wish: str | None) -> None:
    provider = Provider(seconds=1e9)

    async def main(client: AsyncClient) -> None:
        jobs = await submitted(client, 3)
        if wish is not None:
            provider.failing = [answer(429, SLOW_DOWN, **{"retry-after": wish})]
        began = anyio.current_time()
        with pytest.raises(JobTimeout, match="3 jobs are still running after 60 s"):
            async for _ in client.as_completed(jobs, timeout=60):
                pass
        assert 58 < anyio.current_time() - began <= 60

    run(main, provider, polling=Polling.fixed(5))


def test_an_end_that_somebody_else_has_seen_is_heard_at_once_and_asked_about_no_more() -> None:
    provider = Provider(seconds=5, latency=0.1)

    async def main(client: AsyncClient) -> None:
        [job, other] = await submitted(client, 2)
        given: list[tuple[AsyncJob, float]] = []

        async def wait() -> None:
            given.extend(
                [(one, anyio.current_time()) async for one in client.as_completed([job, other])]
            )

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(10)
            await job.refresh()
            heard_at = anyio.current_time()
        assert given[0] == (job, heard_at)
        assert given[1][0] is other
        assert len(provider.polls[job.request_id]) == 1

    run(main, provider, polling=Polling.fixed(60))


def test_what_has_finished_is_not_kept_back_by_those_who_stand_in_line() -> None:
    provider = Provider(seconds=0, latency=0.1)

    async def main(client: AsyncClient) -> None:
        jobs = [client.job((await client.submit("drift")).request_id) for _ in range(200)]
        began = anyio.current_time()
        when = [anyio.current_time() - began async for _ in client.as_completed(jobs)]
        assert when[0] < 1
        assert when[-1] < 25
        assert len(when) == 200

    run(main, provider, limits=Limits(polls_per_second=10, creates_per_minute=None))


def test_what_has_finished_is_kept_back_by_no_answer_that_hangs() -> None:
    class Hanging(Provider):
        async def get(self, url: str) -> Answer:
            if url.endswith("job-0") and not self.polls["job-0"]:
                self.polls["job-0"].append(trio.current_time())
                await trio.sleep(50)
            return await super().get(url)

    provider = Hanging(seconds=3, latency=0.1)

    async def main(client: AsyncClient) -> None:
        jobs = await submitted(client, 5)
        began = anyio.current_time()
        when = {job: anyio.current_time() - began async for job in client.as_completed(jobs)}
        assert len(when) == 5
        assert max(when[job] for job in jobs[1:]) < 8

    run(main, provider, polling=Polling.fixed(5))


def test_a_wait_that_was_cut_off_goes_on_where_it_was() -> None:
    provider = Provider(seconds=7)

    async def main(client: AsyncClient) -> None:
        jobs = await submitted(client, 4)
        completing, seen = client.as_completed(jobs), []
        while len(seen) < 4:
            with anyio.move_on_after(0.7):
                seen.append(await anext(completing))
        assert sorted(job.request_id for job in seen) == [job.request_id for job in jobs]
        with pytest.raises(StopAsyncIteration):
            await anext(completing)

    run(main, provider, polling=Polling.fixed(1))


def test_waits_that_were_given_up_are_not_remembered_by_their_jobs() -> None:
    async def main(client: AsyncClient) -> None:
        [job] = await submitted(client, 1)
        for _ in range(20):
            with pytest.raises(JobTimeout):
                await anext(client.as_completed([job], timeout=1))
        gc.collect()
        poller = poller_of(job)
        watcher = Watcher()
        poller.follow(watcher.hear)
        assert len(poller._followers) == 1

    run(main, Provider(seconds=1e9), polling=Polling.fixed(1))


def test_an_end_that_was_not_told_is_found_with_the_next_step_and_without_a_poll() -> None:
    """Whoever follows at the very moment in which another thread does may not be heard."""
    provider = Provider(seconds=3, latency=0.1)

    async def main(client: AsyncClient) -> None:
        [job] = await submitted(client, 1)
        completing = client.as_completed([job])

        async def finish() -> None:
            await anyio.sleep(4)
            poller_of(job)._followers.clear()
            await job.refresh()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(finish)
            assert await anext(completing) is job
        assert len(provider.polls[job.request_id]) <= 2

    run(main, provider, polling=Polling.fixed(5))


def test_one_job_that_may_not_be_asked_about_takes_no_place_from_the_others() -> None:
    provider = PausedForOne(seconds=30)

    async def main(client: AsyncClient) -> None:
        [paused, other] = await submitted(client, 2)
        began = anyio.current_time()
        completing = client.as_completed([paused, other])
        async with anyio.create_task_group() as tasks:

            async def refresh() -> None:
                await anyio.sleep(2)
                with pytest.raises(ServerError):
                    await paused.refresh()

            tasks.start_soon(refresh)
            assert await anext(completing) is other
        assert anyio.current_time() - began < 40

    run(main, provider, polling=Polling.fixed(5), limits=Limits(connections=1))


def test_a_client_whose_server_wants_a_pause_keeps_back_no_job_of_another_client() -> None:
    class Pausing(Provider):
        async def get(self, url: str) -> Answer:
            await super().get(url)
            return answer(429, SLOW_DOWN, **{"retry-after": "3600"})

    provider = Provider(seconds=30)

    async def main(client: AsyncClient) -> None:
        mine = await submitted(client, 3)
        words = {"limits": Limits(connections=5), "polling": Polling.fixed(5)}
        async with AsyncClient("k", transport=Pausing(), **words) as other:
            theirs = [other.job(f"their-{n}") for n in range(50)]
            began, seen = anyio.current_time(), []
            completing = other.as_completed([*theirs, *mine])
            while len(seen) < 3:
                seen.append(await anext(completing))
            assert set(seen) == set(mine)
            assert anyio.current_time() - began < 45

    run(main, provider, polling=Polling.fixed(5), limits=Limits(connections=5))


class Varying(Provider):
    """Answers take between `soonest` and `latest` seconds."""

    soonest, latest = 1.0, 3.75

    async def get(self, url: str) -> Answer:
        self.latency = self.chance.uniform(self.soonest, self.latest)
        return await super().get(url)

    chance = random.Random(1)


class Graded(Provider):
    """Job N is done, and its answers take N quarters of a second longer than a second."""

    async def get(self, url: str) -> Answer:
        self.latency = 1.0 + 0.25 * int(url.rpartition("-")[2])
        return await super().get(url)


def test_polls_that_were_called_off_are_not_the_last_ones() -> None:
    async def main(client: AsyncClient) -> None:
        jobs = await submitted(client, 12)
        client._session.round_trip = 3.0
        given = [job async for job in client.as_completed(jobs, timeout=60)]
        assert set(given) == set(jobs)

    run(main, Graded(seconds=0), polling=Polling.fixed(100))


def test_polls_that_were_called_off_find_no_job_stalled() -> None:
    class Slow(Provider):
        async def get(self, url: str) -> Answer:
            self.latency = 1.0 if url.endswith("job-0") else 6.0
            found = await super().get(url)
            return found if url.endswith("job-0") else PENDING

    async def main(client: AsyncClient) -> None:
        jobs = await submitted(client, 3)
        given = [job async for job in client.as_completed(jobs, timeout=600)]
        assert given[0] is jobs[0]
        assert all(poller_of(job).polls for job in given)

    patience = Polling(interval=100, adaptive=False, stalled_after=50)
    run(main, Slow(seconds=0), polling=patience)


def test_a_slow_server_is_asked_hardly_more_often_than_once_for_each_job() -> None:
    provider = Varying(seconds=0)
    provider.soonest, provider.latest = 0.5, 3.0

    async def main(client: AsyncClient) -> None:
        jobs = [client.job((await client.submit("drift")).request_id) for _ in range(300)]
        assert len([job async for job in client.as_completed(jobs)]) == 300

    run(main, provider, limits=Limits(polls_per_second=None))
    assert sum(map(len, provider.polls.values())) < 300 * 1.25


def test_two_may_share_one_iterator() -> None:
    async def main(client: AsyncClient) -> None:
        jobs = await submitted(client, 20)
        completing, seen = client.as_completed(jobs), []

        async def take() -> None:
            async for job in completing:
                seen.append(job)
                await anyio.sleep(0.1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            tasks.start_soon(take)
        assert len(seen) == 20
        assert set(seen) == set(jobs)

    run(main, Provider(seconds=7), polling=Polling.fixed(1))


class Hanging(Provider):
    """The first answer about each of some jobs takes long."""

    def __init__(self, seconds: float, latency: float, hanging: set[str], takes: float) -> None:
        super().__init__(seconds, latency)
        self.hanging, self.takes = hanging, takes

    async def get(self, url: str) -> Answer:
        name = url.rpartition("/")[2]
        if name in self.hanging and not self.polls[name]:
            self.polls[name].append(trio.current_time())
            await trio.sleep(self.takes)
        return await super().get(url)


@pytest.mark.parametrize("rate", [10, 100])
def test_answers_that_hang_keep_no_others_from_being_asked_for(rate: float) -> None:
    async def main(client: AsyncClient) -> None:
        jobs = [client.job((await client.submit("drift")).request_id) for _ in range(40)]
        began = anyio.current_time()
        await anext(client.as_completed(jobs))
        assert anyio.current_time() - began < 5

    for _ in range(20):  # which task goes first is drawn
        provider = Hanging(0, 0.1, {f"job-{n}" for n in range(16)}, takes=50)
        run(main, provider, limits=Limits(polls_per_second=rate))


def test_a_poll_that_came_too_late_for_one_wait_finds_no_job_stalled_for_another() -> None:
    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")

        async def impatient() -> None:
            with pytest.raises(JobTimeout):
                await job.result(timeout=104)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(impatient)
            assert (await job.result(timeout=1000)).url

    patience = Polling(interval=1000, stalled_after=100)
    run(main, Hanging(95, 0.5, {"job-0"}, takes=20), polling=patience)

"""Waiting in virtual time: hours pass in milliseconds, on trio's autojump clock."""

from __future__ import annotations

import contextlib
import math
from itertools import pairwise
from pathlib import Path

import anyio
import pytest
import trio
from trio.testing import MockClock

from grok_video import (
    APITimeoutError,
    AsyncClient,
    AuthenticationError,
    JobStatus,
    JobTimeout,
    Limits,
    NotFound,
    Polling,
    RateLimited,
    Retry,
    ServerError,
    Truncated,
)
from grok_video._transports._base import Answer, Body
from grok_video._transports._loops import current_time
from tests.pure.provider import LINK, PENDING, Provider, answer, run


def test_a_thousand_jobs_of_ten_minutes_wake_nobody_in_vain_and_end_near_their_end() -> None:
    provider = Provider(seconds=600)
    late: list[float] = []

    async def main(client: AsyncClient) -> None:
        async def one() -> None:
            job = await client.submit("drift", duration=15, resolution="1080p")
            await job.result(timeout=1800)
            late.append(anyio.current_time() - provider.born[job.request_id] - 600)

        async with anyio.create_task_group() as tasks:
            for _ in range(1000):
                tasks.start_soon(one)

    # Without a budget: it would spread the polls over as many wake-ups as there are polls.
    steps = run(main, provider, limits=Limits(polls_per_second=None))
    polls = sum(len(polls) for polls in provider.polls.values())
    assert polls < 30 * 1000
    # Three for each: its sleep, its place in line (as all are due together, eight in a turn of the
    # loop) and its answer; and one for each turn.
    assert steps < 3.5 * polls
    assert len(late) == 1000
    assert sum(late) / 1000 < 60
    assert max(late) < 120


def test_polls_that_were_held_up_together_do_not_go_together() -> None:
    """Three connections hang for ten seconds, and forty jobs stand in line for them."""
    polls: list[float] = []

    class Hanging(Provider):
        async def get(self, url: str) -> Answer:
            polls.append(trio.current_time())
            if len(polls) <= 3:
                await trio.sleep(10)
            return await super().get(url)

    provider = Hanging(seconds=60, latency=0.01)

    async def main(client: AsyncClient) -> None:
        jobs = [client.job(f"job-{n}") for n in range(40)]
        for job in jobs:
            provider.born[job.request_id] = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for job in jobs:
                tasks.start_soon(job.result, 600.0)

    limits = Limits(polls_per_second=10, connections=3)
    run(main, provider, polling=Polling.fixed(5), limits=limits)
    assert len(polls) > 40
    # A second's worth may start together after a quiet time, and one tenth of a second apart then.
    assert all(later - earlier > 0.99 for earlier, later in zip(polls, polls[21:], strict=False))


def test_a_retry_after_of_one_run_holds_in_the_next_for_the_rest_of_its_time() -> None:
    provider = Provider(seconds=0, latency=0.01)
    client = AsyncClient("key", transport=provider)

    async def first() -> None:
        await trio.sleep(10_000)
        provider.failing.append(answer(429, {"message": "slow down"}, **{"retry-after": "300"}))
        with pytest.raises(JobTimeout, match="asks for no poll"):
            await client.job("j").result(timeout=5)
        await trio.sleep(200)
        await refused()

    async def refused() -> None:
        with pytest.raises(JobTimeout, match=r"asks for no poll in the next (99|100) s"):
            await client.job("j").result(timeout=5)

    async def second() -> None:
        await refused()
        began = trio.current_time()
        assert (await client.job("j").result(timeout=200)).url == LINK
        assert trio.current_time() - began == pytest.approx(100, abs=1)

    trio.run(first, clock=MockClock(autojump_threshold=0))
    trio.run(second, clock=MockClock(autojump_threshold=0))


def test_a_wait_that_goes_on_in_another_run_asks_when_the_first_would_have() -> None:
    provider = Provider(seconds=math.inf, latency=0.01)
    job = AsyncClient("key", transport=provider, polling=Polling.fixed(60)).job("j")
    ages: list[list[float]] = []

    async def wait() -> None:
        began, polls = trio.current_time(), provider.polls.setdefault("j", [])
        before = len(polls)
        with trio.move_on_after(130):
            await job.result(timeout=1000)
        current_time()  # a clock that is turned is known by its last look
        ages.append([polled - began for polled in polls[before:]])

    for _ in range(2):
        trio.run(wait, clock=MockClock(autojump_threshold=0))
    assert ages[0] == pytest.approx([0, 60, 120], abs=1)
    assert ages[1] == pytest.approx([50, 110], abs=1)


def test_as_completed_gives_hundreds_of_jobs_that_take_ten_minutes() -> None:
    provider = Provider(seconds=600)

    async def main(client: AsyncClient) -> None:
        jobs = [client.job((await client.submit("drift")).request_id) for _ in range(200)]
        seen = [job async for job in client.as_completed(jobs, timeout=3600)]
        assert len(seen) == 200

    run(main, provider, limits=Limits(polls_per_second=None))


@pytest.mark.parametrize("timeout", [0.5, 3.0, 10.0, 61.0, 600.0])
def test_a_wait_ends_at_its_deadline_with_its_last_poll_inside(timeout: float) -> None:
    provider = Provider(seconds=1e9, latency=0.2)

    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")
        began = anyio.current_time()
        with pytest.raises(JobTimeout):
            await job.result(timeout=timeout)
        assert anyio.current_time() - began <= timeout + 1e-6
        assert anyio.current_time() - began >= 0.75 * timeout
        last = provider.polls[job.request_id][-1] - began
        assert last <= timeout
        assert last >= 0.8 * timeout - 1

    run(main, provider)


@pytest.mark.parametrize("latency", [0.001, 0.1, 0.3])
def test_the_last_poll_of_a_wait_is_the_last_one(latency: float) -> None:
    """Each answer teaches how long answers take, and with that when a poll is still in time."""
    provider = Provider(seconds=1e9, latency=latency)

    async def main(client: AsyncClient) -> None:
        with pytest.raises(JobTimeout):
            await client.generate("drift", timeout=20)

    run(main, provider, polling=Polling.fixed(2))
    [polls] = provider.polls.values()
    assert len(polls) <= 20 / 2 + 1
    gaps = [later - earlier for earlier, later in pairwise(polls)]
    assert all(gap > 1.9 for gap in gaps[:-1])


def test_a_pause_that_the_server_wants_is_kept_whoever_heard_of_it() -> None:
    provider = Provider(seconds=600, latency=0.1)

    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job.result, 1000)
            await anyio.sleep(12)
            provider.failing = [answer(503, {"error": "busy"}, **{"retry-after": "300"})]
            with pytest.raises(ServerError):
                await job.refresh()
            heard_at = anyio.current_time()
        later = [one for one in provider.polls[job.request_id] if one > heard_at]
        assert later[0] > heard_at + 299

    run(main, provider, polling=Polling.fixed(5))


def test_the_last_poll_of_many_waits_is_one() -> None:
    provider = Provider(seconds=1e9, latency=0.01)

    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")

        async def wait() -> None:
            with pytest.raises(JobTimeout):
                await job.result(timeout=20)

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(wait)

    run(main, provider, polling=Polling.fixed(5))
    [polls] = provider.polls.values()
    assert len(polls) <= 5


def test_what_has_stalled_is_asked_about_again_by_whoever_waits_anew() -> None:
    provider = Provider(seconds=1000)

    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")
        with pytest.raises(JobTimeout):
            await job.result(timeout=None)
        await anyio.sleep(3600)
        assert [one.status async for one in job.updates()][-1] is JobStatus.DONE

        job = await client.submit("drift")
        with pytest.raises(JobTimeout):
            await job.result(timeout=None)
        await anyio.sleep(3600)
        assert [one.is_finished async for one in client.as_completed([job])] == [True]

    run(main, provider, polling=Polling(stalled_after=60))


def test_submits_without_a_pace_find_that_of_the_server() -> None:
    class Limited(Provider):
        """Takes one create a second, after the first five."""

        bucket, filled_at = 5.0, 0.0

        async def post(self, url: str, body: Body) -> Answer:
            now = trio.current_time()
            self.bucket = min(5.0, self.bucket + now - (self.filled_at or now))
            self.filled_at = now
            if self.bucket < 1:
                self.refusing.append(answer(429, {"error": {"message": "slow down"}}))
            else:
                self.bucket -= 1
            return await super().post(url, body)

    refused = 0

    async def main(client: AsyncClient) -> None:
        async def one() -> None:
            nonlocal refused
            try:
                await client.submit("drift")
            except RateLimited:
                refused += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(300):
                tasks.start_soon(one)

    run(main, Limited(), limits=Limits(connections=20))
    assert refused < 30


def test_a_wait_ends_at_its_deadline_over_a_transport_that_never_answers() -> None:
    """One of the caller's own may know no timeout, not even the client's."""
    provider = Provider(seconds=1e9)

    async def main(client: AsyncClient) -> None:
        await client.job("job-0").refresh()
        provider.latency = 1e9
        began = anyio.current_time()
        with anyio.fail_after(3600), pytest.raises(JobTimeout):
            await client.job("job-0").result(timeout=600)
        assert anyio.current_time() - began == pytest.approx(600)

    run(main, provider)


def test_the_reason_of_a_failed_poll_is_told_where_the_last_one_is_never_answered() -> None:
    provider = Provider(seconds=1e9)

    async def main(client: AsyncClient) -> None:
        job = client.job("job-0")
        provider.failing.append(answer(500, {}))
        await anyio.sleep(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(silence)
            with pytest.raises(JobTimeout) as caught:
                await job.result(timeout=60)
        assert isinstance(caught.value.__cause__, ServerError)

    async def silence() -> None:
        await anyio.sleep(0.75)
        provider.latency = 1e9

    run(main, provider)


def test_places_in_the_budget_that_nobody_came_for_hold_nobody_up() -> None:
    """Waits that ended, and waits that were cancelled, before their polls were due."""
    provider = Provider(seconds=1e9)

    async def main(client: AsyncClient) -> None:
        async def give_up(number: int) -> None:
            with contextlib.suppress(JobTimeout):
                await client.job(f"early-{number}").result(timeout=0.3)

        async def be_cancelled(number: int) -> None:
            with anyio.move_on_after(0.3):
                await client.job(f"early-{number}").result()

        for work in (give_up, be_cancelled, give_up):
            async with anyio.create_task_group() as tasks:
                for number in range(40):
                    tasks.start_soon(work, number)
        began = anyio.current_time()
        await client.job("late").refresh()
        assert anyio.current_time() - began < 2.0

    run(main, provider, limits=Limits(polls_per_second=2))


def test_places_for_creates_that_nobody_came_for_hold_nobody_up() -> None:
    provider = Provider()

    async def main(client: AsyncClient) -> None:
        for _ in range(30):
            with contextlib.suppress(APITimeoutError, RateLimited, JobTimeout):
                await client.generate("drift", timeout=0.2)
            with anyio.move_on_after(0.1):
                await client.submit("drift")
        began = anyio.current_time()
        await client.submit("drift")
        assert anyio.current_time() - began < 3.0

    run(main, provider, limits=Limits(creates_per_minute=60))


@pytest.mark.parametrize("kind", ["polls", "creates"])
def test_a_retry_after_holds_for_those_who_stand_in_line_for_a_connection(kind: str) -> None:
    provider = Provider(seconds=1e9)
    began = 0.0

    async def main(client: AsyncClient) -> None:
        nonlocal began
        began = anyio.current_time()
        refused = provider.refusing if kind == "creates" else provider.failing
        refused.append(answer(429, {}, **{"retry-after": "30"}))

        async def one(number: int) -> None:
            if kind == "creates":
                await client.submit("drift")
            else:
                with contextlib.suppress(RateLimited):
                    await client.job(f"job-{number}").refresh()

        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(one, number)

    run(main, provider, limits=Limits(connections=1, polls_per_second=None))
    sent = provider.creates if kind == "creates" else [at[0] for at in provider.polls.values()]
    assert sum(at - began < 30 for at in sent) == 1
    assert len(sent) >= 5


def test_a_call_without_an_end_waits_for_hours_also_where_it_saves(tmp_path: Path) -> None:
    provider = Provider(seconds=7200)

    async def main(client: AsyncClient) -> None:
        began = anyio.current_time()
        with pytest.raises(Truncated, match="failed with AssertionError"):
            await client.generate("drift", save_to=tmp_path / "a.mp4", timeout=None)
        assert anyio.current_time() - began >= 7200

    run(main, provider)


def test_a_video_that_is_ready_shortly_before_the_deadline_is_not_missed() -> None:
    provider = Provider(seconds=58.0, latency=0.2)

    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")
        assert (await job.result(timeout=60)).url == LINK

    run(main, provider, polling=Polling.fixed(45))


def test_two_waiters_with_different_deadlines_each_keep_theirs() -> None:
    provider = Provider(seconds=300)

    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")
        began = anyio.current_time()
        ends: dict[float, float] = {}

        async def wait(timeout: float) -> None:
            with contextlib.suppress(JobTimeout):
                await job.result(timeout=timeout)
            ends[timeout] = anyio.current_time() - began

        async with anyio.create_task_group() as tasks:
            for timeout in (20.0, 90.0, 1000.0):
                tasks.start_soon(wait, timeout)
        assert 15 <= ends[20.0] <= 20
        assert 70 <= ends[90.0] <= 90
        assert 300 <= ends[1000.0] <= 400

    run(main, provider)


def test_passing_failures_cost_time_but_no_job() -> None:
    provider = Provider(seconds=60)
    provider.failing = [
        answer(502, {"code": "upstream_query_failed", "message": "x"}),
        Answer(200, {}, b'{"status": "do'),
        Answer(520, {}, b"<html>"),
        answer(400, {"code": "task_not_exist", "message": "task_not_exist", "data": None}),
        answer(429, {"error": {"message": "slow down"}}, **{"retry-after": "20"}),
    ]

    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")
        assert (await job.result()).url == LINK
        polls = provider.polls[job.request_id]
        assert polls[5] - polls[4] >= 20

    run(main, provider, polling=Polling.fixed(5))
    assert provider.failing == []


def test_task_not_exist_is_final_after_half_a_minute() -> None:
    provider = Provider(seconds=1e9)
    unknown = answer(400, {"code": "task_not_exist", "message": "task_not_exist", "data": None})
    provider.failing = [unknown] * 1000

    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")
        began = anyio.current_time()
        with pytest.raises(NotFound) as caught:
            await job.result()
        assert 30 <= anyio.current_time() - began < 31
        assert caught.value.request_id == job.request_id
        assert f"client.job({job.request_id!r})" in str(caught.value)

    run(main, provider, retry=Retry(base=1))


def test_an_id_that_is_never_known_is_told_after_half_a_minute_without_a_way_on() -> None:
    provider = Provider()
    unknown = answer(400, {"code": "task_not_exist", "message": "task_not_exist", "data": None})
    provider.failing = [unknown] * 1000

    async def main(client: AsyncClient) -> None:
        began = anyio.current_time()
        with pytest.raises(NotFound, match="Check the id") as caught:
            await client.job("mistyped")
        assert 30 <= anyio.current_time() - began < 31
        assert caught.value.request_id == "mistyped"
        assert "Resume" not in str(caught.value)
        assert caught.value.resume == ""

    run(main, provider)


def test_a_wait_that_ends_before_says_that_the_id_is_not_known() -> None:
    provider = Provider()
    unknown = answer(400, {"code": "task_not_exist", "message": "task_not_exist", "data": None})
    provider.failing = [unknown] * 1000

    async def main(client: AsyncClient) -> None:
        with pytest.raises(JobTimeout) as caught:
            await client.job("mistyped").result(timeout=10)
        assert "is not known to the API after 10 s; check the id, or ask again" in str(caught.value)
        assert "billed" not in str(caught.value)

    run(main, provider)


def test_a_job_that_was_known_and_is_no_more_can_be_asked_about_again() -> None:
    provider = Provider(seconds=1e9)
    unknown = answer(400, {"code": "task_not_exist", "message": "task_not_exist", "data": None})
    provider.failing = [PENDING, PENDING, *[unknown] * 1000]

    async def main(client: AsyncClient) -> None:
        with pytest.raises(NotFound) as caught:
            await client.job("job-0")
        assert caught.value.resume in str(caught.value)
        assert "client.job('job-0')" in caught.value.resume

    run(main, provider, polling=Polling.fixed(20))


def test_a_refused_key_ends_a_wait_at_once() -> None:
    provider = Provider(seconds=1e9)
    provider.failing = [answer(401, {"error": {"message": "Invalid token"}})]

    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")
        with pytest.raises(AuthenticationError):
            await job.result()
        assert len(provider.polls[job.request_id]) == 1

    run(main, provider)


def test_all_polls_of_a_client_draw_on_one_budget() -> None:
    provider = Provider(seconds=30, latency=0.0)

    async def main(client: AsyncClient) -> None:
        jobs = [await client.submit("drift") for _ in range(100)]
        async with anyio.create_task_group() as tasks:
            for job in jobs:
                tasks.start_soon(job.result)

    run(main, provider, polling=Polling.fixed(1), limits=Limits(polls_per_second=10))
    times = sorted(when for polls in provider.polls.values() for when in polls)
    for index in range(len(times) - 21):
        assert times[index + 21] - times[index] >= 1.0 - 1e-6


def test_a_waiter_that_is_cancelled_leaves_the_poll_to_the_next() -> None:
    provider = Provider(seconds=50)

    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")
        videos: list[str | None] = []

        async def last() -> None:
            videos.append((await job.result()).url)

        async with anyio.create_task_group() as tasks:
            for after in (1.0, 7.0, 13.2, 26.3, 48.1):
                scope = anyio.CancelScope(deadline=anyio.current_time() + after)

                async def wait(scope: anyio.CancelScope = scope) -> None:
                    with scope:
                        await job.result()

                tasks.start_soon(wait)
            tasks.start_soon(last)
        assert videos == [LINK]
        assert len(provider.polls[job.request_id]) < 30

    run(main, provider, polling=Polling.fixed(3))

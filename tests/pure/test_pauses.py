"""Pauses that a server asks for after a poll, in virtual time, and what they may cost."""

from __future__ import annotations

import anyio
import pytest

from grok_video import (
    AsyncClient,
    CreateOutcomeUnknown,
    JobTimeout,
    Limits,
    Polling,
    RateLimited,
    Retry,
)
from tests.pure.provider import LINK, Provider, answer, run

SLOW_DOWN = {"error": {"message": "slow down"}}
#: A day in seconds; a date by a clock that is wrong; Unix seconds; more than any clock has.
ABSURD = ["86401", "Fri, 31 Dec 9999 23:59:59 GMT", "1700000000", "1e308"]


@pytest.mark.parametrize("status", [429, 503])
def test_a_pause_of_most_of_a_day_is_over_for_polls_after_an_hour(status: int) -> None:
    provider = Provider(seconds=60)

    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")
        provider.failing = [answer(status, SLOW_DOWN, **{"retry-after": "80000"})]
        assert (await job.result(timeout=None)).url == LINK
        first, second = provider.polls[job.request_id]
        assert second - first == pytest.approx(3600, abs=2)

    run(main, provider, polling=Polling.fixed(5))


def test_within_the_hour_every_wait_says_that_the_server_wants_no_poll() -> None:
    provider = Provider(seconds=60)

    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")
        provider.failing = [answer(429, SLOW_DOWN, **{"retry-after": "80000"})]
        for _ in range(2):
            with pytest.raises(JobTimeout, match="asks for no poll in the next 3600 s"):
                await job.result(timeout=600)
        await anyio.sleep(3600)
        assert (await job.result(timeout=600)).url == LINK

    run(main, provider, polling=Polling.fixed(5))


@pytest.mark.parametrize("wish", ABSURD)
def test_a_pause_of_more_than_a_day_is_none_for_all_jobs_of_a_client(wish: str) -> None:
    provider = Provider(seconds=60)

    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")
        provider.failing = [answer(429, SLOW_DOWN, **{"retry-after": wish})]
        assert (await job.result(timeout=100)).url == LINK
        assert (await client.generate("drift", timeout=100)).url == LINK

    run(main, provider, polling=Polling.fixed(5))


async def asked_to_pause(client: AsyncClient, provider: Provider, seconds: int) -> None:
    """The server has just said that it wants no poll for so long."""
    provider.failing.append(answer(429, SLOW_DOWN, **{"retry-after": str(seconds)}))
    with pytest.raises(RateLimited):
        await client.job("another").refresh()


def test_nothing_is_paid_for_a_video_that_could_not_be_waited_for() -> None:
    provider = Provider(seconds=60)

    async def main(client: AsyncClient) -> None:
        await asked_to_pause(client, provider, 900)
        for _ in range(3):
            with pytest.raises(RateLimited, match="no poll in the next 900 s") as caught:
                await client.generate("drift", timeout=600)
            assert caught.value.retry_after == pytest.approx(900)
            assert caught.value.request_id is None
            assert "nothing was sent" in str(caught.value)
        assert provider.creates == []
        # One that goes on until then is worth it, and so is one for whoever comes back later.
        assert (await client.generate("drift", timeout=1800)).url == LINK
        await asked_to_pause(client, provider, 900)
        await client.submit("drift", timeout=600)
        assert len(provider.creates) == 2

    run(main, provider, polling=Polling.fixed(5))


def test_a_pause_that_comes_while_a_create_stands_in_line_holds_it_back() -> None:
    provider = Provider(seconds=60)

    async def main(client: AsyncClient) -> None:
        await client.submit("drift")

        async def generate() -> None:
            with pytest.raises(RateLimited, match="nothing was sent"):
                await client.generate("drift", timeout=600)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(generate)
            await anyio.sleep(5)
            await asked_to_pause(client, provider, 900)
        assert len(provider.creates) == 1

    run(main, provider, polling=Polling.fixed(5), limits=Limits(creates_per_minute=1))


def test_a_create_in_doubt_stays_so_where_the_next_one_is_held_back() -> None:
    provider = Provider(seconds=60)
    provider.refusing = [answer(500, {"error": {"message": "oops"}})]

    async def main(client: AsyncClient) -> None:
        async def generate() -> None:
            with pytest.raises(CreateOutcomeUnknown) as caught:
                await client.generate("drift", timeout=600)
            [note] = caught.value.__notes__
            assert "no poll in the next" in note
            assert "it was not sent again" in note

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(generate)
            await anyio.sleep(5)
            await asked_to_pause(client, provider, 900)
        assert len(provider.creates) == 1

    run(main, provider, retry=Retry(base=60, cap=60, resend_unknown_creates=True))

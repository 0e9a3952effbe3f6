"""Pauses that a server asks for after a poll, in virtual time, and what they may cost."""

from __future__ import annotations

import anyio
import pytest

from grok_video import AsyncClient, JobTimeout, Polling
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

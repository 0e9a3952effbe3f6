"""A server that says "too many" for a while, in virtual time: all goes on soon after."""

from __future__ import annotations

from collections.abc import Mapping

import anyio
import pytest
import trio

from grok_video import AsyncClient, JobTimeout, Limits, Polling, Retry
from grok_video._transports._base import Answer, Body
from tests.pure.provider import Provider, answer, run

JOBS = 200


class Throttling(Provider):
    """Answers 429 to everything for so many seconds."""

    def __init__(self, seconds: float, wish: Mapping[str, str]) -> None:
        super().__init__(seconds=0, latency=0.01)
        self.until = seconds
        self.wish = wish

    def _refusal(self) -> Answer | None:
        if trio.current_time() >= self.until:
            return None
        return answer(429, {"message": "slow down"}, **self.wish)

    async def get(self, url: str) -> Answer:
        return self._refusal() or await super().get(url)

    async def post(self, url: str, body: Body) -> Answer:
        return self._refusal() or await super().post(url, body)


@pytest.mark.parametrize("wish", [{}, {"retry-after": "1"}], ids=["no wish", "a second"])
def test_every_wait_ends_soon_after_a_storm_of_429(wish: dict[str, str]) -> None:
    provider, ended = Throttling(10, wish), list[float]()

    async def main(client: AsyncClient) -> None:
        async def wait(number: int) -> None:
            await client.job(f"job-{number}").result(timeout=120)
            ended.append(trio.current_time())

        async with anyio.create_task_group() as tasks:
            for number in range(JOBS):
                provider.born[f"job-{number}"] = 0.0
                tasks.start_soon(wait, number)

    run(main, provider, polling=Polling.fixed(2))
    assert len(ended) == JOBS
    assert max(ended) < 30


def test_creates_that_one_429_held_up_go_on_with_the_pace_that_recovers() -> None:
    provider, accepted = Throttling(0.1, {}), list[int]()

    async def main(client: AsyncClient) -> None:
        async def create(number: int) -> None:
            await client.submit(f"drift {number}", timeout=60)
            accepted.append(number)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(create, 0)
            await anyio.sleep(0.3)
            for number in range(1, JOBS):
                tasks.start_soon(create, number)
        assert trio.current_time() < 20
        await client.submit("the next")

    run(main, provider, retry=Retry())
    assert sorted(accepted) == list(range(JOBS))


@pytest.mark.parametrize(("rate", "are_told"), [(0.02, True), (None, False)])
def test_a_wait_that_had_no_turn_says_so(rate: float | None, are_told: bool) -> None:
    provider = Provider(seconds=1000)

    async def main(client: AsyncClient) -> None:
        async def wait(number: int) -> None:
            provider.born[f"job-{number}"] = 0.0
            with pytest.raises(JobTimeout) as caught:
                await client.job(f"job-{number}").result(timeout=10)
            assert ("had no turn in time" in str(caught.value)) is are_told
            assert trio.current_time() == pytest.approx(10, abs=1)
            assert f"job-{number}" in caught.value.resume

        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(wait, number)

    run(main, provider, polling=Polling.fixed(100), limits=Limits(polls_per_second=rate))
